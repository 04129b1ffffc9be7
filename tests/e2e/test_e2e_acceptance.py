"""What a person who knows docker tries next: policies, health, volumes, shared namespaces, and a store that suffers."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from patience import until, until_equal

from orlop.linux.cgroups import Cgroup

if TYPE_CHECKING:
    from command import Orlop


def _shown(orlop: Orlop, name: str, template: str) -> str:
    return orlop("inspect", "-f", template, name).strip()


def _waiting(container: str) -> list[str]:
    """The processes that settle, or wait to restart, a container."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"settle" in words and container.encode() in words:
            found.append(pid)
    return found


def _flip(folder: Path) -> list[Path]:
    """Change a byte of every large blob, as a failing disk does; what was changed."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    for path in found:
        path.chmod(0o600)
        data = bytearray(path.read_bytes())
        data[1000] ^= 0xFF
        path.write_bytes(data)
    return found


@pytest.fixture
def data_image(orlop: Orlop, busybox: str, context: Callable[..., Path]) -> str:
    """An image whose /data belongs to somebody else and holds something."""
    folder = context(
        f"FROM {busybox}\nRUN mkdir -p /data/sub && echo deep > /data/sub/file && ln -s sub /data/link "
        "&& chown -R 1234:77 /data && chmod 750 /data\nVOLUME /data\n"
    )
    orlop("build", "-q", "-t", "data", str(folder))
    return "data"


def test_a_fresh_volume_takes_the_images_content(orlop: Orlop, data_image: str) -> None:
    """Files, links, owners and the folder's own mode come along; once: what is removed stays removed."""
    look = ["sh", "-c", "stat -c '%u:%g %a' /data; cat /data/link/file"]

    assert orlop("run", "--rm", "-v", "kept:/data", data_image, *look).splitlines() == ["1234:77 750", "deep"]
    assert orlop("run", "--rm", data_image, *look).splitlines() == ["1234:77 750", "deep"]
    orlop("run", "--rm", "-v", "kept:/data", data_image, "rm", "-r", "/data/sub", "/data/link")
    assert orlop("run", "--rm", "-v", "kept:/data", data_image, "ls", "/data") == ""


def test_nocopy_and_used_volumes_stay_as_they_are(orlop: Orlop, data_image: str) -> None:
    """`nocopy` copies nothing, and neither does a volume that already holds something."""
    assert orlop("run", "--rm", "-v", "bare:/data:nocopy", data_image, "ls", "/data") == ""
    orlop("run", "--rm", "-v", "own:/elsewhere", data_image, "touch", "/elsewhere/mine")
    assert orlop("run", "--rm", "-v", "own:/data", data_image, "ls", "/data") == "mine\n"


def test_restarts_are_counted_and_end(orlop: Orlop, busybox: str) -> None:
    """on-failure:2 runs three times, and says so; a start by hand begins the count anew."""
    orlop("run", "-d", "--name", "again", "--restart", "on-failure:2", busybox, "sh", "-c", "echo x; exit 3")
    until_equal(lambda: _shown(orlop, "again", "{{.RestartCount}} {{.State.Status}}"), "2 exited")

    assert orlop("logs", "again") == "x\n" * 3
    assert _shown(orlop, "again", "{{.State.ExitCode}}") == "3"


def test_a_waiting_restart_can_be_called_off(orlop: Orlop, busybox: str) -> None:
    """Between two runs the state is restarting: rm wants force, stop ends it for good, start brings it back."""
    orlop(
        "run",
        "-d",
        "--name",
        "loop",
        "--restart",
        "always",
        busybox,
        "sh",
        "-c",
        "until test -f /go; do sleep 0.02; done",
    )
    container = _shown(orlop, "loop", "{{.Id}}")
    # as if it had ended quickly many times: the next wait is nearly a minute, long enough for any machine to look
    with sqlite3.connect(orlop.folder / "root/state.db", timeout=60) as database:
        database.execute("UPDATE containers SET state = json_set(state, '$.quick', 9) WHERE id = ?", (container,))
    database.close()
    orlop("exec", "loop", "touch", "/go")
    until_equal(lambda: _shown(orlop, "loop", "{{.State.Restarting}}"), "true")

    assert "Restarting (0)" in orlop("ps", "--format", "{{.Status}}")
    orlop.fails("rm", "loop", code=1)
    orlop("stop", "loop")
    assert _shown(orlop, "loop", "{{.State.Status}}") == "exited"
    until_equal(lambda: _waiting(container), [])
    assert _shown(orlop, "loop", "{{.RestartCount}} {{.State.Status}}") == "0 exited"
    orlop("start", "loop")  # it ends at once, and the policy holds again
    until(lambda: int(_shown(orlop, "loop", "{{.RestartCount}}")) >= 2)


def test_health_checks_run(orlop: Orlop, busybox: str) -> None:
    """starting, unhealthy after the failures allowed, healthy after one success; --no-healthcheck: nothing of it."""
    check = ["--health-cmd", "echo looked; test -f /ok", "--health-interval", "100ms", "--health-retries", "1"]
    orlop("run", "-d", "--name", "sick", *check, busybox, "sleep", "1000")
    until_equal(lambda: _shown(orlop, "sick", "{{.State.Health.Status}}"), "unhealthy")
    assert "(unhealthy)" in orlop("ps", "--format", "{{.Status}}")
    orlop("exec", "sick", "touch", "/ok")
    until_equal(lambda: _shown(orlop, "sick", "{{.State.Health.Status}}"), "healthy")

    health = json.loads(_shown(orlop, "sick", "{{json .State.Health}}"))
    assert (health["Log"][-1]["ExitCode"], health["Log"][-1]["Output"]) == (0, "looked\n")
    assert orlop("ps", "-q", "--filter", "health=healthy").strip()
    orlop.fails("run", "--no-healthcheck", *check, busybox, "true", code=125)


def test_a_probe_that_hangs_is_killed(orlop: Orlop, busybox: str) -> None:
    """The timeout of a health check ends its program, inside the container too."""
    check = ["--health-cmd", "sleep 1000", "--health-interval", "50ms", "--health-timeout", "200ms"]
    orlop("run", "-d", "--name", "slow", *check, "--health-retries", "1", busybox, "sleep", "5000")
    until_equal(lambda: _shown(orlop, "slow", "{{.State.Health.Status}}"), "unhealthy")
    orlop("stop", "-t", "0", "slow")


def test_shared_namespaces(orlop: Orlop, busybox: str) -> None:
    """--ipc container: shares /dev/shm, --pid container: the processes, --uts host and --ipc host are the host's."""
    orlop("run", "-d", "--name", "one", busybox, "sh", "-c", "echo hey > /dev/shm/note; exec sleep 1000")
    until(lambda: orlop.run("exec", "one", "test", "-f", "/dev/shm/note").returncode == 0)

    assert orlop("run", "--rm", "--ipc", "container:one", busybox, "cat", "/dev/shm/note") == "hey\n"
    assert "sleep 1000" in orlop("run", "--rm", "--pid", "container:one", busybox, "ps")
    assert orlop("run", "--rm", "--uts", "host", busybox, "hostname").strip() == os.uname().nodename
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as note:
        assert note.name in orlop("run", "--rm", "--ipc", "host", busybox, "ls", note.name)


def test_a_new_tmpfs_is_for_all(orlop: Orlop, busybox: str, data_image: str) -> None:
    """A tmpfs looks like the folder that it covers; where the image has none, every user may write."""
    out = orlop("run", "--rm", "--tmpfs", "/new", "--tmpfs", "/data", data_image, "stat", "-c", "%a", "/new", "/data")

    assert out.split() == ["1777", "750"]


def test_run_files_on_another_file_system(orlop: Orlop, busybox_archive: Path) -> None:
    """The run folder is on a tmpfs of its own on most machines: containers end and go all the same."""
    other = tempfile.mkdtemp(dir="/dev/shm")
    assert os.stat(other).st_dev != os.stat(orlop.folder).st_dev
    orlop.environ["ORLOP_RUN_ROOT"] = other
    try:
        orlop("load", "-q", "-i", str(busybox_archive))
        assert orlop("run", "--rm", "busybox", "echo", "ok") == "ok\n"
        orlop("run", "-d", "--name", "up", "busybox", "sleep", "1000")
        orlop("rm", "-f", "up")
        orlop("system", "prune", "-f")
        assert os.listdir(f"{other}/containers") == []
    finally:
        orlop("internal", "teardown")
        shutil.rmtree(other)


def test_a_damaged_blob_is_named_and_can_be_mended(
    orlop: Orlop, busybox: str, busybox_archive: Path, registry: str
) -> None:
    """Push and save refuse to pass it on and say how to mend it; loading again does; run says so where it needs it."""
    orlop("tag", busybox, f"{registry}/bb")
    blobs = orlop.folder / "root/content/blobs"
    (damaged,) = _flip(blobs)

    error = orlop.fails("push", f"{registry}/bb", code=1)
    assert damaged.name in error
    assert "load" in error
    orlop("load", "-q", "-i", str(busybox_archive))
    orlop("push", "-q", f"{registry}/bb")
    _flip(blobs)
    assert damaged.name in orlop.fails("save", "-o", str(orlop.folder / "x.tar"), busybox, code=1)
    orlop("pull", "-q", f"{registry}/bb")
    assert orlop("run", "--rm", busybox, "echo", "ok") == "ok\n"


def test_another_platform_than_asked_for_is_refused(orlop: Orlop, busybox: str, registry: str) -> None:
    """`pull --platform` of an image that has but one platform is an error that says which."""
    orlop("tag", busybox, f"{registry}/bb")
    orlop("push", "-q", f"{registry}/bb")

    error = orlop.fails("pull", "--platform", "linux/s390x", f"{registry}/bb", code=1)
    assert "linux/s390x" in error
    assert "linux/" in error.partition("offers")[2]


@pytest.fixture
def full_disk(orlop: Orlop) -> Iterator[Path]:
    """A small file system for the root."""
    place = orlop.folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(place)], check=True)
    orlop.environ["ORLOP_ROOT"] = str(place / "root")
    try:
        yield place
    finally:
        orlop.run("internal", "teardown")
        orlop.environ["ORLOP_ROOT"] = str(orlop.folder / "root")
        subprocess.run(["umount", str(place)], check=True)


def test_no_space_left(orlop: Orlop, busybox_archive: Path, full_disk: Path) -> None:
    """A full disk is called that; with a little room again, prune frees the rest and everything works."""
    orlop("load", "-q", "-i", str(busybox_archive))
    filler = full_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], check=False, capture_output=True)

    error = orlop.fails("run", "--rm", "busybox", "true", code=125)
    assert "full" in error or "no space" in error
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - (400 << 10))
    orlop("system", "prune", "-f")
    filler.unlink()
    assert orlop("run", "--rm", "busybox", "echo", "ok") == "ok\n"


def test_a_relative_folder_is_meant_from_where_it_was_said(orlop: Orlop, busybox: str) -> None:
    """-v ./x and ~/x mean one folder for good, wherever a later start comes from, and whose HOME that has."""
    here, there = orlop.folder / "here", orlop.folder / "there"
    for folder in (here / "data", there):
        folder.mkdir(parents=True)
    (here / "data/note").write_text("kept\n")
    (orlop.folder / "own").mkdir()
    (orlop.folder / "own/note").write_text("mine\n")
    words = ["create", "--name", "one", "-v", "./data:/d", "-v", "~/own:/o", busybox, "cat", "/d/note", "/o/note"]
    subprocess.run([*orlop.program, *words], env=orlop.environ, cwd=here, check=True, capture_output=True)
    environ = orlop.environ | {"HOME": str(there), "DOCKER_CONFIG": orlop.environ["DOCKER_CONFIG"]}
    done = subprocess.run(
        [*orlop.program, "start", "-a", "one"], env=environ, cwd=there, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "kept\nmine\n"), done.stderr
    assert list(there.iterdir()) == []


def test_a_name_is_no_id(orlop: Orlop, busybox: str) -> None:
    """A name that is also the beginning of the image's id is a name: only it is removed, listed and saved."""
    name = _shown(orlop, busybox, "{{.Id}}").removeprefix("sha256:")[:3]
    orlop("tag", busybox, name)

    assert orlop("images", "--format", "{{.Repository}}", name) == f"{name}\n"
    orlop("save", "-o", "saved.tar", name)
    assert orlop("rmi", name) == f"Untagged: {name}:latest\n"
    assert orlop("images", "--format", "{{.Repository}}") == f"{busybox}\n"
    assert f"{name}:latest" in orlop("load", "-i", "saved.tar")


def test_a_network_by_its_id(orlop: Orlop, busybox: str) -> None:
    """--network takes the beginning of an id; the network then counts as used."""
    identifier = orlop("network", "create", "lan").strip()
    orlop("run", "-d", "--name", "one", "--network", identifier[:10], busybox, "sleep", "1000")

    assert _shown(orlop, "one", "{{.HostConfig.NetworkMode}}") == "lan"
    orlop.fails("network", "rm", "lan")
    orlop("rm", "-f", "one")
    orlop("network", "rm", "lan")


def test_an_unclear_id_is_called_unclear(orlop: Orlop, busybox: str) -> None:
    """`inspect` of the beginning of several ids says which, and not that there is nothing."""
    other = _shown(orlop, busybox, "{{.Id}}").removeprefix("sha256:")[0]  # of an image there is but one
    seen: list[str] = []
    while not seen or seen.count(seen[-1]) < 2 or seen[-1] == other:
        seen.append(orlop("create", busybox).strip()[0])

    assert f"{seen[-1]} is the beginning of 2 containers' ids" in orlop.fails("inspect", seen[-1])


def test_a_pause_that_was_killed_half_way(orlop: Orlop, busybox: str) -> None:
    """Whether a container stands still, its cgroup knows; what stands still can be killed and removed."""
    orlop("run", "-d", "--name", "one", busybox, "sleep", "1000")
    run = orlop.folder / "run/containers" / _shown(orlop, "one", "{{.Id}}")
    cgroup = Cgroup(json.loads((run / "launch.json").read_text())["cgroup"])

    (run / "paused").touch()  # killed before it stood still
    assert _shown(orlop, "one", "{{.State.Status}}") == "running"
    orlop("pause", "one")
    assert _shown(orlop, "one", "{{.State.Status}}") == "paused"
    cgroup.thaw()  # killed after it went on again
    assert _shown(orlop, "one", "{{.State.Status}}") == "running"
    orlop("pause", "one")
    orlop("kill", "one")
    until(lambda: _shown(orlop, "one", "{{.State.Status}}") == "exited")
    orlop("start", "one")
    orlop("pause", "one")
    orlop("rm", "-f", "one")


def test_a_full_disk_for_news(orlop: Orlop, busybox: str) -> None:
    """Where the event log cannot be written, everything else goes on: one must be able to clean up."""
    log = orlop.folder / "root/events.jsonl"
    log.unlink()
    log.symlink_to("/dev/full")

    orlop("run", "-d", "--name", "one", busybox, "sleep", "1000")
    orlop("rm", "-f", "one")
    orlop("tag", busybox, "two")
    orlop("rmi", "two", busybox)
    assert orlop("system", "df", "--format", "{{.Type}} {{.TotalCount}}").startswith("Images 0\n")


def test_the_size_of_what_was_written(orlop: Orlop, busybox: str) -> None:
    """`inspect --size` tells how much a container wrote, and that with its image."""
    orlop("run", "--name", "one", busybox, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=2")
    written, whole = map(int, orlop("inspect", "--size", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "one").split())
    assert written >= 2 << 20
    assert whole > written
