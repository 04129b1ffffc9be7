"""A folder that is read in place: a build context, or the mounted root of a stage or image.

Listings are read when first asked for and kept, so a build stats each file once, and only below the sources that its
instructions name. Symlinks resolve inside the folder, as if chroot-ed; nothing outside is ever opened.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from posixpath import normpath

from orlop.build.patterns import Matcher
from orlop.errors import FailedPrecondition
from orlop.linux import files, owners, safepath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol, Self

    from orlop.build.patterns import Rule

    class Hashes(Protocol):
        """Remembers what files' contents hash to."""

        def get(self, found: os.stat_result) -> bytes | None:
            """The sha256 of a file with this status, if it is known and certain."""

        def put(self, found: os.stat_result, digest: bytes) -> None:
            """Remember."""


MAX_LINKS = 40  # symlinks followed in one path, as the kernel
_CHUNK = 1 << 20
_REPLACED = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)  # what opening says of a name that was listed and is another now


class Node:
    """One name in a tree: its status (never followed), and the target if it is a symlink. Inner-loop object."""

    __slots__ = ("found", "target")

    def __init__(self, found: os.stat_result, target: str = "") -> None:
        self.found = found
        self.target = target

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.found.st_mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.found.st_mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symlink."""
        return stat.S_ISLNK(self.found.st_mode)


class Tree:
    """A folder, less what `matcher` hides. Paths are relative, slash-separated, "" for the folder itself.

    `owned` says whether owners count: they do in an image's root, not in a build context, whose files belong to 0:0.
    Not thread-safe; each stage uses its own, or a lock.
    """

    def __init__(
        self, root: str, *, matcher: Matcher | None = None, hashes: Hashes | None = None, owned: bool = False
    ) -> None:
        self.root = root
        self.owned = owned
        self.matcher = matcher if matcher is not None and matcher.rules else None
        self.hidden: dict[str, Rule] = {}  # path -> the rule that hides it, as far as seen
        self._hashes = hashes
        self._listings: dict[str, dict[str, Node]] = {}
        self._states: dict[str, int] = {"": 0}
        self._root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder's descriptor back."""
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def node(self, path: str) -> Node | None:
        """What stands at `path`; None when nothing visible does. Only the last name may be a symlink."""
        if not path:
            found = os.fstat(self._root_fd)
            return Node(owners.told(found, self.root) if self.owned else found)
        parent, _, name = path.rpartition("/")
        return self.children(parent).get(name)

    def children(self, path: str) -> dict[str, Node]:
        """The visible names in the directory `path`, sorted. Raises OSError when it is none."""
        known = self._listings.get(path)
        if known is None:
            known = self._listings[path] = self._read(path)
        return known

    def walk(self, path: str) -> Iterator[tuple[str, Node]]:
        """Everything visible below the directory `path`, parents before children, names sorted; full paths."""
        pending = [path]
        while pending:
            folder = pending.pop()
            below = []
            prefix = f"{folder}/" if folder else ""
            for name, node in self.children(folder).items():
                yield prefix + name, node
                if stat.S_ISDIR(node.found.st_mode):
                    below.append(prefix + name)
            pending += reversed(below)

    def resolve(self, path: str, *, follow: bool = True) -> str | None:
        """`path` with all symlinks resolved inside the tree (the last one only if `follow`); None when missing.

        Raises FailedPrecondition for a loop of symlinks.
        """
        pending = _parts(path)
        done: list[str] = []
        links = 0
        while pending:
            part = pending.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            here = "/".join([*done, part])
            try:
                node = self.node(here)
            except NotADirectoryError:
                return None
            if node is None:
                return None
            if node.is_link and (follow or pending):
                links += 1
                if links > MAX_LINKS:
                    raise FailedPrecondition(f"{path} goes through more than {MAX_LINKS} symlinks")
                if node.target.startswith("/"):
                    done = []
                pending = _parts(node.target) + pending
                continue
            if pending and not node.is_dir:
                return None
            done.append(part)
        return "/".join(done)

    def open(self, path: str, node: Node) -> int:
        """A descriptor for reading the regular file `path`. FailedPrecondition when it was replaced meanwhile."""
        try:
            fd = safepath.open_no_links(self._root_fd, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _REPLACED:
                raise FailedPrecondition(f"{path} was replaced while the build ran") from error
            raise
        return self._verified(path, node, fd)

    def open_folder(self, path: str) -> int:
        """A descriptor of the directory `path` for `open_in`, for many files of one directory."""
        try:
            return safepath.open_no_links(self._root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in _REPLACED:
                raise FailedPrecondition(f"{path} was replaced while the build ran") from error
            raise

    def open_in(self, folder: int, path: str, node: Node) -> int:
        """As `open`, when the directory that `path` lies in is open already."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(path[path.rfind("/") + 1 :], flags, dir_fd=folder)
        except OSError as error:
            if error.errno in _REPLACED:
                raise FailedPrecondition(f"{path} was replaced while the build ran") from error
            raise
        return self._verified(path, node, fd)

    @staticmethod
    def _verified(path: str, node: Node, fd: int) -> int:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) != (node.found.st_dev, node.found.st_ino):
            os.close(fd)
            raise FailedPrecondition(f"{path} was replaced while the build ran")
        return fd

    def check(self, path: str, node: Node, fd: int) -> None:
        """FailedPrecondition when the opened file is no longer as it was listed, and so perhaps as it was hashed."""
        if _stamp(os.fstat(fd)) != _stamp(node.found):
            raise FailedPrecondition(
                f"{path} was changed while the build ran", hint="build again when nothing writes to it"
            )

    def digest(self, path: str, node: Node) -> bytes:
        """The sha256 of the regular file's content, from the memory of earlier builds where that is certain."""
        if self._hashes is not None and (known := self._hashes.get(node.found)) is not None:
            return known
        fd = self.open(path, node)
        try:
            digest = _sha256(fd, node.found.st_size)
            if self.owned and (extra := xattrs_of(fd)):
                digest = hashlib.sha256(digest + repr(sorted(extra.items())).encode()).digest()
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if self._hashes is not None and _stamp(after) == _stamp(node.found):
            self._hashes.put(node.found, digest)
        return digest

    def _state(self, path: str) -> int:
        """The ignore rules that match the directory `path` or one above it."""
        known = self._states.get(path)
        if known is None:
            parent = path.rpartition("/")[0]
            assert self.matcher is not None
            known = self._states[path] = self.matcher.verdict(path, self._state(parent))[1]
        return known

    def _read(self, path: str) -> dict[str, Node]:
        fd = safepath.open_no_links(self._root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(fd) as listing:
                nodes = {}
                told = owners.teller()
                for entry in listing:
                    found = entry.stat(follow_symlinks=False)
                    if self.owned:
                        found = told(found, f"/proc/self/fd/{fd}/{entry.name}")
                    link = os.readlink(entry.name, dir_fd=fd) if stat.S_ISLNK(found.st_mode) else ""
                    nodes[entry.name] = Node(found, link)
        finally:
            os.close(fd)
        names = sorted(nodes)
        if self.matcher is None:
            return {name: nodes[name] for name in names}
        return {name: nodes[name] for name in names if self._visible(path, name, nodes[name], self.matcher)}

    def _visible(self, folder: str, name: str, node: Node, matcher: Matcher) -> bool:
        path = f"{folder}/{name}" if folder else name
        rule, state = matcher.verdict(path, self._state(folder))
        directory = node.is_dir
        if directory:
            self._states[path] = state
        if rule is None or rule.negated:
            return True
        self.hidden[path] = rule
        # A hidden folder is still there when something in it was brought back.
        return directory and matcher.may_return(path) and bool(self.children(path))

    def hidden_by(self, path: str) -> Rule | None:
        """The ignore rule because of which `path`, or a folder above it, is not visible."""
        if self.matcher is None:
            return None
        parts = _parts(normpath(path))
        for count in range(1, len(parts) + 1):
            rule = self.hidden.get("/".join(parts[:count]))
            if rule is not None:
                return rule
        rule = self.matcher.ignores("/".join(parts)) if parts else None
        return rule if rule is not None and os.path.lexists(os.path.join(self.root, *parts)) else None


def xattrs_of(fd: int) -> dict[str, bytes]:
    """The extended attributes of an open file that belong into an image: its capabilities and what users set."""
    found = files.lgetxattrs(fd)
    return {key: value for key, value in found.items() if key == "security.capability" or _is_users(key)}


def _is_users(key: str) -> bool:
    return key.startswith("user.") and not key.startswith(("user.overlay.", "user.orlop."))


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def _sha256(fd: int, size: int) -> bytes:
    hasher = hashlib.sha256()
    if size < _CHUNK:
        data = os.read(fd, size + 1)  # one call for most files, as they are what they were listed as
        while data:
            hasher.update(data)
            data = os.read(fd, _CHUNK) if len(data) != size else b""
        return hasher.digest()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while count := os.readv(fd, [buffer]):
        hasher.update(view[:count])
    return hasher.digest()
