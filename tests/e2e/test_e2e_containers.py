"""Containers from the command line, as a user of docker expects them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from patience import until, until_equal

if TYPE_CHECKING:
    from command import Orlop


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "sleep 100 & kill -9 $!; wait $!"], 137),
        (["no-such-program"], 127),
        (["/etc"], 126),
    ],
)
def test_exit_codes(orlop: Orlop, busybox: str, command: list[str], code: int) -> None:
    """`run` exits as the program did; 127 for a program that is not there, 126 for one that cannot be run."""
    assert orlop.run("run", "--rm", busybox, *command).returncode == code
    assert orlop("ps", "-aq") == ""


def test_orlops_own_failures_are_125(orlop: Orlop) -> None:
    """A container that could not be made is 125, so that scripts can tell it from the program's own codes."""
    assert orlop.run("run", "--rm", "--pull", "never", "not-here", "true").returncode == 125


def test_streams_and_stdin(orlop: Orlop, busybox: str) -> None:
    """Standard streams go straight through, each to its own; -i passes input on."""
    done = orlop.run("run", "--rm", "-i", busybox, "sh", "-c", "cat; echo err >&2", stdin=b"hello\n")

    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "err\n", 0)


def test_large_output_is_whole(orlop: Orlop, busybox: str) -> None:
    """Nothing is lost at the end of a program that writes much and leaves."""
    assert len(orlop("run", "--rm", busybox, "sh", "-c", "seq 200000")) == sum(len(f"{n}\n") for n in range(1, 200001))


def test_environment_user_and_folder(orlop: Orlop, busybox: str) -> None:
    """-e, -u, -w and --hostname reach the program."""
    out = orlop(
        "run", "--rm", "-e", "A=b c", "-u", "65534:65534", "-w", "/tmp", "--hostname", "deck", busybox,
        "sh", "-c", "echo $A; id -u; id -g; pwd; hostname",
    )  # fmt: skip

    assert out.splitlines() == ["b c", "65534", "65534", "/tmp", "deck"]


def test_detached_life(orlop: Orlop, busybox: str) -> None:
    """-d, ps, logs, exec, stop, start, rm: the states a container goes through."""
    identity = orlop("run", "-d", "--name", "life", busybox, "sh", "-c", "echo up; exec sleep 1000").strip()

    assert len(identity) == 64
    assert "life" in orlop("ps")
    until_equal(lambda: orlop("logs", "life"), "up\n")
    until_equal(lambda: orlop("exec", "life", "cat", "/proc/1/comm"), "sleep\n", "the shell to become its last program")
    assert orlop.run("exec", "life", "sh", "-c", "exit 3").returncode == 3
    orlop("stop", "-t", "0", "life")
    assert "Exited (137)" in orlop("ps", "-a")
    orlop("start", "life")
    assert json.loads(orlop("inspect", "life"))[0]["State"]["Running"] is True
    assert "is running" in orlop.fails("rm", "life")
    orlop("rm", "-f", "life")
    assert orlop("ps", "-aq") == ""


def test_wait_and_kill(orlop: Orlop, busybox: str) -> None:
    """`wait` prints the exit code; `kill` sends the signal it is given."""
    orlop(
        "run",
        "-d",
        "--name",
        "ward",
        busybox,
        "sh",
        "-c",
        "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done",
    )
    until(lambda: "ready" in orlop("logs", "ward"), "the trap to be set")
    orlop("kill", "-s", "USR1", "ward")

    assert orlop("wait", "ward") == "9\n"


def test_limits_are_in_force(orlop: Orlop, busybox: str) -> None:
    """The limits that were asked for are those the kernel enforces."""
    script = (
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes "
        "/sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/pids/pids.max 2>/dev/null || "
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max /sys/fs/cgroup/cpu.weight /sys/fs/cgroup/pids.max"
    )
    out = orlop(
        "run", "--rm", "--memory", "64m", "--memory-swap", "128m", "--cpu-shares", "512", "--pids-limit", "50", busybox,
        "sh", "-c", script,
    ).split()  # fmt: skip

    assert out[0] == str(64 << 20)
    assert out[1] in {str(128 << 20), str(64 << 20)}  # v1 counts memory with swap, v2 swap alone
    assert out[3] == "50"


def test_out_of_memory_is_told(orlop: Orlop, busybox: str) -> None:
    """A program that exceeds its memory is killed, and inspect says why."""
    code = orlop.run(
        "run", "--name", "hog", "--memory", "16m", "--memory-swap", "16m", busybox, "sh", "-c", "tail /dev/zero"
    ).returncode

    assert code == 137
    assert json.loads(orlop("inspect", "hog"))[0]["State"]["OOMKilled"] is True


def test_volumes(orlop: Orlop, busybox: str) -> None:
    """A named volume outlives containers; a read-only bind cannot be written."""
    (orlop.folder / "host").mkdir()
    (orlop.folder / "host/file").write_text("from the host")
    orlop("run", "--rm", "-v", "data:/data", busybox, "sh", "-c", "echo kept > /data/file")

    assert orlop("run", "--rm", "-v", "data:/data", busybox, "cat", "/data/file") == "kept\n"
    assert orlop("run", "--rm", "-v", f"{orlop.folder}/host:/h:ro", busybox, "cat", "/h/file") == "from the host"
    assert orlop.run("run", "--rm", "-v", f"{orlop.folder}/host:/h:ro", busybox, "touch", "/h/x").returncode != 0
    assert "data" in orlop("volume", "ls", "-q")
    orlop("volume", "rm", "data")


def test_names_are_unique(orlop: Orlop, busybox: str) -> None:
    """A name in use is refused with the container that has it."""
    orlop("create", "--name", "one", busybox, "true")

    assert "in use by container" in orlop.fails("create", "--name", "one", busybox, "true")


def test_shell_builtin_is_explained(orlop: Orlop, busybox: str) -> None:
    """The commonest wrong command gets the right hint."""
    error = orlop.fails("run", "--rm", busybox, "cd", "/tmp", code=127)

    assert "shell builtin" in error
    assert "sh -c" in error


def test_wrong_architecture_is_named(orlop: Orlop, busybox: str) -> None:
    """A binary of another machine is said to be that, not "exec format error"."""
    foreign = bytearray(((orlop.folder / "root").exists() and b"") or b"")
    with open("/bin/busybox", "rb") as file:
        foreign = bytearray(file.read(4096))
    foreign[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    (orlop.folder / "foreign").write_bytes(foreign)
    (orlop.folder / "foreign").chmod(0o755)
    error = orlop.fails("run", "--rm", "-v", f"{orlop.folder}/foreign:/foreign", busybox, "/foreign")

    assert "arm64" in error
    assert "amd64" in error


def test_nothing_is_left_behind(orlop: Orlop, busybox: str) -> None:
    """After runs, good and bad, no mount, cgroup, link or process of these containers is left."""
    orlop("run", "--rm", busybox, "true")
    orlop.run("run", "--rm", busybox, "no-such-program")
    orlop("run", "--rm", "--network", "none", busybox, "true")
    orlop("run", "-d", "--rm", "--name", "short", busybox, "sleep", "0.2")
    until_equal(lambda: _traces(orlop), [])


def _traces(orlop: Orlop) -> list[str]:
    """What the kernel still has of every container that this root ever made."""
    journal = (orlop.folder / "root/events.jsonl").read_text().splitlines()
    created = [json.loads(line) for line in journal]
    ids = [event["Actor"]["ID"] for event in created if (event["Type"], event["Action"]) == ("container", "create")]
    assert len(ids) >= 4
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        found = [line for line in file if str(orlop.folder) in line]
    found += [
        f"/sys/class/net/{name}" for name in os.listdir("/sys/class/net") if name[2:14] in {one[:12] for one in ids}
    ]
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{folder}/{name}" for name in names if name in ids]
    return found


def test_what_removes_itself_is_mounted_volatile(orlop: Orlop, busybox: str) -> None:
    """The tree of a container with --rm need not outlive a crash of the machine: nothing waits for the disk; others do."""
    show = ("--network", "none", busybox, "grep", " / / ", "/proc/self/mountinfo")
    assert "volatile" in orlop("run", "--rm", *show).rpartition("workdir=")[2]
    orlop("run", "--name", "kept", *show)
    assert "volatile" not in orlop("logs", "kept").rpartition("workdir=")[2]


def test_a_restart_keeps_what_removes_itself(orlop: Orlop, busybox: str) -> None:
    """`restart` of a container with --rm is a new life of the same one, with its files; its end removes it."""
    orlop("run", "-d", "--rm", "--name", "cat", busybox, "sh", "-c", "echo x >> /lives; exec sleep 1000")
    until_equal(lambda: orlop.run("exec", "cat", "cat", "/lives").stdout, "x\n", "the first life to begin")

    orlop("restart", "-t", "0", "cat")

    until_equal(lambda: orlop.run("exec", "cat", "cat", "/lives").stdout, "x\nx\n", "the second life to begin")
    orlop("stop", "-t", "0", "cat")
    assert orlop("ps", "-aq") == ""


def test_who_was_killed_before_removing_is_made_up_for(orlop: Orlop, busybox: str) -> None:
    """A container with --rm goes even where its client was killed after all was given back, and before the removal."""
    identity = orlop("create", "--rm", busybox, "true").strip()  # as that client leaves it

    orlop("internal", "settle", "default", identity)

    assert orlop("ps", "-aq") == ""
