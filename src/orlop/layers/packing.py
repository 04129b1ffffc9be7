"""Files of a tree put into a layer's tar: the part that all ways to find changes share.

Deterministic: a tree with the same content makes the same bytes. Names of owners are left empty, sockets are skipped,
attributes that belong to the host or to overlayfs stay here.
"""

from __future__ import annotations

import os
import stat

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.layers import faults, tar, whiteouts
from orlop.layers.tarformat import MAX_NAME
from orlop.layers.tree import KINDS
from orlop.linux import owners
from orlop.linux.files import lgetxattrs
from orlop.oci.digest import Digest
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.layers.tarentry import Buffer
    from orlop.oci.digest import Hasher

ROOT_NAME = "./"  # how archives name the root directory
_CHUNK = 1 << 20
_LEFT_OUT = ("security.selinux", "trusted.overlay.", "user.overlay.", "user.orlop.")


class Diffed(Value):
    """What a tree's changes became: a tar of `size` bytes with `entries` entries, and its digest."""

    diff_id: Digest
    size: int  # bytes of the tar
    content: int  # bytes in its files
    entries: int
    explicit_root: bool  # whether it has an entry for the root directory itself


class Packer:
    """Writes entries for files found by (directory fd, name); directories that changed, or that hold a change."""

    def __init__(self, write: Callable[[Buffer], object]) -> None:
        self._tar = tar.Writer(write)
        self._told = owners.teller()
        self._links: dict[tuple[int, int], str] = {}  # files with several names -> the first one written
        self._waiting: list[tar.Entry] = []  # directories above the present place, not written yet
        self.entries = 0
        self.content = 0  # bytes in files
        self.explicit_root = False

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._tar.size

    def close(self) -> None:
        """End the archive."""
        self._tar.close()

    # --- directories

    def enter(self, entry: tar.Entry, *, changed: bool) -> None:
        """Go into a directory. It is written now if it `changed`, else with the first thing below it that is.

        The root is written only if it changed: everybody has one.
        """
        if changed or entry.name != ROOT_NAME:
            self._waiting.append(entry)
        if changed:
            self._flush()

    def leave(self, entry: tar.Entry) -> None:
        """Come back from it."""
        if self._waiting and self._waiting[-1] is entry:
            self._waiting.pop()

    def _flush(self) -> None:
        for entry in self._waiting:
            self._add(entry)
        self._waiting.clear()

    def _add(self, entry: tar.Entry, chunks: Iterable[bytes] = ()) -> None:
        self.entries += 1
        self.content += entry.size
        if entry.name == ROOT_NAME:
            self.explicit_root = True
        self._tar.add(entry, chunks)

    # --- everything else

    def whiteout(self, path: str) -> None:
        """The name `path` of the lower layers is gone."""
        above, _, name = path.rpartition("/")
        self._mark(f"{above}/{whiteouts.PREFIX}{name}" if above else f"{whiteouts.PREFIX}{name}")

    def opaque(self, path: str) -> None:
        """Nothing that the lower layers have in directory `path` counts."""
        self._mark(f"{path}/{whiteouts.OPAQUE_NAME}" if path else whiteouts.OPAQUE_NAME)

    def _mark(self, name: str) -> None:
        self._flush()
        self._add(tar.Entry(name, mode=0))

    def add(self, parent: int, path: str, info: os.stat_result) -> None:
        """The file `path` (its last component is in the directory `parent`), anything but a directory."""
        if stat.S_ISSOCK(info.st_mode):
            return
        check_name(path)
        self._flush()
        if info.st_nlink > 1:
            identity = info.st_dev, info.st_ino
            first = self._links.setdefault(identity, path)
            if first != path:
                self._add(described(path, info, {}, link=first, kind=tar.HARDLINK))
                return
        name = path[path.rfind("/") + 1 :]
        if stat.S_ISREG(info.st_mode):
            self._file(parent, name, path, info)
            return
        place = f"/proc/self/fd/{parent}/{name}"
        link = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(info.st_mode) else ""
        self._add(described(path, info, packable(lgetxattrs(place)), link=link))

    def _file(self, parent: int, name: str, path: str, info: os.stat_result) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != (info.st_dev, info.st_ino):
                raise FailedPrecondition(f"{path!r} was replaced while it was read", hint="try again")
            entry = described(path, self._told(found, fd), packable(lgetxattrs(fd)))
            self._add(entry, tar.content_of(fd, found.st_size))
        finally:
            os.close(fd)


def described(
    path: str, info: os.stat_result, xattrs: dict[str, bytes], *, link: str = "", kind: str = ""
) -> tar.Entry:
    """The entry for a file with this status."""
    kind = kind or KINDS[stat.S_IFMT(info.st_mode)]
    return tar.Entry(
        path,
        kind,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        size=info.st_size if kind == tar.FILE else 0,
        mtime=info.st_mtime_ns,
        link=link,
        major=os.major(info.st_rdev),
        minor=os.minor(info.st_rdev),
        xattrs=xattrs,
    )


def packable(xattrs: dict[str, bytes]) -> dict[str, bytes]:
    """The attributes that belong to the image."""
    return xattrs and {name: xattrs[name] for name in sorted(xattrs) if not name.startswith(_LEFT_OUT)}


def check_name(path: str) -> None:
    """InvalidArgument for a name that a layer cannot say."""
    name = path[path.rfind("/") + 1 :]
    if name.startswith(whiteouts.PREFIX):
        raise InvalidArgument(
            f"{path!r} cannot be kept in an image: names that begin with .wh. mean deleted files there",
            hint="delete or rename it in the same step",
        )
    if len(path) > MAX_NAME:
        raise InvalidArgument(f"the path {path[:80]!r}... is longer than {MAX_NAME} bytes, which no layer can hold")


class Outlet:
    """Where a packed tree goes: hashed and handed on in chunks of exactly 1 MiB, but for the last one.

    Handing a piece to a hash or to another thread costs more than 512 bytes do, and the compressor takes chunks of that
    size as they are. Nobody changes a piece later. OSErrors of `write` are told apart from those of the tree.
    """

    def __init__(self, running: Hasher, write: Callable[[Buffer], object]) -> None:
        self._running = running
        self._onward = write
        self._pieces: list[Buffer] = []
        self._size = 0

    def write(self, piece: Buffer) -> None:
        """Take in a piece."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= _CHUNK:
            self._chunks()

    def flush(self) -> None:
        """Hand on what is left."""
        if self._size:
            pieces, self._pieces, self._size = self._pieces, [], 0
            self._put(b"".join(pieces))

    def _chunks(self) -> None:
        view = memoryview(b"".join(self._pieces))
        whole = self._size - self._size % _CHUNK
        for start in range(0, whole, _CHUNK):
            self._put(view[start : start + _CHUNK])
        self._size -= whole
        self._pieces = [bytes(view[whole:])] if self._size else []

    def _put(self, chunk: Buffer) -> None:
        self._running.update(chunk)
        try:
            self._onward(chunk)
        except OSError as error:
            raise faults.Foreign(error) from error


def packed(running: Hasher, algorithm: str, packer: Packer) -> Diffed:
    """What a finished packer has made."""
    return Diffed(
        diff_id=Digest.from_hasher(algorithm, running),
        size=packer.size,
        content=packer.content,
        entries=packer.entries,
        explicit_root=packer.explicit_root,
    )


class Walk:
    """The directories of a tree in packing order: each one's files by name, then its directories by name.

    One descriptor is open at a time, so that depth costs nothing. `os.fsencode` order, which is bytes order.
    """

    def __init__(self, root: str) -> None:
        try:
            self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise faults.from_os(error, f"read {root}") from error

    def close(self) -> None:
        """Give back the descriptor."""
        os.close(self.fd)

    def listing(self, fd: int) -> tuple[list[str], list[str]]:
        """The names of other things, and of directories, in an open directory, both sorted."""
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(fd) as found:
            for one in found:
                (folders if one.is_dir(follow_symlinks=False) else files).append(one.name)
        # Plain ASCII sorts as its bytes do.
        files.sort(key=None if "".join(files).isascii() else os.fsencode)
        folders.sort(key=None if "".join(folders).isascii() else os.fsencode)
        return files, folders
