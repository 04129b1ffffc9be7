"""The cgroup of a container, and which of its limits can be kept in it.

Root may make any. Others may only where somebody delegated a part of the tree to them, which the kernel allows safely
on cgroup v2 alone; what cannot be limited is left out and said, one sentence a limit.
"""

from __future__ import annotations

import os

from orlop.linux import hierarchy as hierarchies
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.linux.hierarchy import Hierarchy

# limit: (controller that keeps it, option that asks for it, value that means "not asked")
_LIMITS: dict[str, tuple[str, str, int | str | bool]] = {
    "memory": ("memory", "--memory", 0),
    "memory_reservation": ("memory", "--memory-reservation", 0),
    "memory_swap": ("memory", "--memory-swap", 0),
    "memory_swappiness": ("memory", "--memory-swappiness", -1),
    "oom_kill_disable": ("memory", "--oom-kill-disable", False),
    "nano_cpus": ("cpu", "--cpus", 0),
    "cpu_shares": ("cpu", "--cpu-shares", 0),
    "cpu_period": ("cpu", "--cpu-period", 0),
    "cpu_quota": ("cpu", "--cpu-quota", 0),
    "cpuset_cpus": ("cpuset", "--cpuset-cpus", ""),
    "cpuset_mems": ("cpuset", "--cpuset-mems", ""),
    "pids": ("pids", "--pids-limit", 0),
    "blkio_weight": ("io", "--blkio-weight", 0),
}

_LEAF = "/orlop-commands"  # where we go ourselves, below the delegated cgroup


class Share(Value):
    """What a container gets: `path` of its cgroup ("": none of its own), its limits, and sentences about the others."""

    path: str
    limits: dict[str, Any]
    lost: tuple[str, ...] = ()


def share(config: dict[str, Any], container: str, *, rootless: bool, found: Hierarchy | None = None) -> Share:
    """The cgroup and the limits of a container with this config."""
    if not rootless:
        parent = config["cgroup_parent"].rstrip("/") or hierarchies.PARENT
        return Share(path=f"{parent}/{container}", limits=config["limits"])
    found = found or hierarchies.detect()
    own = delegated(found)
    controllers = hierarchies.read(f"{found.unified}{own}/cgroup.controllers").split() if own else ()
    limits, lost = usable(config["limits"], frozenset(controllers), reason=reason(found, own))
    if config["cgroup_parent"]:
        lost = (*lost, "--cgroup-parent has no effect: containers go where your own processes are")
    return Share(path=f"{own}{hierarchies.PARENT}/{container}" if own else "", limits=limits, lost=lost)


def delegated(found: Hierarchy) -> str:
    """The cgroup that was handed to us, the one we are in; "" where we may change nothing, or on version 1."""
    if found.version != 2:
        return ""
    own = hierarchies.own_path(found).removesuffix(_LEAF).rstrip("/")
    allowed = own and all(os.access(f"{found.unified}{own}{name}", os.W_OK) for name in ("", "/cgroup.procs"))
    return own if allowed else ""


def usable(
    limits: dict[str, Any], controllers: frozenset[str], *, reason: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The limits without those whose controller is not there, and a sentence about each of these. Pure."""
    kept, lost = dict(limits), []
    for name, (controller, option, absent) in _LIMITS.items():
        if limits[name] != absent and controller not in controllers:
            kept[name] = absent
            lost.append(f"{option} has no effect: {reason}")
    return kept, tuple(lost)


def reason(found: Hierarchy, own: str) -> str:
    """Why a limit cannot be kept in the delegated cgroup `own` ("": there is none)."""
    if found.version == 1:
        return "this machine has cgroup version 1, where limits belong to root"
    if not own:
        return "no cgroup is delegated to you (try: systemd-run --user --scope -p Delegate=yes orlop ...)"
    return "its controller is not delegated to you (in user@.service: Delegate=memory cpu cpuset io pids)"


def make_room(found: Hierarchy | None = None) -> None:
    """Before a container's cgroup is made in one that was delegated to us: leave that one ourselves.

    A cgroup that hands controllers on may have no processes of its own (cgroup-v2.rst, "No Internal Process
    Constraint"), and it is ours that are there.
    """
    found = found or hierarchies.detect()
    own = delegated(found)
    if not own or hierarchies.own_path(found).endswith(_LEAF):
        return
    leaf = f"{found.unified}{own}{_LEAF}"
    os.makedirs(leaf, exist_ok=True)
    for pid in hierarchies.read(f"{found.unified}{own}/cgroup.procs").split():
        try:
            hierarchies.write(f"{leaf}/cgroup.procs", pid)
        except ProcessLookupError:
            continue  # it ended meanwhile
