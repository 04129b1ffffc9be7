"""Namespaces: making, joining and mapping ids.

`setgroups` must be denied before an unprivileged gid map is written (user_namespaces(7)); newuidmap and newgidmap write
the maps that need /etc/subuid's permission.
"""

from __future__ import annotations

import errno
import os

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# runtime-spec type: (clone flag, name under /proc/<pid>/ns)
TYPES = {
    "user": (CLONE_NEWUSER, "user"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "uts": (CLONE_NEWUTS, "uts"),
    "network": (CLONE_NEWNET, "net"),
    "pid": (CLONE_NEWPID, "pid"),
    "time": (CLONE_NEWTIME, "time"),
    "mount": (CLONE_NEWNS, "mnt"),
}
_NAMES = {flag: kind for kind, (flag, _) in TYPES.items()}


def names_of(flags: int) -> str:
    """The namespaces in `flags`, as words for a message."""
    return ", ".join(kind for flag, kind in _NAMES.items() if flags & flag) or "nothing"


def unshare(flags: int) -> None:
    """Move this process into new namespaces (for pid and time: its future children)."""
    native = getattr(os, "unshare", None)  # Python 3.12
    try:
        if native is not None:
            native(flags)
        else:
            syscalls.call("unshare", flags)
    except OSError as error:
        raise _failure(error, f"new {names_of(flags)} namespace") from error


def setns(fd: int, flags: int = 0) -> None:
    """Join the namespace behind `fd`, or (a pidfd, Linux 5.8) those namespaces of a process that `flags` name."""
    native = getattr(os, "setns", None)  # Python 3.12
    try:
        if native is not None:
            native(fd, flags)
        else:
            syscalls.call("setns", fd, flags)
    except OSError as error:
        raise _failure(error, f"join {names_of(flags)} namespace") from error


def _failure(error: OSError, doing: str) -> OSError:
    return syscalls.failure(error.errno or errno.EIO, doing)


def write_id_maps(
    pid: int,
    uid_map: Sequence[tuple[int, int, int]],
    gid_map: Sequence[tuple[int, int, int]],
    *,
    search: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
) -> None:
    """Map the ids of the user namespace that process `pid` is the first of; entries are (inside, outside, size).

    Written directly where we may (privileged, or one entry mapping ourselves), otherwise by newuidmap and newgidmap,
    found in `search`. FailedPrecondition says what the host lacks. Must be called from outside of the new namespace.
    """
    for entries in (uid_map, gid_map):
        if not entries or any(min(entry) < 0 or entry[2] < 1 for entry in entries):
            raise InvalidArgument(f"an id map needs entries (inside, outside, size > 0), got {list(entries)}")
    if _is_self(uid_map, os.geteuid()) and os.geteuid():
        _write(pid, "uid_map", uid_map)
    elif not _try_write(pid, "uid_map", uid_map):
        _by_program("newuidmap", pid, uid_map, search)
    if _is_self(gid_map, os.getegid()) and os.geteuid():
        with open(f"/proc/{pid}/setgroups", "wb") as file:
            file.write(b"deny")
        _write(pid, "gid_map", gid_map)
    elif not _try_write(pid, "gid_map", gid_map):
        _by_program("newgidmap", pid, gid_map, search)


def _is_self(entries: Sequence[tuple[int, int, int]], own: int) -> bool:
    return len(entries) == 1 and entries[0][1:] == (own, 1)


def _write(pid: int, name: str, entries: Sequence[tuple[int, int, int]]) -> None:
    # One write call: the kernel takes the whole map at once and only once.
    text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in entries)
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise _failure(error, f"write {name} of process {pid}") from error
    finally:
        os.close(fd)


def _try_write(pid: int, name: str, entries: Sequence[tuple[int, int, int]]) -> bool:
    try:
        _write(pid, name, entries)
    except PermissionError:
        return False
    return True


def _by_program(program: str, pid: int, entries: Sequence[tuple[int, int, int]], search: str) -> None:
    path = next((full for place in search.split(":") if os.access(full := f"{place}/{program}", os.X_OK)), "")
    if not path:
        raise FailedPrecondition(
            f"{program} is not installed, and mapping more than one id needs it",
            hint="install the package uidmap (shadow-utils), or run with a single mapped id",
        )
    arguments = [program, str(pid), *(str(number) for entry in entries for number in entry)]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, writer, 2), (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
        child = os.posix_spawn(path, arguments, {"PATH": search}, file_actions=actions)
        os.close(writer)
        writer = -1
        said = b""
        while chunk := os.read(reader, 4096):
            said += chunk
        _, status = os.waitpid(child, 0)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if status:
        raise FailedPrecondition(
            f"{program} refused the map {list(entries)}: {said.decode(errors='replace').strip() or 'no reason given'}",
            hint="the user needs a large enough range in /etc/subuid and /etc/subgid, and the program its set-uid bit",
        )


def identity(path: str) -> tuple[int, int]:
    """(device, inode) of a namespace file: equal for two paths exactly when they are the same namespace."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
