"""The fields of tar headers as pure functions: bytes in, values out.

Sources: POSIX.1-2017 `pax` (ustar interchange format, pax extended headers), the GNU tar manual's appendix "Tar
Internals" (base-256 numbers, sparse formats), and star(5) for SCHILY keywords. Names are `str` decoded as UTF-8 with
surrogateescape, so that any byte string survives the way in and out.
"""

from __future__ import annotations

import struct

from orlop.errors import DataLoss, ResourceExhausted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Block: TypeAlias = bytes
    Extents: TypeAlias = tuple[tuple[int, int], ...]

BLOCK = 512
ZEROS = bytes(BLOCK)

# The fields of POSIX's ustar block in order, from name and mode to prefix; magic and version are taken as one.
HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
CHECKSUM = slice(148, 156)
_BLANK_SUM = 8 * 0x20  # the checksum is computed with its own field read as spaces

MAGIC_USTAR = b"ustar\x0000"
MAGIC_GNU = b"ustar  \x00"

# Bounds on what a header may claim. One MiB is what Go's reader, hence every other engine, accepts.
MAX_EXTENDED = 1 << 20  # bytes of one pax header, one GNU long name, one sparse map
MAX_NAME = 4095  # bytes: PATH_MAX without its NUL
MAX_DEPTH = 1024  # path components
MAX_XATTR_NAME = 255  # bytes: XATTR_NAME_MAX
MAX_XATTR_VALUE = 1 << 16  # bytes: XATTR_SIZE_MAX
MAX_NUMBER = (1 << 63) - 1


class BadTar(DataLoss):
    """The archive is cut short, or its headers do not follow the format."""

    def __init__(self, what: str, *, offset: int) -> None:
        super().__init__(
            f"bad tar archive at byte {offset}: {what}",
            hint="the archive is damaged or was cut in transfer: fetch or make it again",
        )
        self.offset = offset


class HeaderTooLarge(ResourceExhausted):
    """A header claims more than any honest archive needs."""

    def __init__(self, what: str, *, offset: int) -> None:
        super().__init__(f"tar header at byte {offset} is over the limit: {what}")
        self.offset = offset


def text(field: bytes) -> str:
    """A name field up to its first NUL."""
    end = field.find(b"\0")
    return (field if end < 0 else field[:end]).decode("utf-8", "surrogateescape")


def number(field: bytes) -> int:
    """A numeric field: octal text padded with blanks or NULs, or base-256 (big-endian two's complement, top bit set).

    Raises ValueError for anything else, and for values beyond a signed 64-bit integer.
    """
    lead = field[0]
    if lead & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        # Bit 7 of the first byte is the marker, bit 6 the sign.
        value = value - (1 << bits) if lead & 0x40 else value - (1 << (bits - 1))
        if not -MAX_NUMBER - 1 <= value <= MAX_NUMBER:
            raise ValueError("number beyond 64 bits")
        return value
    digits = field.strip(b" \0")
    # int() would also take signs, underscores and inner blanks, and no tar has them.
    if digits.isdigit():
        return int(digits, 8)
    digits = digits.partition(b"\0")[0].rstrip(b" ")
    if digits and not digits.isdigit():
        raise ValueError(f"{digits!r} is not octal")
    return int(digits or b"0", 8)


def checksum_fits(block: Block) -> bool:
    """Whether the stored sum is that of the header, as unsigned bytes or (some historic tars) as signed ones."""
    try:
        stored = number(block[CHECKSUM])
    except ValueError:
        return False
    sum_now = sum(block) - sum(block[CHECKSUM]) + _BLANK_SUM
    if stored == sum_now:
        return True
    negative = sum(1 for byte in block[:148] + block[156:] if byte & 0x80)
    return stored == sum_now - 256 * negative


def pax_records(data: bytes, *, offset: int) -> list[tuple[str, bytes]]:
    """The records ("LENGTH KEY=VALUE" and a newline) of a pax extended header, in order, values as raw bytes."""
    found = []
    at, end = 0, len(data)
    while at < end:
        blank = data.find(b" ", at, at + 20)
        digits = data[at:blank] if blank > at else b""
        stop = at + int(digits) if digits.isdigit() else -1
        if not blank < stop <= end or data[stop - 1] != 0x0A:
            if not data[at:].strip(b"\0"):
                break  # padding counted into the size, as some writers do
            raise BadTar("a pax record's length does not fit its text", offset=offset)
        key, equals, value = data[blank + 1 : stop - 1].partition(b"=")
        if not equals or not key or b"\0" in key:
            raise BadTar("a pax record has no key", offset=offset)
        found.append((key.decode("utf-8", "surrogateescape"), value))
        at = stop
    return found


def pax_record(key: str, value: bytes) -> bytes:
    """One record; its length counts its own digits."""
    body = b" " + key.encode("utf-8", "surrogateescape") + b"=" + value + b"\n"
    size = len(body) + 1
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return str(size).encode() + body


def pax_time(value: bytes) -> int:
    """Decimal seconds, possibly negative and with a fraction, as nanoseconds. Digits past the ninth are dropped."""
    whole, _, fraction = value.partition(b".")
    digits = whole.removeprefix(b"-")
    if not (digits.isdigit() or (not digits and fraction)) or (fraction and not fraction.isdigit()) or len(digits) > 18:
        raise ValueError(f"{value!r} is not a time")
    total = int(digits or b"0") * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") if fraction else 0)
    return -total if whole.startswith(b"-") else total


def pax_time_text(nanoseconds: int) -> bytes:
    """The reverse of `pax_time`, shortest form."""
    seconds, fraction = divmod(abs(nanoseconds), 1_000_000_000)
    shown = f"{seconds}.{fraction:09d}".rstrip("0").rstrip(".") if fraction else str(seconds)
    return (("-" if nanoseconds < 0 else "") + shown).encode()


def pax_number(value: bytes) -> int:
    """A decimal number that is not negative and fits a signed 64-bit integer."""
    if not value.isdigit() or len(value) > 19 or int(value) > MAX_NUMBER:
        raise ValueError(f"{value[:40]!r} is not a number")
    return int(value)


def checked_extents(extents: list[tuple[int, int]], *, size: int, stored: int, offset: int) -> Extents:
    """A sparse map that is in order, inside `size`, and whose data are exactly `stored` bytes; empty extents go."""
    at = 0
    total = 0
    for start, length in extents:
        if start < at or length < 0 or start + length > size:
            raise BadTar("a sparse map is out of order or beyond the file's size", offset=offset)
        at = start + length
        total += length
    if total != stored:
        raise BadTar(f"a sparse map counts {total} bytes, the entry has {stored}", offset=offset)
    return tuple((start, length) for start, length in extents if length)


def gnu_sparse_entries(area: bytes, count: int) -> list[tuple[int, int]]:
    """Up to `count` (offset, length) pairs of 12-byte numbers; an empty pair ends the list."""
    found = []
    for at in range(0, 24 * count, 24):
        if area[at] == 0 and area[at + 12] == 0:
            break
        found.append((number(area[at : at + 12]), number(area[at + 12 : at + 24])))
    return found


def pax_sparse_map(records: list[tuple[str, bytes]]) -> list[tuple[int, int]] | None:
    """The map of formats 0.0 (repeated offset/numbytes records) and 0.1 (one GNU.sparse.map record); None if neither.

    Raises ValueError on a malformed one.
    """
    for key, value in records:
        if key == "GNU.sparse.map":
            numbers = [pax_number(part) for part in value.split(b",")] if value else []
            break
    else:
        numbers = [pax_number(value) for key, value in records if key in {"GNU.sparse.offset", "GNU.sparse.numbytes"}]
        if not numbers and not any(key == "GNU.sparse.numblocks" for key, _ in records):
            return None
    if len(numbers) % 2:
        raise ValueError("a sparse map has an odd count of numbers")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def octal(value: int, width: int) -> bytes | None:
    """`value` as zero-padded octal ending in NUL in a field of `width` bytes, or None when it does not fit."""
    if value < 0 or value >> (3 * (width - 1)):
        return None
    return b"%0*o\0" % (width - 1, value)


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """`name` as ustar's (prefix, name), both within their fields, or None when it needs a pax header."""
    if len(name) <= 100:
        return b"", name
    if len(name) > 256:
        return None
    # The latest slash that leaves a non-empty name of at most 100 bytes after a prefix of at most 155.
    cut = name.find(b"/", len(name) - 101)
    if cut <= 0 or cut > 155 or cut == len(name) - 1:
        return None
    return name[:cut], name[cut + 1 :]
