"""What this runtime can do, as `features` prints it (runtime-spec, features.md)."""

from __future__ import annotations

import os

from orlop.linux import capabilities, mountoptions
from orlop.oci import runtime_spec
from orlop.runtime import spec as specs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def features() -> dict[str, Any]:
    """The features object."""
    extensions = ("tmpcopyup", "idmap", "ridmap", "src-nofollow")
    options = {*mountoptions.OPTIONS, *mountoptions.PROPAGATION, *mountoptions.RECURSIVE, *extensions}
    architectures = [f"SCMP_ARCH_{name}" for name in ("X86_64", "X32", "X86", "AARCH64", "ARM")]
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": list(runtime_spec.HOOKS),
        "mountOptions": sorted(options),
        "linux": {
            "namespaces": sorted(runtime_spec.NAMESPACES),
            "capabilities": list(capabilities.known()),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": list(runtime_spec.SECCOMP_ACTIONS),
                "operators": list(runtime_spec.SECCOMP_OPERATORS),
                "archs": architectures,
                "knownFlags": _SECCOMP_FLAGS,
                "supportedFlags": _SECCOMP_FLAGS,
            },
            "apparmor": {"enabled": os.path.isdir("/sys/kernel/security/apparmor")},
            "selinux": {"enabled": os.path.isdir("/sys/fs/selinux")},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"orlop.specVersion": specs.OCI_VERSION},
        "potentiallyUnsafeConfigAnnotations": [],
    }


_SECCOMP_FLAGS = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
]


def stats_event(container_id: str, used: dict[str, Any]) -> dict[str, Any]:
    """One line of `events`: what a cgroup has used, in runc's shape."""
    memory, cpu, pids = used["memory"], used["cpu"], used["pids"]
    devices = used["blkio"]["devices"]

    def entries(read: str, write: str) -> list[dict[str, Any]]:
        found = []
        for name, values in devices.items():
            major, _, minor = name.partition(":")
            for operation, key in (("Read", read), ("Write", write)):
                value = values.get(key, 0)
                found.append({"major": int(major), "minor": int(minor), "op": operation, "value": value})
        return found

    return {
        "type": "stats",
        "id": container_id,
        "data": {
            "cpu": {
                "usage": {
                    "total": cpu["usage"],
                    "percpu": cpu["per_cpu"],
                    "kernel": cpu["system"],
                    "user": cpu["user"],
                },
                "throttling": {
                    "periods": cpu["periods"],
                    "throttledPeriods": cpu["throttled"],
                    "throttledTime": cpu["throttled_ns"],
                },
            },
            "memory": {
                "usage": {
                    "limit": _unlimited(memory["limit"]),
                    "usage": memory["usage"],
                    "max": memory["peak"],
                    "failcnt": memory["failures"],
                },
                "swap": {"limit": _unlimited(memory["swap_limit"]), "usage": memory["swap"]},
                "raw": memory["stat"],
            },
            "pids": {"current": pids["current"], "limit": max(0, pids["limit"])},
            "blkio": {
                "ioServiceBytesRecursive": entries("read_bytes", "write_bytes"),
                "ioServicedRecursive": entries("read_ops", "write_ops"),
            },
        },
    }


def _unlimited(value: int) -> int:
    """How runc says "no limit": the largest number there is."""
    return value if value >= 0 else (1 << 64) - 1
