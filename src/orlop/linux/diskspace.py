"""What files and trees take on the disk, counted as removing them would free it."""

from __future__ import annotations

import os
import stat
from errno import EACCES, ELOOP, ENOENT, ENOTDIR

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def below(path: str) -> int:
    """Bytes that the content of a folder takes, without the folder itself; 0 if it is not there."""
    try:
        about = os.lstat(path)
    except FileNotFoundError:
        return 0
    return max(0, Space().of(path) - about.st_blocks * 512)


class Space:
    """Space on disk as a removal would free it: a file with several names counts once."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def of(self, path: str) -> int:
        """Bytes that `path` and all below it take, without following links; 0 if it is not there.

        One descriptor is open at a time and no path is built: a container may leave trees deeper than both allow.
        """
        try:
            about = os.lstat(path)
            here = os.open(path, _FOLDER) if stat.S_ISDIR(about.st_mode) else -1
        except FileNotFoundError:
            return 0
        self._total = self._one(about)
        if here >= 0:
            try:
                here = self._below(here)
            finally:
                os.close(here)
        return self._total

    def _below(self, here: int) -> int:
        """Add what is below an open folder; returns the descriptor that is open at the end."""
        rest = self._level(here)
        above: list[tuple[list[str], tuple[int, int]]] = []
        while rest or above:
            if rest:
                inner = _entered(here, rest.pop())
                if inner >= 0:
                    above.append((rest, _identity(here)))
                    os.close(here)
                    here, rest = inner, self._level(inner)
                continue
            rest, identity = above.pop()
            outer = os.open("..", _FOLDER, dir_fd=here)
            os.close(here)
            here = outer
            if _identity(here) != identity:
                break  # moved away under our hands: whoever did that counts or keeps it
        return here

    def _level(self, folder: int) -> list[str]:
        """Add the entries of one folder; the names of the folders among them."""
        inner = []
        with os.scandir(folder) as listing:
            for entry in listing:
                try:
                    self._total += self._one(entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    inner.append(entry.name)
        return inner

    def _one(self, about: os.stat_result) -> int:
        if about.st_nlink > 1 and not stat.S_ISDIR(about.st_mode):
            identity = (about.st_dev, about.st_ino)
            if identity in self._seen:
                return 0
            self._seen.add(identity)
        return about.st_blocks * 512


def _entered(folder: int, name: str) -> int:
    """The opened folder, -1 if it is gone, or none any more, or closed to us."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR, ELOOP, EACCES):
            return -1
        raise


def _identity(descriptor: int) -> tuple[int, int]:
    about = os.fstat(descriptor)
    return about.st_dev, about.st_ino
