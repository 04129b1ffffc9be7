"""Who may do what: HTTP Basic against a password file, with verified credentials remembered for a while.

bcrypt is slow on purpose (a cost of 10 allows four logins a second on a core), and clients send their password with
every request. So a verified header is remembered, as a keyed hash of it, for `REMEMBERED` seconds or until the file
changes.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from orlop.errors import OrlopError
from orlop.registry import htpasswd
from orlop.registry.server.replies import Refusal

if TYPE_CHECKING:
    from typing import Self

REMEMBERED = 300.0
"""Seconds for which a verified header is not verified again."""

_ENTRIES = 4096
_WAITING = 64
_HEADER_LIMIT = 4096
_NOBODY = b"Og=="  # ":", what some clients send when they have no credentials


class Everyone:
    """No authentication: all may do all."""

    async def admit(self, header: bytes, *, pull: bool) -> None:  # the same question as Passwords answers
        """Nobody is refused."""


class Passwords:
    """The users of one password file; all of them may do everything. With `anonymous_pull` anyone may read.

    It has threads of its own, which `close` (or the end of a `with`) ends.
    """

    def __init__(self, path: str, *, realm: str = "orlop registry", anonymous_pull: bool = False) -> None:
        self._path = path
        self._challenge = [(b"www-authenticate", f'Basic realm="{realm}", charset="UTF-8"'.encode())]
        self._anonymous_pull = anonymous_pull
        self._secret = os.urandom(32)
        self._seen: tuple[int, int, int] | None = None
        self._users: dict[str, bytes] = {}
        self._decoy = b"$2b$00$"
        self._verified: dict[bytes, float] = {}
        self._running: dict[bytes, asyncio.Task[bool]] = {}
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="bcrypt")
        self._reload()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, after the checks that they are at."""
        self._threads.shutdown()

    async def admit(self, header: bytes, *, pull: bool) -> None:
        """Return if the Authorization `header` (b"" for none) allows this; otherwise raise a 401 or 429.

        `pull` says that the request only reads content.
        """
        if header[6:] == _NOBODY:
            header = b""
        if pull and self._anonymous_pull and not header:
            return
        self._reload()
        if not header:
            raise Refusal(401, "UNAUTHORIZED", "log in first", headers=self._challenge)
        key = hashlib.blake2b(header, key=self._secret, digest_size=16).digest()
        until = self._verified.get(key)
        if until is not None:
            if until > time.monotonic():
                return
            del self._verified[key]
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= _WAITING:
                raise Refusal(429, "TOOMANYREQUESTS", "too many logins at once", headers=[(b"retry-after", b"1")])
            running = self._running[key] = asyncio.ensure_future(self._verify(header, key))
        if not await asyncio.shield(running):  # one check serves all requests that wait for it, also if one goes away
            raise Refusal(401, "UNAUTHORIZED", "the user name or password is wrong", headers=self._challenge)

    async def _verify(self, header: bytes, key: bytes) -> bool:
        """Check a header in a thread, and remember it if it is right."""
        try:
            seen = self._seen
            user, password = _decoded(header)
            hashed = self._users.get(user)
            right = await asyncio.get_running_loop().run_in_executor(
                self._threads, htpasswd.check, password, hashed or self._decoy
            )
            if hashed is None or not right or seen != self._seen:
                return False
            self._remember(key)
            return True
        finally:
            del self._running[key]

    def _remember(self, key: bytes) -> None:
        while len(self._verified) >= _ENTRIES:
            del self._verified[next(iter(self._verified))]
        self._verified[key] = time.monotonic() + REMEMBERED

    def _reload(self) -> None:
        """Read the file again if it changed; what was verified against the old one is forgotten.

        A file that cannot be read, or not be understood, admits nobody until it can.
        """
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen == self._seen:
                return
            self._users = htpasswd.load(self._path)
            if htpasswd.cost(self._users) != htpasswd.cost({"": self._decoy}):
                self._decoy = htpasswd.decoy(self._users)
        except (OSError, OrlopError):
            if self._seen is None and not self._users:
                raise
            seen = (0, 0, 0)
            self._users = {}
        self._seen = seen
        self._verified.clear()


def _decoded(header: bytes) -> tuple[str, bytes]:
    """The user and password of a Basic header; ("", b"") for anything else, which is nobody."""
    scheme, _, encoded = header.partition(b" ")
    if scheme.lower() != b"basic" or len(encoded) > _HEADER_LIMIT:
        return "", b""
    try:
        user, _, password = binascii.a2b_base64(encoded.strip(), strict_mode=True).partition(b":")
        return user.decode(), password
    except (binascii.Error, ValueError):
        return "", b""
