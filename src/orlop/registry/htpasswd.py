"""Password files as Apache's htpasswd writes them, with bcrypt only: `user:$2y$10$...`, one a line.

bcrypt is imported where it is used: it comes with the extra `orlop[registry]`.
"""

from __future__ import annotations

import os

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from orlop.linux import wholefile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

COST = 10
"""bcrypt rounds are 2 to the power of this; 10 takes a quarter of a second on a slow core."""

_PASSWORD_LIMIT = 72
"""Bytes; bcrypt looks at no more."""

_PREFIXES = (b"$2y$", b"$2b$", b"$2a$")
_HASH_LENGTH = 60


def parse(text: bytes, *, what: str = "the password file") -> dict[str, bytes]:
    """Users and their bcrypt hashes. Raises InvalidArgument naming the line for anything that is not `user:hash`."""
    users: dict[str, bytes] = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.strip()  # noqa: PLW2901  # the line without its ends is all that matters
        if not line or line.startswith(b"#"):
            continue
        user, colon, hashed = line.partition(b":")
        try:
            name = user.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{what}, line {number}: the user name is not UTF-8") from error
        if not colon or not user:
            raise InvalidArgument(f"{what}, line {number} is not `user:hash`")
        if not hashed.startswith(_PREFIXES) or len(hashed) != _HASH_LENGTH:
            raise InvalidArgument(
                f"{what}, line {number}: the password of {name!r} is not hashed with bcrypt",
                hint="set it again with `orlop registry user add` (or `htpasswd -B`)",
            )
        users[name] = hashed
    return users


def load(path: str) -> dict[str, bytes]:
    """The users in the file `path`."""
    try:
        with open(path, "rb") as file:
            return parse(file.read(), what=path)
    except OSError as error:
        raise FailedPrecondition(
            f"cannot read the password file {path}: {error.strerror}",
            hint="make it with `orlop registry user add`",
        ) from error


def add_user(path: str, user: str, password: str, *, rounds: int = COST) -> bool:
    """Set the password of `user`, making the file (mode 0600) if needed. True if the user is new.

    `rounds` is bcrypt's cost. The file is replaced atomically; a running server notices at once.
    """
    if not user or any(letter in user for letter in ":\n\r\0"):
        raise InvalidArgument(f"{user!r} cannot be a user name: it is empty, or has a colon or a line break in it")
    secret = password.encode()
    if not secret or b"\0" in secret:
        raise InvalidArgument("a password must not be empty or have a NUL byte in it")
    if len(secret) > _PASSWORD_LIMIT:
        raise InvalidArgument(f"the password has {len(secret)} bytes; bcrypt takes at most {_PASSWORD_LIMIT}")
    bcrypt = module()
    users = load(path) if os.path.exists(path) else {}
    new = user not in users
    users[user] = bcrypt.hashpw(secret, bcrypt.gensalt(rounds)).replace(b"$2b$", b"$2y$", 1)
    _write(path, users)
    return new


def remove_user(path: str, user: str) -> None:
    """Take `user` out of the file; NotFound if it is not in there."""
    users = load(path)
    if users.pop(user, None) is None:
        raise NotFound(f"{path} has no user {user!r}")
    _write(path, users)


def check(password: bytes, hashed: bytes) -> bool:
    """Whether `password` is the one that was hashed, in constant time. Takes as long as the hash's cost says."""
    try:
        return bool(module().checkpw(password[:_PASSWORD_LIMIT], hashed))
    except ValueError:
        return False


def decoy(users: Mapping[str, bytes]) -> bytes:
    """A hash that no password has, as costly as the users' own: asking for an unknown user takes as long."""
    return bytes(module().hashpw(os.urandom(16).hex().encode(), module().gensalt(cost(users))))


def cost(users: Mapping[str, bytes]) -> int:
    """The highest cost (2 to the power of it: rounds) among the users' hashes."""
    return max((int(hashed[4:6]) for hashed in users.values()), default=COST)


def module() -> ModuleType:
    """The bcrypt package; Unimplemented says how to get it."""
    try:
        import bcrypt  # an extra
    except ImportError as error:
        raise Unimplemented("passwords need the package bcrypt", hint="pip install 'orlop[registry]'") from error
    return bcrypt


def _write(path: str, users: Mapping[str, bytes]) -> None:
    lines = (name.encode() + b":" + hashed + b"\n" for name, hashed in users.items())
    try:
        wholefile.write(path, b"".join(lines), durable=True)
    except OSError as error:
        raise FailedPrecondition(f"cannot write the password file {path}: {error.strerror}") from error
