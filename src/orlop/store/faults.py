"""The file system's refusals, said so that a user knows what to do."""

from __future__ import annotations

import errno
import os

from orlop.errors import FailedPrecondition, Internal, NotFound, OrlopError, PermissionDenied, ResourceExhausted

_SCARCE = 256 << 10  # bytes
FULL = (errno.ENOSPC, errno.EDQUOT)


def explained(error: OSError, doing: str, path: str) -> OrlopError:
    """The error to raise `from error`, when `doing` ("write the blob") failed at `path`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in FULL:
        what = "quota is used up" if error.errno == errno.EDQUOT else "no space is left"
        return ResourceExhausted(
            f"cannot {doing} at {path}: {what} ({free_space(path)} free)",
            hint="free some with `orlop system prune`, or keep the store elsewhere with --root",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(
            f"cannot {doing} at {path}: {reason}", hint="this store belongs to another user: choose one with --root"
        )
    if error.errno == errno.EROFS:
        return FailedPrecondition(
            f"cannot {doing} at {path}: the file system is read-only", hint="keep the store elsewhere with --root"
        )
    if error.errno == errno.ENOENT:
        return NotFound(f"cannot {doing}: {path} does not exist")
    return Internal(f"cannot {doing} at {path}: {reason}")


def is_full(path: str) -> bool:
    """Whether the file system of `path` has next to nothing left: less than a database needs to be opened."""
    found = os.statvfs(os.path.dirname(path) or ".")
    return found.f_bavail * found.f_frsize < _SCARCE or (found.f_files > 0 and not found.f_favail)


def free_space(path: str) -> str:
    """Space and inodes that an ordinary user can still use on the file system of `path`: "12.3 MiB, 400 files"."""
    while not os.path.exists(path) and path not in ("", "/"):
        path = os.path.dirname(path)
    found = os.statvfs(path or ".")
    return f"{found.f_bavail * found.f_frsize / (1 << 20):.1f} MiB and {found.f_favail} files"
