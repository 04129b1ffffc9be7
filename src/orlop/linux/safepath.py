"""Paths inside a tree that somebody else controls: image contents, container file systems, build contexts, volumes.

Two questions, each answered by openat2(2) in one step and by a walk of O_NOFOLLOW opens where the kernel or a seccomp
filter has no openat2:

- *in root*: as if chroot-ed. Absolute symlinks and ".." stay inside the root. For paths a container names.
- *beneath*: anything that would leave the tree, or an absolute path, is an error (EXDEV). For paths we derive.

Neither follows magic links (/proc/<pid>/fd, /proc/<pid>/root) and neither can be led outside by somebody who swaps
directories for symlinks, or moves them, while we look.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_HOW_SIZE = 24  # struct open_how: flags, mode, resolve, 64 bits each (linux/openat2.h)
_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS
_RETRIES = 128  # openat2 answers EAGAIN when a rename or mount happened during a ".."
_PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_PROC_SUPER_MAGIC = 0x9FA0
_FEW = 32


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as a process chroot-ed to `root_fd` would: the new descriptor (O_CLOEXEC always set).

    Symlinks, also the last one unless O_NOFOLLOW is given, resolve inside the root. Intermediate directories are not
    created. OSError names the path.
    """
    return _open(root_fd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_beneath(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` below `root_fd`; OSError(EXDEV) when it is absolute or any part of it leads outside."""
    return _open(root_fd, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)


def open_no_links(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """As open_beneath, and OSError(ELOOP) when any component of `path`, the last one too, is a symlink."""
    return _open(root_fd, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS)


class _Kernel:
    """Whether openat2 works here; learned at the first call, for old kernels and seccomp filters of a CI container."""

    has_openat2 = True
    walked = 0  # how often we did without, to save the loading of ctypes


def _open(root_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    if "\0" in path:
        raise OSError(errno.EINVAL, f"open {path!r}: a path cannot hold a NUL")
    if not flags & (os.O_CREAT | _O_TMPFILE_BIT):
        mode = 0  # openat2 refuses a mode that means nothing
    if resolve & RESOLVE_NO_SYMLINKS and _Kernel.walked < _FEW and "_ctypes" not in sys.modules:
        # Two small files are all that most starts look for: without links that is two calls a component.
        _Kernel.walked += 1
        return walk(root_fd, path, flags | os.O_CLOEXEC, mode, resolve)
    if _Kernel.has_openat2:
        try:
            return _openat2(root_fd, path, flags | os.O_CLOEXEC, mode, resolve)
        except OSError as error:
            # EPERM is what seccomp profiles older than openat2 answer; the walk tells a real one apart
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            if error.errno == errno.ENOSYS:
                _Kernel.has_openat2 = False
    return walk(root_fd, path, flags | os.O_CLOEXEC, mode, resolve)


_O_TMPFILE_BIT = os.O_TMPFILE & ~os.O_DIRECTORY


def _openat2(root_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = (
        flags.to_bytes(8, "little") + (mode & 0o7777).to_bytes(8, "little") + resolve.to_bytes(8, "little")
    )  # both machines we know are little-endian
    from orlop.linux import syscalls  # ctypes: 2 ms

    for _ in range(_RETRIES):
        try:
            return syscalls.call("openat2", root_fd, os.fsencode(path) or b".", how, _HOW_SIZE, doing=f"open {path}")
        except BlockingIOError:
            continue  # a rename crossed our "..": resolve again
    raise OSError(errno.EAGAIN, f"open {path}: the tree keeps changing")


class _Walk:
    """A resolution without openat2: a stack of held directories, the root at the bottom, so that ".." only ever pops.

    Holding the parents (instead of opening "..") is what makes a moved directory harmless: we go back to where we came
    from, never to where the directory is now.
    """

    __slots__ = ("beneath", "links", "no_links", "path", "stack", "todo")

    def __init__(self, root_fd: int, path: str, resolve: int) -> None:
        self.path = path
        self.beneath = bool(resolve & RESOLVE_BENEATH)
        self.no_links = bool(resolve & RESOLVE_NO_SYMLINKS)
        self.links = 0
        self.todo = _parts(path)
        self.stack = [os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)]
        if self.beneath and path.startswith("/"):
            self.close()
            raise self.failure(errno.EXDEV)

    def failure(self, code: int) -> OSError:
        return OSError(code, f"open {self.path}: {os.strerror(code)}")

    def close(self) -> None:
        while self.stack:
            os.close(self.stack.pop())

    def up(self) -> None:
        if len(self.stack) > 1:
            os.close(self.stack.pop())
        elif self.beneath:
            raise self.failure(errno.EXDEV)

    def follow(self, target: str) -> None:
        """Put a symlink's target in front of what is left to do."""
        self.links += 1
        if self.no_links or self.links > _MAX_LINKS:
            raise self.failure(errno.ELOOP)
        if target.startswith("/"):
            if self.beneath:
                raise self.failure(errno.EXDEV)
            while len(self.stack) > 1:
                os.close(self.stack.pop())
        self.todo[:0] = _parts(target)

    def to_parent(self) -> str:
        """Resolve everything but the last component; its name ("." when the path ends in a directory we hold)."""
        while self.todo:
            part = self.todo.pop(0)
            if part == ".":
                continue
            if part == "..":
                self.up()
                continue
            if not self.todo:
                return part
            self.enter(part)
        return "."

    def enter(self, part: str) -> bool:
        """Go into the directory `part`: True. Or follow it when it is a symlink: False, and its target is next."""
        try:
            fd = os.open(part, _PATH_FLAGS, dir_fd=self.stack[-1])
        except OSError as error:
            raise self.failure(error.errno or errno.EIO) from error
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            self.stack.append(fd)
            return True
        try:
            if not stat.S_ISLNK(kind):
                raise self.failure(errno.ENOTDIR)
            target = self.link(fd)
        finally:
            os.close(fd)
        self.follow(target)
        return False

    def link(self, fd: int) -> str:
        """The target of an opened symlink, which must not be a magic one."""
        if self.no_links:
            raise self.failure(errno.ELOOP)
        target = os.readlink("", dir_fd=fd)
        # procfs has plain links too (self, mounts, net): relative, and without the colon of "pipe:[1]", "anon_inode:x"
        if (target.startswith("/") or ":" in target) and _on_procfs(fd):
            raise self.failure(errno.ELOOP)
        return target


def _on_procfs(fd: int) -> bool:
    import ctypes  # 2 ms, and only who walks by a link needs a buffer

    from orlop.linux import syscalls

    buffer = ctypes.create_string_buffer(256)
    syscalls.call("fstatfs", fd, buffer)
    return int.from_bytes(buffer.raw[:8], "little") == _PROC_SUPER_MAGIC


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    if path.endswith(("/", "/.")) and parts and parts[-1] not in (".", ".."):
        parts.append(".")  # a trailing slash asks for a directory
    return parts


def walk(root_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """What openat2 does with `resolve`, as a walk: the fallback, public so that one contract suite can test both."""
    steps = _Walk(root_fd, path, resolve)
    try:
        while True:
            fd = _last(steps, flags, mode)
            if fd is not None:
                return fd
    finally:
        steps.close()


def _last(steps: _Walk, flags: int, mode: int) -> int | None:
    """Open the last component; None after it turned out to be a symlink, whose target is then next."""
    name = steps.to_parent()
    here = steps.stack[-1]
    try:
        if flags & os.O_PATH and not flags & os.O_NOFOLLOW:
            fd = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=here)
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
        else:
            return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=here)
    except OSError as error:
        # ENOTDIR: O_DIRECTORY on a symlink; ELOOP: anything else on one
        if error.errno not in (errno.ELOOP, errno.ENOTDIR) or flags & os.O_NOFOLLOW or flags & os.O_EXCL:
            raise steps.failure(error.errno or errno.EIO) from error
        code = error.errno
    else:
        code = errno.ELOOP
    try:
        fd = os.open(name, _PATH_FLAGS, dir_fd=here)
    except OSError as error:
        raise steps.failure(error.errno or errno.EIO) from error
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            raise steps.failure(code)
        target = steps.link(fd)
    finally:
        os.close(fd)
    steps.follow(target)
    return None


def mkdirs_in_root(root_fd: int, path: str, mode: int = 0o755, *, owner: tuple[int, int] | None = None) -> int:
    """Make `path` and its missing parents inside the root, and return an O_PATH descriptor of the directory.

    Symlinks on the way resolve inside the root; a dangling one gets its target made, as a chroot-ed
    `mkdir -p $(realpath)` would. New directories get exactly `mode` (the umask is undone) and `owner` (uid, gid); those
    there stay as they are.
    """
    steps = _Walk(root_fd, path, RESOLVE_IN_ROOT)
    try:
        while steps.todo:
            part = steps.todo.pop(0)
            if part == "..":
                steps.up()
            elif part != ".":
                _make(steps, part, mode, owner)
        return os.dup(steps.stack[-1])
    finally:
        steps.close()


def _make(steps: _Walk, part: str, mode: int, owner: tuple[int, int] | None) -> None:
    here = steps.stack[-1]
    made = True
    try:
        os.mkdir(part, mode & 0o777, dir_fd=here)
    except FileExistsError:
        made = False
    except OSError as error:
        raise steps.failure(error.errno or errno.EIO) from error
    if not steps.enter(part) or not made:
        return
    # Opened for real: O_PATH descriptors take neither fchmod nor fchown. What we entered is ours, or a swapped-in
    # directory of the same tree, never a symlink.
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=steps.stack[-1])
    try:
        if owner is not None:
            from orlop.linux import owners  # only for those who make image trees

            owners.give(fd, *owner)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def resolve_in_root(root: str, path: str, *, missing_ok: bool = False) -> str:
    """The absolute host path that `path` means inside the directory `root`, all symlinks resolved, never outside it.

    With `missing_ok` the components that do not exist yet are kept as they are. Whoever uses the answer after the tree
    could have changed must open it with open_in_root instead: a path is only true for a moment.
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not missing_ok:
            fd = open_in_root(root_fd, path, os.O_PATH)
            try:
                return path_of(fd)
            finally:
                os.close(fd)
        return _resolve_missing(root_fd, path)
    finally:
        os.close(root_fd)


def _resolve_missing(root_fd: int, path: str) -> str:
    steps = _Walk(root_fd, path, RESOLVE_IN_ROOT)
    tail: list[str] = []  # components below the last directory that exists
    try:
        while steps.todo:
            part = steps.todo.pop(0)
            if part == ".":
                continue
            if part == "..":
                if tail:
                    tail.pop()
                else:
                    steps.up()
            elif tail:
                tail.append(part)
            else:
                _enter_or_note(steps, part, tail)
        return "/".join([path_of(steps.stack[-1]).rstrip("/"), *tail]) or "/"
    finally:
        steps.close()


def _enter_or_note(steps: _Walk, part: str, tail: list[str]) -> None:
    try:
        steps.enter(part)
    except FileNotFoundError:
        tail.append(part)
    except NotADirectoryError:
        if steps.todo:
            raise
        tail.append(part)


def read_in_root(root_fd: int, path: str, limit: int) -> bytes | None:
    """At most `limit` bytes of the regular file that `path` means inside the root; None when there is none.

    Anything else is not even opened: the opening of a device may do things (a watchdog starts, a tape winds).
    """
    try:
        place = open_in_root(root_fd, path, os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return None
        raise
    try:
        found = os.fstat(place)
        if not stat.S_ISREG(found.st_mode):
            return None
        if not found.st_size:
            return b""  # procfs' files have no size, and to read some of them (kmsg) is to take
        file = reopen(place, os.O_RDONLY | os.O_NONBLOCK)
    finally:
        os.close(place)
    try:
        pieces = []
        while limit > 0 and (piece := os.read(file, min(limit, 1 << 20))):
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(file)


def path_of(fd: int) -> str:
    """The path of an open descriptor as the kernel knows it now (/proc/self/fd)."""
    return os.readlink(f"/proc/self/fd/{fd}")


def reopen(fd: int, flags: int) -> int:
    """Open an O_PATH descriptor for real use, with `flags`: the thing itself, whatever its name means by now."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
