"""An image without a registry: programs and folders of this machine, with the libraries they need, as one layer.

The layer looks like the machine: links on the way to a file (/bin -> usr/bin, python3 -> python3.11) are kept as links,
so that every path works as it does here. The same machine always makes the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import stat
from posixpath import basename, dirname, join, normpath

from orlop.build import ignore
from orlop.build.linker import LibraryMissing, Linker, default_folders
from orlop.build.linkercache import make_cache
from orlop.errors import InvalidArgument, NotFound
from orlop.layers.tar import Writer
from orlop.layers.tarentry import CHUNK, DIRECTORY, FILE, HARDLINK, SYMLINK, Entry
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from orlop.build.linker import Loaded
    from orlop.build.patterns import Matcher

    class FromHost(Protocol):
        """What a face asks for."""

        @property
        def programs(self) -> tuple[str, ...]:
            """Names to look up, or paths."""

        @property
        def includes(self) -> tuple[str, ...]:
            """Folders: "DIR[:DEST]"."""

        @property
        def nss(self) -> bool:
            """With what glibc needs to look up names."""

        @property
        def certificates(self) -> bool:
            """With the machine's certificate authorities."""


DEFAULT_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
MAX_LINKS = 40
_TOP_LINKS = ("/bin", "/sbin", "/lib", "/lib64")
_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CERTIFICATE_PLACE = "/etc/ssl/certs/ca-certificates.crt"
# What glibc opens by name at run time: name services (built in since 2.34) and the unwinder for cancelled threads.
_NAME_SERVICES = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
_UNWINDER = "libgcc_s.so.1"
_NSSWITCH = b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"
_OWN_FOLDERS = {
    "/": 0o755,
    "/dev": 0o755,
    "/etc": 0o755,
    "/proc": 0o555,
    "/root": 0o700,
    "/run": 0o755,
    "/sys": 0o555,
    "/tmp": 0o1777,  # noqa: S108  # the image's own, made here
    "/var": 0o755,
    "/var/tmp": 0o1777,  # noqa: S108  # the same
}


class Folder(Value):
    """A file or folder of the machine to put into the image; `destination` "" keeps its path."""

    source: str
    destination: str = ""


class PackRequest(Value):
    """What to pack.

    `programs` are names, looked up in `path`, or paths; scripts bring their interpreters. `folders` are put in whole,
    less what `excludes` (ignore patterns relative to the folder) hides; programs and libraries in them bring what they
    need. `name_service` makes host names and users work in programs built on glibc; `certificates` adds the machine's
    certificate authorities. `mtime` (seconds) is given to folders and files that are made, not copied.
    """

    programs: tuple[str, ...] = ()
    folders: tuple[Folder, ...] = ()
    excludes: tuple[str, ...] = ()
    name_service: bool = True
    certificates: bool = False
    path: tuple[str, ...] = DEFAULT_PATH
    mtime: int = 0


class Packed(Value):
    """What was packed. `missing` are (library, who needs it) in folders; `size` is the bytes of the tar."""

    programs: tuple[str, ...]  # the paths at which the programs are in the image
    libraries: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    path: tuple[str, ...]  # the folders that programs were found in: the image's PATH
    entries: int
    size: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will not work in the image, one sentence each."""
        return tuple(f"{path} needs {library}, which this machine does not have" for library, path in self.missing)


def pack_request(request: FromHost, path: str) -> PackRequest:
    """What to pack for `image from-host`; `path` is a search path with colons. Raises InvalidArgument."""
    folders = []
    for text in request.includes:
        source, colon, destination = text.rpartition(":")
        if not colon or not destination.startswith("/"):
            source, destination = text, ""
        folders.append(Folder(source=source, destination=destination))
    return PackRequest(
        programs=tuple(request.programs),
        folders=tuple(folders),
        name_service=request.nss,
        certificates=request.certificates,
        path=tuple(folder for folder in path.split(":") if folder.startswith("/")) or DEFAULT_PATH,
    )


def pack(request: PackRequest, write: Callable[[bytes | bytearray | memoryview], object]) -> Packed:
    """Write a layer tar to `write`.

    Raises NotFound for a program or folder that is not there, LibraryMissing for a program that could not start.
    """
    if not request.programs and not request.folders:
        raise InvalidArgument("there is nothing to pack", hint="name programs, or folders to include")
    packing = _Packing(request)
    programs = tuple(packing.program(name) for name in request.programs)
    for folder in request.folders:
        packing.folder(folder)
    packing.surroundings()
    packing.linker_cache()
    size = packing.write(write)
    return Packed(
        programs=programs,
        libraries=tuple(sorted(packing.libraries)),
        missing=tuple(sorted(packing.missing)),
        path=tuple(folder for folder in request.path if folder in packing.program_folders) or DEFAULT_PATH,
        entries=len(packing.items),
        size=size,
    )


class _Item:
    """One entry to be written: exactly one of `source` (copy this file), `content`, `link`, or none (a directory)."""

    __slots__ = ("content", "link", "mode", "mtime", "source")

    def __init__(
        self, mode: int, mtime: int, *, source: str = "", content: bytes | None = None, link: str = ""
    ) -> None:
        self.mode = mode
        self.mtime = mtime
        self.source = source
        self.content = content
        self.link = link


class _Packing:
    def __init__(self, request: PackRequest) -> None:
        self.request = request
        self.linker = Linker()
        self.items: dict[str, _Item] = {}
        self.libraries: set[str] = set()
        self.missing: set[tuple[str, str]] = set()
        self.program_folders: set[str] = set()
        self.scanned: set[str] = set()
        self.glibc: Loaded | None = None
        self.interpreter = ""
        for path, mode in _OWN_FOLDERS.items():
            self.items[path] = _Item(stat.S_IFDIR | mode, request.mtime)

    # Programs and libraries

    def program(self, name: str) -> str:
        path = self.lookup(name)
        self.program_folders.add(dirname(path))
        self.add(path)
        self.needs(os.path.realpath(path), required=True)
        return path

    def lookup(self, name: str) -> str:
        if "/" in name:
            if not os.path.isfile(name):
                raise NotFound(f"the program {name} does not exist on this machine")
            return os.path.abspath(name)
        for folder in self.request.path:
            path = join(folder, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        raise NotFound(f"there is no program {name} on this machine", hint=f"looked in {':'.join(self.request.path)}")

    def needs(self, path: str, *, required: bool, depth: int = 0) -> None:
        """Add what the file at `path` needs to run: its libraries, or a script's interpreter."""
        if path in self.scanned:
            return
        self.scanned.add(path)
        loaded = self.linker.closure(path)
        if not loaded:
            if depth < 4:  # as the kernel: an interpreter may be a script, but not for ever
                self.script(path, depth)
            return
        for library, wanted_by in self.linker.missing(loaded):
            if required:
                raise LibraryMissing(
                    f"{wanted_by} needs {library}, which this machine does not have",
                    hint="the program does not start here",
                )
            self.missing.add((library, wanted_by))
        for one in loaded[1:]:
            self.library(one)
        main = loaded[0].elf
        if main.interpreter and self.glibc is None and "ld-musl" not in main.interpreter:
            self.glibc = loaded[0]
            self.interpreter = main.interpreter

    def library(self, one: Loaded) -> None:
        self.add(one.path)
        self.libraries.add(one.path)
        for variant in _variants(one.path):
            self.add(variant)

    def script(self, path: str, depth: int) -> None:
        """The interpreter of a `#!` line, and with env(1) the program that it is asked for."""
        try:
            with open(path, "rb") as file:
                line = file.read(256).partition(b"\n")[0]
        except OSError:
            return
        if not line.startswith(b"#!"):
            return
        words = os.fsdecode(line[2:]).split()
        if not words:
            return
        interpreter = self.lookup(words[0])
        self.add(interpreter)
        self.needs(os.path.realpath(interpreter), required=True, depth=depth + 1)
        if basename(interpreter) == "env":
            named = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
            if named:
                self.program(named)

    # Paths

    def add(self, path: str) -> None:
        """Add the file, folder or link at `path`, and every folder and link on the way to it."""
        pending = [part for part in path.split("/") if part]
        done = "/"
        links = 0
        while pending:
            part = pending.pop(0)
            if part in {".", ".."}:
                done = dirname(done) if part == ".." else done
                continue
            here = join(done, part)
            found = os.lstat(here)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > MAX_LINKS:
                    raise InvalidArgument(f"{path} goes through more than {MAX_LINKS} symlinks")
                target = os.readlink(here)
                self.put(here, _Item(stat.S_IFLNK | 0o777, self.request.mtime, link=target))
                pending = [inner for inner in target.split("/") if inner] + pending
                done = "/" if target.startswith("/") else done
                continue
            self.copied(here, here, found)
            done = here

    def copied(self, path: str, source: str, found: os.stat_result) -> None:
        """An entry that is like the one found at `source`. Sockets and devices are left out."""
        if stat.S_ISDIR(found.st_mode):
            self.put(path, _Item(found.st_mode, self.request.mtime))
        elif stat.S_ISREG(found.st_mode):
            self.put(path, _Item(found.st_mode, int(found.st_mtime), source=source))

    def put(self, path: str, item: _Item) -> None:
        """What is there first stays, but for a folder that was only assumed."""
        self.items.setdefault(path, item)

    def made(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self.parents(path)
        self.put(path, _Item(stat.S_IFREG | mode, self.request.mtime, content=content))

    def parents(self, path: str) -> None:
        parent = dirname(path)
        while parent not in self.items:
            self.items[parent] = _Item(stat.S_IFDIR | 0o755, self.request.mtime)
            parent = dirname(parent)

    def folder(self, folder: Folder) -> None:
        source = os.path.abspath(folder.source)
        if not os.path.lexists(source):
            raise NotFound(f"{folder.source} does not exist on this machine")
        destination = folder.destination or source
        if not destination.startswith("/"):
            raise InvalidArgument(f"the destination {destination!r} must be an absolute path in the image")
        destination = normpath(destination)
        if destination == source:
            self.add(source)
            source = destination = os.path.realpath(source)
        else:
            source = os.path.realpath(source)
            self.parents(destination)
        matcher = ignore.of_patterns(self.request.excludes, "--exclude")
        for path, relative, found in _walk(source, matcher):
            target = join(destination, relative) if relative else destination
            if stat.S_ISLNK(found.st_mode):
                self.put(target, _Item(stat.S_IFLNK | 0o777, self.request.mtime, link=os.readlink(path)))
                continue
            self.copied(target, path, found)
            if stat.S_ISREG(found.st_mode) and (found.st_mode & 0o111 or ".so" in basename(path)):
                self.in_folder(path)

    def in_folder(self, path: str) -> None:
        """What a program or library inside a folder needs; a script there may name an interpreter that is nowhere."""
        with contextlib.suppress(NotFound):
            self.needs(path, required=False)

    # What programs expect around them

    def surroundings(self) -> None:
        for name in _TOP_LINKS:  # /bin -> usr/bin and the like, so that #!/bin/sh works as it does here
            if os.path.islink(name) and os.path.isdir(name):
                self.add(name)
        self.made("/etc/passwd", _PASSWD)
        self.made("/etc/group", _GROUP)
        if self.glibc is not None:
            names = (_UNWINDER, *_NAME_SERVICES) if self.request.name_service else (_UNWINDER,)
            for name in names:
                path = self.linker.find(name, self.glibc, self.interpreter)
                if path is not None:
                    self.add(path)
                    self.libraries.add(path)
                    for one in self.linker.closure(os.path.realpath(path))[1:]:
                        self.library(one)
            if self.request.name_service:
                self.made("/etc/nsswitch.conf", _NSSWITCH)
        if self.request.certificates:
            found = next((path for path in _CERTIFICATES if os.path.isfile(path)), None)
            if found is None:
                raise NotFound(
                    "this machine has no certificate authorities", hint=f"looked for {', '.join(_CERTIFICATES)}"
                )
            self.parents(_CERTIFICATE_PLACE)
            real = os.path.realpath(found)
            self.copied(_CERTIFICATE_PLACE, real, os.stat(real))

    def linker_cache(self) -> None:
        """An ld.so.cache, if a library lies where ld.so would not look without one."""
        if self.glibc is None:
            return
        standard = set(default_folders(self.glibc.elf))
        if all(dirname(path) in standard for path in self.libraries):
            return
        entries = []
        for path in sorted(self.libraries):
            found = self.linker.elf(path)
            if found is not None and found.runs_with(self.glibc.elf):
                entries.append((found.soname or basename(path), path))
        self.made("/etc/ld.so.cache", make_cache(entries, self.glibc.elf))

    # The layer

    def write(self, write: Callable[[bytes | bytearray | memoryview], object]) -> int:
        writer = Writer(write)
        seen: dict[tuple[int, int], str] = {}
        for path in sorted(self.items):
            if path == "/":
                continue
            self.one(writer, path, self.items[path], seen)
        writer.close()
        return writer.size

    @staticmethod
    def one(writer: Writer, path: str, item: _Item, seen: dict[tuple[int, int], str]) -> None:
        name = path.lstrip("/")
        mode, mtime = stat.S_IMODE(item.mode), item.mtime * 1_000_000_000
        if stat.S_ISDIR(item.mode):
            writer.add(Entry(name, DIRECTORY, mode=mode, mtime=mtime))
        elif stat.S_ISLNK(item.mode):
            writer.add(Entry(name, SYMLINK, mode=mode, mtime=mtime, link=item.link))
        elif item.content is not None:
            writer.add(Entry(name, FILE, mode=mode, mtime=mtime, size=len(item.content)), [item.content])
        else:
            fd = os.open(item.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                found = os.fstat(fd)
                identity = (found.st_dev, found.st_ino)
                if found.st_nlink > 1 and identity in seen:
                    writer.add(Entry(name, HARDLINK, mode=mode, mtime=mtime, link=seen[identity]))
                    return
                seen[identity] = name
                entry = Entry(name, FILE, mode=mode, mtime=mtime, size=found.st_size)
                writer.add(entry, _chunks(fd, found.st_size))
            finally:
                os.close(fd)


def _chunks(fd: int, size: int) -> Iterator[bytes]:
    while data := os.read(fd, min(CHUNK, size + 1)):
        yield data


def _variants(path: str) -> Iterator[str]:
    """Builds of a library for newer processors, which ld.so prefers: glibc-hwcaps folders beside it."""
    folder = join(dirname(path), "glibc-hwcaps")
    try:
        levels = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for level in levels:
        variant = join(folder, level, basename(path))
        if os.path.isfile(variant):
            yield variant


def _walk(source: str, matcher: Matcher) -> Iterator[tuple[str, str, os.stat_result]]:
    """Everything in `source`, itself first: (path, path relative to it, status). Names sorted, links not followed."""
    found = os.lstat(source)
    yield source, "", found
    pending = [("", source)] if stat.S_ISDIR(found.st_mode) else []
    while pending:
        relative, folder = pending.pop()
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            inner = f"{relative}/{entry.name}" if relative else entry.name
            directory = entry.is_dir(follow_symlinks=False)
            if matcher.rules and matcher.ignores(inner) and not (directory and matcher.may_return(inner)):
                continue
            yield entry.path, inner, entry.stat(follow_symlinks=False)
            if directory:
                pending.append((inner, entry.path))
