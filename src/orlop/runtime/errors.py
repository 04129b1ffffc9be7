"""Failures of the runtime, and how they cross from one process to another with class, kind and hint kept."""

from __future__ import annotations

import errno
import os

from orlop import errors
from orlop.errors import Internal, NotFound, OrlopError, PermissionDenied
from orlop.oci import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ProgramNotFound(NotFound):
    """The container's program is not in its file system; faces exit with 127."""

    exit_code = 127


class ProgramRefused(PermissionDenied):
    """The container's program is there but cannot be executed; faces exit with 126."""

    exit_code = 126


_CLASSES: dict[str, type[OrlopError]] = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, OrlopError) and name != "ContentMismatch"
} | {"ProgramNotFound": ProgramNotFound, "ProgramRefused": ProgramRefused}

_BY_ERRNO: dict[int, type[OrlopError]] = {
    errno.ENOENT: errors.NotFound,
    errno.EACCES: errors.PermissionDenied,
    errno.EPERM: errors.PermissionDenied,
    errno.EROFS: errors.FailedPrecondition,
    errno.EINVAL: errors.InvalidArgument,
    errno.ENOSYS: errors.Unimplemented,
    errno.ENODEV: errors.Unimplemented,  # a file system the kernel does not know
    errno.ENOSPC: errors.ResourceExhausted,
    errno.ENOMEM: errors.ResourceExhausted,
    errno.EMFILE: errors.ResourceExhausted,
    errno.EAGAIN: errors.ResourceExhausted,
    errno.EBUSY: errors.Conflict,
    errno.EEXIST: errors.AlreadyExists,
}


def from_os(error: OSError, doing: str) -> OrlopError:
    """The OrlopError for a failed system call, saying what was being done; already explained text is kept."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        reason = f"{os.fsdecode(error.filename)}: {reason}"
    hint = ""
    if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid():
        hint = "this needs root, or a user namespace that holds the right"
    return _BY_ERRNO.get(error.errno or 0, errors.Internal)(f"{doing}: {reason}", hint=hint)


def to_fields(error: BaseException, doing: str) -> dict[str, Any]:
    """What another process needs to raise the same error again."""
    if isinstance(error, OSError):
        error = from_os(error, doing)
    if not isinstance(error, OrlopError):
        error = Internal(f"{doing}: {type(error).__name__}: {error}")
    found = type(error)
    while found.__name__ not in _CLASSES:
        found = found.__mro__[1]
    return {"error": found.__name__, "message": error.message, "hint": error.hint}


def encode(error: BaseException, doing: str) -> bytes:
    """`to_fields` as JSON text."""
    return jsontext.dumps(to_fields(error, doing))


def of_fields(fields: dict[str, Any]) -> OrlopError:
    """The error that `to_fields` described."""
    kind = _CLASSES.get(fields.get("error", ""), Internal)
    return kind(str(fields.get("message", "failed without a reason")), hint=str(fields.get("hint", "")))


def decode(data: bytes) -> OrlopError:
    """The error that `encode` wrote; whatever is not one is an Internal error that quotes it."""
    try:
        return of_fields(jsontext.load_object(data, what="an error report"))
    except errors.InvalidArgument:
        return Internal(f"an unreadable error report: {data[:200]!r}")
