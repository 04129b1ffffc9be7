"""Compressed streams: told by their first bytes, expanded within bounds, written the same way every time.

Everything streams in chunks of about 1 MiB; no output chunk is much larger, however dense the input. Damage, a cut
stream and garbage after the end are DataLoss; a bomb is ResourceExhausted.
"""

from __future__ import annotations

from orlop.errors import DataLoss, InvalidArgument, ResourceExhausted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeAlias

    Buffer: TypeAlias = bytes | bytearray | memoryview

NONE = "none"
GZIP = "gzip"
ZSTD = "zstd"
XZ = "xz"
BZIP2 = "bzip2"

_MAGIC = ((b"\x1f\x8b", GZIP), (b"\x28\xb5\x2f\xfd", ZSTD), (b"\xfd7zXZ\0", XZ), (b"BZh", BZIP2))
_CHUNK = 1 << 20
# A gzip file of one member, from orlop: no name, no time, unknown system; RFC 1952, 2.3.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_RATIO_FROM = (
    1 << 30
)  # bytes of output before the ratio is looked at: small bombs do no harm, large zero files are common


def detect(head: bytes) -> str:
    """The compression whose first bytes `head` has: "gzip", "zstd", "xz", "bzip2"; "none" for anything else."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    # A zstd stream may begin with a skippable frame, as zstd:chunked and pzstd write them (RFC 8878, 3.1.2).
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return ZSTD
    return NONE


def plain(chunks: Iterable[Buffer], **bounds: int) -> Iterator[bytes]:
    """The content of a stream that may be compressed in any way that `detect` knows."""
    source = iter(chunks)
    head = b""
    for chunk in source:
        head += bytes(chunk)
        if len(head) >= 6:
            break
    yield from decompressor(_chained(head, source), detect(head), **bounds)


def _chained(head: bytes, rest: Iterator[Buffer]) -> Iterator[Buffer]:
    if head:
        yield head
    yield from rest


def decompressor(
    chunks: Iterable[Buffer], kind: str = GZIP, *, max_bytes: int = 0, max_ratio: int = 0
) -> Iterator[bytes]:
    """Expand `chunks`. ResourceExhausted past `max_bytes` of output or `max_ratio` times the input (0: no bound)."""
    expand = {NONE: _copy, GZIP: _gunzip, ZSTD: _unzstd, XZ: _unxz, BZIP2: _bunzip2}.get(kind)
    if expand is None:
        raise InvalidArgument(f"compression {kind!r} is not known", hint="layers are plain, gzip or zstd")
    if not max_bytes and not max_ratio:
        return expand(chunks)
    return _bounded(chunks, expand, max_bytes, max_ratio)


def _bounded(
    chunks: Iterable[Buffer], expand: Callable[[Iterable[Buffer]], Iterator[bytes]], max_bytes: int, max_ratio: int
) -> Iterator[bytes]:
    took = made = 0

    def counted() -> Iterator[Buffer]:
        nonlocal took
        for chunk in chunks:
            took += len(chunk)
            yield chunk

    for chunk in expand(counted()):
        made += len(chunk)
        if max_bytes and made > max_bytes:
            raise ResourceExhausted(
                f"the stream expands to more than {max_bytes} bytes", hint="raise the limit if this is meant"
            )
        if max_ratio and made > _RATIO_FROM and made > took * max_ratio:
            raise ResourceExhausted(
                f"the stream expands to more than {max_ratio} times its size",
                hint="it looks like a decompression bomb; raise the limit if this is meant",
            )
        yield chunk


def _damaged(kind: str, why: object) -> DataLoss:
    return DataLoss(f"bad {kind} stream: {why}", hint="the data are damaged or were cut in transfer: fetch them again")


def _copy(chunks: Iterable[Buffer]) -> Iterator[bytes]:
    for chunk in chunks:
        if chunk:
            yield bytes(chunk)


def _members(
    chunks: Iterable[Buffer], kind: str, new: Callable[[], Any], fault: type[Exception], magic: bytes
) -> Iterator[bytes]:
    """Expand members one after another, as gzip, xz and bzip2 files may have several. Padding of NULs is allowed."""
    member = None
    found = False
    between = b""  # what follows a member and is not yet known to start another
    for chunk in chunks:
        data: Buffer = chunk
        while data or (member is not None and not member.needs_input and not member.eof):
            if member is None:
                between += bytes(data)
                data = b""
                if not between.strip(b"\0"):
                    between = b""
                    break
                if len(between) < len(magic):
                    break
                if not between.startswith(magic):
                    raise _damaged(kind, "there is something else after its end")
                member, data, between = new(), between, b""
                found = True
            try:
                piece = member.decompress(data, _CHUNK)
            except fault as error:
                raise _damaged(kind, error) from error
            data = b""
            if piece:
                yield piece
            if member.eof:
                data, member = member.unused_data, None
    if member is not None or not found:
        raise _damaged(kind, "it ends early")
    if between:
        raise _damaged(kind, "there is something else after its end")


def _gunzip(chunks: Iterable[Buffer]) -> Iterator[bytes]:
    from isal import igzip_lib  # a shared library that only unpacking needs

    def new() -> Any:
        return igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)

    fault: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # isal's stub calls the class an instance
    return _members(chunks, GZIP, new, fault, b"\x1f\x8b")


def _unxz(chunks: Iterable[Buffer]) -> Iterator[bytes]:
    import lzma  # only ADD of such an archive needs it

    def new() -> Any:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)

    return _members(chunks, XZ, new, lzma.LZMAError, b"\xfd7zXZ\0")


def _bunzip2(chunks: Iterable[Buffer]) -> Iterator[bytes]:
    import bz2  # only ADD of such an archive needs it

    return _members(chunks, BZIP2, bz2.BZ2Decompressor, OSError, b"BZh")


class _Frames:
    """Follows the frames of a zstd stream (RFC 8878, 3.1) to know where they end: the decompressor does not tell."""

    def __init__(self) -> None:
        self._head = b""  # bytes of a field not yet complete
        self._skip = 0  # bytes to pass over
        self._state = "magic"
        self._checksum = False
        self.seen = False  # whether there was any frame

    @property
    def complete(self) -> bool:
        """Whether the stream may end here."""
        return self._state == "magic" and not self._head and not self._skip

    def feed(self, data: Buffer) -> None:
        """Take in the next bytes; DataLoss when a frame follows that is none."""
        at, end = 0, len(data)
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            wanted = {"magic": 4, "descriptor": 1, "block": 3, "skippable": 4}[self._state]
            take = min(wanted - len(self._head), end - at)
            self._head += bytes(data[at : at + take])
            at += take
            if len(self._head) == wanted:
                field, self._head = self._head, b""
                self._field(field)

    def _field(self, field: bytes) -> None:
        if self._state == "magic":
            self.seen = True
            if field == b"\x28\xb5\x2f\xfd":
                self._state = "descriptor"
            elif detect(field) == ZSTD:
                self._state = "skippable"
            else:
                raise _damaged(ZSTD, "there is something else after its end")
        elif self._state == "descriptor":
            flags = field[0]
            single = bool(flags & 0x20)
            size = (1 if single else 0, 2, 4, 8)[flags >> 6]
            self._skip = size + (0, 1, 2, 4)[flags & 3] + (0 if single else 1)
            self._checksum = bool(flags & 4)
            self._state = "block"
        elif self._state == "skippable":
            self._skip = int.from_bytes(field, "little")
            self._state = "magic"
        else:
            value = int.from_bytes(field, "little")
            self._skip = 1 if value >> 1 & 3 == 1 else value >> 3  # a run-length block stores one byte
            if value & 1:
                self._skip += 4 if self._checksum else 0
                self._state = "magic"


class _Source:
    """Chunks as the object with `read` that zstandard wants, watched for where frames end."""

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        self._chunks = iter(chunks)
        self.frames = _Frames()

    def read(self, _size: int = -1) -> bytes:
        for chunk in self._chunks:
            if chunk:
                self.frames.feed(chunk)
                return bytes(chunk)
        return b""


def _unzstd(chunks: Iterable[Buffer]) -> Iterator[bytes]:
    import zstandard  # a shared library that only zstd layers need

    source = _Source(chunks)
    # The window is bounded as the zstd program bounds it: 128 MiB.
    expander = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    with expander.stream_reader(source, read_size=_CHUNK, read_across_frames=True) as reader:  # type: ignore[arg-type]
        while True:
            try:
                piece = reader.read(_CHUNK)
            except zstandard.ZstdError as error:
                raise _damaged(ZSTD, error) from error
            if not piece:
                break
            yield piece
    if not source.frames.complete or not source.frames.seen:
        raise _damaged(ZSTD, "it ends early")


class GzipWriter:
    """Compresses to one gzip member. The same data in the same pieces' order always give the same bytes."""

    def __init__(self, write: Callable[[bytes], object], level: int) -> None:
        from isal import isal_zlib  # a shared library that only packing needs

        self._write = write
        self._crc32 = isal_zlib.crc32
        self._deflate = isal_zlib.compressobj(level, wbits=-15)
        self._crc = 0
        self._size = 0
        self._pending = bytearray()
        self._put(_GZIP_HEADER)

    def _put(self, data: bytes) -> None:
        if data:
            self._write(data)

    def write(self, data: Buffer) -> None:
        """Take in the next piece. Small ones are gathered, so that the output does not depend on how data were cut."""
        if not self._pending and len(data) == _CHUNK:
            self._chunk(data)
            return
        view = memoryview(data)
        while view:
            room = _CHUNK - len(self._pending)
            self._pending += view[:room]
            view = view[room:]
            if len(self._pending) == _CHUNK:
                self._chunk(bytes(self._pending))
                self._pending.clear()

    def _chunk(self, data: Buffer) -> None:
        self._crc = self._crc32(data, self._crc)
        self._size += len(data)
        self._put(self._deflate.compress(data))

    def close(self) -> None:
        """Write what is left and the trailer; without it the stream is not whole."""
        if self._pending:
            self._chunk(bytes(self._pending))
            self._pending.clear()
        self._put(self._deflate.flush())
        self._put(self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"))


def gzip_writer(write: Callable[[bytes], object], level: int = 1) -> GzipWriter:
    """A deterministic gzip stream into `write`. Levels 0 to 3 are isal's; 1 is the best trade."""
    if not 0 <= level <= 3:
        raise InvalidArgument(f"gzip level {level} is not one of 0 to 3")
    return GzipWriter(write, level)


class ZstdWriter:
    """Compresses to one zstd frame with a checksum."""

    def __init__(self, write: Callable[[bytes], object], level: int) -> None:
        import zstandard  # a shared library that only zstd layers need

        self._write = write
        self._frame = zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()

    def write(self, data: Buffer) -> None:
        """Take in the next piece."""
        if piece := self._frame.compress(data):
            self._write(piece)

    def close(self) -> None:
        """End the frame; without it the stream is not whole."""
        if piece := self._frame.flush():
            self._write(piece)


class PlainWriter:
    """No compression, the same verbs."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: Buffer) -> None:
        """Pass the piece on."""
        self._write(bytes(data))

    def close(self) -> None:
        """Nothing is left to write."""


def writer(
    write: Callable[[bytes], object], kind: str, level: int | None = None
) -> GzipWriter | ZstdWriter | PlainWriter:
    """A compressor of the given kind ("none", "gzip", "zstd")."""
    if kind == GZIP:
        return gzip_writer(write, 1 if level is None else level)
    if kind == ZSTD:
        return ZstdWriter(write, 3 if level is None else level)
    if kind == NONE:
        return PlainWriter(write)
    raise InvalidArgument(f"layers cannot be written as {kind!r}", hint="choose none, gzip or zstd")
