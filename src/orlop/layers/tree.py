"""Whole directory trees: copied with everything a file can carry, measured, compared."""

from __future__ import annotations

import os
import stat

from orlop.layers.tarentry import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, SYMLINK
from orlop.linux import files

KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
}


def copy_data(source: int, target: int, size: int) -> None:
    """Copy a file's content to a new, empty file, both by fd: shared blocks where the file system can, holes kept."""
    if not size:
        return
    try:
        files.reflink(source, target)
    except OSError:
        pass  # another file system, or one without: the data are copied
    else:
        return
    info = os.fstat(source)
    if info.st_blocks * 512 >= size:
        files.copy_range(source, target, size)
        return
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != 6:  # ENXIO: nothing but a hole is left
                raise
            break
        at = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(source, start, os.SEEK_SET)
        os.lseek(target, start, os.SEEK_SET)
        files.copy_range(source, target, at - start)
    os.ftruncate(target, size)
