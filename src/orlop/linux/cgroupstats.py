"""What a cgroup has used, in one shape for both versions: readers for the kernel's small text files. Pure.

Units: bytes and nanoseconds. A limit that is not set is -1. What the machine does not account is 0 or empty.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Read: TypeAlias = Callable[[str, str], str]  # (controller, file) -> content, "" when there is none

# cgroup v1 says "no limit" as the largest multiple of a page
_NO_LIMIT_V1 = 1 << 62


def number(text: str) -> int:
    """The number in a file: 0 when empty or broken, -1 for "max"."""
    text = text.strip()
    if text == "max":
        return -1
    return _whole(text) or 0


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def flat(text: str) -> dict[str, int]:
    """A flat keyed file ("key value" lines); lines that are none are left out."""
    found = {}
    for line in text.splitlines():
        key, _, text = line.partition(" ")
        value = _whole(text)
        if value is not None:
            found[key] = value
    return found


def nested(text: str) -> dict[str, dict[str, int]]:
    """A nested keyed file ("key a=1 b=2" lines); "max" is -1."""
    found = {}
    for line in text.splitlines():
        key, _, rest = line.partition(" ")
        pairs = (one.partition("=") for one in rest.split())
        found[key] = {name: number(value) for name, equals, value in pairs if equals}
    return found


def memory(version: int, read: Read) -> dict[str, Any]:
    """usage, peak, limit, swap, swap_limit, failures, oom_kills, inactive_file (what docker takes off usage), stat."""
    return _memory_v1(read) if version == 1 else _memory_v2(read)


def _memory_v1(read: Read) -> dict[str, Any]:
    stat = flat(read("memory", "memory.stat"))
    usage = number(read("memory", "memory.usage_in_bytes"))
    together = read("memory", "memory.memsw.usage_in_bytes")
    return {
        "usage": usage,
        "peak": number(read("memory", "memory.max_usage_in_bytes")),
        "limit": _limit_v1(read("memory", "memory.limit_in_bytes")),
        "swap": max(0, number(together) - usage) if together else stat.get("total_swap", 0),
        "swap_limit": _limit_v1(read("memory", "memory.memsw.limit_in_bytes")),
        "failures": number(read("memory", "memory.failcnt")),
        "oom_kills": flat(read("memory", "memory.oom_control")).get("oom_kill", 0),
        "inactive_file": stat.get("total_inactive_file", stat.get("inactive_file", 0)),
        "stat": stat,
    }


def _limit_v1(text: str) -> int:
    value = number(text) if text else -1
    return -1 if value >= _NO_LIMIT_V1 else value


def _memory_v2(read: Read) -> dict[str, Any]:
    stat = flat(read("memory", "memory.stat"))
    events = flat(read("memory", "memory.events"))
    limit, swap_limit = read("memory", "memory.max"), read("memory", "memory.swap.max")
    return {
        "usage": number(read("memory", "memory.current")),
        "peak": number(read("memory", "memory.peak")),
        "limit": number(limit) if limit else -1,
        "swap": number(read("memory", "memory.swap.current")),
        "swap_limit": number(swap_limit) if swap_limit else -1,
        "failures": events.get("max", 0),
        "oom_kills": events.get("oom_kill", 0),
        "inactive_file": stat.get("inactive_file", 0),
        "stat": stat,
    }


def cpu(version_cpu: int, version_usage: int, read: Read) -> dict[str, Any]:
    """usage, user and system in ns, per_cpu in ns (v1 only), periods, throttled (periods) and throttled_ns."""
    stat = flat(read("cpu", "cpu.stat"))
    found: dict[str, Any] = {
        "periods": stat.get("nr_periods", 0),
        "throttled": stat.get("nr_throttled", 0),
        "throttled_ns": stat.get("throttled_time", 0) if version_cpu == 1 else stat.get("throttled_usec", 0) * 1000,
    }
    if version_usage == 1:
        each = [number(one) for one in read("cpuacct", "cpuacct.usage_percpu").split()]
        return found | {
            "usage": number(read("cpuacct", "cpuacct.usage")),
            "user": number(read("cpuacct", "cpuacct.usage_user")),
            "system": number(read("cpuacct", "cpuacct.usage_sys")),
            "per_cpu": each,
        }
    names = (("usage", "usage_usec"), ("user", "user_usec"), ("system", "system_usec"))
    return found | {name: stat.get(key, 0) * 1000 for name, key in names} | {"per_cpu": []}


def pids(read: Read) -> dict[str, int]:
    """The current number of tasks and the limit."""
    limit = read("pids", "pids.max")
    return {"current": number(read("pids", "pids.current")), "limit": number(limit) if limit else -1}


def block(version: int, read: Read) -> dict[str, Any]:
    """Reads and writes in bytes and operations, in all and by device ("major:minor")."""
    devices = _block_v1(read) if version == 1 else _block_v2(read)
    names = ("read_bytes", "write_bytes", "read_ops", "write_ops")
    totals: dict[str, Any] = {name: sum(one.get(name, 0) for one in devices.values()) for name in names}
    return totals | {"devices": devices}


def _block_v1(read: Read) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for file, unit in (("io_service_bytes", "bytes"), ("io_serviced", "ops")):
        # bfq and the throttle count separately; _recursive includes cgroups made inside the container
        text = (
            read("blkio", f"blkio.throttle.{file}_recursive")
            or read("blkio", f"blkio.bfq.{file}_recursive")
            or read("blkio", f"blkio.{file}_recursive")
        )
        for line in text.splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[1] in ("Read", "Write"):
                found.setdefault(fields[0], {})[f"{fields[1].lower()}_{unit}"] = number(fields[2])
    return found


def _block_v2(read: Read) -> dict[str, dict[str, int]]:
    names = (("read_bytes", "rbytes"), ("write_bytes", "wbytes"), ("read_ops", "rios"), ("write_ops", "wios"))
    stat = nested(read("io", "io.stat"))
    return {device: {name: values.get(key, 0) for name, key in names} for device, values in stat.items()}
