"""Where the control groups of this host are: mounts, the paths that containers may have, access to small files."""

from __future__ import annotations

import os

from orlop.errors import InvalidArgument
from orlop.values import Value

PARENT = "/orlop"


class Place(Value):
    """Where a controller lives: the version and the mount point of its hierarchy."""

    version: int
    mount: str


class Hierarchy(Value):
    """The cgroup mounts of this host. `places` is by controller, under its own version's name (blkio on v1, io on v2).

    `version` is 2 only where there are no v1 controllers; `unified` is the v2 mount point, also on a mixed host, or "".
    """

    version: int
    places: dict[str, Place]
    unified: str = ""

    @property
    def controllers(self) -> tuple[str, ...]:
        """The names of the controllers there are, sorted."""
        return tuple(sorted(name for name in self.places if not name.startswith("name=")))


def detect(mountinfo: str | None = None) -> Hierarchy:
    """Read the mount table (`mountinfo`, or our own) for cgroup mounts; the first mount of a controller counts."""
    if mountinfo is None:
        mountinfo = read("/proc/self/mountinfo")
    places: dict[str, Place] = {}
    unified = ""
    for line in mountinfo.splitlines():
        head, dash, tail = line.partition(" - ")
        fields = tail.split(" ")
        if not dash or fields[0] not in ("cgroup", "cgroup2") or len(fields) < 3:
            continue
        target = _unescaped(head.split(" ")[4])
        if fields[0] == "cgroup2":
            unified = unified or target
            continue
        for option in fields[2].split(","):
            if option in _V1_CONTROLLERS or option == "name=systemd":
                places.setdefault(option, Place(version=1, mount=target))
    version = 2 if unified and not any(name in _V1_CONTROLLERS for name in places) else 1
    if unified:
        for name in read(f"{unified}/cgroup.controllers").split():
            places.setdefault(name, Place(version=2, mount=unified))
        if version == 2:
            places.setdefault("devices", Place(version=2, mount=unified))  # a program, not a controller
            places.setdefault("freezer", Place(version=2, mount=unified))
    return Hierarchy(version=version, places=places, unified=unified)


_V1_CONTROLLERS = frozenset(
    (
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "hugetlb",
        "net_cls",
        "net_prio",
        "perf_event",
        "rdma",
    )
)
V2_FEATURES = ("devices", "freezer")  # there on v2 without a controller to enable


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    from orlop.linux.mounts import unescape  # it would bring ctypes along

    return unescape(text)


def read(path: str) -> str:
    """The content of a small kernel file, "" when it is not there or answers with an error."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        text = b""
        while chunk := os.read(fd, 65536):
            text += chunk
        return text.decode("utf-8", "surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    """Write a control file in one call; OSError as the kernel answers."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def own_path(hierarchy: Hierarchy, pid: int | str = "self") -> str:
    """The v2 (on v1: the memory) path of a process, from its cgroup namespace's root; "" when it is outside."""
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if (hierarchy.version == 2 and number == "0") or (hierarchy.version == 1 and "memory" in names.split(",")):
            return "" if path.startswith("/..") else path
    return ""


def default_parent(hierarchy: Hierarchy | None = None) -> str:
    """Where containers go: "/orlop" where we may write the root, else below our own (delegated) cgroup, else ""."""
    found = hierarchy or detect()
    place = next(iter(found.places.values()), None)
    mount = found.unified if found.version == 2 else (place.mount if place else "")
    if not mount:
        return ""
    if os.access(mount, os.W_OK):
        return PARENT
    own = own_path(found)
    if found.version == 2 and own and os.access(f"{mount}{own}/cgroup.procs", os.W_OK):
        return f"{own.rstrip('/')}{PARENT}"
    return ""


def check_path(path: str) -> str:
    """The path with one slash between parts; InvalidArgument where it could lead outside, or is the root itself."""
    parts = [part for part in path.split("/") if part]
    if not parts or any(part in (".", "..") or "\0" in part or "\n" in part or len(part) > 255 for part in parts):
        raise InvalidArgument(
            f"{path!r} is no cgroup path", hint="give names separated by slashes, without . and .., e.g. /orlop/web"
        )
    return "/" + "/".join(parts)
