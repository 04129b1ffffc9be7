"""Namespaces: new, shared or joined by path, of every kind; user namespaces and what they may not do."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from orlop.errors import InvalidArgument, NotFound, OrlopError
from orlop.linux import cgroups, namespaces
from orlop.runtime.testing import until

if TYPE_CHECKING:
    from orlop.runtime.testing import Box

_NAMES = {kind: name for kind, (_, name) in namespaces.TYPES.items()}


def _of(pid: int | str, kind: str) -> tuple[int, int]:
    return namespaces.identity(f"/proc/{pid}/ns/{_NAMES[kind]}")


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "mount", "cgroup", "time"])
def test_new_namespaces_are_the_containers_own(box: Box, kind: str) -> None:
    """A namespace that the spec names is new; the host's is not touched."""
    box.with_namespace(kind)
    before = _of("self", kind)
    created = box.running("/bin/sleep", "100")
    assert _of(created.container.pid, kind) != before
    assert _of("self", kind) == before
    box.kill(created)


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "cgroup"])
def test_namespaces_not_named_are_shared(box: Box, kind: str) -> None:
    """A namespace that the spec does not name is the host's."""
    box.without(kind)
    created = box.running("/bin/sleep", "100")
    assert _of(created.container.pid, kind) == _of("self", kind)
    box.kill(created)


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup", "time"])
def test_joining_by_path(box: Box, kind: str) -> None:
    """A namespace with a path is joined, whichever kind it is; its owner goes on."""
    if kind == "time":
        box.with_namespace("time")
    first = box.running("/bin/sleep", "100")
    box.with_namespace(kind, f"/proc/{first.container.pid}/ns/{_NAMES[kind]}")
    if kind == "uts":
        box.spec["hostname"] = ""
    second = box.running("/bin/sleep", "100")

    assert _of(second.container.pid, kind) == _of(first.container.pid, kind)
    assert _of(second.container.pid, "mount") != _of(first.container.pid, "mount")
    box.kill(second)
    assert box.status(first) == "running"
    box.kill(first)


def test_a_pod(box: Box) -> None:
    """Several namespaces of one container can be joined together, as the containers of a pod do."""
    first = box.running("/bin/sleep", "100")
    for kind in ("pid", "network", "ipc", "uts"):
        box.with_namespace(kind, f"/proc/{first.container.pid}/ns/{_NAMES[kind]}")
    box.spec["hostname"] = ""
    second = box.running("/bin/sleep", "100")
    assert "sleep" in box.execute(second, "/bin/sh", "-c", "cat /proc/1/cmdline").out
    assert box.execute(second, "/bin/hostname").out == "orlop\n"
    box.kill(second)
    box.kill(first)


def test_a_mount_namespace_can_be_joined(box: Box) -> None:
    """With another's mount namespace, root and mounts are made there; whose it is keeps its own root."""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other, contextlib.ExitStack() as ending:
        ending.callback(other.kill)
        assert other.stdout is not None
        other.stdout.readline()  # the namespace is as it will be
        box.with_namespace("mount", f"/proc/{other.pid}/ns/mnt")
        box.linux["maskedPaths"], box.linux["readonlyPaths"] = [], []
        created = box.running("/bin/sleep", "100")
        assert _of(created.container.pid, "mount") == _of(other.pid, "mount")
        assert os.readlink(f"/proc/{other.pid}/root") == "/"
        assert os.path.exists(f"/proc/{created.container.pid}/root/proc/1")
        assert box.execute(created, "/bin/cat", "/etc/passwd").out == (box.rootfs / "etc/passwd").read_text()
        box.kill(created)


def test_a_namespace_that_is_gone(box: Box) -> None:
    """A path that does not exist is NotFound, and names the kind."""
    box.with_namespace("network", "/proc/1/ns/nothing")
    with pytest.raises(NotFound, match="network"):
        box.create("/bin/true")


def test_another_kind_is_refused(box: Box) -> None:
    """A path to a namespace of another kind is refused by the kernel, and we say what was to be done."""
    box.with_namespace("network", "/proc/self/ns/uts")
    with pytest.raises(OrlopError, match="network"):
        box.create("/bin/true")


def test_the_loopback_is_up(box: Box) -> None:
    """In a new network namespace `lo` is up and nothing else is there."""
    out = box.sh(
        "cat /sys/class/net/lo/operstate; ls /sys/class/net; ping -c1 -W60 127.0.0.1 >/dev/null && echo ping"
    ).out
    assert "lo" in out.split()
    assert "ping" in out


def test_sysctls(box: Box) -> None:
    """Sysctls of the container's own namespaces are set inside, and only there."""
    with open("/proc/sys/net/ipv4/ip_default_ttl") as file:
        before = file.read()
    box.linux["sysctl"] = {"net.ipv4.ip_default_ttl": "77", "net/ipv4/ping_group_range": "0 7", "kernel.shmmni": "1234"}
    out = box.sh(
        "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/net/ipv4/ping_group_range /proc/sys/kernel/shmmni"
    ).out
    assert out.split() == ["77", "0", "7", "1234"]
    with open("/proc/sys/net/ipv4/ip_default_ttl") as file:
        assert file.read() == before


def test_unknown_sysctls_are_named(box: Box) -> None:
    """A sysctl that does not exist names itself in the error."""
    box.linux["sysctl"] = {"net.ipv4.no_such_thing": "1"}
    with pytest.raises(OrlopError, match="no_such_thing"):
        box.create("/bin/true")


def test_time_offsets(box: Box) -> None:
    """A time namespace shifts the clocks of the program."""
    box.with_namespace("time")
    box.linux["timeOffsets"] = {"boottime": {"secs": 1_000_000}}
    with open("/proc/uptime") as file:
        host = float(file.read().split()[0])
    assert float(box.sh("cat /proc/uptime").out.split()[0]) >= host + 999_000


def test_the_domain_name(box: Box) -> None:
    """Domainname is the UTS namespace's."""
    box.spec["domainname"] = "sea"
    assert box.sh("cat /proc/sys/kernel/domainname").out == "sea\n"


# user namespaces


def test_a_user_namespace(box: Box) -> None:
    """Root inside is nobody special outside; ids, devices, cgroups and exec work as without."""
    box.with_users()
    created = box.create("/bin/sleep", "100")
    assert os.stat(f"/proc/{created.container.pid}").st_uid in (0, 100_000)  # nobody may look into it yet
    box.start(created)
    assert os.stat(f"/proc/{created.container.pid}").st_uid == 100_000
    script = (
        "id -u; cat /proc/self/uid_map; touch /tmp/x; stat -c %u /tmp/x; echo x > /dev/null && echo null; ls /dev/pts"
    )
    lines = box.execute(created, "/bin/sh", "-c", script).out.splitlines()
    assert lines[0] == "0"
    assert lines[1].split() == ["0", "100000", "65536"]
    assert lines[2] == "0"
    assert "null" in lines
    assert (box.rootfs / "tmp/x").stat().st_uid == 100_000
    box.kill(created)


def test_a_user_namespace_from_the_start(box: Box) -> None:
    """The container's own program is root of the namespace, with the capabilities of the spec."""
    box.with_users()
    out = box.sh(
        "id -u; grep CapEff /proc/self/status; ls -la /dev/null; cat /proc/self/oom_score_adj; mount | grep -c ."
    ).out
    assert out.splitlines()[0] == "0"
    assert "00000000a80425fb" in out
    assert "1,   3" in out


def test_other_users_of_a_user_namespace(box: Box) -> None:
    """A user other than root is mapped as well; one without a mapping is refused before anything is made."""
    box.with_users()
    box.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [2000]}
    assert box.sh("id -u; id -G").out == "1000\n1000 2000\n"
    box.process["user"] = {"uid": 70_000, "gid": 0}
    with pytest.raises(InvalidArgument, match="70000"):
        box.create("/bin/true")


def test_sources_closed_to_the_containers_users(box: Box) -> None:
    """A bind mount's source need not be reachable for the container's root: it is opened before."""
    box.with_users()
    closed = box.folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "inner").mkdir()
    (closed / "inner/file").write_text("seen\n")
    box.bind(closed / "inner", "/there", "bind", "ro")
    assert box.sh("cat /there/file").out == "seen\n"


def test_a_root_closed_to_the_containers_users(box: Box) -> None:
    """Neither need the root file system be."""
    box.with_users()
    os.chmod(box.bundle, 0o700)
    assert box.sh("echo in").out == "in\n"


def test_the_hosts_network_in_a_user_namespace(box: Box) -> None:
    """Where a user namespace may mount no sysfs of its own, it gets the host's, read-only."""
    box.with_users()
    box.without("network")
    result = box.sh("ls /sys | head -1; mount | grep ' /sys ' | grep -c ro")
    assert result.code == 0


def test_joining_a_user_namespace(box: Box) -> None:
    """A user namespace can be joined by path, and the namespaces made with it belong to it."""
    box.with_users()
    first = box.running("/bin/sleep", "100")
    box.with_namespace("user", f"/proc/{first.container.pid}/ns/user")
    del box.linux["uidMappings"], box.linux["gidMappings"]
    box.linux["resources"] = {}
    second = box.running("/bin/sleep", "100")
    assert _of(second.container.pid, "user") == _of(first.container.pid, "user")
    assert _of(second.container.pid, "pid") != _of(first.container.pid, "pid")
    assert box.execute(second, "/bin/hostname", "other").code in (0, 1)
    box.kill(second)
    box.kill(first)


def test_our_own_namespaces_come_back(box: Box) -> None:
    """After making and entering containers, the maker is in the namespaces that it was in."""
    before = {kind: _of("self", kind) for kind in namespaces.TYPES}
    children = {kind: os.readlink(f"/proc/self/ns/{kind}_for_children") for kind in ("pid", "time")}
    box.with_namespace("time")
    created = box.running("/bin/sleep", "100")
    box.execute(created, "/bin/true")
    box.kill(created)
    assert {kind: _of("self", kind) for kind in namespaces.TYPES} == before
    assert {kind: os.readlink(f"/proc/self/ns/{kind}_for_children") for kind in ("pid", "time")} == children


def test_orphans_die_with_the_container(box: Box) -> None:
    """When the first process of a PID namespace ends, everybody in it does."""
    flag = box.folder / "flag"
    flag.mkdir()
    box.bind(flag, "/flag")
    created = box.running("/bin/sh", "-c", "(sleep 1000 & echo $! > /flag/pid) & kill -9 $$; sleep 1000")
    until((flag / "pid").exists)
    assert len(cgroups.Cgroup(created.container.cgroup).pids()) >= 2
    box.kill(created)
    until(lambda: cgroups.Cgroup(created.container.cgroup).pids() == [])
