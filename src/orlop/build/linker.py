"""Which files the dynamic linker would load for a program: ld.so's search, without running the program.

Sources: ld.so(8); glibc's dl-load.c for the order, dl-cache.h for the cache's format; musl's dynlink.c for musl.
"""

from __future__ import annotations

import os
import struct
from posixpath import basename, dirname, join

from orlop.build import elf
from orlop.errors import DataLoss, OrlopError
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.build.elf import Elf

CACHE = "/etc/ld.so.cache"
_MAGIC = b"glibc-ld.so.cache1.1"
_OLD_MAGIC = b"ld.so-1.7.0\0"
_HEADER = 48
_ENTRY = 24
_MAX_CONF = 200
_TRIPLETS = {  # e_machine -> Debian's multiarch folders
    3: ("i386-linux-gnu",),
    8: ("mips-linux-gnu", "mipsel-linux-gnu"),
    20: ("powerpc-linux-gnu",),
    21: ("powerpc64le-linux-gnu", "powerpc64-linux-gnu"),
    22: ("s390x-linux-gnu",),
    40: ("arm-linux-gnueabihf", "arm-linux-gnueabi"),
    62: ("x86_64-linux-gnu", "x86_64-linux-gnux32"),
    183: ("aarch64-linux-gnu",),
    243: ("riscv64-linux-gnu",),
    258: ("loongarch64-linux-gnu",),
}
_PLATFORMS = {3: "i686", 22: "s390x", 40: "v7l", 62: "x86_64", 183: "aarch64"}


class LibraryMissing(OrlopError):
    """The dynamic linker would not find a library."""

    kind = "not-found"


class CacheEntry(Value):
    """One line of ld.so.cache: `hwcap` is not 0 for a build for newer processors only."""

    name: str
    path: str
    flags: int
    hwcap: int


def parse_cache(data: bytes) -> list[CacheEntry]:
    """The entries of an ld.so.cache (format "glibc-ld.so.cache1.1", alone or behind the old one). Raises DataLoss."""
    start = 0
    if data.startswith(_OLD_MAGIC):
        (count,) = struct.unpack_from("<I", data, 12)
        start = (16 + count * 12 + 7) // 8 * 8
    if data[start : start + len(_MAGIC)] != _MAGIC:
        raise DataLoss("the linker's cache has an unknown format")
    order = ">" if data[start + 28 : start + 29] == b"\x03" else "<"
    try:
        count, _strings = struct.unpack_from(order + "II", data, start + len(_MAGIC))
        if count * _ENTRY > len(data):
            raise DataLoss(f"the linker's cache announces {count} entries in {len(data)} bytes")
        found = []
        for number in range(count):
            at = start + _HEADER + number * _ENTRY
            flags, key, value, _version, hwcap = struct.unpack_from(order + "iIIIQ", data, at)
            name, path = _string(data, start + key), _string(data, start + value)
            found.append(CacheEntry(name=name, path=path, flags=flags, hwcap=hwcap))
    except struct.error as error:
        raise DataLoss("the linker's cache is cut short") from error
    return found


def _string(data: bytes, at: int) -> str:
    end = data.find(b"\0", at)
    if at >= len(data) or end < 0:
        raise DataLoss("the linker's cache points outside itself")
    return data[at:end].decode("utf-8", "surrogateescape")


class Loaded:
    """A program or library that would be in the process. `loader` is who asked for it first."""

    __slots__ = ("elf", "loader", "path")

    def __init__(self, path: str, found: Elf, loader: Loaded | None) -> None:
        self.path = path
        self.elf = found
        self.loader = loader

    def chain(self) -> Iterator[Loaded]:
        """It, and who asked for it, up to the program."""
        one: Loaded | None = self
        while one is not None:
            yield one
            one = one.loader


class Linker:
    """Finds libraries as this machine's ld.so does, with an empty environment. Keeps what it read."""

    def __init__(self, cache: str = CACHE) -> None:
        self._elves: dict[str, Elf | None] = {}
        self._cached: dict[str, list[str]] = {}
        self._configured: tuple[str, ...] | None = None
        try:
            with open(cache, "rb") as file:
                entries = parse_cache(file.read())
        except FileNotFoundError:
            entries = []
        # Builds for any processor first, so that what is packed also runs elsewhere.
        for entry in sorted(entries, key=lambda entry: entry.hwcap != 0):
            self._cached.setdefault(entry.name, []).append(entry.path)

    def elf(self, path: str) -> Elf | None:
        """The parsed file; None when it is missing or not ELF. Raises BadElf naming the file."""
        if path not in self._elves:
            try:
                self._elves[path] = _read(path)
            except elf.BadElf as error:
                raise elf.BadElf(f"{path}: {error.message}") from error
        return self._elves[path]

    def closure(self, program: str) -> list[Loaded]:
        """The program at `program` and all it needs, in the order they would be loaded; its interpreter comes last.

        A library that is not found has no entry: `missing` names those. Empty for what is not ELF or is static.
        """
        main = self.elf(program)
        if main is None:
            return []
        loaded = [Loaded(program, main, None)]
        names: dict[str, Loaded] = {}
        paths = {os.path.realpath(program): loaded[0]}
        at = 0
        while at < len(loaded):
            here = loaded[at]
            at += 1
            for name in here.elf.needed:
                if name in names:
                    continue
                path = self.find(name, here, main.interpreter)
                if path is None:
                    continue
                real = os.path.realpath(path)
                found = paths.get(real)
                if found is None:
                    library = self.elf(path)
                    assert library is not None
                    found = paths[real] = Loaded(path, library, here)
                    loaded.append(found)
                    if library.soname:
                        names.setdefault(library.soname, found)
                names[name] = found
        if main.interpreter and (interpreter := self.elf(main.interpreter)) is not None:
            loaded.append(Loaded(main.interpreter, interpreter, loaded[0]))
        return loaded

    def missing(self, loaded: list[Loaded]) -> list[tuple[str, str]]:
        """(library, the file that needs it) for each one that would not be found."""
        if not loaded:
            return []
        interpreter = loaded[0].elf.interpreter
        provided = {one.elf.soname for one in loaded} | {basename(one.path) for one in loaded}
        return [
            (name, one.path)
            for one in loaded
            for name in one.elf.needed
            if name not in provided and self.find(name, one, interpreter) is None
        ]

    def find(self, name: str, wanted_by: Loaded, interpreter: str) -> str | None:
        """The path at which the linker finds the library `name` that `wanted_by` needs."""
        if "/" in name:
            candidates = _expanded(name, wanted_by)
            return next((path for path in candidates if self._fits(path, wanted_by.elf)), None)
        for folder in self._folders(wanted_by, interpreter):
            if folder is None:
                for path in self._cached.get(name, ()):
                    if self._fits(path, wanted_by.elf):
                        return path
            elif self._fits(path := join(folder, name), wanted_by.elf):
                return path
        return None

    def _fits(self, path: str, wanted_by: Elf) -> bool:
        if not path.startswith("/"):
            return False
        try:
            found = self.elf(path)
        except elf.BadElf:
            return False
        return found is not None and found.runs_with(wanted_by)

    def _folders(self, wanted_by: Loaded, interpreter: str) -> Iterator[str | None]:
        """Where to look, in order; None stands for the cache."""
        musl = basename(interpreter).startswith("ld-musl")
        if musl:
            for one in wanted_by.chain():
                for entry in one.elf.runpath or one.elf.rpath:
                    yield from _expanded(entry, one)
            yield from _musl_folders(interpreter)
            return
        if not wanted_by.elf.runpath:
            for one in wanted_by.chain():
                if not one.elf.runpath:
                    for entry in one.elf.rpath:
                        yield from _expanded(entry, one)
        for entry in wanted_by.elf.runpath:
            yield from _expanded(entry, wanted_by)
        if not wanted_by.elf.no_default_folders:
            yield None
            yield from default_folders(wanted_by.elf)
            if not self._cached:  # no cache: what it would have been made from
                yield from self._conf()

    def _conf(self) -> tuple[str, ...]:
        if self._configured is None:
            self._configured = tuple(configured_folders("/etc/ld.so.conf"))
        return self._configured


def _read(path: str) -> Elf | None:
    import mmap  # an extension module that only packing needs

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        head = os.read(fd, 4) if os.path.isfile(f"/proc/self/fd/{fd}") else b""
        if head != elf.MAGIC:
            return None
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
            return elf.parse(data)
    finally:
        os.close(fd)


def default_folders(wanted_by: Elf) -> list[str]:
    """The folders that ld.so searches without being told to, for libraries of this kind."""
    found = []
    for triplet in _TRIPLETS.get(wanted_by.machine, ()):
        found += [f"/lib/{triplet}", f"/usr/lib/{triplet}"]
    if wanted_by.bits == 64:
        found += ["/lib64", "/usr/lib64"]
    return [*found, "/lib", "/usr/lib"]


def configured_folders(path: str, depth: int = 0) -> Iterator[str]:
    """The folders that an ld.so.conf names, its includes followed."""
    if depth > 5:
        return
    import glob  # only where there is no cache

    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()[: _MAX_CONF * 10]
    except (FileNotFoundError, IsADirectoryError):
        return
    for line in lines:
        text = line.partition("#")[0].strip()
        if text.startswith("include "):
            for inner in sorted(glob.glob(join(dirname(path), text[8:].strip())))[:_MAX_CONF]:
                yield from configured_folders(inner, depth + 1)
        elif text.startswith("/"):
            yield text.partition("=")[0].rstrip("/")


def _musl_folders(interpreter: str) -> list[str]:
    """Musl reads /etc/ld-musl-<arch>.path, or else uses three folders."""
    name = basename(interpreter).removesuffix(".1").removesuffix(".so")
    prefix = dirname(dirname(interpreter)).rstrip("/")
    try:
        with open(f"{prefix}/etc/{name}.path", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except FileNotFoundError:
        return ["/lib", "/usr/local/lib", "/usr/lib"]
    return [folder for folder in text.replace(":", "\n").split("\n") if folder]


def _expanded(entry: str, owner: Loaded) -> list[str]:
    """A path with $ORIGIN, $LIB and $PLATFORM replaced; all values that $LIB may have here."""
    if "$" not in entry:
        return [entry]
    origin = dirname(os.path.realpath(owner.path))
    platform = _PLATFORMS.get(owner.elf.machine, "")
    entry = _variable(_variable(entry, "ORIGIN", origin), "PLATFORM", platform)
    if "$LIB" not in entry and "${LIB}" not in entry:
        return [entry]
    names = [f"lib/{triplet}" for triplet in _TRIPLETS.get(owner.elf.machine, ())]
    names += ["lib64", "lib"] if owner.elf.bits == 64 else ["lib"]
    return [_variable(entry, "LIB", name) for name in names]


def _variable(text: str, name: str, value: str) -> str:
    return text.replace(f"${{{name}}}", value).replace(f"${name}", value)
