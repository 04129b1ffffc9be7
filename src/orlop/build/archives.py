"""ADD unpacks local archives: tar, plain or compressed, known by their first bytes and never by their names."""

from __future__ import annotations

import os
import stat
from posixpath import dirname, join, normpath

from orlop.build.transfer import clear
from orlop.errors import DataLoss, InvalidArgument, ResourceExhausted
from orlop.layers import compress, tar
from orlop.layers.apply import Limits
from orlop.layers.tar import chunks_of
from orlop.layers.tarentry import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK
from orlop.linux import owners, safepath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.build.select import Selection
    from orlop.build.transfer import Manner, Target
    from orlop.build.tree import Node, Tree
    from orlop.layers.tarentry import Entry

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LIMITS = Limits()  # as for a layer: an archive in a context may be somebody else's
_KINDS = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}


def unpack(selection: Selection, tree: Tree, target: Target, destination: str, manner: Manner) -> Selection:
    """Unpack the selection's archives into the directory `destination`; what is left to be copied is returned."""
    left = [
        root
        for root in selection.roots
        if not root.node.is_file or not _unpacked(root.path, root.node, tree, target, destination, manner)
    ]
    return selection.replace(roots=tuple(left))


def _unpacked(path: str, node: Node, tree: Tree, target: Target, destination: str, manner: Manner) -> bool:
    fd = tree.open(path, node)
    try:
        if not _is_archive(fd):
            return False
        os.lseek(fd, 0, os.SEEK_SET)
        place = target.make(destination, manner)
        try:
            extraction = _Extraction(place, manner)
            for entry in tar.read(_chunks(fd)):
                extraction.add(entry)
            extraction.finish()
            tree.check(path, node, fd)
        finally:
            os.close(place)
    finally:
        os.close(fd)
    return True


def _is_archive(fd: int) -> bool:
    """Whether a tar header can be read, after decompression if the first bytes ask for one. OSError for a bad disk."""
    try:
        first = next(iter(tar.read(_chunks(fd))), None)
    except DataLoss:
        return False
    return first is not None


def _chunks(fd: int) -> Iterator[bytes]:
    """The file from its start, decompressed; ResourceExhausted for a bomb."""
    os.lseek(fd, 0, os.SEEK_SET)
    return compress.plain(chunks_of(fd), max_bytes=_LIMITS.max_bytes, max_ratio=_LIMITS.max_ratio)


class _Extraction:
    """Puts entries below an open directory. Names never lead out of it; symlinks on the way resolve inside it."""

    def __init__(self, place: int, manner: Manner) -> None:
        self.place = place
        self.manner = manner
        self.folders: list[tuple[str, Entry]] = []

    def add(self, entry: Entry) -> None:
        name = normpath("/" + entry.name).lstrip("/")
        if not name:
            return
        if entry.size > _LIMITS.max_bytes:
            raise ResourceExhausted(
                f"the archive's {entry.name!r} has {entry.size} bytes, more than a whole layer may",
                hint="it may be hostile: ADD --unpack=false copies the archive as it is",
            )
        folder, _, last = name.rpartition("/")
        parent = self._folder(folder)
        try:
            if entry.kind == DIRECTORY:
                self._directory(parent, last)
                self.folders.append((name, entry))
                return
            clear(parent, last)
            self._entry(entry, parent, last)
        finally:
            os.close(parent)

    def _folder(self, path: str) -> int:
        fd = safepath.mkdirs_in_root(self.place, path or ".", 0o755, owner=self.manner.owner or (0, 0))
        try:
            return safepath.reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(fd)

    def _directory(self, parent: int, name: str) -> None:
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mkdir(name, 0o700, dir_fd=parent)
            return
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)

    def _entry(self, entry: Entry, parent: int, name: str) -> None:
        owner = self.manner.owner or (entry.uid, entry.gid)
        times = (entry.mtime, entry.mtime)
        if entry.kind == FILE:
            out = os.open(name, _CREATE, 0o600, dir_fd=parent)
            try:
                entry.save(out)
                owners.give(out, *owner)
                for key, value in entry.xattrs.items():
                    if key == "security.capability" or (key.startswith("user.") and not key.startswith("user.orlop.")):
                        os.setxattr(out, key, value)
                os.fchmod(out, self._mode(entry))
                os.utime(out, ns=times)
            finally:
                os.close(out)
        elif entry.kind == SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            owners.give(name, *owner, dir_fd=parent, mtime=entry.mtime)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
        elif entry.kind == HARDLINK:
            self._hard_link(entry, parent, name)
        elif entry.kind in _KINDS:
            owners.make_node(name, _KINDS[entry.kind] | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)
            owners.give(name, *owner, dir_fd=parent, mtime=entry.mtime)
            os.chmod(name, self._mode(entry), dir_fd=parent)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _mode(self, entry: Entry) -> int:
        mode = entry.mode & 0o7777
        return self.manner.mode(mode, entry.kind == DIRECTORY) if self.manner.mode else mode

    def _hard_link(self, entry: Entry, parent: int, name: str) -> None:
        target = normpath("/" + entry.link).lstrip("/")
        try:
            source = safepath.open_in_root(self.place, dirname(target) or ".", os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InvalidArgument(f"the archive links {entry.name} to {entry.link}, which it does not hold") from error
        try:
            os.link(target.rpartition("/")[2], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as error:
            raise InvalidArgument(f"the archive links {entry.name} to {entry.link}, which it does not hold") from error
        finally:
            os.close(source)

    def finish(self) -> None:
        """Give directories their modes, owners and times, the deepest first."""
        for name, entry in reversed(self.folders):
            try:
                fd = safepath.open_in_root(self.place, join(".", name), os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later entry took its place
            try:
                owners.give(fd, *(self.manner.owner or (entry.uid, entry.gid)))
                os.fchmod(fd, self._mode(entry))
                os.utime(fd, ns=(entry.mtime, entry.mtime))
            finally:
                os.close(fd)
