"""The inside of a container's file system, put together by its init before it moves in.

Everything is done through descriptors resolved inside the new root (openat2), never through a path that the image could
bend: symlinks in the image lead to other places in the image, not to places on the host.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from orlop.linux import mounts, safepath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orlop.runtime.sources import Source

_KERNEL_KINDS = ("proc", "sysfs")
_PLAIN = ("/proc", "/sys", "/dev")
"""Places that must be plain folders: what follows relies on what is mounted there."""

# where the new root may hang while the old one is still around, when its own path cannot be reached
_HANGERS = ("/mnt", "/srv", "/opt", "/tmp", "/home", "/var", "/media")  # noqa: S108  # only mounted on, in our own view


class Root:
    """The new root: `fd` is its mount, attached in this mount namespace."""

    __slots__ = ("_late_readonly", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._late_readonly: list[str] = []

    # --- finding places

    def directory(self, path: str) -> int:
        """An O_PATH descriptor of a folder inside, made (mode 0755) where it is missing."""
        return safepath.mkdirs_in_root(self.fd, path)

    def plain_directory(self, path: str) -> int:
        """As `directory`, and PermissionDenied when any part of the path is a symlink."""
        try:
            os.close(safepath.open_no_links(self.fd, path.strip("/"), os.O_PATH))
        except FileNotFoundError:
            pass  # it is made below, and looked at again
        except OSError as error:
            raise _bent(path, error) from error
        os.close(self.directory(path))
        try:
            return safepath.open_no_links(self.fd, path.strip("/"), os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise _bent(path, error) from error

    def file(self, path: str) -> int:
        """An O_PATH descriptor of a file inside to mount on, made empty where it is missing."""
        folder, _, name = path.rstrip("/").rpartition("/")
        try:
            return safepath.open_in_root(self.fd, path, os.O_PATH)
        except FileNotFoundError:
            os.close(self.directory(folder or "/"))
        if not name or name in (".", ".."):
            raise InvalidArgument(f"{path!r} cannot be the place of a file")
        fd = safepath.open_in_root(self.fd, path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY, 0o755)
        os.close(fd)
        return safepath.open_in_root(self.fd, path, os.O_PATH)

    # --- mounting

    def attach(self, source: Source) -> None:
        """Attach a prepared bind mount at its destination."""
        if source.destination == "/":
            raise InvalidArgument("nothing can be mounted on the container's root", hint="see root.path instead")
        source.open()
        place = self.directory(source.destination) if source.directory else self.file(source.destination)
        try:
            mounts.move_mount(source.fd, "", place, "")
        except OSError as error:
            if error.errno == errno.ENOTDIR or (error.errno == errno.EINVAL and not source.directory):
                what = "folder" if source.directory else "file"
                raise FailedPrecondition(
                    f"the mount source {source.source} is a {what}, {source.destination} in the image is not",
                    hint="mount folders on folders and files on files",
                ) from error
            raise
        finally:
            os.close(place)

    def mount(self, source: Source) -> None:
        """Mount a file system (anything but a bind mount) at its destination."""
        plain = source.kind in _KERNEL_KINDS or source.destination in _PLAIN
        place = self.plain_directory(source.destination) if plain else self.directory(source.destination)
        flags, data = source.flags & ~mounts.MS_REC, source.data
        if source.kind == "tmpfs" and flags & mounts.MS_RDONLY:
            flags &= ~mounts.MS_RDONLY  # others are mounted below it, so it becomes read-only last
            self._late_readonly.append(source.destination)
        try:
            if source.kind == "tmpfs" and "mode=" not in data:
                data = ",".join(part for part in (data, _mode_of(place)) if part)
            mounts.mount(source.source or source.kind, _path(place), source.kind, flags, data)
            if "tmpcopyup" in source.extensions:
                self._copy_up(place, source.destination)
            self._propagate(source)
        finally:
            os.close(place)

    def _propagate(self, source: Source) -> None:
        for word in source.options.propagation:
            place = safepath.open_in_root(self.fd, source.destination, os.O_PATH)
            try:
                mounts.mount("", _path(place), "", word)
            finally:
                os.close(place)

    def _copy_up(self, below: int, destination: str) -> None:
        """Fill the tmpfs just mounted with what it hides (`below` still is the folder underneath)."""
        above = safepath.open_in_root(self.fd, destination, os.O_RDONLY | os.O_DIRECTORY)
        under = safepath.reopen(below, os.O_RDONLY | os.O_DIRECTORY)
        try:
            copy_tree(under, above)
        finally:
            os.close(above)
            os.close(under)

    def bind_host(self, path: str, destination: str, *, readonly: bool, attributes: int = 0) -> None:
        """Show the host's `path`, with all below it, at `destination`."""
        tree = mounts.open_tree(
            mounts.AT_FDCWD, path, mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC | mounts.AT_RECURSIVE
        )
        try:
            attributes |= mounts.MOUNT_ATTR_RDONLY if readonly else 0
            mounts.mount_setattr(tree, "", mounts.AT_RECURSIVE, attr_set=attributes, propagation=mounts.MS_SLAVE)
            place = self.directory(destination) if stat.S_ISDIR(os.fstat(tree).st_mode) else self.file(destination)
            try:
                mounts.move_mount(tree, "", place, "")
            finally:
                os.close(place)
        finally:
            os.close(tree)

    # --- hiding and protecting

    def mask(self, paths: Iterable[str]) -> None:
        """Make paths unreadable: folders empty and read-only, files the null device. Missing ones are fine."""
        null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)  # the host's: this is still its view
        try:
            for path in paths:
                self._on(path, lambda place: self._hide(place, null))
        finally:
            os.close(null)

    def _hide(self, place: int, null: int) -> None:
        if stat.S_ISDIR(os.fstat(place).st_mode):
            mounts.mount("tmpfs", _path(place), "tmpfs", mounts.MS_RDONLY, "nr_inodes=1,size=0k")
            return
        tree = _clone_of(null)
        try:
            # Read-only, or the container's root could change mode and owner of what is the host's own node.
            mounts.mount_setattr(tree, "", attr_set=mounts.MOUNT_ATTR_RDONLY)
            mounts.move_mount(tree, "", place, "")
        finally:
            os.close(tree)

    def protect(self, paths: Iterable[str]) -> None:
        """Make paths read-only, with all mounts below them. Missing ones are fine."""
        for path in paths:
            self._on(path, self._make_readonly)

    def _make_readonly(self, place: int) -> None:
        tree = _clone_of(place, recursive=True)
        try:
            mounts.mount_setattr(tree, "", mounts.AT_RECURSIVE, attr_set=mounts.MOUNT_ATTR_RDONLY)
            mounts.move_mount(tree, "", place, "")
        finally:
            os.close(tree)

    def _on(self, path: str, act: Callable[[int], None]) -> None:
        try:
            place = safepath.open_in_root(self.fd, path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return  # nothing is there to be protected from
        try:
            act(place)
        finally:
            os.close(place)

    # --- moving in

    def enter(self, how: str) -> None:
        """Go to this root.

        "pivot" makes it that of the mount namespace, "move" does so where pivot_root cannot be used (a ramdisk),
        "chroot" makes it the root of this process alone, in a namespace that others use.
        """
        os.fchdir(self.fd)
        if how == "pivot":
            # The old root ends up on top of the new one: there it can be let go, and needs no folder. Nothing of this
            # reaches the host, because `Launch.cut_off` has cut its mounts off.
            mounts.pivot_root(".", ".")
            mounts.unmount(".", mounts.MNT_DETACH)
        else:
            if how == "move":
                mounts.mount(".", "/", "", mounts.MS_MOVE)
            os.chroot(".")
        os.chdir("/")

    def finish(self, *, readonly: bool, propagation: int) -> None:
        """After `enter`: what could only be made read-only last, and how mounts made inside propagate."""
        for path in self._late_readonly:
            place = safepath.open_in_root(self.fd, path, os.O_PATH)
            mounts.mount_setattr(place, "", attr_set=mounts.MOUNT_ATTR_RDONLY)
            os.close(place)
        if readonly:
            mounts.mount_setattr(self.fd, "", attr_set=mounts.MOUNT_ATTR_RDONLY)
        if propagation:
            mounts.mount("", "/", "", propagation)


def attach_root(fd: int, path: str, *, shared: bool, elsewhere: bool = True) -> Root:
    """Hang the detached root `fd` into this mount namespace: at `path` or, if need be and allowed, `elsewhere`."""
    if shared:
        _make_parent_private(path)
    for place in (path, *(_HANGERS if elsewhere else ())):
        try:
            mounts.move_mount(fd, "", mounts.AT_FDCWD, place, mounts.MOVE_MOUNT_T_SYMLINKS)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.ENOENT, errno.ENOTDIR):
                continue  # a folder on the way is closed to the users of this container
            raise
        return Root(fd)
    raise FailedPrecondition(
        f"the root file system {path} cannot be reached from inside the container's user namespace",
        hint="allow others to search the folders above it (chmod o+x)",
    )


def _make_parent_private(path: str) -> None:
    """The mount that `path` is on must not pass on what is hung into it (pivot_root(2) insists)."""
    where = os.path.realpath(path)
    holders = [entry.target for entry in mounts.mountinfo() if where == entry.target or _below(where, entry.target)]
    mounts.mount("", max(holders, key=len, default="/"), "", mounts.MS_PRIVATE)


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _bent(path: str, error: OSError) -> PermissionDenied | FailedPrecondition:
    if error.errno in (errno.ELOOP, errno.EXDEV):
        return PermissionDenied(
            f"the image has a symbolic link at {path}, where the container's own file system must be mounted",
            hint="an image that does this is broken or hostile: do not run it",
        )
    return FailedPrecondition(f"the image has something else than a folder at {path}: {error.strerror}")


def _path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _mode_of(place: int) -> str:
    """A tmpfs looks like the folder that it covers, where its options do not say otherwise."""
    return f"mode={stat.S_IMODE(os.fstat(place).st_mode):o}"


def _clone_of(fd: int, *, recursive: bool = False) -> int:
    flags = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC | mounts.AT_EMPTY_PATH
    return mounts.open_tree(fd, "", flags | (mounts.AT_RECURSIVE if recursive else 0))


def copy_tree(source: int, target: int) -> None:
    """Copy what is in the folder `source` into the folder `target`: folders, files, symlinks, owners and modes."""
    for name in os.listdir(source):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner, outer = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
            try:
                copy_tree(inner, outer)
            finally:
                os.close(inner)
                os.close(outer)
        elif kind == stat.S_IFREG:
            _copy_file(name, source, target)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            continue  # devices, sockets and FIFOs are made by those who use them
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)


def _copy_file(name: str, source: int, target: int) -> None:
    inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        outer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.sendfile(outer, inner, None, 1 << 24):
                pass
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def propagation_of(word: str) -> int:
    """The MS_* flags for a rootfsPropagation; 0 for none."""
    from orlop.linux import mountoptions

    return mountoptions.PROPAGATION.get(word, 0)


def needs_devices(sources: Sequence[Source]) -> bool:
    """Whether the container has a /dev of its own; one that is bound from the host must not be changed."""
    return not any(source.destination == "/dev" and source.kind == "bind" for source in sources)
