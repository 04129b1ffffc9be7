"""What the kernel refuses while trees are made or read, as orlop's errors."""

from __future__ import annotations

import errno

from orlop.errors import Internal, InvalidArgument, OrlopError, PermissionDenied, ResourceExhausted

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EMFILE: "too many open files",
}
_DENIED = (errno.EPERM, errno.EACCES, errno.EROFS)
_UNFIT = (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EMLINK, errno.EFBIG)


class Foreign(Exception):  # the caller never sees it
    """Carries an OSError of the caller's own stream past those who explain the errors of trees."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def from_os(error: OSError, doing: str) -> OrlopError:
    """`error`, met while `doing` ("unpack usr/bin/x"), as the error a user sees. Raise it from the original."""
    code = error.errno or 0
    why = error.strerror or str(error)
    if code in _FULL:
        return ResourceExhausted(f"cannot {doing}: {_FULL[code]}", hint="`orlop system prune` frees what nothing uses")
    if code in _DENIED:
        return PermissionDenied(
            f"cannot {doing}: {why}",
            hint="it takes root, or a user namespace that maps the owners which the files have",
        )
    if code in _UNFIT:
        return InvalidArgument(f"cannot {doing}: {why}")
    return Internal(f"cannot {doing}: {why}")
