"""The default config.json of a container (runtime-spec v1.2): what every container gets before anybody asks for more.

The engine fills in `process`, `root`, `hostname`, the container's own mounts, limits and the seccomp profile. Facts
(mounts, masked paths, capabilities) are docker's, so that images behave as their authors saw them behave.
"""

from __future__ import annotations

import os

from orlop.errors import NotFound
from orlop.linux import capabilities
from orlop.oci import jsontext, runtime_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OCI_VERSION = "1.0.2"  # what runtimes of any age accept; nothing newer is in the default
LIMIT = 8 * 1024 * 1024
"""Bytes of config.json that are read."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# path: (major, minor); config-linux.md "Default Devices", all character devices of mode 0666
DEVICES = {
    "/dev/null": (1, 3),
    "/dev/zero": (1, 5),
    "/dev/full": (1, 7),
    "/dev/random": (1, 8),
    "/dev/urandom": (1, 9),
    "/dev/tty": (5, 0),
}


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def default_mounts(*, rootless: bool = False) -> list[dict[str, Any]]:
    """The mounts of config-linux.md "Default Filesystems", as docker makes them; parents before children."""
    # A user namespace without group 5 cannot give it terminals.
    terminals = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *(() if rootless else ("gid=5",)))
    return [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", *terminals),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),  # noqa: S108  # in it
    ]


def device_rules() -> list[dict[str, Any]]:
    """What the device cgroup allows: making any node, using the default devices, terminals and nothing else."""
    rules: list[dict[str, Any]] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
    ]
    usable = [*DEVICES.values(), (5, 1), (5, 2), (136, -1)]  # console, ptmx, every pts
    for major, minor in usable:
        rule = {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        if minor < 0:
            del rule["minor"]  # absent means all
        rules.append(rule)
    return rules


def default_spec(*, rootless: bool = False) -> dict[str, Any]:
    """A whole config.json that runs `sh` as root in `rootfs`, with docker's defaults; a fresh object at every call.

    `rootless` leaves out what a user namespace with few ids cannot do (group 5 of terminals, the device cgroup).
    """
    held = list(capabilities.DEFAULT)
    resources: dict[str, Any] = {} if rootless else {"devices": device_rules()}
    namespaces = ["pid", "ipc", "uts", "mount", "network", "cgroup"]
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [f"PATH={DEFAULT_PATH}"],
            "cwd": "/",
            "capabilities": {
                "bounding": held,
                "effective": list(held),
                "permitted": list(held),
                "inheritable": [],
                "ambient": [],
            },
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "orlop",
        "mounts": default_mounts(rootless=rootless),
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "resources": resources,
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }
    return spec


def raw(bundle: str) -> bytes:
    """The bytes of the bundle's config.json; NotFound when there is none."""
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            return file.read(LIMIT + 1)
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no {path}", hint="a bundle is a folder with a config.json and a root file system"
        ) from error


def load(bundle: str) -> dict[str, Any]:
    """The checked config.json of the bundle in the folder `bundle`.

    NotFound when there is none, InvalidArgument when it is not one that can be meant.
    """
    return parse(raw(bundle), os.path.join(bundle, "config.json"))


def parse(data: bytes, what: str) -> dict[str, Any]:
    """As `load`, from the bytes of a config.json that errors call `what`."""
    spec = jsontext.load_object(data, what=what, limit=LIMIT)
    runtime_spec.validate(spec)
    return spec


def namespaces(spec: dict[str, Any]) -> dict[str, str]:
    """The kinds of namespaces that the spec names; the path to join, or "" for a new one."""
    linux = spec.get("linux") or {}
    return {entry["type"]: entry.get("path") or "" for entry in linux.get("namespaces") or ()}


def make_rootless(spec: dict[str, Any], uid: int, gid: int) -> None:
    """Change a default spec so that the user (uid, gid) can run it alone: a user namespace with these two ids."""
    linux = spec["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] not in ("network", "cgroup")]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    linux["resources"] = {}
    spec["mounts"] = [entry for entry in spec["mounts"] if entry["type"] not in ("sysfs", "cgroup")]
    spec["mounts"].append(_mount("/sys", "none", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro"))
