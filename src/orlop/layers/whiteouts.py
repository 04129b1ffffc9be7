"""How "this name is gone" is said: by `.wh.` names in a layer's tar, by 0/0 devices and xattrs in overlay's trees.

Sources: OCI image-spec, layer.md, "Whiteouts"; Linux, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
directories".
"""

from __future__ import annotations

import os
import stat

PREFIX = ".wh."
OPAQUE_NAME = ".wh..wh..opq"
META_PREFIX = ".wh..wh."  # aufs kept its own records under such names; they are nobody's files

OPAQUE_XATTR = "trusted.overlay.opaque"
OPAQUE_USER_XATTR = "user.overlay.opaque"
# What overlayfs keeps for itself. From an archive it would redirect look-ups or hide files: never taken in or out.
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")


def is_whiteout(info: os.stat_result) -> bool:
    """Whether a file is overlay's mark of a deleted name: a character device with number 0/0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


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
