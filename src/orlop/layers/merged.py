"""Small files out of a stack of unpacked layers, without mounting it.

Starting a container needs /etc/passwd and /etc/group before its root exists anywhere. Mounting an overlay to read two
files costs more than reading them, so the merged view is worked out here as overlayfs does it: the uppermost layer that
has a name decides; a 0/0 character device hides what is below; an opaque directory hides the directories below it.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.layers import whiteouts
from orlop.linux import safepath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS
_HIDDEN = frozenset((errno.ENOTDIR, errno.ELOOP))


def read(trees: Sequence[str], path: str, *, limit: int = 1 << 20) -> bytes | None:
    """The content of the regular file `path` in the merged view of `trees` (uppermost first).

    None when there is no such file; at most `limit` bytes are read. Symlinks are followed inside the view.
    """
    found = find(trees, path)
    if found is None or not stat.S_ISREG(found[2].st_mode):
        return None
    return _content(found[0], found[1], limit)


def is_directory(trees: Sequence[str], path: str) -> bool:
    """Whether `path` is a directory of the merged view of `trees`. Symlinks are followed inside the view."""
    found = find(trees, path)
    return found is not None and stat.S_ISDIR(found[2].st_mode)


def find(trees: Sequence[str], path: str) -> tuple[str, str, os.stat_result] | None:
    """What `path` leads to in the merged view: the tree that decides, the name without symlinks, and its status."""
    todo = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    last: tuple[str, str, os.stat_result] | None = None
    while todo:
        part = todo.pop(0)
        if part in {".", ""}:
            continue
        if part == "..":
            done = done[:-1]
            last = None
            continue
        name = "/".join([*done, part])
        found = look(trees, name)
        if found is None:
            return None
        tree, info = found
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > _MAX_LINKS:
                return None
            target = _readlink(tree, name)
            if target.startswith("/"):
                done = []
            todo = [*target.split("/"), *todo]
            last = None
        else:
            done.append(part)
            last = (tree, name, info)
    if last is None and done:
        name = "/".join(done)
        found = look(trees, name)
        return None if found is None else (found[0], name, found[1])
    return last


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
            return None if whiteouts.is_whiteout(info, f"{tree}/{name}") else (tree, info)
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
            if whiteouts.is_opaque(f"/proc/self/fd/{folder}"):
                return True
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


ROOT_XATTR = "user.orlop.root"
"""On the root of a layer's tree, "implicit": its archive has no entry for it, lower layers say its mode and owner."""


def root_of(trees: Sequence[str]) -> str:
    """The tree (of those, uppermost first) whose root directory says what the merged root is like."""
    for tree in trees:
        try:
            os.getxattr(tree, ROOT_XATTR)
        except OSError:
            return tree
    return trees[-1]


if TYPE_CHECKING:
    # Where a name of the merged view lies: the layer's tree, and the status.
    Seen: TypeAlias = tuple[str, os.stat_result]


def listing(trees: Sequence[str], path: str) -> dict[str, Seen]:
    """What the directory `path` ("" is the root) of the merged view holds; `trees` are uppermost first."""
    seen: dict[str, Seen | None] = {}
    for tree in trees:
        root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                folder = safepath.open_no_links(root, path or ".", os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                if _closed(root, path):
                    break
                continue
            except OSError as error:
                if error.errno in _HIDDEN:
                    break
                raise
            try:
                for name in os.listdir(folder):
                    if name not in seen:
                        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        gone = whiteouts.is_whiteout(info, f"/proc/self/fd/{folder}/{name}")
                        seen[name] = None if gone else (tree, info)
                if whiteouts.is_opaque(folder):
                    break
            finally:
                os.close(folder)
            if path and _closed(root, path):
                break
        finally:
            os.close(root)
    return {name: found for name, found in seen.items() if found is not None}
