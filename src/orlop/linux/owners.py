"""Owners and devices that the kernel does not let us make, kept beside the files instead.

In a user namespace only mapped ids can own files, and device nodes cannot be made at all. What a file should have been
is then written into an extended attribute, and read back by whoever looks at the tree as an image: layers come out with
the digests that root's would have. Containers see what the kernel sees.

    user.orlop.owner            on a file or directory: "UID:GID", for a device's stand-in (an empty file)
                                "UID:GID:c:MAJOR:MINOR" (or b)
    user.orlop.owner.<digest>   on the directory of a symlink or FIFO (which take no such attributes): "UID:GID:MTIME".
                                The digest is of its name; the time (nanoseconds) tells it from a later one of that name

Outside of user namespaces nothing is read and nothing is written. A directory holds as many records of symlinks as its
attributes have room for (ext4: some fifty); a symlink beyond that belongs to root.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.linux import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

XATTR = "user.orlop.owner"
_UNMAPPED = errno.EINVAL  # what chown answers for an id that the user namespace does not have
_NO_ROOM = (errno.ENOSPC, errno.E2BIG, errno.EOPNOTSUPP, errno.EPERM)
_KINDS = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}


def give(place: int | str, uid: int, gid: int, *, dir_fd: int | None = None, mtime: int | None = None) -> None:
    """As os.chown on an fd, or on a path (below `dir_fd`) that is not followed; what cannot be is written down.

    `mtime` (nanoseconds) is what a symlink or FIFO will have as its time, where it is not its present one.
    """
    try:
        _chown(place, uid, gid, dir_fd)
    except OSError as error:
        if error.errno != _UNMAPPED or users.in_initial_namespace():
            raise
        _chown(place, 0, 0, dir_fd)  # what is written down counts for files of root
        _keep(place, dir_fd, (uid, gid), mtime)
    else:
        if not users.in_initial_namespace():
            _keep(place, dir_fd, (0, 0), mtime)  # it may have had another owner before


def _chown(place: int | str, uid: int, gid: int, dir_fd: int | None) -> None:
    if isinstance(place, int):
        os.fchown(place, uid, gid)
    else:
        os.chown(place, uid, gid, dir_fd=dir_fd, follow_symlinks=False)


def make_node(name: str, mode: int, device: int, *, dir_fd: int) -> None:
    """As os.mknod; in a user namespace a device becomes an empty file that says which."""
    try:
        os.mknod(name, mode, device, dir_fd=dir_fd)
    except PermissionError:
        kind = next((key for key, value in _KINDS.items() if value == stat.S_IFMT(mode)), "")
        if not kind or users.in_initial_namespace():
            raise
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, stat.S_IMODE(mode), dir_fd=dir_fd)
        try:
            os.setxattr(fd, XATTR, f"0:0:{kind}:{os.major(device)}:{os.minor(device)}".encode())
        finally:
            os.close(fd)


def _keep(place: int | str, dir_fd: int | None, owner: tuple[int, int], mtime: int | None) -> None:
    """Write the owner down, or remove what is written where it is root's."""
    uid, gid = owner
    path = place if isinstance(place, int) or dir_fd is None else f"/proc/self/fd/{dir_fd}/{place}"
    info = os.stat(path) if isinstance(path, int) else os.lstat(path)
    if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
        if isinstance(path, str):
            folder, name = _beside(path)
            _write(
                folder,
                name,
                f"{uid}:{gid}:{info.st_mtime_ns if mtime is None else mtime}" if uid or gid else "",
                follow=True,
            )
        return
    device = _read(path, XATTR)[2:]
    text = ":".join((str(uid), str(gid), *device)) if uid or gid or device else ""
    _write(path, XATTR, text, follow=isinstance(path, int))


def _write(path: int | str, name: str, text: str, *, follow: bool) -> None:
    try:
        if text:
            os.setxattr(path, name, text.encode(), follow_symlinks=follow)
        else:
            os.removexattr(path, name, follow_symlinks=follow)
    except OSError as error:
        if text and error.errno not in _NO_ROOM:
            raise


def _beside(path: str) -> tuple[str, str]:
    """Where the record of a symlink or FIFO is: its directory, and the attribute's name."""
    from hashlib import blake2b

    folder, _, name = path.rpartition("/")
    return folder or ".", f"{XATTR}.{blake2b(os.fsencode(name), digest_size=8).hexdigest()}"


def _read(path: int | str, name: str, *, follow: bool = False) -> list[str]:
    try:
        found = os.getxattr(path, name, follow_symlinks=follow or isinstance(path, int))
    except OSError:
        return []  # none, or none can be had: the file is what it looks like
    return found.decode("ascii", "replace").split(":")


def teller() -> Callable[[os.stat_result, int | str], os.stat_result]:
    """`told` for many files in a row: whether anything can be written down is asked once, which costs 5 us."""
    return _as_it_is if users.in_initial_namespace() else told


def _as_it_is(info: os.stat_result, _place: int | str) -> os.stat_result:
    return info


def told(info: os.stat_result, place: int | str) -> os.stat_result:
    """The status `info` of the file at `place` (an fd, or a path that is not followed) as it should have been."""
    if (info.st_uid or info.st_gid) and (info.st_size or not stat.S_ISREG(info.st_mode)):
        return info  # an owner of its own, and no device's stand-in
    if users.in_initial_namespace():
        return info
    if stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
        fields = _read(place, XATTR)
    elif isinstance(place, str):
        folder, name = _beside(place)
        fields = _read(folder, name, follow=True)
        if len(fields) != 3 or fields[2] != str(info.st_mtime_ns):
            return info
        fields = fields[:2]
    else:
        return info
    return _changed(info, fields)


def _changed(info: os.stat_result, fields: list[str]) -> os.stat_result:
    numbers = [text for at, text in enumerate(fields) if at != 2]
    if len(fields) not in (2, 5) or not all(text.isascii() and text.isdigit() for text in numbers):
        return info
    values = list(info[:10])
    if not info.st_uid and not info.st_gid:
        values[4], values[5] = int(fields[0]), int(fields[1])
    more = {name: getattr(info, name) for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blocks", "st_rdev")}
    if len(fields) == 5:
        if fields[2] not in _KINDS or info.st_size:
            return info
        values[0] = stat.S_IMODE(info.st_mode) | _KINDS[fields[2]]
        more["st_rdev"] = os.makedev(int(fields[3]), int(fields[4]))
    return os.stat_result(values, more)
