"""The build context: a folder on this machine, and the memory of what its files hash to.

The context is never copied or sent. File hashes are kept in the store's cache as one packed value per context folder,
read once and written once a build.
"""

from __future__ import annotations

import os
import struct
import time

from orlop.build import ignore
from orlop.build.tree import Tree
from orlop.errors import InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Cache(Protocol):
        """The part of the store's cache that the build room uses. Losing what is in it is harmless."""

        def get(self, bucket: str, key: str) -> bytes | None:
            """The value, or None."""

        def put(self, bucket: str, key: str, value: bytes) -> None:
            """Keep a value."""


BUCKET = "build.files"
_RECORD = struct.Struct("<QQQqq32s")  # device, inode, size, mtime, ctime (nanoseconds), sha256
_MAGIC = b"orlop-files-1\n"
_TICK = 20_000_000  # nanoseconds; kernels stamp files at their timer's tick, at most 10 ms apart
_COARSE_TICK = 2_100_000_000  # nanoseconds; file systems that keep whole seconds (or pairs of them)
MAX_RECORDS = 500_000


class FileHashes:
    """What files hash to, by (device, inode, size, mtime, ctime).

    A file that was changed within the clock's last tick is not remembered: it could change again without a trace.
    """

    def __init__(self, packed: bytes | None = None) -> None:
        self._known: dict[tuple[int, int, int, int, int], bytes] = {}
        self._used: dict[tuple[int, int, int, int, int], bytes] = {}
        self._grown = False
        if packed and packed.startswith(_MAGIC) and (len(packed) - len(_MAGIC)) % _RECORD.size == 0:
            for *identity, digest in _RECORD.iter_unpack(memoryview(packed)[len(_MAGIC) :]):
                self._known[tuple(identity)] = digest

    def get(self, found: os.stat_result) -> bytes | None:
        """The sha256 of the file that has this status; None when it is not known."""
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest = self._known.get(key)
        if digest is not None:
            self._used[key] = digest
        return digest

    def put(self, found: os.stat_result, digest: bytes, *, now: int | None = None) -> None:
        """Remember, unless the file is so fresh that a later change could look the same. `now` is in nanoseconds."""
        latest = max(found.st_mtime_ns, found.st_ctime_ns)
        tick = _COARSE_TICK if found.st_ctime_ns % 1_000_000_000 == 0 else _TICK
        if latest + tick >= (time.time_ns() if now is None else now):
            return
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        self._known[key] = self._used[key] = digest
        self._grown = True

    def packed(self) -> bytes | None:
        """What to keep for the next build; None when nothing new was learnt. Too many unused records are dropped."""
        if not self._grown:
            return None
        kept = self._known if len(self._known) <= 2 * len(self._used) + 1000 else self._used
        records = list(kept.items())[-MAX_RECORDS:]
        return _MAGIC + b"".join([_RECORD.pack(*key, digest) for key, digest in records])


class Context(Tree):
    """A build context. `path` must be a folder; `dockerfile` is the Dockerfile's path or "": it chooses the rules."""

    def __init__(self, path: str, *, dockerfile: str = "", cache: Cache | None = None) -> None:
        real = os.path.realpath(path)
        if not os.path.isdir(real):
            if os.path.exists(real):
                raise InvalidArgument(f"the build context {path} is not a folder")
            raise NotFound(f"the build context {path} does not exist")
        self._cache = cache
        self._key = real
        self.hashes = FileHashes(cache.get(BUCKET, real) if cache is not None else None)
        super().__init__(real, matcher=ignore.load(real, dockerfile), hashes=self.hashes)

    def remember(self) -> None:
        """Keep the hashes learnt in this build."""
        packed = self.hashes.packed()
        if packed is not None and self._cache is not None:
            self._cache.put(BUCKET, self._key, packed)
