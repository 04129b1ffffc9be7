"""Attacks on the runtime itself: hostile bundles and ids, and containers that look at whoever enters them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from patience import until, until_equal

from orlop.errors import InvalidArgument, NotFound, OrlopError, PermissionDenied
from orlop.linux import cgroups, mounts
from orlop.runtime import execute, lifecycle
from orlop.runtime import state as states
from orlop.runtime.testing import Box

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A bundle to attack with; nothing of it may be left on the machine."""
    found = Box(tmp_path)
    try:
        yield found
    finally:
        found.close()
    until_equal(found.leftovers, [])  # the dead may take a moment to leave their cgroups


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", "a b", "é", "x" * 300, "a\n", "@x"])
def test_bad_ids(box: Box, name: str) -> None:
    """An id that is no plain name reaches no path: not for create, and not for any other verb."""
    bundle = box.write("/bin/true")
    before = sorted(os.listdir(box.folder))
    attempts = (
        lambda: lifecycle.create(bundle, name, state_root=box.state_root),
        lambda: lifecycle.start(name, state_root=box.state_root),
        lambda: lifecycle.state(name, state_root=box.state_root),
        lambda: lifecycle.kill(name, 9, state_root=box.state_root),
        lambda: lifecycle.delete(name, state_root=box.state_root, force=True),
        lambda: execute.begin(name, box.process, state_root=box.state_root),
    )
    for attempt in attempts:
        with pytest.raises(InvalidArgument, match="is not a container id"):
            attempt()
    assert sorted(os.listdir(box.folder)) == before


@pytest.mark.parametrize("path", ["/../../escape", "/orlop/../../escape", "..", "/", "/a/./b", "/a\nb"])
def test_cgroup_paths_do_not_escape(box: Box, path: str) -> None:
    """A cgroupsPath that climbs, or is the whole hierarchy, is refused before anything is made."""
    box.linux["cgroupsPath"] = path
    with pytest.raises(InvalidArgument):
        box.create("/bin/true")
    assert not any(os.path.exists(f"{place.mount}/escape") for place in cgroups.Cgroup("/x").hierarchy.places.values())


@pytest.mark.parametrize(
    "name",
    ["kernel.core_pattern", "vm.overcommit_memory", "kernel/../kernel/core_pattern", "net/../kernel/core_pattern"],
)
def test_sysctls_of_the_host(box: Box, name: str) -> None:
    """A sysctl that no namespace keeps apart is refused, however it is spelt."""
    box.linux["sysctl"] = {name: "1"}
    with pytest.raises(InvalidArgument):
        box.create("/bin/true")


@pytest.mark.parametrize("place", ["/proc", "/sys", "/dev"])
def test_links_where_the_kernel_belongs(box: Box, place: str) -> None:
    """A symlink at /proc, /sys or /dev is refused: what follows relies on what is mounted there."""
    folder = box.rootfs / place[1:]
    folder.rmdir()
    folder.symlink_to("/tmp/../..")
    with pytest.raises(PermissionDenied, match="symbolic link"):
        box.create("/bin/true")


def test_a_link_on_the_way_to_a_mount(box: Box) -> None:
    """A mount target behind symlinks, absolute and climbing, is found inside the image, never on the host."""
    outside = box.folder / "outside"
    outside.mkdir()
    (box.rootfs / "absolute").symlink_to(outside)
    (box.rootfs / "climbing").symlink_to("../../../../../../../../.." + str(outside))
    (box.rootfs / "loop").symlink_to("loop")
    source = box.folder / "source"
    source.mkdir()
    (source / "file").write_text("bound")
    for name in ("absolute", "climbing"):
        box.bind(source, f"/{name}/deep")
    assert box.sh("cat /absolute/deep/file /climbing/deep/file").out == "boundbound"
    assert list(outside.iterdir()) == []
    box.bind(source, "/loop/deep")
    with pytest.raises(OrlopError):
        box.create("/bin/true")


def test_a_file_in_the_way_of_devices(box: Box) -> None:
    """Where an image's own /dev is used, something else in a device's place is refused, not written through."""
    target = box.folder / "target"
    target.write_text("host")
    (box.rootfs / "dev/null").symlink_to(target)
    box.spec["mounts"] = [entry for entry in box.spec["mounts"] if not entry["destination"].startswith("/dev")]
    with pytest.raises(OrlopError, match="/dev/null"):
        box.create("/bin/true")
    assert target.read_text() == "host"


@pytest.mark.parametrize("folder", ["/proc/self/fd/3", "/proc/self/fd/4/../..", "/proc/self/fd/9", "/proc/1/cwd"])
def test_working_folders_outside(box: Box, folder: str) -> None:
    """A working folder by a leaked descriptor (CVE-2024-21626) does not exist, or lies inside."""
    held = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(8)]
    for fd in held:
        os.set_inheritable(fd, True)
    try:
        box.process["cwd"] = folder
        try:
            out = box.sh("ls -di / .").out
        except OrlopError:
            return
        assert str(os.stat("/").st_ino) not in out.split()
    finally:
        for fd in held:
            os.close(fd)


def test_mask_sources_are_the_hosts(box: Box) -> None:
    """What masks a file is the host's null device, not something that the image calls so (CVE-2025-31133)."""
    (box.rootfs / "secret").write_text("secret")
    box.linux["maskedPaths"] = ["/secret"]
    box.spec["mounts"] = [entry for entry in box.spec["mounts"] if entry["destination"] != "/dev"]
    out = box.sh("cat /secret; stat -c %F:%t:%T /secret").out
    assert out == "character special file:1:3\n"


def test_those_who_enter_cannot_be_looked_into(box: Box) -> None:
    """A container that watches /proc never sees our interpreter behind one that enters (CVE-2019-5736)."""
    watch = "while [ ! -e /stop ]; do for p in /proc/[0-9]*; do readlink $p/exe; done; done | sort -u > /seen"
    created = box.running("/bin/sh", "-c", watch)
    for _ in range(20):
        assert box.execute(created, "/bin/true").code == 0
    (box.rootfs / "stop").touch()
    box.end(created)
    seen = (box.rootfs / "seen").read_text().split("\n")
    assert not [path for path in seen if "python" in path]
    assert set(seen) <= {"", "/bin/busybox", "/memfd:orlop-exec (deleted)", "/memfd:orlop-exec"}


def test_our_init_is_hidden(box: Box) -> None:
    """Init, waiting to be started, belongs to root and cannot be traced by another user of its own id."""
    box.with_users()
    created = box.create("/bin/sleep", "1000")
    assert os.stat(f"/proc/{created.container.pid}/mem").st_uid == 0
    become = "import os\nos.setresgid(100000, 100000, 100000)\nos.setresuid(100000, 100000, 100000)\n"
    code = f"{become}os.readlink('/proc/{created.container.pid}/exe')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr


def test_bundles_that_lie_about_sizes(box: Box) -> None:
    """Deep nesting and huge configs are refused by size and depth."""
    (box.bundle / "config.json").write_bytes(b'{"ociVersion":"1.0.0","x":' + b"[" * 5000 + b"]" * 5000 + b"}")
    with pytest.raises(InvalidArgument):
        lifecycle.create(str(box.bundle), box.new_id(), state_root=box.state_root)
    (box.bundle / "config.json").write_bytes(b'{"x":"' + b"a" * (9 << 20) + b'"}')
    with pytest.raises(InvalidArgument):
        lifecycle.create(str(box.bundle), box.new_id(), state_root=box.state_root)


def test_state_files_are_not_trusted_blindly(box: Box) -> None:
    """A state folder with another version, or with rubbish, is refused and not acted upon."""
    name = box.new_id()
    directory, _ = states.claim(box.state_root, name)
    directory.close()
    for text in ('{"version":9,"id":"x","bundle":"","pid":1}', "rubbish", '{"version":1}'):
        with open(f"{box.state_root}/{name}/state.json", "w") as file:
            file.write(text)
        with pytest.raises(OrlopError):
            lifecycle.kill(name, 9, state_root=box.state_root)
    os.unlink(f"{box.state_root}/{name}/state.json")


def test_a_container_cannot_answer_for_its_start(box: Box) -> None:
    """Nothing in the container holds the barrier's FIFOs: neither before nor after the program runs."""
    created = box.running("/bin/sh", "-c", "ls -la /proc/self/fd; sleep 1000")
    out = box.execute(created, "/bin/sh", "-c", "ls -la /proc/1/fd /proc/self/fd").out
    assert "fifo" not in out
    assert "socket" not in out
    box.kill(created)


def test_hostile_terminals(box: Box) -> None:
    """A FIFO where a container's terminal multiplexer should be makes `exec -t` fail, not hang."""
    box.process["capabilities"] = {
        kind: ["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_DAC_OVERRIDE"] for kind in ("bounding", "effective", "permitted")
    }
    created = box.running("/bin/sh", "-c", "umount /dev/pts; mkfifo /dev/pts/ptmx; touch /ready; sleep 1000")
    until((box.rootfs / "ready").exists, "the container to be prepared")
    with pytest.raises(OrlopError):
        execute.begin(
            created.container.id, box.process | {"args": ["tty"], "terminal": True}, state_root=box.state_root
        )
    box.kill(created)


def test_mounts_do_not_leak_to_the_host(box: Box) -> None:
    """Whatever a privileged container mounts stays its own."""
    box.process["capabilities"] = {
        kind: ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"] for kind in ("bounding", "effective", "permitted")
    }
    script = f"mount -t tmpfs {box.folder} /tmp && mount --bind /tmp /root && echo fine"  # a source that only we have
    assert box.sh(script).out == "fine\n"
    assert not [entry for entry in mounts.mountinfo() if entry.source == str(box.folder)]


def test_unknown_containers(box: Box) -> None:
    """Every verb on a container that does not exist is NotFound, and makes nothing."""
    for attempt in (
        lambda: lifecycle.start("none", state_root=box.state_root),
        lambda: lifecycle.state("none", state_root=box.state_root),
        lambda: lifecycle.kill("none", 9, state_root=box.state_root),
        lambda: lifecycle.pause("none", state_root=box.state_root),
        lambda: execute.begin("none", box.process, state_root=box.state_root),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert not os.path.exists(f"{box.state_root}/none")
