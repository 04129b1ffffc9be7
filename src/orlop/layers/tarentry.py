"""One member of a tar archive, and the position in a stream that its data are taken from."""

from __future__ import annotations

import os

from orlop.errors import InvalidArgument
from orlop.layers import tarformat as form
from orlop.layers.tarformat import BLOCK, BadTar, HeaderTooLarge
from orlop.linux.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    Buffer: TypeAlias = bytes | bytearray | memoryview

FILE = "file"
HARDLINK = "link"  # a hard link
SYMLINK = "symlink"
CHAR = "char"
BLOCK_DEVICE = "block"
DIRECTORY = "dir"
FIFO = "fifo"

CHUNK = 1 << 20  # bytes handed from hand to hand
NO_XATTRS: dict[str, bytes] = {}  # shared by all entries without any: never written to


class Entry:
    """One member of an archive.

    `name` is as in the archive without trailing slashes; not yet checked against anything. `size` is the file's length
    in bytes once extracted (for sparse files more than is stored); `extents` are a sparse file's (offset, length) data
    pieces, None for others. `mtime` is nanoseconds since the epoch. `xattrs` maps names to raw values. `offset` is
    where the entry's first header lies in the stream. Inner-loop object: slots, no checks.
    """

    __slots__ = (
        "extents",
        "gid",
        "gname",
        "kind",
        "link",
        "major",
        "minor",
        "mode",
        "mtime",
        "name",
        "offset",
        "size",
        "stored",
        "tape",
        "uid",
        "uname",
        "xattrs",
    )

    def __init__(
        self,
        name: str,
        kind: str = FILE,
        *,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        link: str = "",
        major: int = 0,
        minor: int = 0,
        xattrs: dict[str, bytes] | None = None,
        uname: str = "",
        gname: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime = mtime
        self.link = link
        self.major = major
        self.minor = minor
        self.xattrs = NO_XATTRS if xattrs is None else xattrs
        self.uname = uname
        self.gname = gname
        self.extents: form.Extents | None = None
        self.stored = size  # bytes of data in the archive
        self.offset = 0
        self.tape: Tape | None = None

    def __repr__(self) -> str:
        return f"Entry({self.name!r}, {self.kind!r}, size={self.size})"

    def _source(self) -> Tape:
        if self.tape is None:
            raise InvalidArgument(f"the data of {self.name!r} was not kept: read it before the next entry")
        return self.tape

    def chunks(self) -> Iterator[Buffer]:
        """The file's content, holes as zeros. Only until the next entry is asked for, and only once."""
        if not self.size:
            return
        tape = self._source()
        at = 0
        for start, length in ((0, self.size),) if self.extents is None else self.extents:
            yield from _zeros(start - at)
            yield from tape.pieces(length)
            at = start + length
        yield from _zeros(self.size - at)

    def read(self, limit: int = 1 << 20) -> bytes:
        """The whole content of a small file; HeaderTooLarge past `limit` bytes."""
        if self.size > limit:
            raise HeaderTooLarge(f"{self.name!r} has {self.size} bytes, at most {limit} are read", offset=self.offset)
        return b"".join(bytes(chunk) for chunk in self.chunks())

    def save(self, fd: int) -> None:
        """Write the content to a new, empty file; a sparse file's holes stay holes."""
        tape = self._source()
        if self.extents is None:
            tape.save(fd, self.size)
            return
        os.ftruncate(fd, self.size)
        for start, length in self.extents:
            os.lseek(fd, start, os.SEEK_SET)
            tape.save(fd, length)


def _zeros(count: int) -> Iterator[bytes]:
    piece = bytes(min(count, CHUNK)) if count > 0 else b""
    while count > 0:
        yield piece if count >= len(piece) else piece[:count]
        count -= len(piece)


class Tape:
    """A position in a stream of chunks: take blocks, skip, or hand on data without copying."""

    __slots__ = ("_at", "_base", "_chunk", "_end", "_next", "left")

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        self._next = iter(chunks).__next__
        self._chunk: Buffer = b""
        self._at = 0
        self._end = 0
        self._base = 0  # stream offset of the chunk
        self.left = 0  # data bytes of the current entry not handed out yet

    @property
    def offset(self) -> int:
        """Bytes of the stream before the position."""
        return self._base + self._at

    def _advance(self) -> bool:
        """Load the next non-empty chunk; False at the end of the stream. The present one must be used up."""
        self._base += self._end
        self._at = self._end = 0
        self._chunk = b""
        while not self._end:
            try:
                self._chunk = self._next()
            except StopIteration:
                return False
            self._end = len(self._chunk)
        return True

    def block(self) -> bytes:
        """The next 512 bytes; b"" at the end of the stream, BadTar when it ends inside them."""
        at = self._at
        end = at + BLOCK
        if end <= self._end:
            self._at = end
            return bytes(self._chunk[at:end])
        if at == self._end and not self._advance():
            return b""
        return self.take(BLOCK)

    def take(self, count: int) -> bytes:
        """Exactly the next `count` bytes."""
        parts = [bytes(piece) for piece in self._pieces(count)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _pieces(self, count: int) -> Iterator[Buffer]:
        while count:
            if self._at == self._end and not self._advance():
                raise BadTar(f"it ends {count} bytes early", offset=self.offset)
            at = self._at
            end = min(self._end, at + count)
            self._at = end
            count -= end - at
            yield memoryview(self._chunk)[at:end]

    def pieces(self, count: int) -> Iterator[Buffer]:
        """The next `count` bytes of the current entry's data, as views that stay valid."""
        if count > self.left:
            raise InvalidArgument("the data of a tar entry can be read only once, before the next entry")
        for piece in self._pieces(count):
            self.left -= len(piece)
            yield piece

    def save(self, fd: int, count: int) -> None:
        """Write the next `count` bytes of the current entry's data to `fd`."""
        if 0 < count <= self._end - self._at and count <= self.left:
            at = self._at
            end = self._at = at + count
            self.left -= count
            if at or end != self._end:
                wrote = os.write(fd, memoryview(self._chunk)[at:end])
            else:
                wrote = os.write(fd, self._chunk)
            if wrote == count:
                return
            write_all(fd, memoryview(self._chunk)[at + wrote : end])
            return
        for piece in self.pieces(count):
            write_all(fd, piece)

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        at = self._at + count
        if at <= self._end:
            self._at = at
            return
        for _ in self._pieces(count):
            pass

    def drain(self) -> None:
        """Consume the rest of the stream, whatever it is."""
        while self._advance():
            pass
        self._at = self._end
