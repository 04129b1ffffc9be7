"""Resource limits: a runtime-spec `linux.resources` as the ordered file writes of cgroup v1 or v2. Pure.

Sources: runtime-spec config-linux.md "Control groups", the kernel's cgroup-v1/*.rst and cgroup-v2.rst, and what crun
and runc do. Nothing here asks what this machine can do, so that what it cannot run is still right.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PERIOD = 100_000  # microseconds: the kernel's default for cpu.max and cpu.cfs_period_us
_NO_SWAP = "this kernel does not account swap, so the limit on memory and swap together is not enforced"


class Write(Value):
    """One value for one control file, to be written in the order of the list.

    `otherwise` are (file, value) pairs to try in turn where `file` does not exist. Where none exists, `optional` (if
    not empty) is the warning to give instead of failing.
    """

    controller: str
    file: str
    value: str
    otherwise: tuple[tuple[str, str], ...] = ()
    optional: str = ""


def writes(resources: dict[str, Any], version: int, *, memory_now: int | None = None) -> list[Write]:
    """Every write for `resources` on cgroup `version` 1 or 2, in an order that the kernel accepts.

    `memory_now` is the memory limit in bytes that is in force (None or negative: none); on v1 it decides whether the
    limit or the limit with swap must move first. Device rules are writes on v1 only; on v2 they are a program
    (`devices.program`). InvalidArgument says which limits contradict each other.
    """
    parts = _v1(resources, memory_now) if version == 1 else _v2(resources)
    return [one for one in parts if one.value]


def controllers(resources: dict[str, Any], version: int) -> set[str]:
    """The controllers that `writes` needs, "devices" among them on both versions where there are rules."""
    needed = {one.controller for one in writes(resources, version)} - {""}
    return needed | ({"devices"} if resources.get("devices") else set())


def unsupported(resources: dict[str, Any], version: int) -> list[str]:
    """One sentence for each thing in `resources` that this cgroup version has no file for; the rest still holds."""
    if version == 1:
        return []
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    found = [f"cgroup v2 has no {name}: it is ignored" for name in ("kernel", "kernelTCP") if memory.get(name)]
    if memory.get("swappiness") is not None:
        found.append("cgroup v2 has no swappiness of its own: the host's is used")
    if memory.get("disableOOMKiller"):
        found.append("cgroup v2 cannot disable the OOM killer: it stays on")
    if cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"):
        found.append("cgroup v2 has no real-time limits: they are ignored")
    network = resources.get("network") or {}
    if network.get("classID") or network.get("priorities"):
        found.append("cgroup v2 has no network class or priority: it is ignored")
    if (resources.get("blockIO") or {}).get("leafWeight"):
        found.append("cgroup v2 has no leaf weight: it is ignored")
    return found


def _number(section: dict[str, Any], name: str) -> int | None:
    """The value where it is set to anything but 0, which means unset throughout `resources`."""
    value = section.get(name)
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(f"limit {name} is {value!r}, which is no whole number")
    return value


def _text(value: int | None, unlimited: str) -> str:
    if value is None:
        return ""
    return unlimited if value < 0 else str(value)


# Version 1


def _v1(resources: dict[str, Any], memory_now: int | None) -> list[Write]:
    if resources.get("unified"):
        raise InvalidArgument(
            "unified limits need cgroup v2, and this host has v1",
            hint="use the limit's own option (--memory, --cpus...)",
        )
    cpu = resources.get("cpu") or {}
    return [
        Write(controller="cpuset", file="cpuset.cpus", value=cpu.get("cpus") or ""),
        Write(controller="cpuset", file="cpuset.mems", value=cpu.get("mems") or ""),
        *_devices_v1(resources),
        *_memory_v1(resources.get("memory") or {}, memory_now),
        *_cpu_v1(cpu),
        *_pids(resources),
        *_block_v1(resources.get("blockIO") or {}),
        *(_huge(one, "limit_in_bytes") for one in resources.get("hugepageLimits") or ()),
        *_network_v1(resources.get("network") or {}),
        *_rdma(resources),
    ]


def _devices_v1(resources: dict[str, Any]) -> list[Write]:
    if not resources.get("devices"):
        return []
    from orlop.linux.devices import parse_rules  # most updates have no rules

    found = []
    for rule in parse_rules(resources["devices"]):
        file = "devices.allow" if rule.allow else "devices.deny"
        found.append(Write(controller="devices", file=file, value=rule.text()))
    return found


def _memory_v1(memory: dict[str, Any], now: int | None) -> list[Write]:
    limit, swap = _number(memory, "limit"), _number(memory, "swap")
    _check_swap(limit, swap)
    if limit is not None and limit < 0 and swap is None:
        swap = -1  # docker: no limit on memory means none on memory and swap together
    first = Write(controller="memory", file="memory.limit_in_bytes", value=_text(limit, "-1"))
    second = Write(controller="memory", file="memory.memsw.limit_in_bytes", value=_text(swap, "-1"), optional=_NO_SWAP)
    both = [first, second]
    # The kernel keeps limit <= limit with swap at every moment: when the ceiling rises it must move first.
    if swap is not None and (swap < 0 or (now is not None and 0 <= now < swap)):
        both.reverse()
    oom = "1" if memory.get("disableOOMKiller") else ""
    swappiness = memory.get("swappiness")
    if swappiness is not None and not 0 <= swappiness <= 100:
        raise InvalidArgument(f"swappiness is {swappiness}, expected 0 to 100")
    no_kernel = "this kernel has no limit for kernel memory alone: it counts as memory"
    return [
        *both,
        Write(
            controller="memory", file="memory.soft_limit_in_bytes", value=_text(_number(memory, "reservation"), "-1")
        ),
        _optional("memory.kmem.limit_in_bytes", _text(_number(memory, "kernel"), "-1"), no_kernel),
        _optional("memory.kmem.tcp.limit_in_bytes", _text(_number(memory, "kernelTCP"), "-1"), no_kernel),
        Write(controller="memory", file="memory.swappiness", value="" if swappiness is None else str(swappiness)),
        Write(controller="memory", file="memory.oom_control", value=oom),
    ]


def _optional(file: str, value: str, warning: str) -> Write:
    return Write(controller=file.partition(".")[0], file=file, value=value, optional=warning)


def _check_swap(limit: int | None, swap: int | None) -> None:
    if swap is None or swap < 0 or limit is None:
        return
    if limit < 0 or swap < limit:
        raise InvalidArgument(
            f"the limit on memory and swap together ({swap}) is below the limit on memory ({limit})",
            hint="--memory-swap is memory plus swap; give at least the value of --memory, or -1 for no limit",
        )


def _cpu_v1(cpu: dict[str, Any]) -> list[Write]:
    pairs = (
        ("cpu.shares", "shares"),
        ("cpu.cfs_period_us", "period"),
        ("cpu.cfs_quota_us", "quota"),
        ("cpu.cfs_burst_us", "burst"),
        ("cpu.rt_period_us", "realtimePeriod"),
        ("cpu.rt_runtime_us", "realtimeRuntime"),
        ("cpu.idle", "idle"),
    )
    return [Write(controller="cpu", file=file, value=_text(_number(cpu, name), "-1")) for file, name in pairs]


def _pids(resources: dict[str, Any]) -> list[Write]:
    limit = _number(resources.get("pids") or {}, "limit")
    return [Write(controller="pids", file="pids.max", value=_text(limit, "max"))]


def _device_number(one: dict[str, Any]) -> str:
    major, minor = one.get("major"), one.get("minor")
    if not isinstance(major, int) or not isinstance(minor, int) or major < 0 or minor < 0:
        raise InvalidArgument(f"a block device limit needs major and minor numbers, got {one!r}")
    return f"{major}:{minor}"


_THROTTLE = (
    # runtime-spec name, v1 file, v2 key of io.max
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)
_NO_WEIGHT = "this kernel's I/O scheduler has no weights: the block I/O weight is not enforced"


def _block_v1(block: dict[str, Any]) -> list[Write]:
    found = []
    weights = (("weight", "blkio.weight", "blkio.bfq.weight"), ("leafWeight", "blkio.leaf_weight", ""))
    for name, file, other in weights:
        value = _text(_weight(block, name), "")
        otherwise = ((other, value),) if other else ()
        found.append(Write(controller="blkio", file=file, value=value, otherwise=otherwise, optional=_NO_WEIGHT))
    for one in block.get("weightDevice") or ():
        device = _device_number(one)
        for name, file, other in (
            ("weight", "blkio.weight_device", "blkio.bfq.weight_device"),
            ("leafWeight", "blkio.leaf_weight_device", ""),
        ):
            weight = _weight(one, name)
            if weight is not None:
                value = f"{device} {weight}"
                otherwise = ((other, value),) if other else ()
                found.append(
                    Write(controller="blkio", file=file, value=value, otherwise=otherwise, optional=_NO_WEIGHT)
                )
    found += [
        Write(controller="blkio", file=file, value=f"{_device_number(one)} {int(one.get('rate', 0))}")
        for name, file, _ in _THROTTLE
        for one in block.get(name) or ()
    ]
    return found


def _weight(section: dict[str, Any], name: str) -> int | None:
    weight = _number(section, name)
    if weight is not None and not 10 <= weight <= 1000:
        raise InvalidArgument(f"block I/O {name} is {weight}, expected 10 to 1000")
    return weight


def _huge(one: dict[str, Any], suffix: str) -> Write:
    size = str(one.get("pageSize", ""))
    if not size or not size.isalnum():
        raise InvalidArgument(f"huge page size {size!r} is none, expected e.g. 2MB or 1GB")
    return Write(controller="hugetlb", file=f"hugetlb.{size}.{suffix}", value=str(int(one.get("limit", 0))))


def _network_v1(network: dict[str, Any]) -> list[Write]:
    found = []
    if network.get("classID"):
        found.append(Write(controller="net_cls", file="net_cls.classid", value=str(network["classID"])))
    for one in network.get("priorities") or ():
        value = f"{one['name']} {one['priority']}"
        found.append(Write(controller="net_prio", file="net_prio.ifpriomap", value=value))
    return found


def _rdma(resources: dict[str, Any]) -> list[Write]:
    found = []
    for device, limits in (resources.get("rdma") or {}).items():
        parts = [device]
        if limits.get("hcaHandles") is not None:
            parts.append(f"hca_handle={limits['hcaHandles']}")
        if limits.get("hcaObjects") is not None:
            parts.append(f"hca_object={limits['hcaObjects']}")
        if len(parts) > 1:
            found.append(Write(controller="rdma", file="rdma.max", value=" ".join(parts)))
    return found


# Version 2


def _v2(resources: dict[str, Any]) -> list[Write]:
    cpu = resources.get("cpu") or {}
    return [
        Write(controller="cpuset", file="cpuset.cpus", value=cpu.get("cpus") or ""),
        Write(controller="cpuset", file="cpuset.mems", value=cpu.get("mems") or ""),
        *_memory_v2(resources.get("memory") or {}),
        *_cpu_v2(cpu),
        *_pids(resources),
        *_block_v2(resources.get("blockIO") or {}),
        *(_huge(one, "max") for one in resources.get("hugepageLimits") or ()),
        *_rdma(resources),
        *_unified(resources.get("unified") or {}),
    ]


def _memory_v2(memory: dict[str, Any]) -> list[Write]:
    limit, swap = _number(memory, "limit"), _number(memory, "swap")
    value = _text(swap_v2(limit, swap), "max")
    # Swap first, as runc does: a lowered memory.max may push pages out at once.
    return [
        Write(controller="memory", file="memory.swap.max", value=value, optional=_NO_SWAP),
        Write(controller="memory", file="memory.max", value=_text(limit, "max")),
        Write(controller="memory", file="memory.low", value=_text(_number(memory, "reservation"), "max")),
    ]


def swap_v2(limit: int | None, swap: int | None) -> int | None:
    """Docker's limit on memory plus swap as v2's limit on swap alone, in bytes; -1 is no limit, None is not set."""
    if swap is None:
        return -1 if limit is not None and limit < 0 else None
    if swap < 0:
        return -1
    if limit is None:
        raise InvalidArgument(
            f"a limit on memory and swap together ({swap}) needs a limit on memory", hint="give --memory too"
        )
    _check_swap(limit, swap)
    return swap - limit


def weight_of_shares(shares: int) -> int:
    """Cpu shares (v1: 2 to 262144, 1024 by default) as a weight (v2: 1 to 10000, 100 by default).

    The curve goes through (2, 1), (1024, 100) and (262144, 10000), as newer crun and runc have it; older ones drew a
    straight line, which gave a default container 39 and so two fifths of its due beside a host process.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2  # an extension module, for this one formula

    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def _cpu_v2(cpu: dict[str, Any]) -> list[Write]:
    shares, quota, period = (_number(cpu, name) for name in ("shares", "quota", "period"))
    ceiling = ""
    if quota is not None or period is not None:
        ceiling = f"{'max' if quota is None or quota < 0 else quota} {period or _PERIOD}"
    return [
        Write(controller="cpu", file="cpu.idle", value=_text(_number(cpu, "idle"), "")),
        Write(controller="cpu", file="cpu.weight", value="" if shares is None else str(weight_of_shares(shares))),
        Write(controller="cpu", file="cpu.max", value=ceiling),
        Write(controller="cpu", file="cpu.max.burst", value=_text(_number(cpu, "burst"), "")),
    ]


def io_weight(weight: int) -> int:
    """Blkio weight (10 to 1000) on io.weight's scale (1 to 10000), by runc's straight line."""
    return 1 + (weight - 10) * 9999 // 990


def _block_v2(block: dict[str, Any]) -> list[Write]:
    found = []
    weight = _weight(block, "weight")
    if weight is not None:
        other = (("io.weight", str(io_weight(weight))),)
        found.append(_io_weight(str(weight), other))
    for one in block.get("weightDevice") or ():
        device, weight = _device_number(one), _weight(one, "weight")
        if weight is not None:
            found.append(_io_weight(f"{device} {weight}", (("io.weight", f"{device} {io_weight(weight)}"),)))
    for name, _, key in _THROTTLE:
        for one in block.get(name) or ():
            rate = int(one.get("rate", 0)) or "max"
            found.append(Write(controller="io", file="io.max", value=f"{_device_number(one)} {key}={rate}"))
    return found


def _io_weight(value: str, otherwise: tuple[tuple[str, str], ...]) -> Write:
    return Write(controller="io", file="io.bfq.weight", value=value, otherwise=otherwise, optional=_NO_WEIGHT)


def _unified(unified: dict[str, Any]) -> list[Write]:
    found = []
    for file, value in unified.items():
        if not file or "/" in file or "\0" in file or not isinstance(value, str):
            raise InvalidArgument(f"unified limit {file!r} is no file name of cgroup v2")
        controller = file.partition(".")[0]
        found.append(Write(controller="" if controller == "cgroup" else controller, file=file, value=value))
    return found
