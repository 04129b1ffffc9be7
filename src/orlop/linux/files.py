"""Files as the kernel can handle them: what a path lies on, clones, whole trees removed safely.

ctypes is imported only where no module of Python's reaches the call: most commands need none of those.
"""

from __future__ import annotations

import errno
import os

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_HELD = 100  # directories kept open while a tree is removed; deeper ones are found again through ".."
_CHUNK = 1 << 30  # one copy_file_range or sendfile moves at most 2 GiB

# linux/magic.h and the file systems' own sources
_MAGIC = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFE534D42: "smb",
    0xFF534D42: "smb",
    0x01021997: "9p",
    0xEF53: "ext4",
    0x9123683E: "btrfs",
    0x58465342: "xfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlay",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
    0x65735546: "fuse",
    0xE0F5E1E2: "erofs",
    0x73717368: "squashfs",
    0x4D44: "vfat",
    0x2011BAB0: "exfat",
    0x5346544E: "ntfs",
    0x9660: "iso9660",
    0x9FA0: "proc",
    0x62656572: "sysfs",
    0x27E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x6E736673: "nsfs",
    0x00C36400: "ceph",
    0x013111A8: "ibm-gpfs",
    0x0BD00BD0: "lustre",
    0x5346414F: "afs",
    0x19830326: "fhgfs",
    0x786F4256: "vboxsf",
    0x6A656A63: "fakeowner",
    0xF15F: "ecryptfs",
    0x1CD1: "devpts",
}
_ALIASES = {"nfs4": "nfs", "cifs": "smb", "smb2": "smb", "smb3": "smb", "smbfs": "smb", "ext2": "ext4", "ext3": "ext4"}


def filesystem_of(path: str) -> str:
    """The type of the file system `path` lies on: "ext4", "nfs", "smb", "9p", "tmpfs"... or "0x..." when unknown.

    Families share one name: nfs4 is "nfs", cifs and smb3 are "smb", ext2 and ext3 are "ext4"; "fuse" is any FUSE file
    system. The mount table answers first (it costs no ctypes); btrfs subvolumes and chroots are asked with statfs.
    """
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _mount_lines():
        fields = line.split(" ")
        if fields[2] == wanted:
            kind = fields[fields.index("-", 6) + 1]
            return _ALIASES.get(kind, "fuse" if kind.startswith("fuse") else kind)
    return _statfs_type(path)


def _mount_lines() -> list[str]:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            return table.read().splitlines()
    except FileNotFoundError:
        return []


def _statfs_type(path: str) -> str:
    import ctypes  # 3 ms, and the mount table nearly always knew

    from orlop.linux import syscalls  # the same

    buffer = ctypes.create_string_buffer(256)
    syscalls.call("statfs", os.fsencode(path), buffer, doing=f"statfs {path}")
    magic = int.from_bytes(buffer.raw[:8], "little") & 0xFFFFFFFF
    return _MAGIC.get(magic, f"0x{magic:x}")


def reflink(source: int, target: int) -> None:
    """Make the file `target` (fd) share all blocks of `source` (fd); OSError where the file system cannot."""
    import fcntl  # an extension module most callers never need

    fcntl.ioctl(target, _FICLONE, source)


def copy_range(source: int, target: int, length: int) -> int:
    """Copy up to `length` bytes between two fds from their current offsets, in the kernel; the bytes copied.

    Less than `length` means that `source` ended. Falls back from copy_file_range to sendfile to read and write.
    """
    copied = 0
    for step in (_by_copy_file_range, _by_sendfile, _by_read):
        try:
            while copied < length:
                moved = step(source, target, min(_CHUNK, length - copied))
                if not moved:
                    break
                copied += moved
        except OSError as error:
            # EPERM: some kernels answer so for special files; the rest mean "not between these two"
            unable = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)
            if step is _by_read or error.errno not in unable:
                raise
            continue
        # procfs and sysfs files copy as empty with copy_file_range: ask the next way before believing it
        if copied or step is not _by_copy_file_range:
            break
    return copied


def _by_copy_file_range(source: int, target: int, count: int) -> int:
    return os.copy_file_range(source, target, count)


def _by_sendfile(source: int, target: int, count: int) -> int:
    return os.sendfile(target, source, None, count)  # None: from the fd's own offset


def _by_read(source: int, target: int, count: int) -> int:
    data = os.read(source, min(count, 1 << 20))
    write_all(target, data)
    return len(data)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte of `data`, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_fs(fd: int) -> None:
    """Flush the whole file system that `fd` lies on (syncfs)."""
    from orlop.linux import syscalls  # ctypes costs 3 ms

    syscalls.call("syncfs", fd)


def lgetxattrs(path: str | int) -> dict[str, bytes]:
    """All extended attributes we may read of `path` itself (a symlink is not followed) or of an open fd.

    Empty where the file system has none. An attribute removed meanwhile, or one we may not read, is left out.
    """
    follow = isinstance(path, int)  # a descriptor cannot be asked not to follow
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return {}
        raise
    found = {}
    for name in names:
        try:
            found[name] = os.getxattr(path, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP):
                raise
    return found


def remove_tree(path: str) -> None:
    """Remove `path` and all below it; it may be a file, and being gone already is fine.

    Symlinks are removed, never followed, also when somebody swaps a directory for one meanwhile. Directories that we
    may not write are made writable first where we own them. A mount point inside raises OSError (EBUSY).
    """
    parent = os.open(os.path.dirname(path.rstrip("/")) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_entry(parent, os.path.basename(path.rstrip("/")))
    except OSError as error:
        raise OSError(error.errno, f"remove {path}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(parent)


def _remove_entry(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        _remove_directory(parent, name)


def _remove_directory(parent: int, name: str) -> None:
    """Empty and remove a directory, with our own stack: hostile trees are deeper than recursion or the fd limit."""
    here, rest = os.dup(parent), [name]
    trail: list[
        tuple[str, int, tuple[int, int], list[str]]
    ] = []  # our name, the parent's fd or -1, its identity, its rest
    try:
        while rest or trail:
            if rest:
                inner = rest.pop()
                fd = _open_to_empty(here, inner)
                if fd < 0:
                    continue
                held = here if len(trail) < _HELD else -1
                trail.append((inner, held, _identity(here), rest))
                if held < 0:
                    os.close(here)
                here, rest = fd, _clear(fd)
            else:
                done, held, identity, rest = trail.pop()
                above = held if held >= 0 else _parent_of(here, identity)
                os.close(here)
                here = above
                if not _rmdir(done, here):
                    rest.append(done)  # somebody put something in meanwhile
    finally:
        os.close(here)
        for _, held, _, _ in trail:
            if held >= 0:
                os.close(held)


def _open_to_empty(parent: int, name: str) -> int:
    """The opened directory, or -1 when it was none any more and is now gone."""
    try:
        return _open_directory(parent, name)
    except FileNotFoundError:
        return -1
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=parent)
        return -1


def _clear(directory: int) -> list[str]:
    """Unlink everything in an open directory that is not a directory; the names of those that are."""
    inner = []
    with os.scandir(directory) as listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            else:
                try:
                    os.unlink(entry.name, dir_fd=directory)
                except FileNotFoundError:
                    continue
    return inner


def _rmdir(name: str, parent: int) -> bool:
    """Remove an empty directory; False when it is not empty (any more)."""
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _parent_of(fd: int, identity: tuple[int, int]) -> int:
    """The directory above an open one, which must be the one we came from: a moved directory must not lead us away."""
    above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    if _identity(above) != identity:
        os.close(above)
        raise OSError(errno.ESTALE, "the tree was moved while it was being removed")
    return above


def _open_directory(parent: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        # chmod follows symlinks, so it is given the opened thing itself
        place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{place}", 0o700)
        finally:
            os.close(place)
        return os.open(name, flags, dir_fd=parent)
    if os.geteuid() and os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd
