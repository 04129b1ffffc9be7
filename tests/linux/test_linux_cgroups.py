"""Control groups: the real ones of this machine, version 1 and the version 2 mount beside it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import until, until_equal

from orlop.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from orlop.linux import cgroups, cgroupstats
from orlop.linux.cgroups import Cgroup, Hierarchy, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.linux.conftest import InChild

BASE = f"/orlop-test-{os.getpid()}"
V1_TABLE = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:30 / /other/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/sys\\040temd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
V2_TABLE = "30 23 0:26 / {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


SPAWNED: list[int] = []


def spawn(group: Cgroup, body: Callable[[], object] = lambda: time.sleep(1000)) -> int:
    """A child that joins the cgroup and then runs `body`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what measures coverage has a handler
        os.close(writer)
        os.read(reader, 1)
        try:
            body()
        finally:
            os._exit(0)
    os.close(reader)
    group.join(pid)
    os.close(writer)
    SPAWNED.append(pid)
    return pid


def test_detect_reads_version_1() -> None:
    """Co-mounted controllers share a place, the first mount counts, names are unescaped, systemd's tree is known."""
    found = cgroups.detect(V1_TABLE)
    assert found.version == 1
    assert found.controllers == ("cpu", "cpuacct", "memory")
    assert found.places["cpu"] == found.places["cpuacct"] == Place(version=1, mount="/sys/fs/cgroup/cpu,cpuacct")
    assert found.places["memory"].mount == "/sys/fs/cgroup/memory"
    assert found.places["name=systemd"].mount == "/sys/fs/cgroup/sys temd"
    assert found.unified == ""


def test_detect_reads_version_2_and_the_mix() -> None:
    """Only v2 mounted is version 2, with freezer and devices always there; beside v1 controllers it is version 1."""
    mount = cgroups.detect().unified
    alone = cgroups.detect(V2_TABLE.format(mount=mount))
    assert (alone.version, alone.unified) == (2, mount)
    assert {"freezer", "devices"} <= set(alone.controllers)
    mixed = cgroups.detect(V1_TABLE + V2_TABLE.format(mount=mount))
    assert (mixed.version, mixed.unified) == (1, mount)
    assert mixed.places["memory"].version == 1
    assert cgroups.detect("").controllers == ()


@given(st.text())
def test_detect_never_raises(table: str) -> None:
    """Any text is a mount table."""
    cgroups.detect(table)


def test_this_machine() -> None:
    """Our own table is read, and root's containers go below /orlop."""
    found = cgroups.detect()
    assert {"memory", "cpu", "pids"} <= set(found.controllers)
    assert cgroups.default_parent() == "/orlop"
    assert cgroups.default_parent(Hierarchy(version=2, places={})) == ""
    assert cgroups.own_path(found).startswith("/")


@pytest.mark.parametrize(
    "path", ["", "/", "//", "..", "/a/../b", "/../x", "a/./b", "/a\0b", "/a\nb", f"/{'x' * 256}", "."]
)
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    """Nothing but plain names is a cgroup path."""
    with pytest.raises(InvalidArgument, match="no cgroup path"):
        Cgroup(path)


@given(st.text(min_size=1))
def test_a_path_never_leaves_the_mount(path: str) -> None:
    """Whatever is accepted stays below the mount point."""
    try:
        clean = cgroups.check_path(path)
    except InvalidArgument:
        return
    assert os.path.normpath(f"/mount{clean}").startswith("/mount/")
    assert os.path.normpath(f"/mount{clean}") == f"/mount{clean}"


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A cgroup below a parent of this test run, killed and deleted afterwards, its parent too."""
    found = Cgroup(f"{BASE}/one")
    yield found
    found.kill()
    reap()
    found.delete()
    Cgroup(BASE).delete()


def reap() -> None:
    """Collect the children that `spawn` made, and no others: some fixture may have a server running."""
    while SPAWNED:
        try:
            os.waitpid(SPAWNED.pop(), 0)
        except ChildProcessError:
            continue


def test_create_apply_join_stats_delete(group: Cgroup) -> None:
    """The life of a cgroup on this machine: limits in force, members counted, statistics in one shape, gone."""
    resources = {
        "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
        "pids": {"limit": 20},
        "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3}],
    }
    group.create(resources)
    group.create(resources)
    assert group.apply(resources) == []
    pids = {spawn(group, hold_eight_megabytes), spawn(group)}
    assert set(group.pids()) == pids
    until(lambda: group.stats()["memory"]["usage"] > 8 << 20)
    found = group.stats()
    assert found["memory"]["limit"] == 64 << 20
    assert found["memory"]["swap_limit"] in (128 << 20, -1, 64 << 20)
    assert found["memory"]["stat"]
    assert found["pids"] == {"current": 2, "limit": 20}
    assert set(found) == {"memory", "cpu", "pids", "blkio"}
    assert found["cpu"]["usage"] >= 0
    assert group.oom_kills() == 0
    group.kill()
    reap()
    until_equal(group.pids, [])
    group.delete()
    assert group.directories() == []
    group.delete()


def test_limits_can_go_up_and_down(group: Cgroup) -> None:
    """An update in either direction works, though memory must stay at or below memory with swap at each step."""
    group.create({"memory": {"limit": 1}})
    for limit, swap in ((64 << 20, 64 << 20), (256 << 20, 512 << 20), (32 << 20, 48 << 20), (32 << 20, -1), (-1, -1)):
        assert group.apply({"memory": {"limit": limit, "swap": swap}}) == []
        assert group.stats()["memory"]["limit"] == limit
    for quota, period in ((50000, 100000), (900000, 1000000), (1000, 1000), (-1, 100000)):
        assert group.apply({"cpu": {"quota": quota, "period": period}}) == []


def test_what_the_kernel_refuses_is_said(group: Cgroup) -> None:
    """A value the kernel does not take is an error with the file, the cgroup, the value and the reason."""
    group.create({"cpu": {"cpus": "0"}})
    with pytest.raises(InvalidArgument, match=rf"cannot set cpuset.cpus of cgroup {BASE}/one to '99999'"):
        group.apply({"cpu": {"cpus": "99999"}})


def test_a_missing_controller_is_an_error_for_a_limit(group: Cgroup) -> None:
    """A limit that nothing can keep is refused by name; device rules without a controller are a warning."""
    bare = Cgroup(group.path, Hierarchy(version=1, places={}))
    with pytest.raises(FailedPrecondition, match="no memory cgroup controller"):
        bare.apply({"memory": {"limit": 1 << 20}})
    assert bare.apply({"devices": [{"allow": False, "access": "rwm"}]})
    assert "swap" in bare.apply({"memory": {"swap": -1}})[0]


def hold_eight_megabytes() -> None:
    """Use memory and wait."""
    held = bytearray(b"x") * (8 << 20)
    time.sleep(1000)
    del held


def test_a_limit_below_what_is_used_is_checked_when_asked(group: Cgroup) -> None:
    """CheckBeforeUpdate refuses a limit that would kill at once."""
    group.create()
    spawn(group, hold_eight_megabytes)
    until(lambda: group.stats()["memory"]["usage"] > 8 << 20)
    with pytest.raises(ResourceExhausted, match="is below what"):
        group.apply({"memory": {"limit": 1 << 20, "checkBeforeUpdate": True}})


def test_out_of_memory_is_counted(group: Cgroup) -> None:
    """A process that takes more than the limit is killed, and the cgroup tells."""
    resources = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    group.create(resources)
    group.apply(resources)
    pid = spawn(group, lambda: bytearray(b"x") * (64 << 20))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert group.oom_kills() >= 1
    assert group.stats()["memory"]["oom_kills"] >= 1


def unified_group(name: str, parent: str = BASE) -> Cgroup:
    """A cgroup on the v2 mount alone, as a v2-only host would have it with these few controllers."""
    real = cgroups.detect()
    table = V2_TABLE.format(mount=real.unified)
    return Cgroup(f"{parent}/{name}", cgroups.detect(table))


@pytest.fixture(params=["v1", "v2"])
def either(request: pytest.FixtureRequest) -> Iterator[Cgroup]:
    """A created cgroup on each version."""
    found = Cgroup(f"{BASE}/{request.param}") if request.param == "v1" else unified_group("v2")
    found.create()
    os.makedirs(found.directory("freezer"), exist_ok=True)
    yield found
    found.kill()
    reap()
    found.delete()
    Cgroup(BASE).delete()


def counter() -> tuple[int, Callable[[], None]]:
    """A pipe's read end, and a body that writes to it for ever."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def body() -> None:
        while True:
            os.write(writer, b".")
            time.sleep(0.001)

    return reader, body


def drained(reader: int) -> int:
    """How much has been written since the last look."""
    try:
        return len(os.read(reader, 1 << 20))
    except BlockingIOError:
        return 0


def test_freezing_stops_and_thawing_continues(either: Cgroup) -> None:
    """A frozen cgroup does nothing at all, a thawed one goes on; both may be asked twice."""
    reader, body = counter()
    spawn(either, body)
    until(lambda: drained(reader) > 0)
    either.freeze()
    either.freeze()
    assert either.frozen()
    drained(reader)
    time.sleep(0.02)
    assert drained(reader) == 0
    either.thaw()
    either.thaw()
    assert not either.frozen()
    until(lambda: drained(reader) > 0)
    os.close(reader)


def forever_forking() -> None:
    """Two processes that keep replacing themselves by children: no list of pids is ever complete."""
    while True:
        if os.fork() == 0:
            continue
        os._exit(0)


def test_nothing_escapes_a_kill(either: Cgroup) -> None:
    """Processes that fork as fast as they can are all gone after one kill, also when frozen before."""
    for frozen in (False, True):
        for _ in range(2):
            spawn(either, forever_forking)
        if frozen:
            either.freeze()
        either.kill()
        until_equal(either.pids, [])
        assert not frozen or not either.frozen() or not either.pids()
        either.thaw()


def test_other_signals_reach_everybody(either: Cgroup, in_child: InChild) -> None:
    """kill(15) ends all members; the cgroup is not left frozen."""
    del in_child
    pids = [spawn(either) for _ in range(3)]
    either.kill(15)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [-15, -15, -15]
    assert not either.frozen()


def test_members_of_inner_cgroups_count(either: Cgroup) -> None:
    """Cgroups that a container made inside its own are listed, killed and removed with it."""
    inner = [f"{directory}/inner/deeper" for directory in either.directories()]
    for path in inner:
        os.makedirs(path)
    pid = spawn(either)
    for path in inner:
        if os.path.exists(f"{path}/cpuset.cpus"):
            continue  # a v1 cpuset takes nobody before it has cpus
        with open(f"{path}/cgroup.procs", "w") as file:
            file.write(str(pid))
    assert either.pids() == [pid]
    either.kill()
    reap()
    either.delete()
    assert not any(os.path.exists(path) for path in inner)


def test_a_cgroup_in_use_is_not_deleted(either: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting waits, then says who is still in there."""
    monkeypatch.setattr(cgroups, "_PATIENCE", 0.05)
    pid = spawn(either)
    with pytest.raises(ResourceExhausted, match=rf"still in use by processes \[{pid}\]"):
        either.delete()


def test_v2_limits_and_the_way_down() -> None:
    """On v2 the controllers are enabled from the top, processes in the way move to a leaf, and limits are set."""
    outer = unified_group("outer")
    if "hugetlb" not in outer.hierarchy.places:
        pytest.skip("somebody has mounted the hugetlb controller as v1, so this machine's v2 has no controller at all")
    resources: dict[str, Any] = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}
    outer.create()
    os.makedirs(outer.directory("freezer"), exist_ok=True)
    pid = spawn(outer)
    group = unified_group("inner", f"{BASE}/outer")
    try:
        group.create(resources)
        assert group.apply(resources) == []
        with open(f"{group.directory('hugetlb')}/hugetlb.2MB.max") as file:
            assert file.read() == f"{4 << 20}\n"
        with open(f"/proc/{pid}/cgroup") as file:
            assert f"0::{BASE}/outer/orlop-leaf\n" in file.read()
        with pytest.raises(FailedPrecondition, match="no memory cgroup controller"):
            group.apply({"memory": {"limit": 1 << 20}})
        assert any("swappiness" in one for one in group.apply({"memory": {"swappiness": 1}}))
    finally:
        outer.kill()
        reap()
        outer.delete()
        Cgroup(BASE).delete()
        # as it was: else nobody can mount it as v1, which crun and podman want
        with contextlib.suppress(OSError), open(f"{outer.hierarchy.unified}/cgroup.subtree_control", "w") as file:
            file.write("-hugetlb")  # EBUSY: another run of this test is in the middle, and will do it


def test_a_process_is_born_in_a_v2_cgroup() -> None:
    """open_unified gives what fork_into needs."""
    from orlop.linux.namespaces import CLONE_NEWUTS
    from orlop.linux.process import fork_into

    group = unified_group("born")
    os.makedirs(group.directory("freezer"))
    fd = group.open_unified()
    reader, writer = os.pipe()
    pid = fork_into(CLONE_NEWUTS, cgroup_fd=fd)
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        assert group.pids() == [pid]
    finally:
        for one in (reader, writer, fd):
            os.close(one)
        os.waitpid(pid, 0)
        group.delete()
        Cgroup(BASE).delete()


def test_a_process_may_move_itself(either: Cgroup, in_child: InChild) -> None:
    """A process that joins by itself is a member with all it is, whether it has one thread or more."""

    def body() -> list[bool]:
        either.join(os.getpid())
        alone = either.pids() == [os.getpid()]
        thread = threading.Thread(target=time.sleep, args=(0.2,))
        thread.start()
        either.join(os.getpid())
        return [alone, either.pids() == [os.getpid()]]

    assert in_child(body) == [True, True]


# Statistics as texts


def reading(files: dict[str, str]) -> Callable[[str, str], str]:
    """A reader of these files."""
    return lambda controller, file: files.get(file, "") if file.startswith(controller[:2]) else ""


def test_v2_statistics_have_the_same_shape() -> None:
    """The files of v2 and of v1 give dicts with the same keys and units."""
    second = {
        "memory.current": "1000\n",
        "memory.peak": "2000\n",
        "memory.max": "max\n",
        "memory.swap.current": "5\n",
        "memory.swap.max": "0\n",
        "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
        "memory.stat": "anon 10\ninactive_file 100\n",
        "cpu.stat": "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\nthrottled_usec 7\n",
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n259:0 rbytes=10\n",
    }
    first = {
        "memory.usage_in_bytes": "1000",
        "memory.max_usage_in_bytes": "2000",
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.memsw.usage_in_bytes": "1005",
        "memory.memsw.limit_in_bytes": "0",
        "memory.failcnt": "3",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.stat": "inactive_file 100\ntotal_inactive_file 100\n",
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n259:0 Read 10\nTotal 13\n",
        "blkio.throttle.io_serviced_recursive": "8:0 Read 3\n8:0 Write 4\nTotal 7\n",
    }
    one, two = cgroupstats.memory(1, reading(first)), cgroupstats.memory(2, reading(second))
    one.pop("stat")
    two.pop("stat")
    assert (
        one
        == two
        == {
            "usage": 1000,
            "peak": 2000,
            "limit": -1,
            "swap": 5,
            "swap_limit": 0,
            "failures": 3,
            "oom_kills": 2,
            "inactive_file": 100,
        }
    )
    cpu = cgroupstats.cpu(2, 2, reading(second))
    assert (cpu["usage"], cpu["user"], cpu["system"], cpu["throttled_ns"]) == (10000, 6000, 4000, 7000)
    assert set(cpu) == set(cgroupstats.cpu(1, 1, reading(first)))
    blocks = cgroupstats.block(1, reading(first)), cgroupstats.block(2, reading(second))
    for found in blocks:
        assert (found["read_bytes"], found["write_bytes"], found["read_ops"], found["write_ops"]) == (11, 2, 3, 4)
        assert found["devices"]["8:0"] == {"read_bytes": 1, "write_bytes": 2, "read_ops": 3, "write_ops": 4}


@given(st.text(), st.sampled_from([1, 2]))
def test_statistics_never_raise(text: str, version: int) -> None:
    """Whatever the files hold, there is an answer."""

    def read(controller: str, file: str) -> str:
        del controller, file
        return text

    cgroupstats.memory(version, read)
    cgroupstats.cpu(version, version, read)
    cgroupstats.pids(read)
    cgroupstats.block(version, read)
    cgroupstats.nested(text)
