"""Where a container's mounts come from, opened before the container exists.

The process that makes a container opens every bind mount's source (and the root file system) as a detached copy of
its mount tree, with its flags and propagation already set. The container's init only attaches them. So sources need
not be reachable for the container's users, nothing appears in the host's mount table, and if everybody is killed
the kernel frees it all.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from orlop.linux import mountoptions, mounts, namespaces, process
from orlop.runtime import overlays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orlop.runtime.request import RootMount

_EXTENSIONS = ("tmpcopyup", "idmap", "ridmap", "copy-symlink", "src-nofollow", "dest-nofollow", "notmpcopyup")
_FLAGS_OF_A_MOUNT = (
    mounts.MS_RDONLY
    | mounts.MS_NOSUID
    | mounts.MS_NODEV
    | mounts.MS_NOEXEC
    | mounts.MS_NOATIME
    | mounts.MS_STRICTATIME
    | mounts.MS_NODIRATIME
    | mounts.MS_NOSYMFOLLOW
)
_ATIME = mounts.MS_NOATIME | mounts.MS_STRICTATIME | mounts.MS_RELATIME
_SHARED = ("shared", "rshared")
_PRIVATE = ("private", "rprivate", "unbindable", "runbindable")


class Source:
    """One mount of the spec, ready to be attached.

    `fd` is the detached tree of a bind mount, or -1 (yet). `kind` is the spec's type ("bind" for every bind mount).
    `extensions` are the options that are orlop's to act on, not the kernel's.
    """

    __slots__ = (
        "data", "destination", "directory", "entry", "extensions", "fd", "flags", "inherited", "kind", "options",
        "path", "source",
    )  # fmt: skip

    def __init__(
        self,
        destination: str,
        kind: str,
        source: str,
        options: mountoptions.MountOptions,
        entry: dict[str, Any],
        inherited: str,
    ) -> None:
        self.entry = entry
        self.inherited = inherited
        self.path = ""
        self.destination = destination
        self.kind = kind
        self.source = source
        self.options = options
        self.flags = options.flags
        words = options.data.split(",") if options.data else []
        self.extensions = frozenset(word for word in words if word in _EXTENSIONS)
        self.data = ",".join(word for word in words if word not in _EXTENSIONS)
        self.fd = -1
        self.directory = True

    def open(self) -> None:
        """Open the source of a bind mount as a detached tree with all its flags; nothing to do when that was done."""
        if self.fd >= 0:
            return
        recursive = bool(self.flags & mounts.MS_REC) or self.entry.get("type") == "rbind"
        self.fd = clone(self.path, recursive=recursive, follow="src-nofollow" not in self.extensions)
        self.directory = stat.S_ISDIR(os.fstat(self.fd).st_mode)
        if self.maps_ids:
            _map_ids(self, self.entry)
        _set_attributes(self, self.path)
        set_propagation(self.fd, self.inherited, self.options.propagation)

    @property
    def maps_ids(self) -> bool:
        """Whether owners are shown shifted."""
        return bool({"idmap", "ridmap"} & self.extensions or self.entry.get("uidMappings"))


def prepare(spec: dict[str, Any], bundle: str, *, late: bool = False) -> list[Source]:
    """The spec's mounts in order, the sources of bind mounts opened.

    With `late` init itself opens what it can reach, so that the mount table has the order of the spec (the kernel sorts
    it by when mounts were made). NotFound for a missing source; the caller closes every `fd`, also after an error (none
    is left open then).
    """
    inherited = (spec.get("linux") or {}).get("rootfsPropagation") or ""
    found: list[Source] = []
    try:
        for entry in spec.get("mounts") or ():
            source = _source(entry, inherited)
            found.append(source)
            if source.kind != "bind":
                continue
            source.path = os.path.join(bundle, source.source)
            if not late or source.maps_ids or inherited in _SHARED or source.path.startswith("/proc/"):
                source.open()
            elif not os.path.lexists(source.path):
                raise _missing(source.path)
    except BaseException:
        close(found)
        raise
    return found


def close(sources: Sequence[Source]) -> None:
    """Close what `prepare` opened."""
    for source in sources:
        if source.fd >= 0:
            os.close(source.fd)
            source.fd = -1


def _missing(path: str) -> NotFound:
    return NotFound(f"the mount source {path} does not exist", hint="create it first")


def _source(entry: dict[str, Any], inherited: str) -> Source:
    options = mountoptions.parse_options(entry.get("options") or ())
    kind = entry.get("type") or ""
    if options.flags & mounts.MS_BIND or kind in ("bind", "rbind"):
        kind = "bind"
    elif kind in ("", "none"):
        raise InvalidArgument(f"the mount on {entry['destination']} has no type and is not a bind mount")
    # Relative destinations are an old habit of the specification, counted from the root.
    destination = "/" + entry["destination"].strip("/")
    return Source(destination, kind, entry.get("source") or "", options, entry, inherited)


def clone(path: str, *, recursive: bool, follow: bool = True) -> int:
    """A detached copy of the mount tree at `path`, on the host."""
    flags = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
    flags |= mounts.AT_RECURSIVE if recursive else 0
    flags |= 0 if follow else mounts.AT_SYMLINK_NOFOLLOW
    try:
        parts = path.split("/", 4)
        if len(parts) == 5 and parts[:2] == ["", "proc"] and parts[3] == "root" and parts[2].isdigit():
            return _clone_of(parts[2], f"/{parts[4]}", flags | mounts.AT_SYMLINK_NOFOLLOW)
        return mounts.open_tree(mounts.AT_FDCWD, path, flags)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Unimplemented("this kernel cannot clone mounts", hint="orlop needs Linux 5.12 or later") from error
        if error.errno == errno.EINVAL:
            raise FailedPrecondition(
                f"the mount source {path} cannot be bind mounted: it or a mount below it is unbindable, or locked by a "
                "user namespace",
                hint="use rbind, or another folder",
            ) from error
        raise


def _clone_of(pid: str, path: str, flags: int) -> int:
    """What is at `path` for another process. The kernel clones mounts of one's own namespace only, so we go there.

    Between the two setns nothing is imported, and no name but `path` is looked up.
    """
    process.require_one_thread()
    there = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        namespaces.setns(there, namespaces.CLONE_NEWNS)
        try:
            return mounts.open_tree(mounts.AT_FDCWD, path, flags)
        finally:
            namespaces.setns(here, namespaces.CLONE_NEWNS)
            os.fchdir(folder)
    finally:
        for fd in (there, here, folder):
            os.close(fd)


def _set_attributes(source: Source, path: str) -> None:
    """The flags of a bind mount: those asked for, on its top mount; the r... ones on all below it too."""
    wanted, unwanted = source.flags, source.options.clear & _FLAGS_OF_A_MOUNT
    attr_set = mounts.attributes_of(wanted)
    attr_clear = mounts.attributes_of(unwanted)
    if wanted & _ATIME or source.options.clear & mounts.MS_NOATIME:
        attr_clear = attr_clear & ~mounts.MOUNT_ATTR_ATIME | mounts.MOUNT_ATTR_ATIME
    else:
        attr_clear &= ~mounts.MOUNT_ATTR_ATIME
    if attr_set or attr_clear:
        _setattr(source.fd, 0, attr_set, attr_clear, path)
    if source.options.attr_set or source.options.attr_clear:
        cleared = source.options.attr_clear
        if cleared & mounts.MOUNT_ATTR_ATIME:
            cleared |= mounts.MOUNT_ATTR_ATIME  # the kernel takes the access-time bits only all at once
        _setattr(source.fd, mounts.AT_RECURSIVE, source.options.attr_set, cleared, path)


def _setattr(fd: int, flags: int, attr_set: int, attr_clear: int, path: str) -> None:
    try:
        mounts.mount_setattr(fd, "", flags, attr_set=attr_set, attr_clear=attr_clear)
    except PermissionError as error:
        # In a user namespace some flags are locked: they cannot be cleared, but more may be set.
        try:
            mounts.mount_setattr(fd, "", flags, attr_set=attr_set)
        except OSError:
            raise FailedPrecondition(
                f"the flags of the mount {path} cannot be changed: {error.strerror}",
                hint="the host has locked them for user namespaces",
            ) from error


def set_propagation(fd: int, inherited: str, wanted: Sequence[int] = ()) -> None:
    """Cut a cloned tree off from the host as far as asked.

    `inherited` is the spec's rootfsPropagation: shared keeps the clone in the host's peer group, private ends all,
    anything else (the default) lets the host's mounts in and nothing out. `wanted` are the mount's own MS_* words,
    after that.
    """
    if inherited not in _SHARED:
        first = mounts.MS_PRIVATE if inherited in _PRIVATE else mounts.MS_SLAVE
        mounts.mount_setattr(fd, "", mounts.AT_RECURSIVE, propagation=first)
    for word in wanted:
        flags = mounts.AT_RECURSIVE if word & mounts.MS_REC else 0
        mounts.mount_setattr(fd, "", flags, propagation=word & ~mounts.MS_REC)


def _map_ids(source: Source, entry: dict[str, Any]) -> None:
    """An id-mapped mount: owners on disk are shown shifted (mount_setattr(2), MOUNT_ATTR_IDMAP)."""
    from orlop.runtime import idmaps

    uid_map, gid_map = idmaps.of_entries(entry, "uidMappings"), idmaps.of_entries(entry, "gidMappings")
    if not uid_map or not gid_map:
        raise InvalidArgument(
            f"the id-mapped mount on {source.destination} names no mappings",
            hint="give the mount uidMappings and gidMappings",
        )
    userns = idmaps.namespace(uid_map, gid_map)
    try:
        flags = mounts.AT_RECURSIVE if "ridmap" in source.extensions else 0
        mounts.mount_setattr(source.fd, "", flags, attr_set=mounts.MOUNT_ATTR_IDMAP, userns_fd=userns)
    except OSError as error:
        raise Unimplemented(
            f"the mount on {source.destination} cannot be id-mapped: {error.strerror}",
            hint="the file system of its source must support it (Linux 5.12: ext4, xfs, btrfs; 5.19: overlay)",
        ) from error
    finally:
        os.close(userns)


def open_root(root: RootMount | None, path: str, inherited: str) -> int:
    """The container's root file system as a detached mount: `root` made anew, or what is at `path` cloned.

    The copy is cut off from the host's mounts; `inherited` (rootfsPropagation) only matters for a clone.
    """
    if root is None:
        if not os.path.isdir(path):
            raise NotFound(f"the root file system {path} does not exist", hint="see root.path in config.json")
        fd = clone(path, recursive=True)
    elif root.fstype == "overlay":
        return overlays.detached(root)
    elif root.fstype == "bind":
        fd = clone(root.source, recursive="rbind" in root.options)
        chosen = mountoptions.parse_options(root.options)
        if chosen.flags & _FLAGS_OF_A_MOUNT:
            mounts.mount_setattr(fd, "", attr_set=mounts.attributes_of(chosen.flags))
    else:
        return _file_system(root)
    try:
        first = mounts.MS_PRIVATE if inherited in (*_PRIVATE, *_SHARED) else mounts.MS_SLAVE
        mounts.mount_setattr(fd, "", mounts.AT_RECURSIVE, propagation=first)
    except OSError:
        os.close(fd)
        raise
    return fd


def _file_system(root: RootMount) -> int:
    chosen = mountoptions.parse_options(root.options)
    context = mounts.fsopen(root.fstype)
    try:
        if root.source:
            mounts.fsconfig(context, mounts.FSCONFIG_SET_STRING, "source", root.source)
        for option in chosen.data.split(","):
            key, equals, value = option.partition("=")
            if key:
                command = mounts.FSCONFIG_SET_STRING if equals else mounts.FSCONFIG_SET_FLAG
                mounts.fsconfig(context, command, key, value if equals else None)
        mounts.fsconfig(context, mounts.FSCONFIG_CMD_CREATE)
        return mounts.fsmount(context, mounts.attributes_of(chosen.flags))
    finally:
        os.close(context)
