"""After everything, good and bad, the machine is as it was: mounts, cgroups, links, processes, files, descriptors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attack
import pytest
from command import Orlop
from patience import until_equal


def _traces(folder: Path, bridges: list[str]) -> dict[str, object]:
    """What could pile up, of this root and of the machine."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = sorted(line.split()[4] for line in file if str(folder) in line)
    ours = {json.loads(line)["Actor"]["ID"] for line in (folder / "root/events.jsonl").read_text().splitlines()}
    groups = sorted(path for path, _, _ in os.walk("/sys/fs/cgroup") if path.rpartition("/")[2] in ours)
    run = sorted(str(path) for path in (folder / "run").rglob("*") if "/exits/" not in str(path))
    kept = sorted(
        str(path) for room in ("snapshots", "containers", "leases") for path in (folder / "root" / room).iterdir()
    )
    processes = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/environ").read_bytes() + Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in words and int(name) != os.getpid():
                processes.append(name)
    links = [str(path) for bridge in bridges for path in Path(f"/sys/class/net/{bridge}/brif").iterdir()]
    return {"mounts": mounts, "groups": groups, "run": run, "kept": kept, "processes": processes, "links": links}


@pytest.fixture
def own(arena: Orlop, tmp_path: Path) -> Orlop:
    """A root of the test's own."""
    command = Orlop(tmp_path / "own")
    command.folder.mkdir()
    command("load", "-q", stdin=attack.saved(arena, "busybox"))
    return command


def test_nothing_piles_up(own: Orlop) -> None:
    """Runs, execs, failures, kills, removals: no mount, cgroup, link, process, lock, socket or folder stays."""
    own("run", "--rm", "busybox", "true")  # the bridge and the cgroups' parents come with the first
    bridges = [json.loads(own("network", "inspect", "bridge"))[0]["Options"]["com.docker.network.bridge.name"]]
    assert os.path.isdir(f"/sys/class/net/{bridges[0]}")
    # the last process of the first run may not have left yet
    until_equal(lambda: [_traces(own.folder, bridges)[what] for what in ("groups", "processes", "links")], [[], [], []])
    before = _traces(own.folder, bridges)
    for words in (
        ["run", "--rm", "busybox", "true"],
        ["run", "--rm", "--network", "none", "busybox", "sh", "-c", "kill -9 $$"],
        ["run", "--rm", "busybox", "no-such-program"],
        ["run", "--rm", "-w", "/proc/self/fd/7/x", "busybox", "true"],
        ["run", "--rm", "-v", "/no/such/\x01:relative", "busybox", "true"],
        ["run", "--rm", "--sysctl", "kernel.panic=1", "busybox", "true"],
        ["run", "--rm", "--memory", "6m", "busybox", "sh", "-c", "tail /dev/zero"],
        ["run", "-d", "--name", "one", "busybox", "sh", "-c", "sleep 1000 & sleep 1000 & sleep 0; exec sleep 1000"],
        ["exec", "one", "true"],
        ["exec", "-d", "one", "sleep", "1000"],
        ["exec", "one", "no-such-program"],
        ["rename", "one", "two"],
        ["restart", "-t", "0", "two"],
        ["kill", "two"],
        ["wait", "two"],
        ["rm", "-f", "two"],
        ["rm", "-f", "not-there"],
        ["create", "--name", "three", "busybox", "true"],
        ["rm", "three"],
    ):
        assert "Traceback" not in own.run(*words).stderr

    until_equal(lambda: _traces(own.folder, bridges), before)
    until_equal(lambda: os.listdir(own.folder / "run/locks"), [])
    own("internal", "teardown")


def test_monitors_keep_no_zombies(arena: Orlop, target: str) -> None:
    """Programs that leave orphans, and execs that end, leave no zombie below the monitor."""
    for _ in range(5):
        arena("exec", target, "sh", "-c", "(sleep 0.01 &) ; true")
        arena("exec", "-d", target, "true")
    pid = int(arena("inspect", "-f", "{{.State.Pid}}", target))
    shim = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]

    def zombies() -> list[str]:
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    words = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if words[0] == "Z" and words[1] == shim:
                    found.append(name)
        return found

    until_equal(zombies, [], "the monitor to reap")


_LONG_LIVED = """
import os, sys, threading, time, orlop
with orlop.open(root=sys.argv[1], run_root=sys.argv[2]) as engine:
    def once():
        out = os.open("/dev/null", os.O_WRONLY)
        ran = engine.containers.run(
            orlop.CreateContainer(image="busybox", command=("true",), auto_remove=True, network="none"),
            orlop.Stdio(stdin=-1, stdout=out, stderr=out))
        os.close(out)
        assert ran.exit_code == 0
    def wrong():
        try:
            engine.containers.run(orlop.CreateContainer(image="busybox", command=("no-such",), auto_remove=True, network="none"),
                                  orlop.Stdio(stdin=-1, stdout=1, stderr=2))
        except orlop.OrlopError:
            pass
    def execute():
        engine.containers.exec(orlop.Exec(container=name, command=("true",)), orlop.Stdio(stdin=-1, stdout=1, stderr=2))
    name = engine.containers.run(orlop.CreateContainer(image="busybox", command=("sleep", "1000"), network="none"), None).id
    for body in (once, wrong, execute):
        body(); body()
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(int(sys.argv[3])):
        for body in (once, wrong, execute):
            body()
    until = time.monotonic() + 60  # the last monitors may still be at work: what stays, stays longer than that
    while True:
        children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
        found = len(os.listdir("/proc/self/fd")) - fds, threading.active_count() - threads, len(children)
        if (found[0] <= 0 and found[1] <= 0 and found[2] <= 2) or time.monotonic() > until:
            break
        time.sleep(0.05)
        once()  # a monitor that has ended is collected with the next start
    print(*found)
    engine.containers.remove(name, force=True)
"""


@pytest.mark.parametrize("threaded", [False, True])
def test_descriptors_of_a_long_life(arena: Orlop, threaded: bool) -> None:
    """A Python program that runs and executes, well and badly, again and again, has no more descriptors than before."""
    thread = (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n" if threaded else ""
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", thread + _LONG_LIVED, arena.environ["ORLOP_ROOT"], arena.environ["ORLOP_RUN_ROOT"], "8"],
        env=arena.environ, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    descriptors, threads, children = (int(word) for word in done.stdout.split())
    assert descriptors <= 0
    assert threads <= 0
    assert children <= 2  # the spawner, and the monitor of what still runs: no zombies of those that ended


def test_the_journal_is_rotated(own: Orlop) -> None:
    """The event log stays bounded, the newest events are there, and no event is cut in two."""
    log = own.folder / "root/events.jsonl"
    line = log.read_bytes().splitlines()[0] + b"\n"
    log.write_bytes(line * (1 + (4 << 20) // len(line)))
    for number in range(3):
        own("volume", "create", f"after-{number}")
    shown = own("events", "--since", "1h", "--until", "0s", "--format", "{{json .}}")

    assert log.stat().st_size < 1 << 20
    assert (log.parent / "events.jsonl.1").stat().st_size < 5 << 20
    assert {path.name for path in log.parent.glob("events.jsonl*")} == {"events.jsonl", "events.jsonl.1"}
    names = [json.loads(one)["Actor"]["ID"] for one in shown.splitlines()[-3:]]
    assert names == ["after-0", "after-1", "after-2"]
    own("internal", "teardown")
