"""Processes: making them in new namespaces, telling them apart, prctl, pidfds, resource limits.

A pid alone is no identity: pids are reused. A process is (pid, start ticks): field 22 of /proc/<pid>/stat, set once.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from orlop.errors import FailedPrecondition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_SIGCHLD = 17
_CLONE_PIDFD = 0x1000
_CLONE_INTO_CGROUP = 0x200000000
_CLONE_ARGS_SIZE = 88  # CLONE_ARGS_SIZE_VER2 (linux/sched.h): eleven 64-bit fields, the last one `cgroup`
_MAX_FD = 0xFFFFFFFF


def prctl(option: int, argument: int | bytes = 0, *, doing: str = "") -> int:
    """Set one option of the process; OSError says `doing`."""
    from orlop.linux import syscalls  # ctypes: 2 ms, and those who only look at processes need none

    return syscalls.call("prctl", option, argument, 0, 0, 0, doing=doing or f"prctl {option}")


def set_pdeathsig(signal: int) -> None:
    """Get `signal` when the parent thread dies. Cleared by executing a set-uid file or changing credentials.

    The parent may be gone already: check os.getppid() after the call.
    """
    prctl(PR_SET_PDEATHSIG, signal, doing="set the parent death signal")


def set_child_subreaper(on: bool = True) -> None:  # the kernel's own switch
    """Become the parent of orphaned descendants."""
    prctl(PR_SET_CHILD_SUBREAPER, int(on), doing="become a child subreaper")


def set_no_new_privs() -> None:
    """Forbid this process and its descendants, for good, to gain privileges by execve."""
    prctl(PR_SET_NO_NEW_PRIVS, 1, doing="set no_new_privs")


def set_dumpable(on: bool) -> None:  # the kernel's own switch
    """Whether other processes of our user may trace us and read our memory and /proc/<pid>/fd."""
    prctl(PR_SET_DUMPABLE, int(on), doing="set dumpable")


def set_name(name: str) -> None:
    """The thread's name as ps shows it; the kernel keeps 15 bytes."""
    prctl(PR_SET_NAME, os.fsencode(name)[:15] + b"\0", doing="set the process name")


def set_keepcaps(on: bool) -> None:  # the kernel's own switch
    """Keep permitted capabilities over the next change from uid 0 to others (the effective ones are lost anyway)."""
    prctl(PR_SET_KEEPCAPS, int(on), doing="set keepcaps")


def set_domainname(name: str) -> None:
    """The NIS domain name of this UTS namespace."""
    from orlop.linux import syscalls  # as in prctl

    data = os.fsencode(name)
    syscalls.call("setdomainname", data, len(data), doing=f"set the domain name {name}")


def pidfd_open(pid: int) -> int:
    """A descriptor of the process: readable when it ends. ProcessLookupError when it is gone."""
    return os.pidfd_open(pid)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal exactly the process behind `pidfd`; ProcessLookupError when it has been reaped."""
    from orlop.linux import syscalls  # as in prctl

    syscalls.call("pidfd_send_signal", pidfd, signal, None, 0, doing=f"send signal {signal}")


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of another process' descriptor (needs the right to trace it)."""
    from orlop.linux import syscalls  # as in prctl

    return syscalls.call("pidfd_getfd", pidfd, fd, 0, doing=f"copy descriptor {fd}")


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot; ProcessLookupError when it does not exist.

    A zombie still has its value; see `alive`.
    """
    return int(_stat_fields(pid)[19])


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third (state) on; the name before them may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} does not exist") from error
    return text[text.rindex(b")") + 2 :].decode("ascii").split(" ")


def alive(pid: int, ticks: int) -> bool:
    """Whether the process (pid, start ticks) still runs; a zombie does not."""
    try:
        fields = _stat_fields(pid)
    except ProcessLookupError:
        return False
    return int(fields[19]) == ticks and fields[0] not in "ZX"


def wait_gone(pid: int, ticks: int, timeout: float | None = None) -> bool:
    """Wait until the process (pid, start ticks) has ended: True, or False after `timeout` seconds (None: no end).

    It need not be our child. A child of ours is not reaped.
    """
    import select  # an extension module that few commands need

    try:
        pidfd = pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # Checked after opening: from here on the descriptor, not the number, is the process.
        if not alive(pid, ticks):
            return True
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0, timeout) * 1000))
    finally:
        os.close(pidfd)


_LEAVING = 50  # milliseconds
_LEAVING_SURELY = 5000


def thread_count() -> int:
    """The threads of this process, also those Python does not know of."""
    return os.stat("/proc/self/task").st_nlink - 2


def close_fds_except(keep: Iterable[int]) -> None:
    """Close every descriptor that is not in `keep`, also those somebody opened behind our back."""
    first = 0
    for fd in sorted({fd for fd in keep if fd >= 0}):
        if fd > first:
            _close_range(first, fd - 1)
        first = fd + 1
    _close_range(first, _MAX_FD)


def _close_range(first: int, last: int) -> None:
    from orlop.linux import syscalls  # as in prctl

    try:
        syscalls.call("close_range", first, last, 0)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):  # EPERM: an old seccomp profile around us
            raise
        for name in os.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                try:
                    os.close(int(name))
                except OSError:  # the listing's own descriptor is gone already
                    continue


def require_one_thread() -> None:
    """FailedPrecondition where a fork that goes on in Python would be unsafe.

    A thread that was joined a moment ago may still be on its way out of the kernel: it is waited for.
    """
    count = thread_count()
    # those that Python no longer knows are on their way: for certain, however long a busy machine lets them wait
    alone = len(sys._current_frames()) == 1  # noqa: SLF001  # public, but for its name
    for _ in range(_LEAVING_SURELY if alone else _LEAVING):
        if count == 1:
            return
        time.sleep(0.001)
        count = thread_count()
    if count > 1:
        raise FailedPrecondition(
            f"this process has {count} threads, so it cannot be forked safely",
            hint="go through a Spawner that was started before the first thread",
        )


def fork_into(flags: int = 0, *, cgroup_fd: int = -1) -> int:
    """Fork a child that starts its life in new namespaces (CLONE_NEW* `flags`): 0 in the child, its pid in the parent.

    One system call does what fork + unshare need two processes for (CLONE_NEWPID), and with `cgroup_fd` (a cgroup v2
    directory, Linux 5.7) the child is also born in that cgroup. Refused when the process has more than one thread. The
    child has Python's state put right as after os.fork(); it must not rely on pthread_atfork handlers of C libraries.
    """
    require_one_thread()
    if not flags and cgroup_fd < 0:
        return os.fork()
    import ctypes  # as in prctl

    from orlop.linux import syscalls

    hooks = ctypes.pythonapi
    hooks.PyOS_BeforeFork()
    # PyDLL keeps the interpreter lock: nothing else may run between the hooks.
    pid = _clone(flags, cgroup_fd)
    if pid == 0:
        hooks.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    hooks.PyOS_AfterFork_Parent()
    if pid < 0:
        from orlop.linux.namespaces import names_of  # only for the message

        raise syscalls.failure(code, f"start a process in new namespaces ({names_of(flags)})")
    return pid


def _clone(flags: int, cgroup_fd: int) -> int:
    import ctypes  # as in prctl

    from orlop.linux import syscalls

    syscall = ctypes.PyDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    if cgroup_fd >= 0:
        fields = [flags | _CLONE_INTO_CGROUP, 0, 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd]
        arguments = b"".join(field.to_bytes(8, "little") for field in fields)
        pid: int = syscall(ctypes.c_long(syscalls.number("clone3")), arguments, ctypes.c_long(_CLONE_ARGS_SIZE))
        return pid
    # clone(2) and not clone3: profiles that cannot look behind clone3's pointer answer it with ENOSYS.
    zero = ctypes.c_long(0)
    number = ctypes.c_long(syscalls.number("clone"))
    result: int = syscall(number, ctypes.c_long(flags | _SIGCHLD), zero, zero, zero, zero)
    return result


def set_rlimit_clamped(name: str, soft: int, hard: int) -> str:
    """Set a resource limit ("RLIMIT_NOFILE"...; -1 is unlimited) of this process.

    Where we may not raise the hard limit, both are cut to it and the returned text says so; otherwise it is empty.
    InvalidArgument for a name that this system does not have.
    """
    import resource  # an extension module that few runs need

    from orlop.errors import InvalidArgument  # only for the message

    number = getattr(resource, name, None) if name.startswith("RLIMIT_") else None
    if number is None:
        raise InvalidArgument(f"{name} is not a resource limit of this system")
    soft, hard = (resource.RLIM_INFINITY if value < 0 or value >= 1 << 63 else value for value in (soft, hard))
    try:
        resource.setrlimit(number, (soft, hard))
    except (ValueError, PermissionError) as error:
        highest = resource.getrlimit(number)[1]
        cut = _lower(soft, highest), _lower(hard, highest)
        if cut == (soft, hard):
            raise InvalidArgument(f"{name} soft {soft} hard {hard}: {error}") from error
        resource.setrlimit(number, (min(cut) if min(cut) >= 0 else cut[0], cut[1]))
        return f"{name} was cut to {highest}, the highest this host allows us (asked: soft {soft}, hard {hard})"
    return ""


def _lower(value: int, limit: int) -> int:
    """The lower of two limits, where -1 is no limit."""
    if limit < 0:
        return value
    return limit if value < 0 else min(value, limit)
