"""The life of a container: created, running, paused, stopped, gone; and what each verb may do when."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from orlop.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
)
from orlop.linux import cgroups
from orlop.runtime import lifecycle
from orlop.runtime import state as states
from orlop.runtime.errors import ProgramNotFound, ProgramRefused
from orlop.runtime.testing import until

if TYPE_CHECKING:
    from pathlib import Path

    from orlop.runtime.testing import Box


def test_a_life(box: Box) -> None:
    """Created, running, stopped, gone: each verb moves the container on, and the state says the truth at every step."""
    created = box.create("/bin/sleep", "100")
    assert box.status(created) == "created"
    assert box.execute(created, "/bin/true").code == 0  # a created container can be entered, as with runc

    box.start(created)
    assert box.status(created) == "running"
    state = lifecycle.state(created.container.id, state_root=box.state_root)
    assert state["pid"] == created.container.pid
    assert state["bundle"] == str(box.bundle)

    lifecycle.kill(created.container.id, signal.SIGKILL, state_root=box.state_root)
    assert box.end(created) == 137
    assert box.status(created) == "stopped"
    assert lifecycle.state(created.container.id, state_root=box.state_root)["pid"] == 0

    lifecycle.delete(created.container.id, state_root=box.state_root)
    with pytest.raises(NotFound):
        box.status(created)


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_is_the_programs(box: Box, code: int) -> None:
    """The program's exit code arrives."""
    assert box.sh(f"exit {code}").code == code


def test_the_program_is_what_was_asked_for(box: Box) -> None:
    """Arguments, environment, folder, user, groups, umask and hostname are those of the spec."""
    box.spec["process"] |= {
        "env": ["PATH=/bin", "WHO=a b=c"],
        "cwd": "/new/place",
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o027},
    }
    box.spec["hostname"] = "ship"
    result = box.sh('id -u; id -g; id -G; umask; pwd; echo "$WHO"; hostname; echo "$HOME"; echo $$')

    assert result.out.split("\n")[:-1] == [
        "1000",
        "1001",
        "1001 5 6",
        "0027",
        "/new/place",
        "a b=c",
        "ship",
        "/home/user",
        "1",
    ]


def test_starting_twice_is_refused(box: Box) -> None:
    """Only a created container can be started."""
    created = box.running("/bin/sleep", "100")
    with pytest.raises(FailedPrecondition, match="running"):
        box.start(created)
    box.kill(created)
    with pytest.raises(FailedPrecondition, match="stopped"):
        box.start(created)


def test_an_id_is_taken_once(box: Box) -> None:
    """Two containers cannot share an id; the second attempt leaves the first alone."""
    created = box.running("/bin/sleep", "100")
    with pytest.raises(AlreadyExists, match=created.container.id):
        box.create("/bin/true", name=created.container.id)
    assert box.status(created) == "running"
    box.kill(created)


def test_a_running_container_is_not_deleted(box: Box) -> None:
    """`delete` refuses what runs, and with force kills it first."""
    created = box.running("/bin/sleep", "100")
    with pytest.raises(FailedPrecondition, match="running"):
        lifecycle.delete(created.container.id, state_root=box.state_root)
    lifecycle.delete(created.container.id, state_root=box.state_root, force=True)
    assert box.leftovers() == []


def test_a_created_container_is_not_deleted(box: Box) -> None:
    """What was created and never started is not stopped: it goes by force only, and its init with it."""
    created = box.create("/bin/sleep", "100")
    with pytest.raises(FailedPrecondition, match="created"):
        lifecycle.delete(created.container.id, state_root=box.state_root)
    assert box.status(created) == "created"
    lifecycle.delete(created.container.id, state_root=box.state_root, force=True)
    assert not created.container.alive


def test_deleting_nothing(box: Box) -> None:
    """`delete` of an unknown container is an error, unless forced."""
    with pytest.raises(NotFound):
        lifecycle.delete("nothing", state_root=box.state_root)
    lifecycle.delete("nothing", state_root=box.state_root, force=True)


def test_signals_arrive(box: Box) -> None:
    """A signal sent by `kill` reaches the program."""
    flag = box.folder / "flag"
    flag.mkdir()
    box.bind(flag, "/flag")
    created = box.running("/bin/sh", "-c", "trap 'exit 33' USR1; touch /flag/ready; while :; do sleep 0.01; done")
    until((flag / "ready").exists)
    lifecycle.kill(created.container.id, signal.SIGUSR1, state_root=box.state_root)
    assert box.end(created) == 33
    with pytest.raises(FailedPrecondition, match="stopped"):
        lifecycle.kill(created.container.id, signal.SIGUSR1, state_root=box.state_root)


def test_pausing(box: Box) -> None:
    """A paused container says so, cannot be entered, can be killed; a resumed one goes on."""
    created = box.running("/bin/sleep", "100")
    lifecycle.pause(created.container.id, state_root=box.state_root)
    assert box.status(created) == "paused"
    with pytest.raises(FailedPrecondition, match="paused"):
        box.execute(created, "/bin/true")
    with pytest.raises(FailedPrecondition):
        lifecycle.pause(created.container.id, state_root=box.state_root)
    lifecycle.resume(created.container.id, state_root=box.state_root)
    assert box.status(created) == "running"
    assert box.execute(created, "/bin/true").code == 0
    lifecycle.pause(created.container.id, state_root=box.state_root)
    lifecycle.kill(created.container.id, signal.SIGKILL, state_root=box.state_root)
    assert box.end(created) == 137


def test_all_processes_can_be_killed(box: Box) -> None:
    """Without a PID namespace of its own, SIGKILL to the container ends all of its processes, not only the first."""
    box.without("pid")
    created = box.running("/bin/sh", "-c", "sleep 100 & sleep 100 & wait")
    until(lambda: len(lifecycle.processes(created.container.id, state_root=box.state_root)) == 3)
    lifecycle.kill(created.container.id, signal.SIGKILL, state_root=box.state_root)
    box.end(created)
    until(lambda: not cgroups.Cgroup(created.container.cgroup).pids())


def test_limits_hold_from_the_first_instruction(box: Box) -> None:
    """The program is in its cgroup, with its limits, before it runs; they can be changed while it does."""
    box.linux["resources"] |= {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    created = box.create("/bin/sleep", "100")
    group = cgroups.Cgroup(created.container.cgroup)
    assert group.pids() == [created.container.pid]
    assert group.stats()["memory"]["limit"] == 64 << 20
    assert group.stats()["pids"]["limit"] == 20

    box.start(created)
    lifecycle.update(created.container.id, {"memory": {"limit": 32 << 20}}, state_root=box.state_root)
    assert lifecycle.stats(created.container.id, state_root=box.state_root)["memory"]["limit"] == 32 << 20
    box.kill(created)


@pytest.mark.parametrize("argv", [["/bin/nothing"], ["nothing"], ["./nothing"], [""], ["/etc/passwd/x"]])
def test_a_missing_program_is_found_out_by_create(box: Box, argv: list[str]) -> None:
    """No such program: `create` says so, with the exit code 127 for faces, and nothing is left."""
    with pytest.raises(ProgramNotFound) as caught:
        box.create(*argv)
    assert caught.value.exit_code == 127
    assert box.leftovers() == []


@pytest.mark.parametrize(("argv", "word"), [(["/etc"], "directory"), (["/etc/passwd"], "permission denied")])
def test_what_is_no_program_is_refused(box: Box, argv: list[str], word: str) -> None:
    """Folders and files without the execute bit are refused with 126 and the reason."""
    with pytest.raises(ProgramRefused, match=word) as caught:
        box.create(*argv)
    assert caught.value.exit_code == 126


def test_shell_builtins_are_explained(box: Box) -> None:
    """`cd` as a program: the hint says what was meant."""
    (box.rootfs / "bin/cd").unlink(missing_ok=True)
    with pytest.raises(ProgramNotFound) as caught:
        box.create("cd", "/tmp")
    assert "sh -c" in caught.value.hint


def _elf(machine: int) -> bytes:
    header = bytearray(b"\x7fELF\x02\x01\x01" + bytes(57))
    header[16:20] = (2).to_bytes(2, "little") + machine.to_bytes(2, "little")
    return bytes(header)


_WRONG: list[tuple[bytes, type[OrlopError], str]] = [
    (_elf(183), ProgramRefused, "the binary is arm64, the host is amd64"),
    (b"#!/bin/bash\necho\n", ProgramNotFound, "'/bin/bash': no such interpreter in the image"),
    (b"#!/bin/sh\r\necho\n", ProgramNotFound, "no such interpreter"),
    (b"echo hello\n", ProgramRefused, "neither a binary nor a script"),
    (b"", ProgramRefused, "the file is empty"),
]


@pytest.mark.parametrize(("content", "kind", "words"), _WRONG)
def test_programs_that_cannot_run_are_explained(box: Box, content: bytes, kind: type[OrlopError], words: str) -> None:
    """What `execve` refuses is explained by what the file is: another machine's, a script without interpreter..."""
    path = box.rootfs / "bin/odd"
    path.write_bytes(content)
    path.chmod(0o755)
    created = box.create("odd")
    with pytest.raises(kind, match=words):
        box.start(created)
    box.end(created)
    assert box.status(created) == "stopped"


def test_a_missing_loader_is_named(box: Box) -> None:
    """A dynamic binary without its loader: the message names the loader, not "no such file"."""
    shutil.copy("/bin/ls", box.rootfs / "bin/dynamic")
    (box.rootfs / "bin/dynamic").chmod(0o755)
    created = box.create("dynamic")
    with pytest.raises(ProgramNotFound, match="ld-linux"):
        box.start(created)
    box.end(created)


def test_state_is_told_by_the_kernel(box: Box) -> None:
    """A container whose init died unseen is stopped, whoever its parent was and whatever the files say."""
    created = box.running("/bin/sleep", "100")
    os.kill(created.container.pid, signal.SIGKILL)
    until(lambda: box.status(created) == "stopped")
    box.end(created)


def test_a_reused_pid_is_another_process(box: Box) -> None:
    """A container is (pid, start time): another process under its pid does not make it run, and gets no signal."""
    created = box.running("/bin/sleep", "100")
    with states.lock(box.state_root, created.container.id) as directory:
        directory.write(created.container.replace(pid=os.getpid()))
    assert box.status(created) == "stopped"
    with pytest.raises(FailedPrecondition):
        lifecycle.kill(created.container.id, signal.SIGKILL, state_root=box.state_root)
    with states.lock(box.state_root, created.container.id) as directory:
        directory.write(created.container)
    box.kill(created)


def test_a_dead_makers_remains_are_taken_over(box: Box) -> None:
    """The folder of a maker that was killed does not block its id: the next `create` clears it, cgroup and all."""
    name = box.new_id()
    directory, _ = states.claim(box.state_root, name)
    group = cgroups.Cgroup(f"/orlop/{name}")
    group.create()
    directory.write(states.Container(id=name, bundle="/gone", cgroup=group.path))
    with pytest.raises(AlreadyExists):
        box.create("/bin/true", name=name)  # its maker still holds the lock
    with pytest.raises(Conflict):
        lifecycle.delete(name, state_root=box.state_root)
    directory.close()

    created = box.create("/bin/true", name=name)
    assert box.status(created) == "created"


def test_an_abandoned_folder_can_be_deleted(box: Box) -> None:
    """What a killed maker left goes by `delete`, too."""
    name = box.new_id()
    directory, _ = states.claim(box.state_root, name)
    directory.close()
    assert lifecycle.state(name, state_root=box.state_root)["status"] == "stopped"
    lifecycle.delete(name, state_root=box.state_root)
    assert not os.path.exists(f"{box.state_root}/{name}")


def test_listing(box: Box) -> None:
    """All containers below a state root are listed with their status, and nothing else is."""
    first, second = box.running("/bin/sleep", "100"), box.create("/bin/true")
    rows = lifecycle.list_containers(state_root=box.state_root)
    assert {(row["id"], row["status"]) for row in rows} == {
        (first.container.id, "running"),
        (second.container.id, "created"),
    }
    assert lifecycle.list_containers(state_root=f"{box.folder}/none") == []
    box.kill(first)


_BROKEN: list[tuple[dict[str, Any], type[OrlopError]]] = [
    ({"ociVersion": "2.0.0"}, InvalidArgument),
    ({"root": {"path": "nowhere"}}, NotFound),
    ({"mounts": [{"destination": "/x", "type": "bind", "source": "/nowhere", "options": ["bind"]}]}, NotFound),
    ({"mounts": [{"destination": "/x", "type": "nosuchfs", "source": "x"}]}, OrlopError),
    ({"mounts": [{"destination": "/x", "type": "tmpfs", "source": "x", "options": ["size=banana"]}]}, InvalidArgument),
]


@pytest.mark.parametrize(("change", "kind"), _BROKEN)
def test_broken_bundles_leave_nothing(box: Box, change: dict[str, Any], kind: type[OrlopError]) -> None:
    """Whatever `create` refuses, it leaves no process, no cgroup and no folder."""
    box.spec |= change
    with pytest.raises(kind) as caught:
        box.create("/bin/true")
    assert caught.value.message
    assert box.leftovers() == []


def test_without_a_bundle(box: Box) -> None:
    """A folder without config.json is NotFound, with a hint."""
    with pytest.raises(NotFound) as caught:
        lifecycle.create(f"{box.folder}/none", box.new_id(), state_root=box.state_root)
    assert caught.value.hint


def test_the_pid_file_holds_the_hosts_pid(box: Box, tmp_path: Path) -> None:
    """The pid file has the first process' pid, in decimal, without a newline (as runc writes it)."""
    created = box.create("/bin/true", pid_file=str(tmp_path / "pid"))
    assert (tmp_path / "pid").read_text() == str(created.container.pid)


def test_descriptors_are_passed_in_only_when_asked(box: Box) -> None:
    """Beyond the standard streams the program has no descriptor, unless preserve_fds says so."""
    script = "ls /proc/self/fd | wc -l; cat <&3"
    reader, writer = os.pipe()
    os.write(writer, b"through\n")
    os.close(writer)
    kept = os.dup(3) if _is_open(3) else -1
    try:
        os.dup2(reader, 3, inheritable=True)
        assert "through" in box.sh(script, preserve_fds=1).out
        assert "through" not in box.sh(script).out
    finally:
        os.close(reader)
        if kept >= 0:
            os.dup2(kept, 3)
            os.close(kept)
        elif reader != 3:
            os.close(3)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_rlimits(box: Box) -> None:
    """Resource limits are set; one that may not be raised so high is cut, with a warning."""
    box.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    assert box.sh("ulimit -Sn; ulimit -Hn; ulimit -c").out.split() == ["100", "200", "0"]


def test_oom_score(box: Box) -> None:
    """OomScoreAdj is the program's."""
    box.process["oomScoreAdj"] = 321
    assert box.sh("cat /proc/self/oom_score_adj").out == "321\n"


def test_capabilities_and_no_new_privileges(box: Box) -> None:
    """The five sets, no_new_privs and the seccomp filter are in force in the program, for root and for others."""
    box.process["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    box.process["noNewPrivileges"] = True
    box.process["user"] = {"uid": 1000, "gid": 1000}
    box.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}],
    }
    out = box.sh("grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; mkdir /tmp/x").out
    fields = dict(line.split(":\t") for line in out.splitlines() if ":\t" in line)

    assert fields["CapBnd"] == f"{1 | 1 << 5:016x}"
    assert fields["CapInh"] == fields["CapAmb"] == f"{1 << 5:016x}"
    # after execve an ordinary user has what is ambient
    assert fields["CapPrm"] == fields["CapEff"] == f"{1 << 5:016x}"
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert "error" in out


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_strict_filters_let_the_program_start(box: Box, no_new_privs: bool) -> None:
    """A filter without execveat (our way in) still lets the program start; it sees the filter."""
    box.process["noNewPrivileges"] = no_new_privs
    box.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["execveat"], "action": "SCMP_ACT_KILL_PROCESS"}],
    }
    assert box.sh("grep Seccomp: /proc/self/status").out == "Seccomp:\t2\n"


def test_unknown_harmless_fields_are_ignored(box: Box) -> None:
    """Fields that the specification has and that mean nothing here do not stop a container."""
    box.linux["intelRdt"] = {"closID": "x"}
    box.linux["personality"] = {"domain": "LINUX"}
    box.spec["annotations"] = {"a": "b"}
    box.spec["somethingNew"] = {"x": 1}
    created = box.create("/bin/true")
    assert lifecycle.state(created.container.id, state_root=box.state_root)["annotations"] == {"a": "b"}


def test_threads_may_not_create(box: Box) -> None:
    """In a process with threads, creating and executing are refused: a fork there could hang."""
    import threading

    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(FailedPrecondition, match="threads"):
            box.create("/bin/true")
    finally:
        stop.set()
        thread.join()


def test_scheduling(box: Box) -> None:
    """Scheduler and I/O priority are the program's."""
    box.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    box.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    out = box.sh("cut -d' ' -f19 /proc/self/stat; ionice -p $$").out.split("\n")
    assert out[0] == "5"
    assert out[1].startswith("idle")
    box.process["scheduler"] = {"policy": "SCHED_NONSENSE"}
    with pytest.raises(InvalidArgument, match="SCHED_NONSENSE"):
        box.create("/bin/true")


def test_streams_may_be_each_others_numbers(box: Box) -> None:
    """Standard streams arrive in the order given, also when they are 0, 1 and 2 in another order."""
    (box.folder / "in").write_text("input\n")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with open(box.folder / "in", "rb") as source:
                os.dup2(source.fileno(), 2)
            os.dup2(writer, 0)
            created = box.running("/bin/sh", "-c", "cat; cat >&2 </proc/self/fd/0", stdio=(2, 0, 0))
            os._exit(box.end(created))
        finally:
            os._exit(99)
    os.close(writer)
    with open(reader, "rb") as output:
        assert output.read() == b"input\ninput\n"
    assert os.waitpid(pid, 0)[1] == 0
