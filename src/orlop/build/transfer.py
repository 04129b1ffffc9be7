"""Carries out a COPY: a selection's files into a mounted root, never through a symlink that leads out of it.

The rules (what a trailing slash means, who owns new folders, which times are kept) are Docker's as BuildKit has them.
"""

from __future__ import annotations

import errno
import os
import stat
from posixpath import basename, dirname

from orlop.build import modes
from orlop.build.tree import xattrs_of
from orlop.errors import InvalidArgument
from orlop.linux import files, owners, safepath, users
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from orlop.build.select import Root, Selection
    from orlop.build.tree import Node, Tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSWD_LIMIT = 1 << 20
_SMALL = 128 << 10  # bytes that are copied through memory


class Manner(Value):
    """How files arrive: `owner` (uid, gid) or None to keep the source's, and what becomes of their modes."""

    owner: tuple[int, int] | None = None
    mode: Callable[[int, bool], int] | None = None


class Target:
    """A mounted root that files are put into. Use as a context manager."""

    def __init__(self, rootfs: str) -> None:
        self.fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def read(self, path: str, limit: int = _PASSWD_LIMIT) -> bytes:
        """The content of a small file of the image; empty where there is none."""
        return safepath.read_in_root(self.fd, path, limit) or b""

    def owner(self, spec: str) -> tuple[int, int]:
        """`user[:group]`, names looked up in the image, as (uid, gid). Raises InvalidArgument for an unknown name.

        A number without a group is its own group; a name without a group has its group of /etc/passwd.
        """
        user, colon, group = spec.partition(":")
        uid = gid = -1
        if user.isascii() and user.isdigit():
            uid = gid = int(user)
        elif user:
            for entry in users.parse_passwd(self.read("/etc/passwd")):
                if entry.name == user:
                    uid, gid = entry.uid, entry.gid
                    break
            else:
                raise InvalidArgument(
                    f"the image has no user {user!r}", hint="add the user first, or give numbers: --chown=1000:1000"
                )
        else:
            uid = gid = 0
        if colon and group.isascii() and group.isdigit():
            gid = int(group)
        elif colon and group:
            for one in users.parse_group(self.read("/etc/group")):
                if one.name == group:
                    gid = one.gid
                    break
            else:
                raise InvalidArgument(f"the image has no group {group!r}", hint="add it first, or give its number")
        if not (0 <= uid < 1 << 32 and 0 <= gid < 1 << 32):
            raise InvalidArgument(f"{spec!r} is no owner")
        return uid, gid

    def is_dir(self, path: str) -> bool:
        """Whether `path`, symlinks followed inside the root, is a directory."""
        try:
            fd = safepath.open_in_root(self.fd, path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return False
            raise
        os.close(fd)
        return True

    def make(self, path: str, manner: Manner) -> int:
        """Make the directory `path` and its missing parents (0755); a descriptor that entries can be made in."""
        fd = safepath.mkdirs_in_root(self.fd, path, 0o755, owner=manner.owner or (0, 0))
        try:
            return safepath.reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(fd)

    def put(self, selection: Selection, tree: Tree, destination: str, *, into: bool, manner: Manner) -> None:
        """Copy `selection` to `destination`, which must be a directory for several files: else InvalidArgument."""
        plain = [root for root in selection.roots if not root.node.is_dir]
        into = into or self.is_dir(destination)
        if len(plain) > 1 and not into:
            raise InvalidArgument(
                f"several files cannot become one: {destination}",
                hint=f"end the destination with a slash: {destination}/",
            )
        for root in selection.roots:
            if root.node.is_dir:
                fd = self.make(destination, manner)
                try:
                    _Copier(tree, manner).contents(root, fd)
                finally:
                    os.close(fd)
            else:
                self._file(root, tree, destination, into=into, manner=manner)

    def _file(self, root: Root, tree: Tree, destination: str, *, into: bool, manner: Manner) -> None:
        folder, name = (destination, root.name) if into else (dirname(destination), basename(destination))
        if not into and (resolved := self._through_link(destination)) is not None:
            folder, name = dirname(resolved), basename(resolved)
        fd = self.make(folder, manner)
        try:
            _Copier(tree, manner).entry(root.path, root.node, fd, name)
        finally:
            os.close(fd)

    def _through_link(self, destination: str) -> str | None:
        """Where a destination that is a symlink leads; None when it is none."""
        try:
            fd = safepath.open_in_root(self.fd, destination, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                return None
        finally:
            os.close(fd)
        root = safepath.path_of(self.fd)
        return "/" + safepath.resolve_in_root(root, destination, missing_ok=True)[len(root) :].lstrip("/")

    def write(self, name: str, content: bytes, destination: str, *, into: bool, manner: Manner, mtime: int) -> None:
        """Put a here-document: mode 0644 unless `manner` says otherwise, `mtime` in nanoseconds."""
        into = into or self.is_dir(destination)
        folder, name = (destination, name) if into else (dirname(destination), basename(destination))
        fd = self.make(folder, manner)
        try:
            clear(fd, name)
            out = os.open(name, _CREATE, 0o600, dir_fd=fd)
            try:
                files.write_all(out, content)
                _finish(out, 0o644, manner.owner or (0, 0), mtime, manner, directory=False)
            finally:
                os.close(out)
        finally:
            os.close(fd)


def clear(parent: int, name: str) -> None:
    """Make way for a new file or symlink. Raises InvalidArgument where a directory stands."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            place = safepath.path_of(parent)
            raise InvalidArgument(
                f"a file cannot replace the directory {basename(place)}/{name}", hint="remove it first with RUN rm -r"
            ) from error
        raise


def _finish(fd: int, mode: int, owner: tuple[int, int], mtime: int, manner: Manner, *, directory: bool) -> None:
    if manner.mode is not None:
        mode = manner.mode(mode, directory)
    owners.give(fd, *owner)
    os.fchmod(fd, mode)  # after fchown, which clears set-id bits
    os.utime(fd, ns=(mtime, mtime))


def _copy_small(source: int, out: int, size: int) -> None:
    """Copy a file of `size` bytes, or what there is, through memory: two calls; the kernel's own ways take five."""
    data = os.read(source, size + 1)
    files.write_all(out, data)
    if len(data) != size:  # it is another than was listed: all of it is taken, and the caller's check refuses it
        files.copy_range(source, out, 1 << 62)


class _Copier:
    def __init__(self, tree: Tree, manner: Manner) -> None:
        self.tree = tree
        self.manner = manner
        self.seen: dict[tuple[int, int], str] = {}  # hard links in the source: identity -> path from `base`
        self.base = -1
        self.plain = users.in_initial_namespace()  # owners are what the kernel says, nothing is written beside

    def owner(self, node: Node) -> tuple[int, int]:
        if self.manner.owner is not None:
            return self.manner.owner
        return (node.found.st_uid, node.found.st_gid) if self.tree.owned else (0, 0)

    def contents(self, root: Root, base: int) -> None:
        """All of a directory's contents into the open directory `base`. Directories get their times last."""
        self.base = base
        folders: list[tuple[str, Node]] = []
        here, here_fd, source_fd = "", base, -1
        try:
            for relative, full, node in root.below:
                folder, _, name = relative.rpartition("/")
                if folder != here or source_fd < 0:
                    if here_fd != base:
                        os.close(here_fd)
                        here_fd = base
                    if source_fd >= 0:
                        os.close(source_fd)
                        source_fd = -1
                    here_fd = safepath.open_no_links(base, folder, _DIRECTORY) if folder else base
                    source_fd = self.tree.open_folder(full.rpartition("/")[0])
                    here = folder
                if node.is_dir:
                    self._directory(here_fd, name)
                    folders.append((relative, node))
                else:
                    self.entry(full, node, here_fd, name, relative, folder=source_fd)
        finally:
            if here_fd != base:
                os.close(here_fd)
            if source_fd >= 0:
                os.close(source_fd)
        for relative, node in reversed(folders):
            fd = safepath.open_no_links(base, relative, _DIRECTORY)
            try:
                found = node.found
                mode, mtime = stat.S_IMODE(found.st_mode), found.st_mtime_ns
                _finish(fd, mode, self.owner(node), mtime, self.manner, directory=True)
            finally:
                os.close(fd)

    @staticmethod
    def _directory(parent: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError as error:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise InvalidArgument(
                    f"a directory cannot replace the file {name}", hint="remove it first with RUN rm"
                ) from error

    def entry(
        self, full: str, node: Node, parent: int, name: str, relative: str = "", *, folder: int | None = None
    ) -> None:
        """One file, symlink or special file; sockets are left out. `folder`: the source's directory, if it is open."""
        if stat.S_ISSOCK(node.found.st_mode):
            return
        try:
            self._make(full, node, parent, name, relative, folder)
        except FileExistsError:
            clear(parent, name)
            self._make(full, node, parent, name, relative, folder)

    def _make(self, full: str, node: Node, parent: int, name: str, relative: str, folder: int | None) -> None:
        """The same, when nothing is in the way: else FileExistsError."""
        found = node.found
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFREG:
            if not self._linked(found, parent, name, relative):
                self._regular(full, node, parent, name, folder)
        elif kind == stat.S_IFLNK:
            os.symlink(node.target, name, dir_fd=parent)
            owners.give(name, *self.owner(node), dir_fd=parent, mtime=found.st_mtime_ns)
            times = (found.st_mtime_ns, found.st_mtime_ns)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
        else:
            owners.make_node(name, kind | 0o600, found.st_rdev, dir_fd=parent)
            owners.give(name, *self.owner(node), dir_fd=parent, mtime=found.st_mtime_ns)
            mode = stat.S_IMODE(found.st_mode)
            os.chmod(name, self.manner.mode(mode, False) if self.manner.mode else mode, dir_fd=parent)
            os.utime(name, ns=(found.st_mtime_ns, found.st_mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _linked(self, found: os.stat_result, parent: int, name: str, relative: str) -> bool:
        if found.st_nlink < 2 or not relative or not self.tree.owned:
            return False
        key = (found.st_dev, found.st_ino)
        earlier = self.seen.setdefault(key, relative)
        if earlier == relative:
            return False
        os.link(earlier, name, src_dir_fd=self.base, dst_dir_fd=parent, follow_symlinks=False)
        return True

    def _regular(self, full: str, node: Node, parent: int, name: str, folder: int | None) -> None:
        found = node.found
        mode = stat.S_IMODE(found.st_mode)
        if self.manner.mode is not None:
            mode = self.manner.mode(mode, False)
        source = self.tree.open(full, node) if folder is None else self.tree.open_in(folder, full, node)
        try:
            out = os.open(name, _CREATE, mode & 0o777, dir_fd=parent)
            try:
                if 0 < found.st_size <= _SMALL:
                    _copy_small(source, out, found.st_size)
                elif found.st_size:
                    files.copy_range(source, out, 1 << 62)
                if found.st_size:
                    self.tree.check(full, node, source)
                self._dress(out, mode, self.owner(node))
                if self.tree.owned:
                    for key, value in xattrs_of(source).items():
                        os.setxattr(out, key, value)
                os.utime(out, ns=(found.st_mtime_ns, found.st_mtime_ns))
            finally:
                os.close(out)
        finally:
            os.close(source)

    def _dress(self, out: int, mode: int, owner: tuple[int, int]) -> None:
        """Owner and mode of a new file, where it was not made with them."""
        made = os.fstat(out)
        if not self.plain or (made.st_uid, made.st_gid) != owner:
            owners.give(out, *owner)
            os.fchmod(out, mode)  # after fchown, which clears set-id bits
        elif stat.S_IMODE(made.st_mode) != mode:
            os.fchmod(out, mode)


def copy_contents(root: Root, tree: Tree, target: Target, manner: Manner) -> None:
    """All of a directory's contents into the target's root."""
    fd = safepath.reopen(target.fd, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _Copier(tree, manner).contents(root, fd)
    finally:
        os.close(fd)


def manner_of(target: Target, chown: str, chmod: str) -> Manner:
    """--chown and --chmod as a Manner; names are looked up in the target's image."""
    return Manner(
        owner=target.owner(chown) if chown else None,
        mode=modes.parse(chmod) if chmod else None,
    )
