"""Beside crun, runc and podman: the same bundle does the same, and podman drives our program as it drives theirs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from orlop.linux import hierarchy
from orlop.runtime.testing import make_rootfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orlop.runtime.testing import Box

pytestmark = pytest.mark.peer

OURS = [sys.executable, "-m", "orlop.runtime.program"]
_TOOLS = {"orlop": OURS, "crun": ["crun"], "runc": ["runc"]}


@pytest.fixture(scope="session", autouse=True)
def hugetlb() -> Iterator[None]:
    """These versions of crun and podman refuse a machine whose cgroup v2 has controllers beside v1."""
    place = "/sys/fs/cgroup/hugetlb"
    made = False
    if "hugetlb" in hierarchy.read("/sys/fs/cgroup/unified/cgroup.controllers").split():
        os.makedirs(place, exist_ok=True)
        made = subprocess.run(["mount", "-t", "cgroup", "-o", "hugetlb", "none", place], check=False).returncode == 0
    yield
    if made:
        subprocess.run(["umount", place], check=False)


def _works(name: str) -> bool:
    return name == "orlop" or shutil.which(name) is not None


@pytest.fixture
def ran(box: Box) -> Callable[..., tuple[int, str]]:
    """Run the box' bundle with a runtime: (exit code, output)."""

    def run(tool: str, *argv: str) -> tuple[int, str]:
        name = box.new_id()
        words = [*_TOOLS[tool], "--root", f"{box.folder}/{tool}", "run", "--bundle", box.write(*argv), name]
        done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return run


def _same(box: Box, run: Callable[..., tuple[int, str]], script: str, clean: Callable[[str], Any] = str) -> None:
    del box
    results = {tool: run(tool, "/bin/sh", "-c", script) for tool in _TOOLS if _works(tool)}
    ours = results.pop("orlop")
    assert results
    for tool, result in results.items():
        assert (ours[0], clean(ours[1])) == (result[0], clean(result[1])), tool


_SCRIPTS = {
    "identity": "id; umask; pwd; env | sort; hostname; grep -E 'Cap|NoNew|Seccomp|Groups' /proc/self/status",
    "limits": "ulimit -a; cat /proc/self/oom_score_adj",
    "devices": "cd /dev; stat -c '%n %F %a %u:%g' null zero full tty random urandom fd std* ptmx pts shm",
    "mounts": "grep -vE 'cgroup|/proc/|/sys/firmware' /proc/self/mountinfo | cut -d' ' -f5,6 | sed 's/,relatime//'",
    "masked": "for f in kcore keys timer_list; do wc -c < /proc/$f; done; for d in bus fs irq sys; do"
    " (echo x > /proc/$d/x) 2>/dev/null || echo closed; done",
    "processes": "echo $$; echo /proc/[0-9]*; cat /proc/self/loginuid >/dev/null && echo fine",
    "network": "ls /sys/class/net; cat /proc/net/dev | tail -n +3 | cut -d: -f1",
    "exit": "exit 42",
    "signal": "kill -9 $$; sleep 1",
    "files": "ls -la /proc/self/fd | wc -l; touch /tmp/x && rm /tmp/x && echo wrote",
}


@pytest.mark.parametrize("name", list(_SCRIPTS))
def test_the_same_bundle_does_the_same(box: Box, ran: Callable[..., tuple[int, str]], name: str) -> None:
    """A program sees the same in our container as in crun's and runc's."""
    box.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1000, "hard": 2000}]
    box.process["oomScoreAdj"] = 100
    # what these old versions do not know is left out
    box.linux["maskedPaths"] = ["/proc/kcore", "/proc/keys", "/proc/timer_list"]
    _same(box, ran, _SCRIPTS[name], lambda text: sorted(text.split("\n")) if name == "mounts" else text)


def test_limits_are_written_the_same(box: Box, ran: Callable[..., tuple[int, str]]) -> None:
    """Limits end up in the same control files with the same values."""
    box.linux["resources"] |= {
        "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 77},
    }
    files = (
        "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes"
        " cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus pids/pids.max"
        " devices/devices.list"
    )
    script = f"cd /sys/fs/cgroup; for f in {files}; do echo $f; sort $f 2>/dev/null; done"
    # /dev/net/tun was once allowed by default
    _same(box, ran, script, lambda text: [line for line in text.splitlines() if line != "c 10:200 rwm"])


# podman


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Podman with our program as its runtime, and an image `box` of a busybox."""
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text(
        '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n'
        '[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\n'
    )
    program = folder / "orlop-runtime"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m orlop.runtime.program "$@"\n')
    program.chmod(0o755)
    words = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--runtime", str(program)]

    def run(*more: str, **options: Any) -> subprocess.CompletedProcess[str]:
        given = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": 120} | options
        return subprocess.run(
            [*words, *more], check=False, env=os.environ | {"CONTAINERS_CONF": f"{folder}/containers.conf"}, **given
        )

    rootfs: Path = make_rootfs(folder / "rootfs")
    archive = subprocess.run(["tar", "-C", str(rootfs), "-c", "."], capture_output=True, check=True).stdout
    imported = run("import", "-", "box", stdin=None, input=archive, text=False)
    assert imported.returncode == 0, imported.stderr
    return run


def test_podman_runs_by_us(podman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """`podman run`: output, exit codes, 127 and 126, as with its own runtimes."""
    ran = podman("run", "--rm", "--network", "none", "box", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "out\n", "err\n")
    assert podman("run", "--rm", "--network", "none", "box", "nothing").returncode == 127
    assert podman("run", "--rm", "--network", "none", "box", "/etc/passwd").returncode == 126
    ran = podman("run", "--rm", "--network", "none", "-i", "box", "cat", stdin=None, input="typed\n")
    assert ran.stdout == "typed\n"


def test_podmans_life_of_a_container(podman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Through our program: run -d, exec, exec -t, top, stats, pause, unpause, inspect, restart, stop and rm."""
    words = ("run", "-d", "--name", "life", "--network", "none", "--memory", "64m", "--pids-limit", "50")
    made = podman(*words, "box", "sleep", "1000")
    assert made.returncode == 0, made.stderr
    try:
        ran = podman("exec", "life", "sh", "-c", "echo in; exit 3")
        assert (ran.returncode, ran.stdout) == (3, "in\n")
        assert podman("exec", "life", "nothing").returncode == 127
        assert podman("exec", "-t", "life", "tty").stdout == "/dev/pts/0\n"
        assert "sleep 1000" in podman("top", "life").stdout
        assert "life" in podman("stats", "--no-stream", "life").stdout
        assert podman("pause", "life").returncode == 0
        assert json.loads(podman("inspect", "life").stdout)[0]["State"]["Status"] == "paused"
        assert podman("unpause", "life").returncode == 0
        assert json.loads(podman("inspect", "life").stdout)[0]["HostConfig"]["Memory"] == 64 << 20
        assert podman("restart", "-t", "0", "life").returncode == 0
        assert podman("exec", "life", "true").returncode == 0
    finally:
        podman("rm", "-f", "-t", "0", "life")
    assert "life" not in podman("ps", "-a").stdout


def test_podmans_pods_share_namespaces(podman: Callable[..., subprocess.CompletedProcess[str]], box: Box) -> None:
    """Containers that join each other's namespaces by podman are joined."""
    del box
    assert podman("run", "-d", "--name", "one", "--network", "none", "box", "sleep", "1000").returncode == 0
    try:
        ran = podman(
            "run", "--rm", "--pid", "container:one", "--network", "container:one", "--ipc", "container:one",
            "box", "sh", "-c", "cat /proc/1/cmdline",
        )  # fmt: skip
        assert ran.stdout == "sleep\x001000\x00"
    finally:
        podman("rm", "-f", "-t", "0", "one")


def test_podmans_terminal(podman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """`podman run -t` has a terminal of ours, handed over its console socket."""
    ran = podman("run", "--rm", "-t", "--network", "none", "box", "sh", "-c", "tty; test -t 1 && echo yes")
    assert ran.stdout == "/dev/pts/0\nyes\n"
