"""Places to mount at: a runtime makes those that are missing in a step's root, and they must not stay in the layer.

Nothing is mounted here: what is missing is worked out from the stack of trees, and removed from the writable one.
"""

from __future__ import annotations

import contextlib
import os
import stat
from posixpath import dirname

from orlop.layers import merged
from orlop.linux import safepath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS


class Stubs:
    """What is missing of `targets` (absolute paths) before a step runs; `remove` undoes what mounting there made.

    `trees` are the step's writable tree and those below it, uppermost first.
    """

    def __init__(self, trees: Sequence[str], targets: Iterable[str]) -> None:
        self._trees = tuple(trees)
        self._missing: set[str] = set()
        for target in targets:
            self._missing.update(_missing(self._trees, target))
        folders = {dirname(path) for path in self._missing} - self._missing
        self._folders = {folder: self._about(folder) for folder in folders}

    def _about(self, folder: str) -> tuple[list[str], int]:
        """The names in a folder, and its time in nanoseconds."""
        if folder:
            found = merged.look(self._trees, folder)
            mtime = found[1].st_mtime_ns if found is not None else 0
        else:
            mtime = os.stat(merged.root_of(self._trees)).st_mtime_ns
        return sorted(merged.listing(self._trees, folder)), mtime

    def remove(self) -> None:
        """Remove the places that are still empty; their folders get their time back if nothing else happened there."""
        upper = os.open(self._trees[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path in sorted(self._missing, key=lambda path: -path.count("/")):
                with contextlib.suppress(OSError):  # whatever cannot be reached now is no stub of ours
                    _remove_if_empty(upper, path)
            for folder, (names, mtime) in self._folders.items():
                if sorted(merged.listing(self._trees, folder)) == names:
                    with contextlib.suppress(OSError):
                        _set_time(upper, folder, mtime)
        finally:
            os.close(upper)


def _missing(trees: tuple[str, ...], target: str) -> list[str]:
    """The parts of the path `target` that do not exist, as clean relative paths; symlinks are followed in the trees."""
    pending = [part for part in target.split("/") if part]
    done: list[str] = []
    found: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part == ".":
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = "/".join([*done, part])
        seen = None if found else merged.look(trees, here)
        if seen is None:
            found.append(here)
        elif stat.S_ISLNK(seen[1].st_mode):
            links += 1
            if links > _MAX_LINKS:
                return []
            text = os.readlink(os.path.join(seen[0], here))
            done = [] if text.startswith("/") else done
            pending = [inner for inner in text.split("/") if inner] + pending
            continue
        done.append(part)
    return found


def _remove_if_empty(upper: int, path: str) -> None:
    parent = safepath.open_no_links(upper, dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        name = path.rpartition("/")[2]
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=parent)
        elif stat.S_ISREG(found.st_mode) and not found.st_size:
            os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)


def _set_time(upper: int, folder: str, mtime: int) -> None:
    fd = safepath.open_no_links(upper, folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        if os.fstat(fd).st_mtime_ns != mtime:
            os.utime(fd, ns=(mtime, mtime))
    finally:
        os.close(fd)
