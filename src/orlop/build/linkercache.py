"""Makes an ld.so.cache: a sorted table from library names to paths, as ldconfig writes it. Pure."""

from __future__ import annotations

import struct
from functools import cmp_to_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.build.elf import Elf

_ENTRY = 24
_HEADER = 48
_LIBC6 = 3
_FLAGS = {  # (e_machine, bits) -> what ld.so of that machine expects besides ELF_LIBC6
    (62, 64): 0x0300,
    (62, 32): 0x0800,
    (21, 64): 0x0500,
    (22, 64): 0x0400,
    (183, 64): 0x0A00,
    (40, 32): 0x0900,
    (243, 64): 0x1000,
    (258, 64): 0x1200,
}


def make_cache(entries: Sequence[tuple[str, str]], program: Elf) -> bytes:
    """The cache for (name, path) pairs of libraries that run with `program`."""
    ordered = sorted(entries, key=lambda entry: cmp_to_key(compare)(entry[0]), reverse=True)
    order = ">" if program.big_endian else "<"
    flags = _LIBC6 | _FLAGS.get((program.machine, program.bits), 0)
    strings = bytearray()
    places: dict[str, int] = {}
    base = _HEADER + _ENTRY * len(ordered)

    def place(text: str) -> int:
        if text not in places:
            places[text] = base + len(strings)
            strings.extend(text.encode("utf-8", "surrogateescape") + b"\0")
        return places[text]

    table = b"".join(struct.pack(order + "iIIIQ", flags, place(name), place(path), 0, 0) for name, path in ordered)
    head = b"glibc-ld.so.cache1.1" + struct.pack(order + "II", len(ordered), len(strings))
    head += bytes([3 if program.big_endian else 2]) + bytes(_HEADER - len(head) - 1)
    return head + table + bytes(strings)


def compare(left: str, right: str) -> int:
    """The order of names in the cache: runs of digits by value, and digits after letters."""
    a, b = left.encode("utf-8", "surrogateescape"), right.encode("utf-8", "surrogateescape")
    i = j = 0
    while i < len(a):
        one, other = a[i], b[j] if j < len(b) else 0
        if _digit(one):
            if not _digit(other):
                return 1
            first, i = _number(a, i)
            second, j = _number(b, j)
            if first != second:
                return first - second
        elif _digit(other):
            return -1
        elif one != other:
            return one - other
        else:
            i, j = i + 1, j + 1
    return -(b[j] if j < len(b) else 0)


def _digit(byte: int) -> bool:
    return 0x30 <= byte <= 0x39


def _number(text: bytes, at: int) -> tuple[int, int]:
    end = at
    while end < len(text) and _digit(text[end]):
        end += 1
    return int(text[at:end]), end
