"""ELF programs and libraries: what they ask the dynamic linker for. Pure: bytes in, a value out.

Sources: System V ABI (gABI) chapters 4 and 5; elf.h for the numbers. Both classes and both byte orders.
"""

from __future__ import annotations

import struct

from orlop.errors import DataLoss
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from _typeshed import ReadableBuffer

    Bytes: TypeAlias = ReadableBuffer

MAGIC = b"\x7fELF"
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 14, 15, 29
_DT_FLAGS_1 = 0x6FFFFFFB
_DF_1_NODEFLIB = 0x800
_MAX_HEADERS = 4096
_MAX_DYNAMIC = 1 << 16
_MAX_STRINGS = 1 << 24
_MAX_PATH = 4096


class BadElf(DataLoss):
    """An ELF file whose headers point outside it, or make no sense."""


class Elf(Value):
    """What a program or library needs. `rpath` and `runpath` are split at colons, not expanded."""

    bits: int  # 32 or 64
    big_endian: bool
    machine: int  # e_machine: 62 is x86-64, 183 AArch64
    interpreter: str = ""
    needed: tuple[str, ...] = ()
    soname: str = ""
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    no_default_folders: bool = False
    dynamic: bool = False

    def runs_with(self, other: Elf) -> bool:
        """Whether both can be in one process: same class, byte order and machine."""
        mine, its = (self.bits, self.big_endian, self.machine), (other.bits, other.big_endian, other.machine)
        return mine == its


def parse(data: Bytes) -> Elf | None:
    """The ELF file in `data` (bytes or a memory map); None when it is not ELF. Raises BadElf."""
    with memoryview(data) as view:
        if bytes(view[:4]) != MAGIC:
            return None
        try:
            return _Reader(view).elf()
        except struct.error as error:
            raise BadElf("the ELF headers are cut short") from error


class _Reader:
    def __init__(self, view: memoryview) -> None:
        self.view = view
        if len(view) < 52 or view[4] not in (1, 2) or view[5] not in (1, 2):
            raise BadElf("the ELF identification makes no sense")
        self.wide = view[4] == 2
        self.order = "<" if view[5] == 1 else ">"

    def unpack(self, form: str, at: int) -> tuple[int, ...]:
        if at < 0 or at >= len(self.view):
            raise BadElf(f"the ELF headers point to byte {at} of {len(self.view)}")
        return struct.unpack_from(self.order + form, self.view, at)

    def elf(self) -> Elf:
        (machine,) = self.unpack("H", 18)
        segments = self.segments()
        interpreter = ""
        dynamic: tuple[int, int] | None = None
        for kind, offset, _address, size in segments:
            if kind == _PT_INTERP:
                interpreter = _text(self.piece(offset, min(size, _MAX_PATH)), 0)
            elif kind == _PT_DYNAMIC:
                dynamic = offset, size
        plain = Elf(
            bits=64 if self.wide else 32,
            big_endian=self.order == ">",
            machine=machine,
            interpreter=interpreter,
        )
        return plain if dynamic is None else plain.replace(dynamic=True, **self.dynamic(dynamic, segments))

    def segments(self) -> list[tuple[int, int, int, int]]:
        """(type, offset, address, size in the file) of each program header."""
        if self.wide:
            (offset,) = self.unpack("Q", 32)
            size, count = self.unpack("HH", 54)
            form, pick = "IIQQQQ", (0, 2, 3, 5)
        else:
            (offset,) = self.unpack("I", 28)
            size, count = self.unpack("HH", 42)
            form, pick = "IIIII", (0, 1, 2, 4)
        if count > _MAX_HEADERS or (count and size < struct.calcsize(self.order + form)):
            raise BadElf(f"{count} program headers of {size} bytes make no sense")
        found = []
        for number in range(count):
            fields = self.unpack(form, offset + number * size)
            found.append((fields[pick[0]], fields[pick[1]], fields[pick[2]], fields[pick[3]]))
        return found

    def piece(self, offset: int, size: int) -> bytes:
        if offset + size > len(self.view):
            raise BadElf(f"the ELF headers point to byte {offset + size} of {len(self.view)}")
        return bytes(self.view[offset : offset + size])

    def dynamic(self, where: tuple[int, int], segments: list[tuple[int, int, int, int]]) -> dict[str, object]:
        offset, size = where
        width = 16 if self.wide else 8
        needed: list[int] = []
        values: dict[int, int] = {}
        for number in range(min(size // width, _MAX_DYNAMIC)):
            tag, value = self.unpack("qQ" if self.wide else "iI", offset + number * width)
            if tag == _DT_NULL:
                break
            if tag == _DT_NEEDED:
                needed.append(value)
            else:
                values[tag] = value
        strings = self.strings(values, segments)
        return {
            "needed": tuple(_text(strings, at) for at in needed),
            "soname": _text(strings, values[_DT_SONAME]) if _DT_SONAME in values else "",
            "rpath": _folders(strings, values.get(_DT_RPATH)),
            "runpath": _folders(strings, values.get(_DT_RUNPATH)),
            "no_default_folders": bool(values.get(_DT_FLAGS_1, 0) & _DF_1_NODEFLIB),
        }

    def strings(self, values: dict[int, int], segments: list[tuple[int, int, int, int]]) -> bytes:
        """The dynamic string table, which is given by its address in memory."""
        address = values.get(_DT_STRTAB)
        if address is None:
            return b""
        for kind, offset, start, size in segments:
            if kind == _PT_LOAD and start <= address < start + size:
                length = min(values.get(_DT_STRSZ, 0), start + size - address, _MAX_STRINGS)
                return self.piece(offset + address - start, length)
        raise BadElf(f"no segment holds the string table at {address:#x}")


def _text(strings: bytes, at: int) -> str:
    if at >= len(strings):
        raise BadElf(f"a name at {at} lies outside its table of {len(strings)} bytes")
    end = strings.find(b"\0", at)
    return strings[at : end if end >= 0 else len(strings)].decode("utf-8", "surrogateescape")


def _folders(strings: bytes, at: int | None) -> tuple[str, ...]:
    return tuple(part for part in _text(strings, at).split(":") if part) if at is not None else ()
