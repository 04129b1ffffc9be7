"""Whole directory trees: copied with everything a file can carry, compared, measured."""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.layers import faults, merged, whiteouts
from orlop.layers.tarentry import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, SYMLINK
from orlop.linux import files, owners, safepath
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
}
_CHUNK = 1 << 20
_NOT_COPIED = ("security.selinux", merged.ROOT_XATTR)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)


def copy_data(source: int, target: int, size: int) -> None:
    """Copy a file's content to a new, empty file, both by fd: shared blocks where the file system can, holes kept."""
    if not size:
        return
    try:
        files.reflink(source, target)
    except OSError:
        pass  # another file system, or one without: the data are copied
    else:
        return
    if os.fstat(source).st_blocks * 512 >= size:
        files.copy_range(source, target, size)
        return
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole is left
                raise
            break
        at = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(source, start, os.SEEK_SET)
        os.lseek(target, start, os.SEEK_SET)
        files.copy_range(source, target, at - start)
    os.ftruncate(target, size)


def same_metadata(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two files agree in kind, mode, owner, time, and (unless directories) size and device number."""
    if (one.st_mode, one.st_uid, one.st_gid, one.st_mtime_ns) != (
        other.st_mode,
        other.st_uid,
        other.st_gid,
        other.st_mtime_ns,
    ):
        return False
    return stat.S_ISDIR(one.st_mode) or (one.st_size == other.st_size and one.st_rdev == other.st_rdev)


def same_content(one: str, other: str, info: os.stat_result) -> bool:
    """Whether two files of the same kind and size (`info` is the first one's) agree in attributes and content."""
    if _image_xattrs(one) != _image_xattrs(other):
        return False
    if stat.S_ISLNK(info.st_mode):
        return os.readlink(one) == os.readlink(other)
    if not stat.S_ISREG(info.st_mode):
        return True
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(one, flags), "rb", buffering=0) as left, open(os.open(other, flags), "rb", buffering=0) as right:
        while piece := left.read(_CHUNK):
            if piece != right.read(len(piece)):
                return False
    return True


def _image_xattrs(path: str) -> dict[str, bytes]:
    return {
        name: value
        for name, value in files.lgetxattrs(path).items()
        if not whiteouts.is_overlay_xattr(name) and name != "security.selinux"
    }


class Change(Value):
    """What a copy sets anew on every file: owner and permission bits; None keeps the source's."""

    uid: int | None = None
    gid: int | None = None
    mode: Callable[[os.stat_result], int] | None = None  # called with the source's status; symlinks are not asked
    mtime_ns: int | None = None


class Copied(Value):
    """What a copy made."""

    files: int
    bytes: int


def stack_tree(layer: str, target: str) -> None:
    """Put a layer's tree, with overlay's marks of what is gone, on top of the plain tree `target`.

    The target's root directory takes the layer's metadata unless the layer says nothing of it.
    """
    copy = _Copy(layer, target, Change(), keep=False, layered=True)
    try:
        copy.run()
    except OSError as error:
        raise faults.from_os(error, "copy a layer") from error
    finally:
        copy.close()


def copy_tree(source: str | int, target: str | int, *, change: Change | None = None, keep: bool = False) -> Copied:
    """Copy the content of the directory `source` into the directory `target` (paths, or fds which stay open).

    Modes, owners, times, attributes, holes and hard links are kept, but for what `change` says; the target directory
    itself takes the source's metadata. Symlinks are copied, never followed, on both sides. Directories are merged;
    other things in the way are replaced; with `keep` all that is there stays as it is. Nothing outside both trees is
    touched even if somebody changes them meanwhile. Sockets are skipped.
    """
    copy = _Copy(source, target, change or Change(), keep=keep)
    try:
        copy.run()
    except OSError as error:
        raise faults.from_os(error, "copy a tree") from error
    finally:
        copy.close()
    return Copied(files=copy.files, bytes=copy.bytes)


class _Copy:
    """One copy. Directories are opened anew from the roots, no symlinks allowed, so that depth costs no descriptors."""

    def __init__(
        self, source: str | int, target: str | int, change: Change, *, keep: bool, layered: bool = False
    ) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._source = os.dup(source) if isinstance(source, int) else os.open(source, flags)
        self._target = os.dup(target) if isinstance(target, int) else os.open(target, flags)
        self._change = change
        self._keep = keep
        self._layered = layered  # the source has whiteouts and opaque directories, which mean something
        self._links: dict[tuple[int, int], str] = {}
        self._mine: set[tuple[int, int]] = set()  # directories of the target: a copy into itself must end
        self.files = 0
        self.bytes = 0

    def close(self) -> None:
        """Give back the descriptors."""
        os.close(self._source)
        os.close(self._target)

    def run(self) -> None:
        """Copy everything; directories get their times when they are complete."""
        todo = [""]
        done: list[tuple[str, os.stat_result]] = []
        inside = os.fstat(self._target)
        self._mine.add((inside.st_dev, inside.st_ino))
        flags = os.O_RDONLY | os.O_DIRECTORY
        while todo:
            path = todo.pop()
            source = safepath.open_no_links(self._source, path or ".", flags)
            try:
                info = owners.told(os.fstat(source), source)
                if path and (info.st_dev, info.st_ino) in self._mine:
                    continue
                target = safepath.open_no_links(self._target, path or ".", flags)
                try:
                    if self._layered and whiteouts.is_opaque(source):
                        _empty(target)
                    todo += [f"{path}/{name}" if path else name for name in self._directory(source, target, path)]
                    inside = os.fstat(target)
                    silent = self._layered and not path and merged.ROOT_XATTR in files.lgetxattrs(source)
                    if not silent and (not self._keep or (path and (inside.st_dev, inside.st_ino) in self._mine)):
                        self._dress(target, source, info)
                        done.append((path, info))
                finally:
                    os.close(target)
            finally:
                os.close(source)
        for path, info in reversed(done):
            when = info.st_mtime_ns if self._change.mtime_ns is None else self._change.mtime_ns
            os.utime(path or ".", ns=(when, when), dir_fd=self._target, follow_symlinks=False)

    def _directory(self, source: int, target: int, path: str) -> list[str]:
        """Copy the files of one directory, make its directories; the names of those."""
        folders = []
        with os.scandir(source) as listing:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing)
        for name, folder in names:
            if folder:
                self._make_directory(target, name)
                folders.append(name)
            else:
                self._other(source, target, name, f"{path}/{name}" if path else name)
        return folders

    def _make_directory(self, target: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=target)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=target, follow_symlinks=False).st_mode):
                return
            if self._keep:
                raise InvalidArgument(
                    f"{name!r} is a directory in the source and something else in the target"
                ) from None
            os.unlink(name, dir_fd=target)
            os.mkdir(name, 0o700, dir_fd=target)
        made = os.stat(name, dir_fd=target, follow_symlinks=False)
        self._mine.add((made.st_dev, made.st_ino))

    def _other(self, source: int, target: int, name: str, path: str) -> None:
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        info = owners.told(info, f"/proc/self/fd/{source}/{name}")
        if stat.S_ISSOCK(info.st_mode):
            return
        if not self._make_room(target, name):
            return
        if self._layered and whiteouts.is_whiteout(info, f"/proc/self/fd/{source}/{name}"):
            return
        self.files += 1
        if info.st_nlink > 1:
            first = self._links.setdefault((info.st_dev, info.st_ino), path)
            if first != path:
                self._link(first, target, name)
                return
        if stat.S_ISREG(info.st_mode):
            self._file(source, target, name, info)
            return
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            self._dress(f"/proc/self/fd/{target}/{name}", f"/proc/self/fd/{source}/{name}", info)
            return
        owners.make_node(name, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev, dir_fd=target)
        # chmod follows symlinks, and the name may be one by now: the thing itself is opened and must be what was made.
        made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            there = owners.told(os.fstat(made), f"/proc/self/fd/{target}/{name}")
            if stat.S_IFMT(there.st_mode) != stat.S_IFMT(info.st_mode):
                raise FailedPrecondition(f"{name!r} was replaced while it was copied", hint="try again")
            own = f"/proc/self/fd/{target}/{name}"
            self._dress(f"/proc/self/fd/{made}", f"/proc/self/fd/{source}/{name}", info, follow=True, own=own)
        finally:
            os.close(made)

    def _make_room(self, target: int, name: str) -> bool:
        """Remove what is at `name`; False when it is to be kept."""
        try:
            there = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if self._keep:
            return False
        if stat.S_ISDIR(there.st_mode):
            files.remove_tree(f"/proc/self/fd/{target}/{name}")
        else:
            os.unlink(name, dir_fd=target)
        return True

    def _link(self, first: str, target: int, name: str) -> None:
        above, _, base = first.rpartition("/")
        folder = safepath.open_no_links(self._target, above or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(base, name, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(folder)

    def _file(self, source: int, target: int, name: str, info: os.stat_result) -> None:
        from_fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        try:
            if not stat.S_ISREG(os.fstat(from_fd).st_mode):
                raise FailedPrecondition(f"{name!r} was replaced while it was copied", hint="try again")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            to_fd = os.open(name, flags, 0o600, dir_fd=target)
            try:
                copy_data(from_fd, to_fd, info.st_size)
                self._dress(to_fd, from_fd, info)
            finally:
                os.close(to_fd)
            self.bytes += info.st_size
        finally:
            os.close(from_fd)

    def _dress(
        self, target: int | str, source: int | str, info: os.stat_result, *, follow: bool = False, own: str = ""
    ) -> None:
        """Owner, mode, attributes, time: in the order in which the kernel lets them stay. `own`: the target's name."""
        change = self._change
        link = stat.S_ISLNK(info.st_mode)
        follow = follow or isinstance(target, int)
        uid = info.st_uid if change.uid is None else change.uid
        gid = info.st_gid if change.gid is None else change.gid
        when = info.st_mtime_ns if change.mtime_ns is None else change.mtime_ns
        owners.give(own or target, uid, gid, mtime=when)
        if not link:
            os.chmod(target, change.mode(info) if change.mode is not None else stat.S_IMODE(info.st_mode))
        for name, value in files.lgetxattrs(source).items():
            if whiteouts.is_overlay_xattr(name) or name in _NOT_COPIED or name.startswith(owners.XATTR):
                continue
            try:
                os.setxattr(target, name, value, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
        os.utime(target, ns=(when, when), follow_symlinks=follow)


def _empty(folder: int) -> None:
    """Remove all that an open directory holds."""
    for name in os.listdir(folder):
        files.remove_tree(f"/proc/self/fd/{folder}/{name}")
