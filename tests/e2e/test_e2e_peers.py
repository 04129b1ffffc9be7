"""Beside real peers: what we make, they use; what they make, we use."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from patience import until_equal

if TYPE_CHECKING:
    from command import Orlop

pytestmark = pytest.mark.peer


def need(program: str) -> str:
    """A peer's path; its absence is said, not passed over in silence."""
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed on this machine")
    return found


def call(*argv: str, **environ: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **environ}, timeout=300)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_skopeo_reads_our_store_and_archives(orlop: Orlop, busybox: str) -> None:
    """The store is an OCI image layout, and what `save` writes is an archive, to skopeo too."""
    skopeo = need("skopeo")
    for kind in ("docker-archive", "oci-archive"):
        path = orlop.folder / f"{kind}.tar"
        orlop("save", "--format", kind, "-o", str(path), busybox)
        shown = json.loads(call(skopeo, "inspect", f"{kind}:{path}"))
        assert shown["Architecture"] in {"amd64", "arm64"}
    layout = orlop.folder / "root/content"
    shown = json.loads(call(skopeo, "inspect", f"oci:{layout}:docker.io/library/{busybox}:latest"))
    assert shown["Layers"]


def test_skopeo_and_our_registry_both_ways(orlop: Orlop, busybox: str, registry: str) -> None:
    """Skopeo pulls what we pushed, and we run what it pushed."""
    skopeo = need("skopeo")
    auth = "--creds=sailor:hunter2hunter2"
    orlop("tag", busybox, f"{registry}/a/b:1")
    orlop("push", f"{registry}/a/b:1")
    call(
        skopeo,
        "copy",
        "--src-tls-verify=false",
        f"--src-creds={auth[8:]}",
        f"docker://{registry}/a/b:1",
        f"dir:{orlop.folder}/dir",
    )
    call(
        skopeo,
        "copy",
        "--dest-tls-verify=false",
        f"--dest-creds={auth[8:]}",
        f"dir:{orlop.folder}/dir",
        f"docker://{registry}/c/d:2",
    )
    assert orlop("run", "--rm", f"{registry}/c/d:2", "echo", "from skopeo") == "from skopeo\n"


@pytest.fixture
def hugetlb() -> Iterator[None]:
    """What crun and podman want on machines with cgroup v1; afterwards the machine is as it was."""
    place = "/sys/fs/cgroup/hugetlb"
    if Path("/sys/fs/cgroup/cgroup.controllers").exists() or os.path.ismount(place):
        yield
        return
    Path(place).mkdir(exist_ok=True)
    call("mount", "-t", "cgroup", "-o", "hugetlb", "none", place)
    yield
    for folder, _, _ in os.walk(place, topdown=False):
        if folder != place:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    call("umount", place)
    os.rmdir(place)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_other_runtimes_run_our_containers(orlop: Orlop, busybox: str, hugetlb: None, runtime: str) -> None:
    """--runtime hands our bundle to crun or runc: output, exit code, limits and exec are the same."""
    need(runtime)
    done = orlop.run("run", "--rm", "--runtime", runtime, "--memory", "64m", busybox, "sh", "-c", "echo out; exit 5")
    assert (done.stdout, done.returncode) == ("out\n", 5), done.stderr
    orlop("run", "-d", "--name", "other", "--runtime", runtime, busybox, "sleep", "1000")
    assert orlop("exec", "other", "echo", "inside") == "inside\n"
    orlop("rm", "-f", "other")


@pytest.fixture
def podman(hugetlb: None) -> Iterator[list[str]]:
    """Podman over a root of its own."""
    need("podman")
    folder = tempfile.mkdtemp(prefix="pm", dir="/tmp")  # short: podman's run root may have 50 characters
    Path(folder, "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
    )
    Path(folder, "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    argv = [
        "env", f"CONTAINERS_CONF={folder}/containers.conf", f"HOME={folder}",
        "podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run",
    ]  # fmt: skip
    yield argv
    subprocess.run([*argv, "system", "reset", "-f"], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def test_podman_runs_what_we_pushed(orlop: Orlop, busybox: str, registry: str, podman: list[str]) -> None:
    """Podman pulls and runs our image from our registry; we run what podman pushed."""
    orlop("tag", busybox, f"{registry}/ours:1")
    orlop("push", f"{registry}/ours:1")
    creds = ["--tls-verify=false", "--creds", "sailor:hunter2hunter2"]
    call(*podman, "pull", "-q", *creds, f"{registry}/ours:1")
    assert call(*podman, "run", "--rm", "--network", "none", f"{registry}/ours:1", "echo", "hi") == "hi\n"
    call(*podman, "tag", f"{registry}/ours:1", f"{registry}/theirs:1")
    call(*podman, "push", "-q", *creds, f"{registry}/theirs:1")
    assert orlop("run", "--rm", f"{registry}/theirs:1", "echo", "back") == "back\n"


def test_podman_drives_orlop_runtime(orlop: Orlop, busybox: str, podman: list[str]) -> None:
    """orlop-runtime is an OCI runtime to podman."""
    import sys

    runtime = str(Path(sys.executable).parent / "orlop-runtime")
    orlop("save", "-o", str(orlop.folder / "b.tar"), busybox)
    call(*podman, "load", "-q", "-i", str(orlop.folder / "b.tar"))
    out = call(
        *podman,
        "--runtime",
        runtime,
        "run",
        "--rm",
        "--network",
        "none",
        f"docker.io/library/{busybox}",
        "echo",
        "driven",
    )
    assert out == "driven\n"


@pytest.fixture
def docker() -> Iterator[list[str]]:
    """Docker with a dockerd of its own, which leaves the machine's firewall alone."""
    need("dockerd")
    program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else need("docker")
    folder = tempfile.mkdtemp(prefix="dk", dir="/tmp")  # short: containerd's sockets lie below it
    socket = f"unix://{folder}/docker.sock"
    with open(f"{folder}/dockerd.log", "wb") as log:
        daemon = subprocess.Popen(
            [
                "dockerd", "--data-root", f"{folder}/root", "--exec-root", f"{folder}/run",
                "--pidfile", f"{folder}/pid", "-H", socket, "--iptables=false", "--bridge=none",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    argv = ["env", f"HOME={folder}", program, "-H", socket]
    try:
        until_equal(
            lambda: subprocess.run([*argv, "version"], capture_output=True, check=False).returncode,
            0,
            f"dockerd, whose log is {folder}/dockerd.log",
        )
        yield argv
    finally:
        daemon.terminate()
        daemon.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def test_docker_runs_what_we_made(orlop: Orlop, busybox: str, registry: str, docker: list[str]) -> None:
    """Docker loads what we saved, pulls what we pushed, and we run what it pushed."""
    orlop("save", "-o", str(orlop.folder / "b.tar"), busybox)
    call(*docker, "load", "-i", str(orlop.folder / "b.tar"))
    assert call(*docker, "run", "--rm", "--network", "none", busybox, "echo", "loaded") == "loaded\n"
    orlop("tag", busybox, f"{registry}/ours:1")
    orlop("push", f"{registry}/ours:1")
    call(*docker, "login", "-u", "sailor", "-p", "hunter2hunter2", registry)
    call(*docker, "pull", "-q", f"{registry}/ours:1")
    call(*docker, "tag", f"{registry}/ours:1", f"{registry}/theirs:1")
    call(*docker, "push", f"{registry}/theirs:1")
    call(*docker, "save", "-o", str(orlop.folder / "d.tar"), busybox)
    assert orlop("run", "--rm", f"{registry}/theirs:1", "echo", "back") == "back\n"
    orlop("rmi", "-f", busybox)
    assert busybox in orlop("load", "-i", str(orlop.folder / "d.tar"))
