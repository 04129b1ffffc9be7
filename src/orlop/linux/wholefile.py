"""Files that are whole or not there: written beside, then renamed.

It imports nothing that an interpreter has not loaded already, since monitors use it, too.
"""

from __future__ import annotations

import os
from _thread import get_native_id


def write(path: str, data: bytes, *, mode: int = 0o600, durable: bool = False, beside: str = "") -> None:
    """Put `data` at `path`, in place of what was there: a reader sees the old file or the new one, never a part.

    `durable`: so it is after a power cut, too, and the new one is on the disk when this returns. `beside` names the
    file that is renamed (on the same file system); without it, it stands next to `path`, one for each thread. After an
    OSError all is as before.
    """
    beside = beside or f"{path}.{get_native_id()}.new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(beside, path)
    except BaseException:
        forget(beside)
        raise
    if durable:
        sync_folder(os.path.dirname(path))


def forget(path: str) -> None:
    """Remove a file; that it is gone already is as good."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def sync_folder(path: str) -> None:
    """Wait until the names in a folder are on the disk."""
    folder = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
