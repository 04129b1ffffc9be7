"""Processes: identity, forking into namespaces, descriptors, prctl, limits."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.linux import process, syscalls
from orlop.linux.namespaces import CLONE_NEWPID, CLONE_NEWUTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.linux.conftest import InChild


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until it is killed."""
    child = subprocess.Popen(["sleep", "1000"])
    yield child
    child.kill()
    child.wait()


def test_a_process_is_its_pid_and_its_start(sleeper: subprocess.Popen[bytes]) -> None:
    """The pair identifies a running process; another start time, a zombie or a free pid is not it."""
    ticks = process.start_ticks(sleeper.pid)
    assert process.alive(sleeper.pid, ticks)
    assert not process.alive(sleeper.pid, ticks + 1)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert process.start_ticks(sleeper.pid) == ticks
    assert not process.alive(sleeper.pid, ticks)
    sleeper.wait()
    assert not process.alive(sleeper.pid, ticks)
    with pytest.raises(ProcessLookupError, match=f"process {sleeper.pid} does not exist"):
        process.start_ticks(sleeper.pid)


def test_a_hostile_name_does_not_shift_the_fields(in_child: InChild) -> None:
    """A process name full of parentheses and blanks leaves the start time readable."""

    def body() -> bool:
        before = process.start_ticks(os.getpid())
        process.set_name(") R 1 2 (x")
        return process.start_ticks(os.getpid()) == before

    assert in_child(body)


def test_wait_gone(sleeper: subprocess.Popen[bytes]) -> None:
    """It waits no longer than told, sees an end that nobody reaped, and takes a reused pid for another process."""
    ticks = process.start_ticks(sleeper.pid)
    assert not process.wait_gone(sleeper.pid, ticks, 0)
    assert process.wait_gone(sleeper.pid, ticks + 1, 0)
    timer = threading.Timer(0.05, sleeper.kill)
    timer.start()
    assert process.wait_gone(sleeper.pid, ticks)
    timer.join()
    sleeper.wait()
    assert process.wait_gone(sleeper.pid, ticks)


def test_pidfds_signal_and_share(sleeper: subprocess.Popen[bytes]) -> None:
    """A pidfd signals its process, copies its descriptors, and refuses after it was reaped."""
    pidfd = process.pidfd_open(sleeper.pid)
    try:
        copy = process.pidfd_getfd(pidfd, 1)
        assert os.path.sameopenfile(copy, 1) or os.fstat(copy).st_ino == os.fstat(1).st_ino
        os.close(copy)
        process.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert sleeper.wait() == -signal.SIGTERM
        with pytest.raises(ProcessLookupError, match="send signal 15"):
            process.pidfd_send_signal(pidfd, signal.SIGTERM)
    finally:
        os.close(pidfd)


def test_thread_count_sees_every_thread() -> None:
    """The count goes up with a thread and down when it has ended."""
    before = process.thread_count()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert process.thread_count() == before + 1
    with pytest.raises(FailedPrecondition, match="threads") as caught:
        process.fork_into(CLONE_NEWUTS)
    assert "Spawner" in caught.value.hint
    stop.set()
    thread.join()
    while process.thread_count() > before:  # the kernel's thread ends a moment after Python's
        os.sched_yield()


def test_fork_into_is_the_first_of_its_pid_namespace() -> None:
    """The child is pid 1 of a new pid namespace at once, and Python works in it: imports, threads, further forks."""
    reader, writer = os.pipe()
    pid = process.fork_into(CLONE_NEWPID | CLONE_NEWUTS)
    if pid == 0:
        thread = threading.Thread(target=lambda: os.write(writer, f"{os.getpid()} ".encode()))
        thread.start()
        thread.join()
        inner = os.fork()
        if inner == 0:
            os._exit(3)
        _, status = os.waitpid(inner, 0)
        os.write(writer, f"{inner} {os.waitstatus_to_exitcode(status)} {threading.active_count()}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == "1 3 3 1"  # the thread was 2
    assert os.waitpid(pid, 0) == (pid, 0)


def test_fork_into_runs_the_fork_hooks(in_child: InChild) -> None:
    """os.register_at_fork hooks run around a raw clone as they do around os.fork."""

    def body() -> list[str]:
        calls: list[str] = []
        os.register_at_fork(
            before=lambda: calls.append("before"),
            after_in_parent=lambda: calls.append("parent"),
            after_in_child=lambda: os._exit(40 + len(calls)),
        )
        pid = process.fork_into(CLONE_NEWUTS)
        _, status = os.waitpid(pid, 0)
        return [*calls, str(os.waitstatus_to_exitcode(status))]

    assert in_child(body) == ["before", "parent", "41"]


def test_fork_into_says_what_was_refused(in_child: InChild) -> None:
    """Without the privilege the error names the namespaces, and the parent goes on."""

    def body() -> None:
        os.setresuid(12345, 12345, 12345)
        process.fork_into(CLONE_NEWPID | CLONE_NEWUTS)

    with pytest.raises(PermissionError, match=r"new namespaces \(uts, pid\): Operation not permitted"):
        in_child(body)


def test_fork_into_a_cgroup(in_child: InChild) -> None:
    """With a v2 cgroup's descriptor the child is born in it."""
    from orlop.linux import cgroups

    unified = cgroups.detect().unified
    if not unified:
        pytest.fail("this machine has a cgroup v2 mount")
    path = f"{unified}/orlop-test-born-{os.getpid()}"
    os.mkdir(path)
    fd = os.open(path, os.O_RDONLY)
    try:

        def body() -> str:
            pid = process.fork_into(CLONE_NEWUTS, cgroup_fd=fd)
            if pid == 0:
                with open("/proc/self/cgroup") as file:
                    found = file.read()
                os._exit(7 if f"0::/{os.path.basename(path)}\n" in found else 8)
            return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

        assert in_child(body) == "7"
    finally:
        os.close(fd)
        os.rmdir(path)


def test_close_fds_except_closes_all_others(in_child: InChild) -> None:
    """Only the listed descriptors survive, in whatever order and however high they are; unopened ones are no error."""

    def body() -> list[int]:
        high = os.dup2(os.open("/dev/null", os.O_RDONLY), 900)
        keep = {0, 1, 2, high, 5000, -1, *(int(fd) for fd in os.listdir("/proc/self/fd") if is_report(int(fd)))}
        process.close_fds_except(keep)
        still = []
        for fd in range(1000):
            try:
                os.fstat(fd)
            except OSError:
                continue
            still.append(fd)
        return [fd for fd in still if fd not in keep] + [high if high in still else -1]

    def is_report(fd: int) -> bool:
        try:
            return os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
        except OSError:
            return False

    assert in_child(body) == [900]


def test_prctls_take_effect(in_child: InChild) -> None:
    """no_new_privs, the name, the death signal, dumpable and the subreaper flag are what was set."""

    def body() -> list[object]:
        process.set_no_new_privs()
        process.set_name("a-name-longer-than-fifteen")
        process.set_child_subreaper()
        process.set_dumpable(False)
        process.set_pdeathsig(signal.SIGKILL)
        process.set_keepcaps(True)
        with open("/proc/self/status") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        buffer = bytearray(b"\0")
        del buffer
        return [
            status["NoNewPrivs"],
            status["Name"],
            process.prctl(3),  # PR_GET_DUMPABLE
            process.prctl(7),  # PR_GET_KEEPCAPS
        ]

    assert in_child(body) == ["1", "a-name-longer-t", 0, 1]


def test_a_domain_name_is_the_namespaces_own(in_child: InChild) -> None:
    """set_domainname shows in /proc/sys/kernel/domainname of a new UTS namespace only."""

    def body() -> str:
        process.set_domainname("example.org")
        with open("/proc/sys/kernel/domainname") as file:
            return file.read().strip()

    assert in_child(body, flags=CLONE_NEWUTS) == "example.org"


def test_limits_are_set_or_cut(in_child: InChild) -> None:
    """A limit within reach is set silently; beyond what we may have it is cut to that, and the text says so."""

    def body() -> list[object]:
        os.setresuid(12345, 12345, 12345)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        first = process.set_rlimit_clamped("RLIMIT_NOFILE", 100, hard)
        set_to = resource.getrlimit(resource.RLIMIT_NOFILE)
        second = process.set_rlimit_clamped("RLIMIT_NOFILE", hard + 1000, hard + 2000)
        cut_to = resource.getrlimit(resource.RLIMIT_NOFILE)
        third = process.set_rlimit_clamped("RLIMIT_NOFILE", 50, hard + 2000)
        return [
            first,
            set_to == (100, hard),
            str(hard) in second,
            cut_to == (hard, hard),
            third != "",
            soft > 0,
            resource.getrlimit(resource.RLIMIT_NOFILE) == (50, hard),
        ]

    assert in_child(body) == ["", True, True, True, True, True, True]


def test_unlimited_is_minus_one_and_the_largest_numbers(in_child: InChild) -> None:
    """-1 and 2**64-1 both mean no limit."""

    def body() -> list[object]:
        results: list[object] = []
        for value in (-1, (1 << 64) - 1):
            results.append(process.set_rlimit_clamped("RLIMIT_CPU", value, value))
            results.append(resource.getrlimit(resource.RLIMIT_CPU) == (resource.RLIM_INFINITY,) * 2)
        return results

    assert in_child(body) == ["", True, "", True]


def test_an_unknown_limit_is_refused() -> None:
    """A name that is no limit is InvalidArgument, also one that names another constant of the module."""
    for name in ("RLIMIT_NONSENSE", "RLIM_INFINITY", "error"):
        with pytest.raises(InvalidArgument, match=name):
            process.set_rlimit_clamped(name, 1, 1)
    with pytest.raises(InvalidArgument, match="RLIMIT_NOFILE soft 20 hard 10"):
        process.set_rlimit_clamped("RLIMIT_NOFILE", 20, 10)


def test_a_system_call_error_names_the_call() -> None:
    """call() raises the OSError subclass of the errno, with the call's name or what was being done."""
    with pytest.raises(FileNotFoundError, match="umount2: No such file"):
        syscalls.call("umount2", b"/nowhere", 0)
    with pytest.raises(FileNotFoundError, match="take it off: No such file"):
        syscalls.call("umount2", b"/nowhere", 0, doing="take it off")
    with pytest.raises(OSError, match="no system call number is known"):
        syscalls.call("nonsense")
    assert syscalls.supported("openat2", -1, None, None, 0)
    assert not syscalls.supported(1_000_000)
