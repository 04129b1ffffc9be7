"""Mounting: mount(2), the newer file-descriptor calls, overlays of any height, and the mount table.

Constants are those of linux/mount.h and sys/mount.h.
"""

from __future__ import annotations

import errno
import os

from orlop.linux import syscalls
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_DETACH = 2

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x00
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6

_PROPAGATION = MS_PRIVATE | MS_SLAVE | MS_SHARED | MS_UNBINDABLE
_PROPAGATION_NAMES = {MS_PRIVATE: "private", MS_SLAVE: "slave", MS_SHARED: "shared", MS_UNBINDABLE: "unbindable"}
_PAGE = os.sysconf("SC_PAGE_SIZE")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """Mount. OSError says what was to be mounted where: "mount overlay on /x: No such file or directory"."""
    if len(data) >= _PAGE:
        raise OSError(errno.E2BIG, f"{_doing(source, target, fstype, flags)}: options are longer than a page")
    syscalls.call(
        "mount",
        os.fsencode(source) if source else None,
        os.fsencode(target),
        fstype.encode() if fstype else None,
        flags,
        os.fsencode(data) if data else None,
        doing=_doing(source, target, fstype, flags),
    )


def _doing(source: str, target: str, fstype: str, flags: int) -> str:
    if flags & _PROPAGATION:
        return f"make {target} {_PROPAGATION_NAMES.get(flags & _PROPAGATION, 'of mixed propagation')}"
    if flags & MS_REMOUNT:
        return f"remount {target}"
    if flags & MS_BIND:
        return f"bind mount {source} on {target}"
    if flags & MS_MOVE:
        return f"move mount {source} to {target}"
    return f"mount {fstype} on {target}"


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2): MNT_DETACH lets users of the mount go on and frees it when the last one leaves."""
    syscalls.call("umount2", os.fsencode(target), flags, doing=f"unmount {target}")


def bind(source: str, target: str, *, recursive: bool = False) -> None:
    """Show `source` also at `target`, with its submounts when `recursive`."""
    mount(source, target, "", MS_BIND | (MS_REC if recursive else 0))


def make_private(target: str = "/") -> None:
    """Stop mounts below `target` from propagating to or from other mount namespaces."""
    mount("", target, "", MS_PRIVATE | MS_REC)


def remount_readonly(target: str, *, recursive: bool = False) -> None:
    """Make one mount (not its file system) read-only, keeping its other flags, which user namespaces lock.

    Kernels before 5.12 cannot do it recursively: OSError(ENOSYS).
    """
    try:
        mount_setattr(AT_FDCWD, target, AT_RECURSIVE if recursive else 0, attr_set=MOUNT_ATTR_RDONLY)
    except OSError as error:
        if recursive or error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        mount("", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | locked_flags(target))


def locked_flags(target: str) -> int:
    """The MS_* flags that the mount at `target` has now; a remount in a user namespace must repeat them."""
    now = os.statvfs(target).f_flag
    flags = now & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME)
    return flags | (MS_RELATIME if now & 4096 else 0)  # ST_RELATIME


def pivot_root(new: str, old: str) -> None:
    """Make the mount at `new` the root of this mount namespace and hang the old root at `old` ("." for both works)."""
    syscalls.call("pivot_root", os.fsencode(new), os.fsencode(old), doing=f"pivot_root to {new}")


def open_tree(dir_fd: int, path: str, flags: int = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC) -> int:
    """A descriptor of the mount at `path`; with OPEN_TREE_CLONE a detached copy (AT_RECURSIVE: of the whole tree)."""
    return syscalls.call("open_tree", dir_fd, os.fsencode(path), flags, doing=f"clone the mount {path or dir_fd}")


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int = 0) -> None:
    """Attach a detached mount, or move one. Empty paths mean the descriptors themselves."""
    flags |= 0 if from_path else MOVE_MOUNT_F_EMPTY_PATH
    flags |= 0 if to_path else MOVE_MOUNT_T_EMPTY_PATH
    paths = os.fsencode(from_path), os.fsencode(to_path)
    syscalls.call("move_mount", from_fd, paths[0], to_fd, paths[1], flags, doing=f"mount on {to_path or to_fd}")


def fsopen(fstype: str) -> int:
    """A configuration context for a new file system."""
    return syscalls.call("fsopen", fstype.encode(), FSOPEN_CLOEXEC, doing=f"fsopen {fstype}")


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None, number: int = 0) -> None:
    """One setting of a context, or FSCONFIG_CMD_CREATE. OSError carries what the file system complained about."""
    try:
        syscalls.call(
            "fsconfig",
            fd,
            command,
            key.encode() if key is not None else None,
            os.fsencode(value) if value is not None else None,
            number,
            doing=f"fsconfig {key or 'create'}",
        )
    except OSError as error:
        said = complaints(fd)
        if not said:
            raise
        raise OSError(error.errno, f"{error.strerror} ({said})") from error


def complaints(fd: int) -> str:
    """The error messages that a file system left in its context, joined; reading takes them out."""
    said: list[str] = []
    while True:
        try:
            line = os.read(fd, 512)
        except OSError:  # ENODATA: no more; anything else: nothing to add to the error that brought us here
            return "; ".join(said)
        if not line:
            return "; ".join(said)
        if line.startswith((b"e ", b"w ")):
            said.append(os.fsdecode(line[2:]).strip())


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of a created context."""
    return syscalls.call("fsmount", fd, FSMOUNT_CLOEXEC, attributes)


def mount_setattr(
    dir_fd: int,
    path: str,
    flags: int = 0,
    *,
    attr_set: int = 0,
    attr_clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change a mount's MOUNT_ATTR_* flags (AT_RECURSIVE: of all below it too), or id-map a detached one."""
    attributes = b"".join(part.to_bytes(8, "little") for part in (attr_set, attr_clear, propagation, userns_fd))
    if not path:
        flags |= AT_EMPTY_PATH
    doing = f"change the mount at {path or dir_fd}"
    syscalls.call("mount_setattr", dir_fd, os.fsencode(path), flags, attributes, len(attributes), doing=doing)


# Overlays


def overlay(
    lowers: Sequence[str],
    upper: str,
    work: str,
    target: str,
    *,
    options: Sequence[str] = (),
    flags: int = 0,
) -> None:
    """Mount an overlay of `lowers` (topmost first, as the kernel's lowerdir) on `target`; up to 500 of them.

    `upper` and `work` are both "" for a read-only view; one lower alone is then a read-only bind mount, because overlay
    insists on two. `options` are overlay's own ("userxattr", "volatile", "index=off"); `flags` are MS_* of the mount.
    Names may hold any character and have any length: what mount(2)'s one page of comma and colon separated text cannot
    say is handed over as descriptors (fsconfig, Linux 6.13) or as /proc/self/fd names.
    """
    if not lowers:
        raise OSError(errno.EINVAL, f"mount overlay on {target}: it needs a lower layer")
    if not upper and len(lowers) == 1:
        bind(lowers[0], target)
        mount("", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | flags)
        return
    data = _overlay_data(lowers, upper, work, options)
    if len(os.fsencode(data)) < _PAGE and not any(_needs_escape(path) for path in (*lowers, upper, work)):
        try:
            mount("overlay", target, "overlay", flags, data)
        except OSError as error:
            raise _explained(error, lambda: _overlay_context(lowers, upper, work, options)) from error
        return
    try:
        opened = _open_layers(lowers, upper, work)
    except OSError as error:
        raise OSError(error.errno, f"mount overlay on {target}: {error.strerror}: {error.filename}") from error
    _overlay_by_descriptor(opened, target, options, flags)


def _overlay_data(lowers: Sequence[str], upper: str, work: str, options: Sequence[str]) -> str:
    parts = [f"lowerdir={':'.join(lowers)}"]
    if upper:
        parts += [f"upperdir={upper}", f"workdir={work}"]
    return ",".join([*parts, *options])


def _needs_escape(path: str) -> bool:
    return ":" in path or "," in path or "\\" in path


def _explained(error: OSError, attempt: Callable[[], int]) -> OSError:
    """`error` with the file system's own words, got by building the same context once more without mounting it."""
    try:
        os.close(attempt())
    except OSError as second:
        return _with_reason(error, second)
    return error


def _with_reason(error: OSError, explained: OSError) -> OSError:
    """`error` with what the file system said in the other one, in parentheses, if anything."""
    _, bracket, reason = (explained.strerror or "").partition("(")
    return OSError(error.errno, f"{error.strerror} ({reason}") if bracket else error


def _open_layers(lowers: Sequence[str], upper: str, work: str) -> list[tuple[str, int]]:
    """O_PATH descriptors with overlay's name for each role; the caller closes them."""
    roles = [("lowerdir+", path) for path in lowers]
    if upper:
        roles += [("upperdir", upper), ("workdir", work)]
    opened: list[tuple[str, int]] = []
    try:
        for role, path in roles:
            opened.append((role, os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
    except OSError:
        _close_all(opened)
        raise
    return opened


def _close_all(opened: Sequence[tuple[str, int]]) -> None:
    for _, fd in opened:
        os.close(fd)


def _overlay_context(lowers: Sequence[str], upper: str, work: str, options: Sequence[str]) -> int:
    """A created overlay context whose layers were given as descriptors; OSError(EINVAL) before Linux 6.13."""
    opened = _open_layers(lowers, upper, work)
    try:
        return _configured(opened, options)
    finally:
        _close_all(opened)


def _configured(opened: Sequence[tuple[str, int]], options: Sequence[str]) -> int:
    context = fsopen("overlay")
    try:
        fsconfig(context, FSCONFIG_SET_STRING, "source", "overlay")
        for role, fd in opened:
            fsconfig(context, FSCONFIG_SET_FD, role, None, fd)
        for option in options:
            key, equals, value = option.partition("=")
            if equals:
                fsconfig(context, FSCONFIG_SET_STRING, key, value)
            else:
                fsconfig(context, FSCONFIG_SET_FLAG, key)
        fsconfig(context, FSCONFIG_CMD_CREATE)
    except OSError:
        os.close(context)
        raise
    return context


def _overlay_by_descriptor(opened: Sequence[tuple[str, int]], target: str, options: Sequence[str], flags: int) -> None:
    doing = f"mount overlay of {len(opened)} directories on {target}"
    try:
        try:
            context = _configured(opened, options)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EBADF):
                raise OSError(error.errno, f"{doing}: {error.strerror}") from error
            try:
                _overlay_by_proc_names(opened, target, options, flags, doing)
            except OSError as second:
                raise _with_reason(second, error) from second
            return
        try:
            _attach(context, target, flags)
        finally:
            os.close(context)
    finally:
        _close_all(opened)


def _attach(context: int, target: str, flags: int) -> None:
    mounted = fsmount(context, attributes_of(flags))
    try:
        move_mount(mounted, "", AT_FDCWD, target, MOVE_MOUNT_T_SYMLINKS)
    finally:
        os.close(mounted)


def _overlay_by_proc_names(
    opened: Sequence[tuple[str, int]], target: str, options: Sequence[str], flags: int, doing: str
) -> None:
    """Older kernels: /proc/self/fd/7 is short, free of separators, and means the very directory we opened."""
    names = {role: f"/proc/self/fd/{fd}" for role, fd in opened}
    lowers = [f"/proc/self/fd/{fd}" for role, fd in opened if role == "lowerdir+"]
    data = _overlay_data(lowers, names.get("upperdir", ""), names.get("workdir", ""), options)
    if len(data) >= _PAGE:
        raise OSError(errno.E2BIG, f"{doing}: this kernel cannot mount so many layers")
    mount("overlay", target, "overlay", flags, data)


def attributes_of(flags: int) -> int:
    """MS_* flags of a mount as the MOUNT_ATTR_* of fsmount and mount_setattr."""
    pairs = (
        (MS_RDONLY, MOUNT_ATTR_RDONLY),
        (MS_NOSUID, MOUNT_ATTR_NOSUID),
        (MS_NODEV, MOUNT_ATTR_NODEV),
        (MS_NOEXEC, MOUNT_ATTR_NOEXEC),
        (MS_NOATIME, MOUNT_ATTR_NOATIME),
        (MS_STRICTATIME, MOUNT_ATTR_STRICTATIME),
        (MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
        (MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
    )
    return sum(attribute for flag, attribute in pairs if flags & flag)


# The mount table


class MountInfo(Value):
    """One line of mountinfo (proc(5))."""

    id: int
    parent: int
    device: str  # "major:minor"
    root: str  # which part of the file system is mounted
    target: str  # relative to the reader's root
    options: tuple[str, ...]
    tags: tuple[str, ...]  # "shared:1", "master:2", "propagate_from:3", "unbindable"
    fstype: str
    source: str
    super_options: tuple[str, ...]


def parse_mountinfo(text: str) -> list[MountInfo]:
    """The lines of a mountinfo file, in order: of several on one target the last is seen. Broken ones are left out."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        try:
            dash = fields.index("-", 6)
            fstype, source, super_options = fields[dash + 1 : dash + 4]
            entry = MountInfo(
                id=int(fields[0]),
                parent=int(fields[1]),
                device=fields[2],
                root=unescape(fields[3]),
                target=unescape(fields[4]),
                options=tuple(fields[5].split(",")),
                tags=tuple(fields[6:dash]),
                fstype=unescape(fstype),
                source=unescape(source),
                super_options=tuple(super_options.split(",")),
            )
        except ValueError:
            continue
        found.append(entry)
    return found


def unescape(text: str) -> str:
    r"""Undo the kernel's octal escapes: \040 is a space."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    out = [head]
    for part in rest:
        code = part[:3]
        if len(code) == 3 and all(digit in "01234567" for digit in code):
            out.append(chr(int(code, 8)) + part[3:])
        else:
            out.append("\\" + part)
    return "".join(out)


def mountinfo(pid: int | str = "self") -> list[MountInfo]:
    """The mounts a process sees."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return parse_mountinfo(table.read())


def id_of(fd: int) -> int:
    """The id of the mount that the open file is on: what mountinfo shows once it is attached (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "mnt_id":
                return int(value)
    raise OSError(errno.EOPNOTSUPP, "the kernel does not tell on which mount a file is")


def mounted_at(target: str) -> bool:
    """Whether something is mounted exactly on `target` (an absolute path without symlinks)."""
    return any(entry.target == target for entry in mountinfo())
