"""The cgroup file systems inside a container: its own groups, seen as the whole tree."""

from __future__ import annotations

import errno
import os

from orlop.linux import mounts, safepath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.linux.hierarchy import Hierarchy
    from orlop.runtime.rootfs import Root
    from orlop.runtime.sources import Source

_RECURSIVE_CLONE = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC | mounts.AT_RECURSIVE


class View:
    """What is needed to show a container its cgroups. `path` is its own, below every hierarchy that it is in, or ""."""

    __slots__ = ("hierarchy", "own_namespace", "path")

    def __init__(self, hierarchy: Hierarchy, path: str, *, own_namespace: bool) -> None:
        self.hierarchy = hierarchy
        self.path = path
        self.own_namespace = own_namespace

    def own(self, mount: str) -> str:
        """The container's folder in the hierarchy mounted at `mount`, or "" when it has none there."""
        folder = mount + self.path
        return folder if self.path and os.path.isdir(folder) else ""


def mount(root: Root, source: Source, view: View) -> None:
    """Mount cgroups at the destination of `source`: version 2 as one tree, version 1 as a folder of hierarchies."""
    if view.hierarchy.version == 2:
        _mount_v2(root, source, view)
    else:
        _mount_v1(root, source, view)


def _mount_v2(root: Root, source: Source, view: View) -> None:
    place = root.directory(source.destination)
    try:
        if view.own_namespace:
            try:
                mounts.mount("cgroup", f"/proc/self/fd/{place}", "cgroup2", source.flags)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EBUSY):
                    raise
            else:
                return
        whole = view.own(view.hierarchy.unified) or view.hierarchy.unified
        tree = mounts.open_tree(mounts.AT_FDCWD, whole, _RECURSIVE_CLONE)
        _attach(tree, place, mounts.attributes_of(source.flags))
    finally:
        os.close(place)


def _attach(tree: int, place: int, attributes: int) -> None:
    try:
        mounts.mount_setattr(tree, "", mounts.AT_RECURSIVE, attr_set=attributes, propagation=mounts.MS_PRIVATE)
        mounts.move_mount(tree, "", place, "")
    finally:
        os.close(tree)


def _mount_v1(root: Root, source: Source, view: View) -> None:
    readonly = source.flags & mounts.MS_RDONLY
    place = root.directory(source.destination)
    try:
        flags = source.flags & ~mounts.MS_RDONLY & ~mounts.MS_REC
        mounts.mount("tmpfs", f"/proc/self/fd/{place}", "tmpfs", flags, "mode=755")
    finally:
        os.close(place)
    top = safepath.open_in_root(root.fd, source.destination, os.O_RDONLY | os.O_DIRECTORY)
    try:
        by_mount: dict[str, list[str]] = {}
        for name, found in view.hierarchy.places.items():
            if found.version == 1:
                by_mount.setdefault(found.mount, []).append(name)
        for where, names in by_mount.items():
            if view.own(where):  # of the others it would see everybody's groups
                _mount_hierarchy(top, where, names, source.flags, view)
        if readonly:
            again = safepath.open_in_root(root.fd, source.destination, os.O_PATH)
            mounts.mount_setattr(again, "", attr_set=mounts.MOUNT_ATTR_RDONLY)
            os.close(again)
    finally:
        os.close(top)


def _mount_hierarchy(top: int, where: str, names: list[str], flags: int, view: View) -> None:
    folder = os.path.basename(where)
    os.mkdir(folder, 0o755, dir_fd=top)
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
    try:
        if not (view.own_namespace and _mount_fresh(place, names, flags)):
            tree = mounts.open_tree(mounts.AT_FDCWD, view.own(where), _RECURSIVE_CLONE)
            _attach(tree, place, mounts.attributes_of(flags))
    finally:
        os.close(place)
    for name in names:  # cpu -> cpu,cpuacct
        if name != folder and not name.startswith("name="):
            os.symlink(folder, name, dir_fd=top)


def _mount_fresh(place: int, names: list[str], flags: int) -> bool:
    """In a cgroup namespace of its own the container's group is the root of a fresh mount. False: it must be bound."""
    data = ",".join(f"none,{name}" if name.startswith("name=") else name for name in names)
    try:
        mounts.mount("cgroup", f"/proc/self/fd/{place}", "cgroup", flags & ~mounts.MS_REC, data)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EBUSY, errno.EINVAL, errno.ENOENT):
            raise
        return False
    return True
