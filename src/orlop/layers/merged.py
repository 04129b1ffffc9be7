"""Small files out of a stack of unpacked layers, without mounting it.

Starting a container needs /etc/passwd and /etc/group before its root exists anywhere. Mounting an overlay to read two
files costs more than reading them, so the merged view is worked out here as overlayfs does it: the uppermost layer that
has a name decides; a 0/0 character device hides what is below; an opaque directory hides the directories below it.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.linux import safepath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_HIDDEN = frozenset((errno.ENOTDIR, errno.ELOOP))


def read(trees: Sequence[str], path: str, *, limit: int = 1 << 20) -> bytes | None:
    """The content of the regular file `path` in the merged view of `trees` (uppermost first).

    None when there is no such file; at most `limit` bytes are read. Symlinks are followed inside the view.
    """
    todo = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop(0)
        if part in {".", ""}:
            continue
        if part == "..":
            done = done[:-1]
            continue
        found = look(trees, "/".join([*done, part]))
        if found is None:
            return None
        tree, info = found
        name = "/".join([*done, part])
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > _MAX_LINKS:
                return None
            target = _readlink(tree, name)
            if target.startswith("/"):
                done = []
            todo = [*target.split("/"), *todo]
        elif not todo:
            return _content(tree, name, limit) if stat.S_ISREG(info.st_mode) else None
        else:
            done.append(part)
    return None


def look(trees: Sequence[str], name: str) -> tuple[str, os.stat_result] | None:
    """The tree that decides about `name`, whose parent is a directory of the merged view, and what it has there."""
    parent = os.path.dirname(name)
    for tree in trees:
        root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                found = safepath.open_no_links(root, name, os.O_PATH)
            except OSError as error:
                if error.errno == errno.ELOOP and (linked := _lstat(root, name)) is not None:
                    return tree, linked
                if error.errno in _HIDDEN:
                    return None
                if error.errno != errno.ENOENT:
                    raise
                if parent and _closed(root, parent):
                    return None
                continue
            try:
                info = os.fstat(found)
            finally:
                os.close(found)
            whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
            return None if whiteout else (tree, info)
        finally:
            os.close(root)
    return None


def _lstat(root: int, name: str) -> os.stat_result | None:
    """The symlink that `name` itself is; None when a directory on the way to it is one."""
    try:
        folder = safepath.open_no_links(root, os.path.dirname(name) or ".", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return os.stat(os.path.basename(name), dir_fd=folder, follow_symlinks=False)
    finally:
        os.close(folder)


def _closed(root: int, parent: str) -> bool:
    """Whether this layer hides `parent` of the layers below: by a whiteout, or an opaque directory, on its way."""
    parts = parent.split("/")
    for count in range(1, len(parts) + 1):
        try:
            folder = safepath.open_no_links(root, "/".join(parts[:count]), os.O_PATH)
        except OSError:
            return False
        try:
            if stat.S_ISCHR(os.fstat(folder).st_mode):
                return True
            for name in _OPAQUE:
                try:
                    if os.getxattr(f"/proc/self/fd/{folder}", name) == b"y":
                        return True
                except OSError:
                    continue
        finally:
            os.close(folder)
    return False


def _readlink(tree: str, name: str) -> str:
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder = safepath.open_no_links(root, os.path.dirname(name) or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            return os.readlink(os.path.basename(name), dir_fd=folder)
        finally:
            os.close(folder)
    finally:
        os.close(root)


def _content(tree: str, name: str, limit: int) -> bytes:
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        file = safepath.open_no_links(root, name, os.O_RDONLY | os.O_NONBLOCK)
    finally:
        os.close(root)
    try:
        pieces = []
        while limit > 0 and (piece := os.read(file, min(limit, 1 << 16))):
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(file)
