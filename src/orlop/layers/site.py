"""A directory tree under construction from archive entries, where nothing an entry says can reach outside.

The tree begins empty and belongs to one builder, so the builder knows which names are directories because it made
them. A path is opened only through such directories, from the root with openat2 and no symlinks allowed; a symlink on
an entry's way is read and resolved here, inside the tree, as a chroot would.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import InvalidArgument
from orlop.layers import merged, whiteouts
from orlop.layers.sharing import CREATE, File, Sharing
from orlop.layers.tarentry import BLOCK_DEVICE, CHAR, FILE, SYMLINK, Entry
from orlop.layers.tree import KINDS, copy_data
from orlop.linux import owners, safepath
from orlop.linux.files import lgetxattrs, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_HELD = 64  # directories kept open
_SHARED = 1 << 20  # bytes of the largest file that may be made later: its data stay in memory until then
_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS
_SKIPPED_XATTRS = ("security.selinux",)  # labels are the host's policy, not the image's
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)
_WARNINGS = 20


def umask() -> int:
    """This process' umask, without the moment of another one that asking with os.umask() costs all threads."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777  # a kernel before 4.7: every mode is set explicitly then


class Site:
    """The tree at `target`, which must be an empty directory that nobody else changes.

    `below` are the trees of lower layers, uppermost first; None when they are not known yet. `finish` must be called at
    the end: only then directories have their modes, owners, attributes and times.
    """

    def __init__(self, target: str, *, below: Sequence[str] | None, userxattr: bool = False) -> None:
        self.below = below
        self._userxattr = userxattr
        self.needs_below = False
        self.warnings: list[str] = []
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._umask = umask()
        self._root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._open: dict[str, int] = {"": self._root}
        self._dirs: dict[str, Entry] = {"": Entry("", mode=0o755, mtime=0)}
        self._inner: dict[str, set[str]] = {}  # the directories in each directory
        self._amend: set[str] = set()  # directories whose mode was not, or not only, given to mkdir
        self._opaque: set[str] = set()
        self._sharing = Sharing() if len(os.sched_getaffinity(0)) > 1 else None
        # What the target inherited must not spread: a set-group-ID bit gives files its group, a default ACL theirs.
        os.fchmod(self._root, 0o700)
        try:
            os.removexattr(self._root, "system.posix_acl_default")
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENODATA):
                raise

    def close(self) -> None:
        """Give back all descriptors."""
        if self._sharing is not None:
            self._sharing.__exit__()
        while self._open:
            os.close(self._open.popitem()[1])

    def _settle(self, path: str = "") -> None:
        """Have all files that are to be made later; with a `path`, only if it is one of them."""
        sharing = self._sharing
        if sharing is None or (path and path not in sharing.pending):
            return
        for file in sharing.settle():
            self._clear(file.parent, file.name, file.path)
            file.make()

    # --- finding places

    def _fd(self, path: str) -> int:
        """An O_PATH descriptor of a directory we made."""
        fd = self._open.get(path)
        if fd is None:
            if len(self._open) >= _HELD:
                self._settle()
                for name in [name for name in self._open if name]:
                    os.close(self._open.pop(name))
            fd = self._open[path] = safepath.open_no_links(self._root, path, os.O_PATH | os.O_DIRECTORY)
        return fd

    def _parent(self, path: str, cause: Entry) -> tuple[int, str]:
        """Where an entry of directory `path` goes: a descriptor and the real path. Missing directories are made."""
        fd = self._open.get(path)
        if fd is not None:
            return fd, path
        if path not in self._dirs:
            path = self._resolve(path, cause)
        return self._fd(path), path

    def _resolve(self, path: str, cause: Entry | None) -> str:
        """The real path of directory `path`, through symlinks of this tree and of `below`, never above the root.

        Missing directories are made when there is a `cause`; without one NotADirectoryError is raised.
        """
        self._settle()
        todo = path.split("/")
        todo.reverse()
        real = ""
        links = 0
        while todo:
            part = todo.pop()
            if part in {"", "."}:
                continue
            if part == "..":
                real = real.rpartition("/")[0]
                continue
            here = f"{real}/{part}" if real else part
            if here in self._dirs:
                real = here
                continue
            link = self._step(real, part, here, cause)
            if link is None:
                real = here
                continue
            links += 1
            if links > _MAX_LINKS:
                raise InvalidArgument(f"{path!r} leads through too many symlinks")
            if link.startswith("/"):
                real = ""
            todo += reversed(link.split("/"))
        return real

    def _step(self, real: str, part: str, here: str, cause: Entry | None) -> str | None:
        """Make `here` a directory (None), or say where the symlink that is there leads."""
        parent = self._fd(real)
        gone = False
        try:
            info = os.stat(part, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            link = self._link_below(here)
            if link is not None:
                return link
        else:
            if stat.S_ISLNK(info.st_mode):
                return os.readlink(part, dir_fd=parent)
            gone = self._is_whiteout(parent, part, info)
            if not gone:
                raise NotADirectoryError(errno.ENOTDIR, "Not a directory", here)
        if cause is None:
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", here)
        self._implicit(parent, part, here, cause, gone=gone)
        return None

    def _link_below(self, path: str) -> str | None:
        """The target of the symlink that the lower layers have at `path`, if they have one."""
        if not self.below:
            return None
        found = merged.look(self.below, path)
        if found is None or not stat.S_ISLNK(found[1].st_mode):
            return None
        return os.readlink(f"{found[0]}/{path}")

    def _implicit(self, parent: int, name: str, path: str, cause: Entry, *, gone: bool) -> None:
        """Make a directory that the archive has no entry for: as the one it covers in the lower layers, else 0755."""
        made = Entry(path, mode=0o755, mtime=cause.mtime)
        if self.below is None:
            self.needs_below = True
        elif self.below and not gone:
            found = merged.look(self.below, path)
            if found is not None and stat.S_ISDIR(found[1].st_mode):
                tree, info = found[0], owners.told(found[1], f"{found[0]}/{path}")
                made.mode, made.uid, made.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
                made.mtime = info.st_mtime_ns
                made.xattrs = lgetxattrs(f"{tree}/{path}")
        if gone:
            os.unlink(name, dir_fd=parent)
            self._opaque.add(path)
        self._mkdir(parent, name, path, made)

    # --- making things

    def directory(self, path: str, entry: Entry) -> None:
        """A directory entry. One that is there keeps its content and takes the new metadata."""
        if path in self._dirs:
            self._dirs[path] = entry
            self._amend.add(path)
            return
        above, _, name = path.rpartition("/")
        parent, above = self._parent(above, entry)
        path = f"{above}/{name}" if above else name
        if path in self._dirs:
            self._dirs[path] = entry
            self._amend.add(path)
            return
        self._settle(path)
        try:
            self._mkdir(parent, name, path, entry)
        except FileExistsError:
            if self._is_whiteout(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False)):
                self._opaque.add(path)
            os.unlink(name, dir_fd=parent)
            self._mkdir(parent, name, path, entry)

    def _mkdir(self, parent: int, name: str, path: str, entry: Entry) -> None:
        mode = entry.mode
        # The owner's bits are needed while we build, unless we are root; what is inside would inherit set-ID bits.
        os.mkdir(name, (mode & 0o777) | 0o700, dir_fd=parent)
        if mode & (0o7000 | self._umask) or mode & 0o700 != 0o700:
            self._amend.add(path)
        self._dirs[path] = entry
        above = path.rpartition("/")[0]
        self._inner.setdefault(above, set()).add(path)

    def place(self, path: str, entry: Entry) -> None:
        """Any other entry; what was at `path` before, a whole directory too, is replaced."""
        above, _, name = path.rpartition("/")
        parent, above = self._parent(above, entry)
        path = f"{above}/{name}" if above else name
        self._settle(path)
        if self._sharing is not None and entry.kind == FILE and self._share(self._sharing, parent, name, path, entry):
            return
        try:
            self._make(parent, name, entry)
        except FileExistsError:
            self._clear(parent, name, path)
            self._make(parent, name, entry)

    def _share(self, sharing: Sharing, parent: int, name: str, path: str, entry: Entry) -> bool:
        """Have a plain file made now or later; False for one that is better made at once."""
        if entry.size > _SHARED or entry.xattrs or entry.extents is not None or path in self._dirs:
            return False
        if type(entry) is not Entry:
            return False  # its content is elsewhere
        foreign = entry.uid != self._uid or entry.gid != self._gid
        due = sharing.add(
            File(
                parent,
                name,
                path,
                shown=entry.name,
                mode=entry.mode,
                mtime=entry.mtime,
                owner=(entry.uid, entry.gid) if foreign else None,
                amend=bool(entry.mode & (0o7000 | self._umask)),
                pieces=tuple(entry.chunks()),
            )
        )
        if due:
            self._settle()
        return True

    def _make(self, parent: int, name: str, entry: Entry) -> None:
        kind = entry.kind
        if kind == FILE:
            self._file(parent, name, entry)
            return
        if kind == SYMLINK:
            os.symlink(entry.link.encode("utf-8", "surrogateescape"), name, dir_fd=parent)
        elif kind in {CHAR, BLOCK_DEVICE}:
            mode = entry.mode & 0o777 | (stat.S_IFCHR if kind == CHAR else stat.S_IFBLK)
            owners.make_node(name, mode, os.makedev(entry.major, entry.minor), dir_fd=parent)
        else:
            os.mkfifo(name, entry.mode & 0o777, dir_fd=parent)
        if entry.uid != self._uid or entry.gid != self._gid:
            owners.give(name, entry.uid, entry.gid, dir_fd=parent, mtime=entry.mtime)
        if kind != SYMLINK and entry.mode & (0o7000 | self._umask):
            os.chmod(name, entry.mode, dir_fd=parent)
        if entry.xattrs:
            self._set_xattrs(f"/proc/self/fd/{parent}/{name}", entry)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _file(self, parent: int, name: str, entry: Entry) -> None:
        mode = entry.mode
        fd = os.open(name, CREATE, mode & 0o777, dir_fd=parent)
        try:
            if entry.size:
                entry.save(fd)
            if entry.uid != self._uid or entry.gid != self._gid:
                owners.give(fd, entry.uid, entry.gid)
            # After the owner, because a change of owner clears set-ID bits (and capabilities, below).
            if mode & (0o7000 | self._umask):
                os.fchmod(fd, mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def link(self, path: str, target: str, entry: Entry) -> bool:
        """A hard link to `target`; False when there is no such file in this tree nor below."""
        above, _, name = path.rpartition("/")
        parent, above = self._parent(above, entry)
        path = f"{above}/{name}" if above else name
        self._settle()
        source = self._existing(target)
        if source is None:
            return self._copy_up(path, target, entry)
        folder, _, base = source.rpartition("/")
        if source == path:
            return True
        if source.startswith(f"{path}/"):
            raise InvalidArgument(f"hard link {path!r} would replace a directory that holds its target")
        # Opening one directory may close others that were held: the first is duplicated while both are needed.
        parent = os.dup(self._fd(above))
        try:
            os.link(base, name, src_dir_fd=self._fd(folder), dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            self._clear(parent, name, path)
            os.link(base, name, src_dir_fd=self._fd(folder), dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
        return True

    def _existing(self, target: str) -> str | None:
        """The real path of a non-directory in this tree."""
        above, _, name = target.rpartition("/")
        try:
            above = above if above in self._dirs else self._resolve(above, None)
            info = os.stat(name, dir_fd=self._fd(above), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(info.st_mode):
            raise InvalidArgument(f"a hard link to {target!r}, which is a directory")
        if self._is_whiteout(self._fd(above), name, info):
            raise InvalidArgument(f"a hard link to {target!r}, which this layer removes")
        return f"{above}/{name}" if above else name

    def _copy_up(self, path: str, target: str, entry: Entry) -> bool:
        """A hard link to a file of a lower layer: the file is copied into this one, under both names."""
        if not self.below:
            return False
        above, _, name = target.rpartition("/")
        _, above = self._parent(above, entry)
        target = f"{above}/{name}" if above else name
        found = merged.look(self.below, target)
        if found is None or stat.S_ISDIR(found[1].st_mode):
            return False
        self.place(target, _lower_entry(f"{found[0]}/{target}", target, found[1]))
        return path == target or self.link(path, target, entry)

    def whiteout(self, path: str, entry: Entry) -> None:
        """Hide the lower layers' `path`. What this layer has at `path` stays, a directory then is opaque."""
        above, _, name = path.rpartition("/")
        parent, above = self._parent(above, entry)
        path = f"{above}/{name}" if above else name
        if path in self._dirs:
            self._opaque.add(path)
            return
        self._settle(path)
        try:
            whiteouts.make_whiteout(parent, name)
        except FileExistsError:
            return

    @staticmethod
    def _is_whiteout(parent: int, name: str, info: os.stat_result) -> bool:
        return whiteouts.is_whiteout(info, f"/proc/self/fd/{parent}/{name}")

    def opaque(self, path: str, entry: Entry) -> None:
        """Hide all that the lower layers have in directory `path`."""
        if path not in self._dirs:
            _, path = self._parent(path, entry)
        self._opaque.add(path)

    def _clear(self, parent: int, name: str, path: str) -> None:
        """Remove what is at `path`, so that something else can take its place."""
        self._settle()
        if path not in self._dirs:
            os.unlink(name, dir_fd=parent)
            return
        gone = [path]
        while gone:
            inner = gone.pop()
            del self._dirs[inner]
            self._amend.discard(inner)
            self._opaque.discard(inner)
            if inner in self._open:
                os.close(self._open.pop(inner))
            gone += self._inner.pop(inner, ())
        self._inner[path.rpartition("/")[0]].discard(path)
        remove_tree(f"/proc/self/fd/{parent}/{name}")

    # --- attributes

    def _set_xattrs(self, place: int | str, entry: Entry) -> None:
        """Set an entry's attributes on an fd, or on a path that is not followed."""
        for name, value in entry.xattrs.items():
            if whiteouts.is_overlay_xattr(name) or name in _SKIPPED_XATTRS or name.startswith(owners.XATTR):
                continue
            try:
                os.setxattr(
                    place, name.encode("utf-8", "surrogateescape"), value, follow_symlinks=isinstance(place, int)
                )
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                if len(self.warnings) < _WARNINGS:
                    self.warnings.append(f"{entry.name}: attribute {name} was left out: {error.strerror}")

    def finish(self, *, implicit_root: str | None = None) -> None:
        """Give all directories their final metadata, children before parents; `implicit_root` is set on the root."""
        self._settle()
        root = self._root
        if implicit_root is not None:
            self._dirs[""].xattrs = {implicit_root: b"implicit"}
        for path in reversed(self._dirs):
            entry = self._dirs[path]
            foreign = entry.uid != self._uid or entry.gid != self._gid
            if path in self._amend or path in self._opaque or foreign or entry.xattrs or not path:
                self._finish_directory(path, entry)
            else:
                os.utime(path, ns=(entry.mtime, entry.mtime), dir_fd=root, follow_symlinks=False)

    def _finish_directory(self, path: str, entry: Entry) -> None:
        fd = safepath.open_no_links(self._root, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            owners.give(fd, entry.uid, entry.gid)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            if path in self._opaque:
                whiteouts.make_opaque(fd, userxattr=self._userxattr)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)


class _LowerFile(Entry):
    """A file of another tree as an entry: its content is copied, its holes too."""

    __slots__ = ("source",)

    source: str

    def save(self, fd: int) -> None:
        """Copy the content to a new, empty file."""
        source = os.open(self.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            copy_data(source, fd, self.size)
        finally:
            os.close(source)


def _lower_entry(source: str, name: str, info: os.stat_result) -> Entry:
    info = owners.told(info, source)
    kind = KINDS[stat.S_IFMT(info.st_mode)]
    entry = _LowerFile(
        name,
        kind,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        size=info.st_size if kind == FILE else 0,
        mtime=info.st_mtime_ns,
        link=os.readlink(source) if kind == SYMLINK else "",
        major=os.major(info.st_rdev),
        minor=os.minor(info.st_rdev),
        xattrs=lgetxattrs(source),
    )
    entry.source = source
    return entry
