"""Limits as file writes: against what crun and runc wrote for the same resources, and by law."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop.linux import limits

with open(f"{os.path.dirname(__file__)}/data/limits.json", "rb") as _file:
    CAPTURED: dict[str, list[dict[str, Any]]] = json.load(_file)

# Where we leave the captured peers on purpose: (whose table, file) -> why
DIFFERENT = {
    ("crun 1.8 on v1", "memory.memsw.limit_in_bytes"): "no limit on memory means none with swap either, as runc has it",
    ("crun 1.8 on v2", "memory.swap.max"): "the same",
    ("crun 1.8 on v2", "cpu.weight"): "later crun and runc bend the curve so that 1024 shares are weight 100",
    ("crun 1.8 on v2", "cpu.max"): "a quota of -1 is written, so that an update can lift one",
}


def rows(name: str) -> list[Any]:
    """The captured cases that one peer accepted, without devices (it mixes in its own)."""
    accepted = [row for row in CAPTURED[name] if not row.get("refused") and "devices" not in row["resources"]]
    return [pytest.param(name, row, id=json.dumps(row["resources"])) for row in accepted]


def last_values(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """What each file holds in the end; files that take one line a device keep all."""
    found: dict[str, list[str]] = {}
    for file, value in pairs:
        several = file in ("io.max", "devices.allow", "devices.deny") or file.startswith("blkio.throttle.")
        found[file] = [*found.get(file, []), value] if several else [value]
    return found


def settled(resources: dict[str, Any], version: int, there: set[str]) -> list[tuple[str, str]]:
    """Our writes as (file, value), taking the alternative that the peer found where its first choice is not there."""
    found = []
    for one in limits.writes(resources, version):
        names = [(one.file, one.value), *one.otherwise]
        found.append(next((pair for pair in names if pair[0] in there), names[0]))
    return found


@pytest.mark.parametrize(("peer", "row"), [*rows("crun 1.8 on v1"), *rows("runc 1.1 on v1"), *rows("crun 1.8 on v2")])
def test_the_same_files_end_with_the_same_values(peer: str, row: dict[str, Any]) -> None:
    """Every file a peer writes gets the same value from us, and no other is written, but for named exceptions."""
    version = int(peer[-1])
    theirs = last_values([(file, value) for file, value in row["writes"]])
    ours = last_values(settled(row["resources"], version, set(theirs)))
    if row["resources"] == {"cpu": {"cpus": "0-1"}}:
        ours.pop("cpuset.cpus")  # the capture leaves out what equals the parent's, which they copy anyway
        theirs.pop("cpuset.cpus", None)
    differing = {file for file in {*ours, *theirs} if ours.get(file) != theirs.get(file)}
    assert {file for file in differing if (peer, file) not in DIFFERENT} == set()


@pytest.mark.parametrize(("peer", "row"), rows("runc 1.1 on v1"))
def test_memory_files_are_written_in_an_order_that_works(peer: str, row: dict[str, Any]) -> None:
    """On a fresh v1 cgroup the limit and the limit with swap come in runc's order."""
    del peer
    pair = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    theirs = [file for file, _ in row["writes"] if file in pair]
    ours = [one.file for one in limits.writes(row["resources"], 1) if one.file in pair]
    assert ours == list(dict.fromkeys(theirs))


_BYTES = st.integers(4096, 1 << 40)


@given(now_limit=_BYTES, now_swap=st.integers(0, 1 << 40), limit=_BYTES, swap=st.integers(0, 1 << 40))
def test_changing_both_memory_limits_never_crosses(now_limit: int, now_swap: int, limit: int, swap: int) -> None:
    """From any pair of limits to any other, trying once more what was refused, both end as asked.

    The kernel refuses every step after which the limit would be above the one with swap.
    """
    state = {"memory.limit_in_bytes": now_limit, "memory.memsw.limit_in_bytes": now_limit + now_swap}
    todo = limits.writes({"memory": {"limit": limit, "swap": limit + swap}}, 1, memory_now=now_limit)
    for _ in range(2):
        refused = []
        for one in todo:
            new = state | {one.file: int(one.value)}
            if new["memory.limit_in_bytes"] <= new["memory.memsw.limit_in_bytes"]:
                state = new
            else:
                refused.append(one)
        todo = refused
    assert state == {"memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": limit + swap}


@given(limit=_BYTES, swap=st.integers(0, 1 << 40))
def test_swap_of_v2_is_what_is_above_memory(limit: int, swap: int) -> None:
    """Docker's memory-swap is memory plus swap; v2's file holds the swap alone, 0 for none."""
    found = {one.file: one.value for one in limits.writes({"memory": {"limit": limit, "swap": limit + swap}}, 2)}
    assert found == {"memory.max": str(limit), "memory.swap.max": str(swap)}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("memory", [{"limit": 2 << 20, "swap": 1 << 20}, {"limit": -1, "swap": 1 << 20}])
def test_less_with_swap_than_without_is_refused(version: int, memory: dict[str, int]) -> None:
    """A limit with swap below the one without is a contradiction, said before anything is written."""
    with pytest.raises(InvalidArgument, match="memory and swap together") as caught:
        limits.writes({"memory": memory}, version)
    assert "--memory-swap" in caught.value.hint


def test_swap_alone_needs_a_memory_limit_on_v2() -> None:
    """v2 cannot say "together" without knowing the memory's part."""
    with pytest.raises(InvalidArgument, match="needs a limit on memory"):
        limits.writes({"memory": {"swap": 1 << 20}}, 2)
    assert limits.writes({"memory": {"swap": -1}}, 2)[0].value == "max"


def test_missing_swap_accounting_is_a_warning() -> None:
    """The swap write carries the sentence to give where the kernel has no such file."""
    for version in (1, 2):
        (one,) = (w for w in limits.writes({"memory": {"limit": 1, "swap": 2}}, version) if "sw" in w.file)
        assert "swap" in one.optional


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (1, 1), (1 << 30, 10000)])
def test_the_curve_of_weights(shares: int, weight: int) -> None:
    """Lowest, default and highest shares are lowest, default and highest weight."""
    assert limits.weight_of_shares(shares) == weight


@given(st.integers(2, 262143))
def test_more_shares_never_weigh_less(shares: int) -> None:
    """The curve never falls and stays within 1 and 10000."""
    assert 1 <= limits.weight_of_shares(shares) <= limits.weight_of_shares(shares + 1) <= 10000


@given(st.integers(10, 999))
def test_io_weights_are_spread_over_the_scale(weight: int) -> None:
    """10 to 1000 becomes 1 to 10000, never falling; both are offered, bfq's own scale first."""
    assert 1 <= limits.io_weight(weight) <= limits.io_weight(weight + 1) <= 10000
    (one,) = limits.writes({"blockIO": {"weight": weight}}, 2)
    assert (one.file, one.value, one.otherwise) == (
        "io.bfq.weight",
        str(weight),
        (("io.weight", str(limits.io_weight(weight))),),
    )
    assert (limits.io_weight(10), limits.io_weight(1000)) == (1, 10000)


def test_weights_of_devices() -> None:
    """A device's weight is written with its numbers, on both versions."""
    resources = {"blockIO": {"weightDevice": [{"major": 8, "minor": 16, "weight": 300, "leafWeight": 20}]}}
    assert [(w.file, w.value) for w in limits.writes(resources, 1)] == [
        ("blkio.weight_device", "8:16 300"),
        ("blkio.leaf_weight_device", "8:16 20"),
    ]
    (one,) = limits.writes(resources, 2)
    assert (one.value, one.otherwise) == ("8:16 300", (("io.weight", f"8:16 {limits.io_weight(300)}"),))


def test_the_rare_controllers() -> None:
    """Huge pages, network class and priority, RDMA, burst, real time, idle: each in its file."""
    resources = {
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
        "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "none": {}},
        "cpu": {"burst": 5, "realtimePeriod": 6, "realtimeRuntime": 7, "idle": 1},
        "memory": {"kernel": 8, "kernelTCP": 9},
    }
    assert {w.file: w.value for w in limits.writes(resources, 1)} == {
        "hugetlb.2MB.limit_in_bytes": "4",
        "net_cls.classid": "1048577",
        "net_prio.ifpriomap": "eth0 5",
        "rdma.max": "mlx5_1 hca_handle=3 hca_object=10000",
        "cpu.cfs_burst_us": "5",
        "cpu.rt_period_us": "6",
        "cpu.rt_runtime_us": "7",
        "cpu.idle": "1",
        "memory.kmem.limit_in_bytes": "8",
        "memory.kmem.tcp.limit_in_bytes": "9",
    }
    assert {w.file: w.value for w in limits.writes(resources, 2)} == {
        "hugetlb.2MB.max": "4",
        "rdma.max": "mlx5_1 hca_handle=3 hca_object=10000",
        "cpu.max.burst": "5",
        "cpu.idle": "1",
    }
    said = " ".join(limits.unsupported(resources, 2))
    assert all(word in said for word in ("kernel", "kernelTCP", "real-time", "network class"))
    assert limits.unsupported(resources, 1) == []


def test_unified_is_written_as_it_is_on_v2_only() -> None:
    """Unified names files of v2; on v1 it is refused, and a path in the name always."""
    (high,) = limits.writes({"unified": {"memory.high": "100"}}, 2)
    assert (high.controller, high.file, high.value) == ("memory", "memory.high", "100")
    (core,) = limits.writes({"unified": {"cgroup.max.depth": "1"}}, 2)
    assert core.controller == ""
    with pytest.raises(InvalidArgument, match="need cgroup v2"):
        limits.writes({"unified": {"memory.high": "100"}}, 1)
    for name in ("../x", "a/b", "", "/etc/passwd"):
        with pytest.raises(InvalidArgument, match="no file name"):
            limits.writes({"unified": {name: "1"}}, 2)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"memory": {"limit": "1g"}}, "'1g'"),
        ({"memory": {"swappiness": 101}}, "0 to 100"),
        ({"blockIO": {"weight": 5}}, "10 to 1000"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "rate": 1}]}}, "major and minor"),
        ({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}, "huge page size"),
        ({"cpu": {"shares": True}}, "True"),
    ],
)
def test_broken_limits_are_refused(resources: dict[str, Any], words: str) -> None:
    """A value that cannot be meant is shown in the error."""
    with pytest.raises(InvalidArgument, match=words):
        limits.writes(resources, 1)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "memory": st.fixed_dictionaries({}, optional={"limit": st.integers(1, 100), "swap": st.integers(100, 200)}),
            "cpu": st.fixed_dictionaries({}, optional={"shares": st.integers(0, 5000), "cpus": st.just("0")}),
            "pids": st.fixed_dictionaries({"limit": st.integers(-1, 50)}),
        },
    ),
    st.sampled_from([1, 2]),
)
def test_controllers_are_those_that_are_written(resources: dict[str, Any], version: int) -> None:
    """`controllers` names exactly the controllers of the writes, and no write is empty."""
    if "limit" not in resources.get("memory", {"limit": 1}):
        resources["memory"] = {}
    found = limits.writes(resources, version)
    assert limits.controllers(resources, version) == {one.controller for one in found}
    assert all(one.value and one.file.startswith(one.controller) for one in found)
