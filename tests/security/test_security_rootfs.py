"""The container's file system against an image that was made to bend it: links, mount targets, masks, folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import attack
import pytest
from command import Orlop

_RUN = ("run", "--rm", "--network", "none")


def _listing(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((str(path), path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))


@pytest.mark.parametrize("place", ["dev", "proc", "sys", "dev/pts", "proc/sys"])
def test_link_where_the_kernel_belongs(arena: Orlop, image: Callable[..., str], tmp_path: Path, place: str) -> None:
    """An image with a symlink at /dev, /proc or /sys is refused, or mounted inside itself: never onto the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    name = image(attack.link(place, str(outside)))
    done = arena.run(*_RUN, name, "sh", "-c", "touch /dev/made /proc/made; ls /")

    assert _listing(outside) == []
    assert "Traceback" not in done.stderr
    if "/" not in place:
        assert done.returncode == 125
        assert "symbolic link" in done.stderr


@pytest.mark.parametrize("name", ["hosts", "hostname", "resolv.conf"])
def test_small_files_through_links(arena: Orlop, image: Callable[..., str], host_file: Path, name: str) -> None:
    """/etc/hosts and its siblings as symlinks, absolute, relative or into /proc, reach no file of the host."""
    for target in (str(host_file), "../" * 20 + str(host_file).lstrip("/"), "/proc/1/root" + str(host_file)):
        hostile = image(attack.link(f"etc/{name}", target))
        done = arena.run(*_RUN, hostile, "sh", "-c", f"cat /etc/{name}; echo overwritten > /etc/{name}")

        assert "the host's own" not in done.stdout
        assert host_file.read_text() == "the host's own"


def test_small_files_below_a_linked_etc(arena: Orlop, image: Callable[..., str], tmp_path: Path) -> None:
    """/etc itself as a symlink to a folder of the host leads to that folder's name in the image."""
    outside = tmp_path / "outside"
    outside.mkdir()
    hostile = image(
        attack.file("etc2", ""), attack.link("elsewhere", str(outside)), attack.link("etc/deep", "/elsewhere")
    )
    arena.run(*_RUN, "--tmpfs", "/etc/deep/a", "-v", f"{outside}:/elsewhere/../b", hostile, "true")

    assert _listing(outside) == []


@pytest.mark.parametrize("how", ["-v", "--tmpfs", "--mount"])
def test_mount_targets_through_links(arena: Orlop, image: Callable[..., str], tmp_path: Path, how: str) -> None:
    """A mount target behind a symlink, absolute or climbing, is made and mounted inside the image."""
    outside, source = tmp_path / "outside", tmp_path / "source"
    outside.mkdir()
    source.mkdir()
    (source / "mark").write_text("mark")
    climb = "../" * 30 + str(outside).lstrip("/")
    hostile = image(
        attack.link("absolute", str(outside)), attack.link("climbing", climb), attack.link("root", "/proc/1/root")
    )
    for target in ("/absolute/x", "/climbing/y", f"/root{outside}/z", "/../../../w"):
        given = {
            "-v": f"{source}:{target}", "--tmpfs": target, "--mount": f"type=bind,source={source},target={target}",
        }[how]  # fmt: skip
        done = arena.run(*_RUN, how, given, hostile, "sh", "-c", "grep -c / /proc/mounts")
        assert "Traceback" not in done.stderr
        assert _listing(outside) == []


def test_mounts_over_the_kernels_folders(arena: Orlop, image: Callable[..., str]) -> None:
    """An image's VOLUME cannot take the place of /proc, /sys or /dev, nor uncover what is masked there."""
    for volume in ("/proc", "/proc/sys", "/sys/firmware", "/proc/self", "/dev/../proc/1"):
        hostile = image(Volumes={volume: {}})
        done = arena.run(
            *_RUN, hostile, "sh", "-c", "ls /sys/firmware; cat /proc/keys; echo 1 > /proc/sys/kernel/panic"
        )
        assert done.returncode != 0, volume
        assert done.stdout == "", volume


@pytest.mark.parametrize(
    "folder", [*(f"/proc/self/fd/{fd}" for fd in range(3, 15)), "/proc/1/root/..", "/proc/self/cwd"]
)
def test_working_folder(arena: Orlop, image: Callable[..., str], folder: str) -> None:
    """A WORKDIR of /proc/self/fd/N (CVE-2024-21626) is refused or leads nowhere but into the container."""
    done = arena.run(
        *_RUN,
        "-w",
        folder,
        "busybox",
        "sh",
        "-c",
        "cd ../../../../..; ls etc/shadow root home; pwd -P; ls -d /proc/self/cwd/lib/systemd",
    )

    assert "systemd" not in done.stdout
    assert "shadow" not in done.stdout


def test_working_folder_of_exec(arena: Orlop, image: Callable[..., str], host_file: Path) -> None:
    """The same for `exec -w`, and for a WORKDIR that is a symlink to a descriptor, while descriptors are inherited."""
    hostile = image(*(attack.link(f"fd{fd}", f"/proc/self/fd/{fd}") for fd in range(3, 15)))
    name = attack.unique("cwd")
    arena("run", "-d", "--network", "none", "--name", name, hostile, "sleep", "1000")
    inherited = os.open(host_file.parent, os.O_RDONLY)
    try:
        os.set_inheritable(inherited, True)
        for fd in range(3, 15):
            for folder in (f"/fd{fd}", f"/proc/self/fd/{fd}", f"/fd{fd}/made"):
                done = arena.run("exec", "-w", folder, name, "cat", host_file.name, f"../{host_file.name}")
                assert "the host's own" not in done.stdout
    finally:
        os.close(inherited)
        arena("rm", "-f", name)
    assert _listing(host_file.parent) == [(str(host_file), b"the host's own")]


MASKED = (
    "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug "
    "/proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware".split()
)
READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()


def test_masked_and_read_only(arena: Orlop, target: str) -> None:
    """What docker masks is empty, what it protects cannot be written, in `run` and in `exec`, and for root inside."""
    script = (
        f"for p in {' '.join(MASKED)}; do [ -e $p ] || continue; if [ -d $p ]; then ls -A $p; else cat $p; fi; "
        "echo x > $p/made && echo written $p; done 2>/dev/null; "
        "for p in /proc/sys/kernel/panic /proc/sys/vm/swappiness /proc/sysrq-trigger /proc/irq/default_smp_affinity "
        "/proc/sys/kernel/core_pattern /sys/kernel/uevent_helper /sys/power/state /sys/fs/cgroup/made; "
        "do (echo 1 > $p) 2>/dev/null && echo written $p; done; "
        "mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; "
        "umount /proc/keys 2>/dev/null && echo unmounted; true"
    )
    before = Path("/proc/sys/kernel/panic").read_text()

    assert arena("exec", target, "sh", "-c", script) == ""
    assert arena("run", "--rm", "--network", "none", "busybox", "sh", "-c", script) == ""
    assert Path("/proc/sys/kernel/panic").read_text() == before


def test_cgroups_cannot_be_changed_from_inside(arena: Orlop, target: str) -> None:
    """No file below /sys/fs/cgroup can be written: no release agent, no limit lifted."""
    script = (
        "find /sys/fs/cgroup -type f -name '[rmd]*' | while read f; do (echo 1 > $f) 2>/dev/null && echo $f; done; true"
    )

    assert arena("exec", target, "sh", "-c", script) == ""


@pytest.mark.parametrize(
    "pair",
    [
        *(
            "kernel.panic=9 kernel.core_pattern=|/evil net/../kernel/panic=9 net.ipv4/../../kernel/panic=9 vm.swappiness=1 net...kernel.panic=9 net//../kernel/panic=9 "
            "/etc/passwd=x ../../etc/passwd=x fs.mqueue./../../kernel/panic=9 kernel.shm/../panic=9 kernel/shmmax/../panic=9 net.../.kernel.panic=9 fs.file-max=1"
        ).split(),
    ],
)  # fmt: skip
def test_sysctl_of_the_host(arena: Orlop, pair: str) -> None:
    """A sysctl that is not the namespaces' own, by name or by a path trick, is refused before anything is made."""
    before = (
        Path("/proc/sys/kernel/panic").read_text(),
        os.uname().nodename,
        Path("/proc/sys/vm/swappiness").read_text(),
    )
    error = arena.fails(*_RUN, "--sysctl", pair, "busybox", "true", code=125)

    assert "sysctl" in error
    assert before == (
        Path("/proc/sys/kernel/panic").read_text(), os.uname().nodename, Path("/proc/sys/vm/swappiness").read_text(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "pair"),
    [
        ("--network", "net.ipv4.ip_forward=0"),
        ("--ipc", "kernel.shmmax=1"),
        ("--ipc", "fs.mqueue.msg_max=5"),
        ("--uts", "kernel.hostname=evil"),
    ],
)
def test_sysctl_of_shared_namespaces(arena: Orlop, share: str, pair: str) -> None:
    """With the host's network or IPC namespace their sysctls are the host's, and refused."""
    place = Path("/proc/sys", pair.partition("=")[0].replace(".", "/"))
    before = place.read_text()
    network = () if share == "--network" else ("--network", "none")
    arena.fails("run", "--rm", *network, share, "host", "--sysctl", pair, "busybox", "true", code=125)

    assert place.read_text() == before


@pytest.mark.parametrize(
    "parent", ["../../escape", "/../../escape", "/a/../../escape", "/orlop/../../../escape", "a/./b/..", "\n/x"]
)
def test_cgroup_parent(arena: Orlop, parent: str) -> None:
    """--cgroup-parent never leads out of the hierarchy, nor makes folders in strange places."""
    error = arena.fails(*_RUN, "--cgroup-parent", parent, "busybox", "true", code=125)

    assert "cgroup" in error
    assert not [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if "escape" in folder]
