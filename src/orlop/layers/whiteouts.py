"""How "this name is gone" is said: by `.wh.` names in a layer's tar, by 0/0 devices and xattrs in overlay's trees.

Sources: OCI image-spec, layer.md, "Whiteouts"; Linux, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
directories".
"""

from __future__ import annotations

import errno
import os
import stat

PREFIX = ".wh."
OPAQUE_NAME = ".wh..wh..opq"
META_PREFIX = ".wh..wh."  # aufs kept its own records under such names; they are nobody's files

OPAQUE_XATTR = "trusted.overlay.opaque"
OPAQUE_USER_XATTR = "user.overlay.opaque"
WHITEOUT_XATTR = "user.overlay.whiteout"  # for native snapshots only: overlayfs would want a mark on the directory, too
# What overlayfs keeps for itself. From an archive it would redirect look-ups or hide files: never taken in or out.
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")


def is_device(info: os.stat_result) -> bool:
    """Whether a file is overlayfs' own mark of a deleted name."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_whiteout(info: os.stat_result, path: str) -> bool:
    """Whether a file (its status, and a path that is not followed) marks a deleted name.

    That is a character device with number 0/0, or, where none can be made, an empty file with the attribute.
    """
    if stat.S_ISCHR(info.st_mode):
        return info.st_rdev == 0
    if info.st_size or not stat.S_ISREG(info.st_mode):
        return False
    try:
        os.getxattr(path, WHITEOUT_XATTR, follow_symlinks=False)
    except OSError:
        return False
    return True


def make_whiteout(parent: int, name: str) -> None:
    """Mark `name` in an open directory as deleted; FileExistsError when something is there."""
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
    except OSError as error:
        # An overlay refuses such devices (a root inside a container), and so do kernels before 5.8 to users.
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
            raise
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            os.setxattr(fd, WHITEOUT_XATTR, b"y")
        finally:
            os.close(fd)


def make_opaque(directory: int, *, userxattr: bool) -> None:
    """Mark an open directory as hiding what lower layers have in it."""
    try:
        os.setxattr(directory, opaque_xattr(userxattr=userxattr), b"y")
    except OSError as error:
        if userxattr or error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
            raise
        os.setxattr(directory, OPAQUE_USER_XATTR, b"y")


def is_overlay_xattr(name: str) -> bool:
    """Whether the attribute is an instruction to overlayfs."""
    return name.startswith(_OVERLAY_XATTRS)


def is_opaque(path: str | int) -> bool:
    """Whether the directory (a path that is no symlink, or an fd) hides what the layers below have in it."""
    for name in (OPAQUE_XATTR, OPAQUE_USER_XATTR):
        try:
            if os.getxattr(path, name) == b"y":
                return True
        except OSError:
            continue  # not there, not permitted, or no xattrs at all: the same answer
    return False


def opaque_xattr(*, userxattr: bool) -> str:
    """The attribute that marks an opaque directory for mounts with or without overlay's `userxattr` option."""
    return OPAQUE_USER_XATTR if userxattr else OPAQUE_XATTR


def needs_userxattr() -> bool:
    """Whether overlay must keep its marks in user.* attributes: trusted.* takes root of the first user namespace."""
    if os.geteuid():
        return True
    with open("/proc/self/uid_map", "rb") as table:
        return table.read().split() != [b"0", b"0", b"4294967295"]
