"""What a container's programs may ask of the kernel: capabilities, system calls, other processes, devices."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable

import attack
import pytest
from command import Orlop

_CLONE_NEWUSER = 0x10000000

CALLS = {
    "unshare-user": attack.syscall_program("unshare", _CLONE_NEWUSER),
    "unshare-mount": attack.syscall_program("unshare", 0x20000),
    "clone-user": attack.syscall_program("clone", _CLONE_NEWUSER | 17, 0, 0, 0),
    "mount": attack.syscall_program("mount", -1, -1, -1, 0, data=b"tmpfs"),
    "umount": attack.syscall_program("umount2", -1, 2, data=b"/proc/acpi"),
    "pivot_root": attack.syscall_program("pivot_root", -1, -1, data=b"/"),
    "setns": attack.syscall_program("setns", 0, 0),
    "keyctl": attack.syscall_program("keyctl", 0, 0xFFFFFFFD, 1),
    "add_key": attack.syscall_program("add_key", -1, -1, -1, 4, data=b"user"),
    "request_key": attack.syscall_program("request_key", -1, -1, 0, 0, data=b"user"),
    "bpf": attack.syscall_program("bpf", 0, -1, 64, data=bytes(64)),
    "perf_event_open": attack.syscall_program("perf_event_open", -1, 0, 0, 0, data=bytes(112)),
    "reboot": attack.syscall_program("reboot", 0xFEE1DEAD, 672274793, 0, 0),
    "kexec_load": attack.syscall_program("kexec_load", 0, 0, 0, 0),
    "kexec_file_load": attack.syscall_program("kexec_file_load", 0, 0, 0, 0),
    "init_module": attack.syscall_program("init_module", 0, 0, 0),
    "finit_module": attack.syscall_program("finit_module", 0, 0, 0),
    "delete_module": attack.syscall_program("delete_module", -1, 0, data=b"none"),
    "swapon": attack.syscall_program("swapon", -1, 0, data=b"/none"),
    "acct": attack.syscall_program("acct", 0),
    "settimeofday": attack.syscall_program("settimeofday", -1, 0, data=bytes(16)),
    "open_by_handle_at": attack.syscall_program("open_by_handle_at", 0, 0, 0),
    "userfaultfd": attack.syscall_program("userfaultfd", 0),
    "quotactl": attack.syscall_program("quotactl", 0, 0, 0, 0),
    "fsopen": attack.syscall_program("fsopen", -1, 0, data=b"tmpfs"),
    "open_tree": attack.syscall_program("open_tree", 0, -1, 1, data=b"/"),
    "move_mount": attack.syscall_program("move_mount", 0, 0, 0, 0),
    "mount_setattr": attack.syscall_program("mount_setattr", 0, 0, 0, 0),
    "io_uring_setup": attack.syscall_program("io_uring_setup", 1, -1, data=bytes(120)),
    "syslog": attack.syscall_program("syslog", 10, 0, 0),
    "personality": attack.syscall_program("personality", 0x0040000),
}
_SCRIPT = "for call in /calls/*; do $call; echo ${call##*/} $?; done"


@pytest.fixture
def calls(image: Callable[..., str]) -> str:
    """An image whose programs are one forbidden system call each."""
    return image(attack.folder("calls"), *(attack.file(f"calls/{name}", code, 0o755) for name, code in CALLS.items()))


def _refused(text: str) -> None:
    found = dict(line.split() for line in text.splitlines())
    assert set(found) == set(CALLS)
    allowed = {
        name: os.strerror(int(code)) for name, code in found.items() if int(code) not in (errno.EPERM, errno.ENOSYS)
    }
    assert not allowed


def test_calls_are_refused(arena: Orlop, calls: str) -> None:
    """What docker's default profile refuses is refused in `run` and in `exec`: namespaces, mounts, keys, reboot..."""
    name = attack.unique("calls")
    arena("run", "-d", "--network", "none", "--name", name, calls, "sleep", "1000")
    try:
        _refused(arena("run", "--rm", "--network", "none", calls, "sh", "-c", _SCRIPT))
        _refused(arena("exec", name, "sh", "-c", _SCRIPT))
    finally:
        arena("rm", "-f", name)


def test_seccomp_holds_without_root(arena: Orlop, calls: str) -> None:
    """A plain user with no_new_privs is filtered as well, also by `exec`."""
    name = attack.unique("calls")
    arena(
        "run", "-d", "--network", "none", "-u", "1000:1000", "--security-opt", "no-new-privileges", "--name", name, calls,
        "sleep", "1000",
    )  # fmt: skip
    status = "grep -E '^(Cap(Eff|Prm|Inh|Amb)|NoNewPrivs|Seccomp):' /proc/self/status"
    try:
        for words in (
            arena("exec", name, "sh", "-c", status),
            arena("exec", name, "sh", "-c", "sed -n p /proc/1/status"),
        ):
            found = dict(line.split(":\t") for line in words.splitlines() if ":\t" in line)
            assert found["NoNewPrivs"] == "1"
            assert found["Seccomp"] == "2"
            assert {found[f"Cap{kind}"] for kind in ("Eff", "Prm", "Inh", "Amb")} == {"0" * 16}
        _refused(arena("exec", name, "sh", "-c", _SCRIPT))
    finally:
        arena("rm", "-f", name)


def test_capabilities(arena: Orlop, target: str) -> None:
    """Docker's fourteen, none inheritable or ambient, in `run` and `exec`; --cap-drop empties the bounding set, too."""
    script = "grep ^Cap /proc/self/status"
    expected = {
        "CapInh": "0" * 16, "CapPrm": "00000000a80425fb", "CapEff": "00000000a80425fb", "CapBnd": "00000000a80425fb",
        "CapAmb": "0" * 16,
    }  # fmt: skip
    for text in (arena("exec", target, "sh", "-c", script), arena("exec", target, "grep", "^Cap", "/proc/1/status")):
        assert dict(line.split(":\t") for line in text.splitlines()) == expected
    dropped = arena("run", "--rm", "--network", "none", "--cap-drop", "ALL", "busybox", "sh", "-c", script)
    assert {line.split(":\t")[1] for line in dropped.splitlines()} == {"0" * 16}


def test_other_processes_are_out_of_reach(arena: Orlop, target: str) -> None:
    """/proc/1 is the container's own program; no process of the host is seen, signalled or traced."""
    comm = arena("exec", target, "cat", "/proc/1/comm")
    pids = arena("exec", target, "sh", "-c", "ls /proc | grep -E '^[0-9]+$'").split()

    assert comm == "sleep\n"
    assert len(pids) <= 4  # sleep, sh, ls, grep
    # its number may be somebody's inside by chance: what must not be is that it is seen, or met
    mark = attack.unique("outside")
    with subprocess.Popen(["sh", "-c", "read line", mark], stdin=subprocess.PIPE) as outside:
        script = f"cat /proc/[0-9]*/cmdline; kill -9 {outside.pid}; true"
        assert mark not in arena("exec", target, "sh", "-c", script)
        assert outside.stdin is not None
        outside.stdin.close()
    assert outside.returncode == 1, "`read` met the end of its input: nobody killed it"


def test_host_disk_cannot_be_opened(arena: Orlop, target: str) -> None:
    """Mknod of the host's disk works, as docker allows; opening it is refused by the device cgroup (EPERM)."""
    found = os.stat("/").st_dev
    script = (
        f"mknod /tmp/disk b {os.major(found)} {os.minor(found)} && head -c 1 /tmp/disk; echo read $?; "
        "mknod /tmp/mem c 1 1; head -c 1 /tmp/mem; mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg; : > /tmp/disk"
    )
    done = arena.run("exec", target, "sh", "-c", script)

    assert "read 1" in done.stdout
    assert done.stderr.count("Operation not permitted") == 4


def test_devices_of_the_image_cannot_be_opened(arena: Orlop, image: Callable[..., str]) -> None:
    """A disk's node that comes with the image's layer is as closed as one made inside."""
    found = os.stat("/").st_dev
    name = image(attack.device("disk", "b", os.major(found), os.minor(found)), attack.device("mem", "c", 1, 1))
    done = arena.run("run", "--rm", "--network", "none", name, "sh", "-c", "head -c 1 /disk; head -c 1 /mem")

    assert done.returncode != 0
    assert done.stdout == ""
    assert "Operation not permitted" in done.stderr


def test_default_devices_are_the_containers_own(arena: Orlop, target: str) -> None:
    """Whatever a container does to /dev/null, or to a masked file, the host's /dev/null stays as it was."""
    before = os.stat("/dev/null")
    script = (
        "for f in /dev/null /dev/zero /proc/keys /proc/timer_list /proc/interrupts; do "
        "chmod 600 $f; chown 1:1 $f; touch $f; done; rm -f /dev/null; true"
    )
    try:
        arena("run", "--rm", "--network", "none", "busybox", "sh", "-c", script)
        arena("exec", target, "sh", "-c", script)
        after = os.stat("/dev/null")
    finally:
        os.chown("/dev/null", before.st_uid, before.st_gid)
        os.chmod("/dev/null", stat.S_IMODE(before.st_mode))

    assert (stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid) == (
        stat.S_IMODE(before.st_mode), before.st_uid, before.st_gid,
    )  # fmt: skip
