"""Tar archives as streams: `read` yields entries out of chunks of bytes, `Writer` makes the same archive every time.

Headers are looked at where they lie in the chunk and data are handed out as views of it, so nothing is copied but
headers; memory is bounded by one chunk and one extended header.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidArgument
from orlop.layers import tarformat as form
from orlop.layers.tarentry import BLOCK_DEVICE, CHAR, CHUNK, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry, Tape
from orlop.layers.tarformat import BLOCK, HEADER
from orlop.layers.tarmember import Member, end_of_archive

# What users of archives need, whichever module it is written in.
__all__ = [
    "BLOCK_DEVICE",
    "CHAR",
    "DIRECTORY",
    "FIFO",
    "FILE",
    "HARDLINK",
    "SYMLINK",
    "Entry",
    "Writer",
    "chunks_of",
    "content_of",
    "header",
    "read",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orlop.layers.tarentry import Buffer

_TYPES = {FILE: b"0", HARDLINK: b"1", SYMLINK: b"2", CHAR: b"3", BLOCK_DEVICE: b"4", DIRECTORY: b"5", FIFO: b"6"}


def chunks_of(fd: int, size: int = CHUNK) -> Iterator[bytes]:
    """What `read` wants, from an open file."""
    while data := os.read(fd, size):
        yield data


def content_of(fd: int, size: int) -> Iterable[bytes]:
    """What `Writer.add` wants, from an open regular file of `size` bytes: a small one takes one call."""
    if size >= CHUNK:
        return chunks_of(fd)
    data = os.read(fd, size + 1)
    if len(data) < size:  # cut short meanwhile, or by a signal
        return (data, *chunks_of(fd))
    return (data,)


def read(chunks: Iterable[Buffer]) -> Iterator[Entry]:
    """The entries of a tar stream, in order. Data must be taken before the next entry is asked for, or are skipped.

    When the iterator ends the whole stream was consumed, also what follows the end-of-archive blocks. Raises BadTar
    (DATA_LOSS) for damaged or cut archives, HeaderTooLarge (RESOURCE_EXHAUSTED) for hostile headers; both carry the
    stream's offset.
    """
    tape = Tape(chunks)
    shared: dict[str, bytes] = {}  # from global headers
    while True:
        first = tape.offset
        block = tape.block()
        if not block or block == form.ZEROS:
            if block:
                end_of_archive(tape, first)
            return
        entry = Member(tape, first, block, shared).entry()
        if entry is None:
            return
        stored = entry.stored
        tape.left = stored
        entry.tape = tape
        yield entry
        entry.tape = None
        tape.skip(tape.left + (-stored % BLOCK))


class Writer:
    """Writes an archive: the same entries always make the same bytes; pax records only for what ustar cannot say.

    `write` is called with bytes-like pieces in order. `close` ends the archive; without it there is none.
    """

    def __init__(self, write: Callable[[Buffer], object]) -> None:
        self._write = write
        self.size = 0  # bytes written

    def _put(self, data: Buffer) -> None:
        self.size += len(data)
        self._write(data)

    def add(self, entry: Entry, chunks: Iterable[Buffer] = ()) -> None:
        """Append `entry`; `chunks` must hold exactly `entry.size` bytes (files only), else InvalidArgument."""
        size = entry.size if entry.kind == FILE else 0
        self._put(header(entry))
        done = 0
        for chunk in chunks:
            done += len(chunk)
            if done > size:
                break
            self._put(chunk)
        if done != size:
            raise InvalidArgument(
                f"{entry.name!r} was announced with {size} bytes and has {'more' if done > size else done}",
                hint="the file was changed while it was read: try again",
            )
        if size % BLOCK:
            self._put(form.ZEROS[size % BLOCK :])

    def close(self) -> None:
        """Write the two blocks of zeros that end an archive."""
        self._put(bytes(2 * BLOCK))


def header(entry: Entry) -> bytes:
    """The header blocks of one entry: a pax header where needed, then the ustar one."""
    name = entry.name.encode("utf-8", "surrogateescape")
    if entry.kind == DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    link = entry.link.encode("utf-8", "surrogateescape") if entry.kind in {HARDLINK, SYMLINK} else b""
    if not name or b"\0" in name or b"\0" in link:
        raise InvalidArgument(f"a tar entry cannot be named {entry.name!r}")
    size = entry.size if entry.kind == FILE else 0
    seconds, fraction = divmod(entry.mtime, 1_000_000_000)
    records: dict[str, bytes] = {}
    split = form.split_name(name) if name.isascii() else None
    if split is None:
        records["path"] = name
        split = b"", _ascii(name)[:100]
    if not link.isascii() or len(link) > 100:
        records["linkpath"] = link
        link = _ascii(link)[:100]
    if fraction or form.octal(seconds, 12) is None:
        records["mtime"] = form.pax_time_text(entry.mtime)
        seconds = min(max(seconds, 0), (1 << 33) - 1)
    for key, amount, width in (("uid", entry.uid, 8), ("gid", entry.gid, 8), ("size", size, 12)):
        if form.octal(amount, width) is None:
            records[key] = str(amount).encode()
    for key, shown in (("uname", entry.uname), ("gname", entry.gname)):
        if not shown.isascii() or len(shown) > 31:
            records[key] = shown.encode("utf-8", "surrogateescape")
    for key, value in entry.xattrs.items():
        records[f"SCHILY.xattr.{key}"] = value
    fields = (split, link, seconds, size)
    flag = _TYPES[entry.kind]
    return (_pax_header(name, records) if records else b"") + _ustar_header(entry, flag, fields)


def _ascii(name: bytes) -> bytes:
    return name if name.isascii() else bytes(byte if byte < 0x80 else 0x5F for byte in name)


def _pax_header(name: bytes, records: dict[str, bytes]) -> bytes:
    if not all(_is_text(records[key]) for key in ("path", "linkpath") if key in records):
        records["hdrcharset"] = b"BINARY"
    body = b"".join(
        form.pax_record(key, records[key]) for key in sorted(records, key=lambda key: (key != "hdrcharset", key))
    )
    if len(body) > form.MAX_EXTENDED:
        raise InvalidArgument(
            f"the extended attributes of {name[:200]!r} are too large for a tar header: {len(body)} bytes"
        )
    base = name.rstrip(b"/").rpartition(b"/")[2]
    outer = Entry(f"PaxHeaders.0/{_ascii(base)[:80].decode()}", size=len(body))
    fields = ((b"", outer.name.encode()), b"", 0, len(body))
    return _ustar_header(outer, b"x", fields) + body + bytes(-len(body) % BLOCK)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _ustar_header(entry: Entry, flag: bytes, fields: tuple[tuple[bytes, bytes], bytes, int, int]) -> bytes:
    (prefix, name), link, seconds, size = fields
    octal = form.octal
    device = entry.kind in {CHAR, BLOCK_DEVICE}
    block = HEADER.pack(
        name,
        octal(entry.mode & 0o7777, 8) or b"",
        octal(entry.uid, 8) or b"0000000\0",
        octal(entry.gid, 8) or b"0000000\0",
        octal(size, 12) or b"00000000000\0",
        octal(seconds, 12) or b"00000000000\0",
        b" " * 8,
        flag,
        link,
        form.MAGIC_USTAR,
        _ascii(entry.uname.encode("utf-8", "surrogateescape"))[:31],
        _ascii(entry.gname.encode("utf-8", "surrogateescape"))[:31],
        octal(entry.major if device else 0, 8) or b"",
        octal(entry.minor if device else 0, 8) or b"",
        prefix,
        b"",
    )
    # Most of a block is zeros: the rest is summed up much sooner without them.
    return block[:148] + b"%06o\0 " % sum(block.translate(None, b"\0")) + block[156:]
