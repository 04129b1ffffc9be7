"""SIGKILL at any moment: the next command finds a consistent store, tells the truth, and nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, until, until_equal

from orlop.linux import process

if TYPE_CHECKING:
    from command import Orlop

SEED = 20260401
FEW = 6  # moments in the ordinary run; the soak takes many


def killed_at(orlop: Orlop, delay: float, *arguments: str) -> None:
    """Start a command in a session of its own and kill its first process after `delay` seconds."""
    process = subprocess.Popen(
        [*orlop.program, *arguments],
        env=orlop.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


def moments(longest: float, count: int) -> Iterator[float]:
    """Seeded delays, spread over the time that the command takes."""
    numbers = random.Random(SEED)
    print(f"seed {SEED}")
    for _ in range(count):
        yield numbers.uniform(0.01, longest)


def took(orlop: Orlop, *arguments: str) -> float:
    started = time.monotonic()
    orlop(*arguments)
    return time.monotonic() - started


def traces(orlop: Orlop) -> dict[str, list[str]]:
    """What this root has left on the machine."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split()[4] for line in file if str(orlop.folder) in line]
    processes = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        ours = str(orlop.folder / "root").encode() in environ and int(pid) != os.getpid()
        if ours and b"registry" not in command:  # the registry that the test pushes to lives on
            processes.append(pid)
    return {"mounts": mounts, "processes": processes}


def clean(orlop: Orlop) -> None:
    """Remove everything by the ordinary commands, then look: nothing of this root is left but its own files."""
    names = orlop("ps", "-aq").split()
    if names:
        orlop("rm", "-f", *names)
    # what a killed command has begun in other processes ends by itself, and may hold what it works on until then
    until_equal(lambda: traces(orlop)["processes"], [], "the processes of this root to end")
    orlop("system", "prune", "-a", "-f", "--volumes")
    until_equal(lambda: traces(orlop), {"mounts": [], "processes": []})
    assert os.listdir(orlop.folder / "root/layers") == []
    assert os.listdir(orlop.folder / "root/snapshots") == []
    assert os.listdir(orlop.folder / "root/content/ingest") == []
    blobs = orlop.folder / "root/content/blobs"
    assert [path for path in blobs.rglob("*") if path.is_file()] == []


def story_run(orlop: Orlop, busybox: str, count: int) -> None:
    whole = took(orlop, "run", "--rm", busybox, "true")
    for delay in moments(whole * 1.2, count):
        killed_at(orlop, delay, "run", "--rm", busybox, "sleep", "0.05")
        assert "REPOSITORY" in orlop("images")
        for line in orlop("ps", "-a", "--format", "{{.State}}").splitlines():
            assert line in {"created", "running", "exited"}
    assert orlop("run", "--rm", busybox, "echo", "still works") == "still works\n"
    clean(orlop)


def story_detached(orlop: Orlop, busybox: str, count: int) -> None:
    whole = took(orlop, "run", "-d", busybox, "true")
    for delay in moments(whole * 1.2, count):
        killed_at(orlop, delay, "run", "-d", busybox, "sleep", "1000")
    clean(orlop)


def story_remove(orlop: Orlop, busybox: str, count: int) -> None:
    for delay in moments(0.3, count):
        identity = orlop("run", "-d", busybox, "sleep", "1000").strip()
        killed_at(orlop, delay, "rm", "-f", identity)
        rest = orlop("ps", "-a", "--no-trunc", "-q").split()
        assert rest in ([], [identity])
        if rest:
            orlop("rm", "-f", identity)
    clean(orlop)


def story_build(orlop: Orlop, busybox: str, count: int, context: Callable[..., Path]) -> None:
    folder = context(
        f"FROM {busybox}\nCOPY big /big\nRUN sleep 0.1; dd if=/dev/zero of=/made bs=1M count=4\n"
        "RUN cat /made /big > /both\n",
        big="x" * 3_000_000,
    )
    whole = took(orlop, "build", "--no-cache", "-t", "b", str(folder))
    for delay in moments(whole * 1.1, count):
        killed_at(orlop, delay, "build", "--no-cache", "-t", "b", str(folder))
        orlop("images")
    orlop("build", "-t", "b", str(folder))
    assert orlop("run", "--rm", "b", "sh", "-c", "wc -c < /both").strip() == str(4 * (1 << 20) + 3_000_000)
    clean(orlop)


STORIES = {"run": story_run, "detached": story_detached, "remove": story_remove}


@pytest.mark.parametrize("story", STORIES)
def test_killed_containers(orlop: Orlop, busybox: str, story: str) -> None:
    """A start or a removal that is killed leaves a truth that the next command can tell and clear away."""
    STORIES[story](orlop, busybox, FEW)


def test_killed_build(orlop: Orlop, busybox: str, context: Callable[..., Path]) -> None:
    """A build that is killed leaves nothing that a prune does not take, and the next build is whole."""
    story_build(orlop, busybox, FEW, context)


def test_killed_pull_and_push(orlop: Orlop, busybox: str, registry: str) -> None:
    """A transfer that is killed is resumed or begun again; a name never points at half an image."""
    name = f"{registry}/kill/image:1"
    orlop("tag", busybox, name)
    for delay in moments(0.5, FEW):
        killed_at(orlop, delay, "push", name)
    orlop("push", name)
    for delay in moments(0.6, FEW):
        orlop("rmi", "-f", name, busybox)
        orlop("image", "prune", "-a", "-f")
        killed_at(orlop, delay, "pull", name)
        orlop("pull", name)
        assert orlop("run", "--rm", "--network", "none", name, "echo", "whole") == "whole\n"
        orlop("tag", name, busybox)
    clean(orlop)


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES)
def test_killed_containers_soak(orlop: Orlop, busybox: str, story: str) -> None:
    """The same at many moments."""
    STORIES[story](orlop, busybox, 60)


@pytest.mark.slow
def test_killed_build_soak(orlop: Orlop, busybox: str, context: Callable[..., Path]) -> None:
    """The same at many moments."""
    story_build(orlop, busybox, 40, context)


def test_killed_monitor_is_told(orlop: Orlop, busybox: str) -> None:
    """When a container's monitor is killed, the container lives on; how it then ends is said to be unknown."""
    orlop("run", "-d", "--name", "orphan", busybox, "sleep", "1000")
    launch = next((orlop.folder / "run/containers").glob("*/launch.json"))

    pids = json.loads(launch.read_text())
    os.kill(pids["shim_pid"], signal.SIGKILL)
    assert "Up" in orlop("ps")
    os.kill(pids["pid"], signal.SIGKILL)
    until(lambda: "Exited" in orlop("ps", "-a"), "the end to be noticed")
    shown = json.loads(orlop("inspect", "orphan"))[0]["State"]
    assert shown["Status"] == "exited"
    assert "unknown" in shown["Error"]
    orlop("rm", "orphan")
    clean(orlop)


def test_removing_takes_what_a_killed_start_left(orlop: Orlop, busybox: str) -> None:
    """`rm` of a container whose start was killed, and all who would have undone it, leaves no cgroup and no state."""
    identity = orlop("run", "-d", busybox, "sleep", "1000").strip()
    run = orlop.folder / "run/containers" / identity
    pids = json.loads((run / "launch.json").read_text())
    for who, ticks in (("shim_pid", "shim_ticks"), ("pid", "ticks")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[who], signal.SIGKILL)
        assert process.wait_gone(pids[who], pids[ticks], PATIENCE)
    (run / "launch.json").unlink()  # it is written last: a start that is killed before has none
    assert Path(f"/sys/fs/cgroup/pids{pids['cgroup']}").exists() or Path(f"/sys/fs/cgroup{pids['cgroup']}").exists()

    orlop("rm", identity)

    assert not (orlop.folder / "run/runtime" / identity).exists()
    assert not Path(f"/sys/fs/cgroup/pids{pids['cgroup']}").exists()
    assert not Path(f"/sys/fs/cgroup{pids['cgroup']}").exists()
