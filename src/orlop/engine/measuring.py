"""What a running container uses, and which processes are its."""

from __future__ import annotations

import os
import time

from orlop.engine import status
from orlop.engine.requests import Stats
from orlop.linux.cgroups import Cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.store.containers import ContainerRecord

_SPAN = 0.5  # seconds over which CPU use is measured


def sample(engine: Engine, record: ContainerRecord) -> Stats:
    """One sample. A container that does not run uses nothing, as docker shows it."""
    started = status.launch_record(engine.root, record.id)
    if started is None or not status.status_of(engine.root, record).running:
        return _nothing(record)
    look = Cgroup(started["cgroup"]).stats if started["cgroup"] else lambda: _summed(members(started))
    first, at = look(), time.monotonic_ns()
    time.sleep(_SPAN)
    then, passed = look(), time.monotonic_ns() - at
    memory = then["memory"]
    limit = memory["limit"] if memory["limit"] > 0 else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    used = max(0, memory["usage"] - memory["inactive_file"])
    received, sent = _network(started["pid"])
    return Stats(
        id=record.id,
        name=record.name,
        cpu_percent=100.0 * (then["cpu"]["usage"] - first["cpu"]["usage"]) / passed,
        memory_usage=used,
        memory_limit=limit,
        memory_percent=100.0 * used / limit,
        network_rx=received,
        network_tx=sent,
        block_read=then["blkio"]["read_bytes"],
        block_write=then["blkio"]["write_bytes"],
        pids=then["pids"]["current"],
    )


def _nothing(record: ContainerRecord) -> Stats:
    return Stats(
        id=record.id,
        name=record.name,
        cpu_percent=0.0,
        memory_usage=0,
        memory_limit=0,
        memory_percent=0.0,
        network_rx=0,
        network_tx=0,
        block_read=0,
        block_write=0,
        pids=0,
    )


def _network(pid: int) -> tuple[int, int]:
    """Bytes received and sent by all links but loopback, as the process' own namespace counts them."""
    received = sent = 0
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            lines = file.readlines()[2:]
    except OSError:
        return 0, 0  # it ended meanwhile
    for line in lines:
        name, _, numbers = line.partition(":")
        fields = numbers.split()
        if name.strip() != "lo" and len(fields) >= 9:
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent


def members(started: dict[str, Any]) -> list[int]:
    """The processes of a running container: those of its cgroup, or, without one, those in its PID namespace."""
    if started["cgroup"]:
        return Cgroup(started["cgroup"]).pids()
    from orlop.linux import namespaces

    try:
        own = namespaces.identity(f"/proc/{started['pid']}/ns/pid")
        if own == namespaces.identity("/proc/self/ns/pid"):
            return [started["pid"]]  # --pid host: the others are anybody's
    except OSError:
        return []  # it ended meanwhile
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and namespaces.identity(f"/proc/{name}/ns/pid") == own:
                found.append(int(name))
        except OSError:
            continue  # gone, or not ours to look at, and then not in a container of ours
    return sorted(found)


def _summed(pids: list[int]) -> dict[str, Any]:
    """What processes use now, in the shape of `Cgroup.stats`, from /proc (proc(5)); shared pages count in each."""
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    spent = memory = 0
    moved = {"read_bytes": 0, "write_bytes": 0}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b") ")[2].split()
            with open(f"/proc/{pid}/io", "rb") as file:
                counts = dict(line.split(b": ") for line in file.read().splitlines())
        except OSError:
            continue  # it ended while we looked
        spent += int(fields[11]) + int(fields[12])
        memory += int(fields[21]) * page
        for name in moved:
            moved[name] += int(counts[name.encode()])
    return {
        "memory": {"usage": memory, "inactive_file": 0, "limit": 0},
        "cpu": {"usage": spent * 1_000_000_000 // ticks},
        "pids": {"current": len(pids)},
        "blkio": moved,
    }
