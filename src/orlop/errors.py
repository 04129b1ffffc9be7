"""What can go wrong, as a small set of kinds that every face can translate.

An error says what failed, the value seen, why, and (in `hint`) what to do next. Its `kind` is translated once per face:
to an exit code, an HTTP status, a gRPC code, a registry error code. Rooms subclass the errors below where a caller
may want to catch one thing and not another; nobody ever matches message text.
"""

from __future__ import annotations


class Kind:
    """The kinds of failure, named as gRPC names them (plain strings: importing enum would cost every start 3 ms)."""

    INVALID_ARGUMENT = "invalid-argument"
    NOT_FOUND = "not-found"
    ALREADY_EXISTS = "already-exists"
    FAILED_PRECONDITION = "failed-precondition"
    CONFLICT = "conflict"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission-denied"
    RESOURCE_EXHAUSTED = "resource-exhausted"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    CANCELLED = "cancelled"
    UNIMPLEMENTED = "unimplemented"
    DATA_LOSS = "data-loss"
    INTERNAL = "internal"


class OrlopError(Exception):
    """Base of every error orlop raises on purpose.

    `message` is one sentence without a final full stop; `hint`, where there is one, says what to do next.
    """

    kind = Kind.INTERNAL

    def __init__(self, message: str, *, hint: str = "") -> None:
        if "@" in message:
            message = without_passwords(message)
        if "@" in hint:
            hint = without_passwords(hint)
        super().__init__(message)
        self.message = message
        self.hint = hint


def without_passwords(text: str) -> str:
    """`text` with `***` for what addresses in it say of a user.

    With a scheme that is all before the `@` (`https://TOKEN@host` has no colon, and `https://TOKEN:x@host` its secret
    before it); without one (`user:password@host`) the name stays.
    """
    words = text.split(" ")
    for at, word in enumerate(words):
        head, sign, tail = word.rpartition("@")
        if not sign or tail.startswith(("sha256:", "sha512:")):  # name:tag@digest
            continue
        scheme, slashes, user = head.rpartition("//")
        if "@" in scheme:
            scheme = without_passwords(scheme)
        name, colon, _ = user.partition(":")
        if scheme.endswith(":") and "/" not in user:  # beyond a slash it is a path's @
            words[at] = f"{scheme}{slashes}***@{tail}"
        elif colon:
            words[at] = f"{scheme}{slashes}{name}:***@{tail}"
    return " ".join(words)


class InvalidArgument(OrlopError):
    """What was asked cannot be meant: a malformed value, an impossible combination."""

    kind = Kind.INVALID_ARGUMENT


class NotFound(OrlopError):
    """The named thing is not there."""

    kind = Kind.NOT_FOUND


class AlreadyExists(OrlopError):
    """The name is taken."""

    kind = Kind.ALREADY_EXISTS


class FailedPrecondition(OrlopError):
    """The thing is there, but not in a state in which this can be done."""

    kind = Kind.FAILED_PRECONDITION


class Conflict(OrlopError):
    """Somebody else uses it."""

    kind = Kind.CONFLICT


class Unauthenticated(OrlopError):
    """No or wrong credentials."""

    kind = Kind.UNAUTHENTICATED


class PermissionDenied(OrlopError):
    """Known, but not allowed."""

    kind = Kind.PERMISSION_DENIED


class ResourceExhausted(OrlopError):
    """No space, no memory, no addresses, or a limit on hostile input was hit."""

    kind = Kind.RESOURCE_EXHAUSTED


class Unavailable(OrlopError):
    """Cannot be reached now; the same request may work later."""

    kind = Kind.UNAVAILABLE


class DeadlineExceeded(OrlopError):
    """It took longer than was allowed."""

    kind = Kind.DEADLINE_EXCEEDED


class Cancelled(OrlopError):
    """The caller no longer wants it. A face raises this from `report` to stop a verb."""

    kind = Kind.CANCELLED


class Unimplemented(OrlopError):
    """Understood, but not something this orlop or this kernel can do."""

    kind = Kind.UNIMPLEMENTED


class DataLoss(OrlopError):
    """Bytes are not what they were promised to be."""

    kind = Kind.DATA_LOSS


class Internal(OrlopError):
    """A defect of orlop's own."""

    kind = Kind.INTERNAL


class ContentMismatch(DataLoss):
    """Content is not what its descriptor promised."""

    def __init__(self, *, wanted: str, got: str) -> None:
        super().__init__(
            f"content is {got}, expected {wanted}",
            hint="the transfer was cut, or a mirror lies: retry, or pull from the origin",
        )
