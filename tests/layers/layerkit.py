"""What the tests of this room share: archives made by Python's tarfile, trees described as values."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from typing import TYPE_CHECKING

from orlop.linux.files import lgetxattrs

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "link": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def member(
    name: str,
    data: bytes = b"",
    *,
    kind: str = "file",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: float = 1_600_000_000,
    link: str = "",
    device: tuple[int, int] = (0, 0),
    pax: dict[str, str] | None = None,
) -> tuple[tarfile.TarInfo, bytes]:
    """One member for `archive`."""
    info = tarfile.TarInfo(name)
    info.type = KINDS[kind]
    info.mode, info.uid, info.gid, info.mtime, info.linkname = mode, uid, gid, mtime, link
    info.devmajor, info.devminor = device
    info.size = len(data)
    info.pax_headers = pax or {}
    return info, data


def folder(name: str, mode: int = 0o755, **more: object) -> tuple[tarfile.TarInfo, bytes]:
    """A directory member."""
    return member(name, kind="dir", mode=mode, **more)  # type: ignore[arg-type]  # passed on by name


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """The members as a tar, by Python's tarfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as writer:
        for info, data in members:
            writer.addfile(info, io.BytesIO(data))
    return out.getvalue()


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in chunks of `size`."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


def seen(root: str, *, times: bool = True) -> dict[str, tuple[object, ...]]:
    """Everything in a tree but the root itself, as comparable values. Names that share an inode say so."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for where, folders, files in os.walk(root):
        for name in sorted(folders + files):
            path = os.path.join(where, name)
            short = os.path.relpath(path, root)
            info = os.lstat(path)
            content: object = None
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                content = info.st_rdev
            first = (
                inodes.setdefault(info.st_ino, short) if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode) else ""
            )
            xattrs = {key: value for key, value in lgetxattrs(path).items() if "overlay." not in key}
            found[short] = (
                stat.S_IFMT(info.st_mode),
                stat.S_IMODE(info.st_mode),
                info.st_uid,
                info.st_gid,
                info.st_mtime_ns if times else 0,
                content,
                xattrs,
                first,
            )
    return found
