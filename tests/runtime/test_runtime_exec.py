"""Other programs in a running container: as much inside as the container's own, and ours to wait for."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE

from orlop.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OrlopError,
    ResourceExhausted,
)
from orlop.linux import cgroups, namespaces
from orlop.runtime import arrival, execute
from orlop.runtime.errors import ProgramNotFound, ProgramRefused
from orlop.runtime.testing import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.runtime.creation import Created
    from orlop.runtime.testing import Box


@pytest.fixture
def running(box: Box) -> Iterator[Created]:
    created = box.running("/bin/sleep", "1000")
    yield created
    if created.container.alive:
        box.kill(created)


def test_it_is_in_the_container(box: Box, running: Created) -> None:
    """Namespaces, cgroups, root and limits are those of the container's own program."""
    box.linux["resources"] |= {"pids": {"limit": 50}}
    script = "for n in /proc/self/ns/*; do readlink $n; done; grep -E 'Cap|Seccomp' /proc/self/status"
    mine = box.execute(running, "/bin/sh", "-c", script).out.splitlines()
    for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup"):
        assert os.readlink(f"/proc/{running.container.pid}/ns/{kind}") in mine
    assert "CapBnd:\t00000000a80425fb" in mine


def test_it_joins_the_cgroup(box: Box, running: Created) -> None:
    """While it runs it is counted in the container's cgroup."""
    with open("/dev/null", "rb+") as null:
        started = execute.begin(
            running.container.id,
            box.process | {"args": ["sleep", "1000"]},
            state_root=box.state_root,
            stdio=(null.fileno(),) * 3,
        )
    assert started.pid in cgroups.Cgroup(running.container.cgroup).pids()
    os.kill(started.pid, 9)
    assert execute.wait(started.pid) == 137


@pytest.mark.parametrize("code", [0, 1, 77])
def test_the_exit_code(box: Box, running: Created, code: int) -> None:
    """The exit code is the program's; 128 and the signal when one ended it."""
    assert box.execute(running, "/bin/sh", "-c", f"exit {code}").code == code
    assert box.execute(running, "/bin/sh", "-c", "kill -TERM $$").code == 143


def test_user_folder_and_environment(box: Box, running: Created) -> None:
    """Who, where and with which environment it runs are its own; a folder that is missing is not made."""
    result = box.execute(
        running,
        "/bin/sh",
        "-c",
        "id -u; pwd; echo $A $HOME",
        user={"uid": 1000, "gid": 1000},
        cwd="/tmp",
        env=["PATH=/bin", "A=b"],
    )
    assert result.out.split() == ["1000", "/tmp", "b", "/home/user"]
    with pytest.raises(FailedPrecondition, match="/not/there"):
        box.execute(running, "/bin/true", cwd="/not/there")
    assert not (box.rootfs / "not").exists()


def test_programs_that_are_not_there(box: Box, running: Created) -> None:
    """127 and 126, as for the container's own program; the container is not harmed."""
    with pytest.raises(ProgramNotFound):
        box.execute(running, "nothing")
    with pytest.raises(ProgramRefused):
        box.execute(running, "/etc/passwd")
    (box.rootfs / "bin/odd").write_bytes(b"#!/bin/nothing\n")
    (box.rootfs / "bin/odd").chmod(0o755)
    with pytest.raises(ProgramNotFound, match="no such interpreter"):
        box.execute(running, "odd")
    assert box.status(running) == "running"


def test_a_timeout_kills(box: Box, running: Created) -> None:
    """A program that outlives its timeout is killed with its children, and the caller is told."""
    with open("/dev/null", "rb+") as null, pytest.raises(DeadlineExceeded):
        execute.execute(
            running.container.id,
            box.process | {"args": ["sh", "-c", "sleep 1000 & sleep 1000"]},
            state_root=box.state_root,
            stdio=(null.fileno(),) * 3,
            timeout=0.05,
        )
    until(lambda: cgroups.Cgroup(running.container.cgroup).pids() == [running.container.pid])


def test_a_stopped_container_cannot_be_entered(box: Box, running: Created) -> None:
    """Nothing can be executed where nothing runs, nor in a container that does not exist, nor what is no process."""
    with pytest.raises(NotFound):
        execute.begin("nothing", box.process, state_root=box.state_root)
    with pytest.raises(InvalidArgument):
        execute.begin(running.container.id, {"cwd": "relative"}, state_root=box.state_root)
    box.kill(running)
    with pytest.raises(FailedPrecondition, match="stopped"):
        box.execute(running, "/bin/true")


def test_a_terminal(box: Box, running: Created) -> None:
    """With a terminal the program has one of the container's own, of the size asked for."""
    given_process = box.process | {
        "args": ["sh", "-c", "tty; stty size; ps -o tty,sid | tail -1; read line; echo got $line"],
        "terminal": True,
        "consoleSize": {"height": 33, "width": 44},
    }
    started = execute.begin(running.container.id, given_process, state_root=box.state_root)
    try:
        os.write(started.terminal, b"typed\n")
        assert execute.wait(started.pid) == 0
        said = b""
        while select.select([started.terminal], [], [], PATIENCE)[0]:  # it ends with an error: nobody is there any more
            try:
                said += os.read(started.terminal, 4096)
            except OSError:
                break
    finally:
        os.close(started.terminal)
    assert b"/dev/pts/0" in said
    assert b"33 44" in said
    assert b"got typed" in said


def test_inner_cgroups(box: Box) -> None:
    """A program can be put into a cgroup below the container's, which must be there."""
    created = box.running("/bin/sleep", "1000")
    inner = cgroups.Cgroup(f"{created.container.cgroup}/inner")
    inner.create()
    started = execute.begin(
        created.container.id, box.process | {"args": ["sleep", "1000"]}, state_root=box.state_root, cgroup="inner"
    )
    assert inner.pids() == [started.pid]
    os.kill(started.pid, 9)
    execute.wait(started.pid)
    with pytest.raises(NotFound):
        execute.begin(created.container.id, box.process, state_root=box.state_root, cgroup="nothing")
    box.kill(created)


def test_affinity(box: Box, running: Created) -> None:
    """ExecCPUAffinity is where the program runs."""
    result = box.execute(
        running, "/bin/grep", "Cpus_allowed_list", "/proc/self/status", execCPUAffinity={"initial": "0", "final": "0"}
    )
    assert result.out.split()[-1] == "0"


def test_entering_by_the_hosts_namespaces(box: Box) -> None:
    """A container that shares namespaces with the host is entered by those that it does not share."""
    box.without("pid")
    box.without("network")
    created = box.running("/bin/sleep", "1000")
    out = box.execute(created, "/bin/sh", "-c", "readlink /proc/self/ns/net; readlink /proc/self/ns/mnt").out.split()
    assert out == [os.readlink("/proc/self/ns/net"), os.readlink(f"/proc/{created.container.pid}/ns/mnt")]
    assert namespaces.identity("/proc/self/ns/net") == namespaces.identity(f"/proc/{created.container.pid}/ns/net")
    box.kill(created)


def test_our_interpreter_stays_outside(box: Box, running: Created) -> None:
    """While a program enters, no interpreter of ours has a number in the container's PID namespace."""
    seen: list[list[str]] = []
    kept: list[int] = []

    def look(master: int) -> None:
        kept.append(os.dup(master))
        with open("/proc/thread-self/children") as file:
            for pid in file.read().split():
                with contextlib.suppress(OSError):  # what has ended has no program any more
                    if int(pid) != running.container.pid and "python" in os.readlink(f"/proc/{pid}/exe"):
                        with open(f"/proc/{pid}/status") as status:
                            seen.extend(line.split()[1:] for line in status if line.startswith("NSpid:"))

    given_process = box.process | {"args": ["true"], "terminal": True}
    for _ in range(5):
        started = execute.begin(running.container.id, given_process, state_root=box.state_root, console=look)
        assert execute.wait(started.pid) == 0
    for fd in kept:
        os.close(fd)
    assert not [numbers for numbers in seen if len(numbers) > 1]


def test_a_profile_without_clone(box: Box) -> None:
    """Where seccomp forbids what the trampoline needs to fork, a program is still entered, the other way."""
    box.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["clone", "clone3", "fork", "vfork"], "action": "SCMP_ACT_ERRNO"}],
    }
    created = box.running("/bin/sleep", "1000")
    result = box.execute(created, "/bin/readlink", "/proc/self/ns/pid")
    assert result.out.split() == [os.readlink(f"/proc/{created.container.pid}/ns/pid")]
    assert box.execute(created, "/bin/sh", "-c", "(true); echo lives").code != 0  # the shell cannot fork
    box.kill(created)


def test_no_more_processes(box: Box) -> None:
    """In a container that may have no more processes, a start fails and says so; nothing of it is left."""
    box.linux["resources"] |= {"pids": {"limit": 1}}
    created = box.running("/bin/sleep", "1000")
    with pytest.raises(ResourceExhausted, match="takes no more processes"):
        box.execute(created, "/bin/true")
    until(lambda: cgroups.Cgroup(created.container.cgroup).pids() == [created.container.pid])
    box.kill(created)


def test_only_our_child_is_believed(box: Box, running: Created) -> None:
    """What others write to the trampoline's socket, before or after it, is not taken for its word (or an error)."""
    for forged in (b"", b"\1\0\0\0", b"\xff\xff\xff\xff", b"long and wrong"):
        news = arrival.Arrival()
        liar = os.fork()
        if liar == 0:
            for _ in range(3):
                os.write(news.fd, forged)
            os._exit(0)
        os.waitpid(liar, 0)
        honest = os.fork()
        if honest == 0:
            os.write(news.fd, (4242).to_bytes(4, "little"))
            os._exit(0)
        assert news.wait(honest, running.container) == (4242, b"")
        news.close()


def test_a_trampoline_that_dies(running: Created) -> None:
    """When the trampoline's process ends without a word, the start fails, though somebody holds its socket open."""
    news = arrival.Arrival()
    silent = os.fork()
    if silent == 0:
        os._exit(0)
    with pytest.raises(Internal, match="died"):
        news.wait(silent, running.container)
    os.write(news.fd, b"late")
    news.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(silent, 0)


@given(st.sets(st.integers(0, 200), max_size=20))
def test_cpu_lists_come_back(cpus: set[int]) -> None:
    """Any set of CPUs, written as the kernel writes lists, is read as that set."""
    assert execute.cpu_set(",".join(str(cpu) for cpu in sorted(cpus))) == cpus


@given(st.text(max_size=12))
def test_cpu_lists_are_read_or_refused(text: str) -> None:
    """Any text is a list of CPUs or InvalidArgument."""
    try:
        found = execute.cpu_set(text)
    except OrlopError:
        return
    assert all(0 <= cpu <= 4096 for cpu in found)
