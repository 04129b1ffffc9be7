"""The bundle of one start: config.json, and the small files that every container gets (hosts, hostname, resolv.conf).

All of it lies under the run directory: it is made anew at each start, and dies at boot.
"""

from __future__ import annotations

import os
import stat

from orlop.engine import limiting, modes, specs, status
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop.layers import merged
from orlop.linux import users
from orlop.oci import jsontext
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.layers.snapshots import Snapshot
    from orlop.linux.users import Identity
    from orlop.store.containers import ContainerRecord


_SHM = "/dev/shm"  # noqa: S108  # the name of a mount, no file of ours


class Bundle(Value):
    """Where a start's files are, and what the spec says."""

    path: str
    root: str  # where the root file system is mounted, in the shim's own mount namespace
    spec: dict[str, Any]
    lost: tuple[str, ...] = ()  # sentences about what was asked for and cannot be had here

    @property
    def cgroup(self) -> str:
        """The spec's cgroupsPath; "" where the container has no cgroup of its own."""
        return str(self.spec["linux"].get("cgroupsPath") or "")


def write_bundle(
    engine: Engine, record: ContainerRecord, snapshot: Snapshot, files: Sequence[tuple[str, str]], hostname: str
) -> Bundle:
    """Make the bundle for one start. `files` are (host path, path in the container) of the small files."""
    given = limiting.share(record.config, record.id, rootless=engine.settings.uid != 0)
    config = record.config | {"limits": given.limits}
    run = status.run_dir(engine.root, record.id)
    bundle = f"{run}/bundle"
    os.makedirs(f"{bundle}/rootfs", mode=0o700, exist_ok=True)
    identity, groups = identify(config["user"], config["groups"], [snapshot.upper, *snapshot.lowers])
    lost, seccomp = given.lost, seccomp_profile(config)
    if engine.settings.uid and users.single_id():
        from orlop.engine import oneid

        identity, told = oneid.only_user(identity)
        groups, seccomp = [], oneid.pretending(seccomp)
        lost = (*lost, told) if told else lost
    devices = [device_of(device) for device in config["devices"]]
    around = specs.Surroundings(
        root=f"{bundle}/rootfs",
        hostname=hostname,
        identity=identity.replace(groups=tuple(dict.fromkeys((*identity.groups, *groups)))),
        mounts=tuple(mounts(engine, config, snapshot.lowers or (snapshot.upper,))),
        files=tuple(files),
        joined=tuple(joined(engine, config).items()),
        cgroup=given.path,
        seccomp=seccomp,
        devices=tuple(devices),
        init_program=init_program(config),
        rootless=engine.settings.uid != 0,
        host_devices=tuple(host_devices()) if config["privileged"] else (),
    )
    spec = specs.build(config, around)
    descriptor = os.open(f"{bundle}/config.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, jsontext.dumps(spec))
    finally:
        os.close(descriptor)
    return Bundle(path=bundle, root=f"{bundle}/rootfs", spec=spec, lost=lost)


def identify(user: str, groups: Sequence[str], trees: Sequence[str]) -> tuple[Identity, list[int]]:
    """Who the program runs as, by the container's own /etc/passwd and /etc/group. NotFound names the file."""
    passwd, group = merged.read(trees, "etc/passwd"), merged.read(trees, "etc/group")
    identity = users.lookup(user, passwd, group)
    extra = []
    for name in groups:
        if name.isdigit():
            extra.append(int(name))
            continue
        gid = next((entry.gid for entry in users.parse_group(group or b"") if entry.name == name), None)
        if gid is None:
            raise NotFound(f"there is no group {name!r} in the container's /etc/group", hint="give its number instead")
        extra.append(gid)
    return identity, extra


def mounts(engine: Engine, config: dict[str, Any], image: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The config's mounts as runtime-spec mounts; folders that -v names are made, as docker does.

    `image` are the image's trees: a tmpfs looks like the folder that it covers, and where there is none, all may write.
    """
    found = _shared_memory(engine, config)
    for mount in config["mounts"]:
        if mount["kind"] == "tmpfs":
            options = ["nosuid", "nodev", "noexec", *mount.get("options", ())]
            for flag in ("exec", "suid", "dev"):
                if flag in options:
                    options.remove(f"no{flag}")
            if mount.get("read_only"):
                options.append("ro")
            if not any(one.startswith("mode=") for one in options) and not merged.is_directory(image, mount["target"]):
                options.append("mode=1777")
            found.append({"destination": mount["target"], "type": "tmpfs", "source": "tmpfs", "options": options})
            continue
        source = mount["source"] if mount["kind"] == "bind" else engine.volumes.path(mount["source"])
        if mount["kind"] == "bind":
            _check_source(source, create=mount.get("create_source", False))
        options = ["rbind" if mount.get("recursive", True) else "bind", mount.get("propagation") or "rprivate"]
        options.append("ro" if mount.get("read_only") else "rw")
        found.append({"destination": mount["target"], "type": "bind", "source": source, "options": options})
    return found


def _shared_memory(engine: Engine, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Shared memory belongs to the IPC namespace: who joins another's sees that one's."""
    mode = config["ipc"]
    name = modes.container_of(mode)
    if mode != "host" and not name:
        return []
    source = _SHM
    if name:
        other = engine.containers.record(name)
        source = f"/proc/{status.status_of(engine.root, other).pid}/root{source}"
    return [{"destination": _SHM, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"]}]


def _check_source(source: str, *, create: bool) -> None:
    if os.path.lexists(source):
        return
    if not create:
        raise InvalidArgument(
            f"mount source {source} is not there", hint="make it first; -v (but not --mount) makes missing folders"
        )
    os.makedirs(source, mode=0o755, exist_ok=True)


def joined(engine: Engine, config: dict[str, Any]) -> dict[str, str]:
    """Which namespaces are another's (by path), or the host's."""
    found: dict[str, str] = {}
    for kind, mode in (
        ("pid", config["pid"]),
        ("ipc", config["ipc"]),
        ("uts", config["uts"]),
        ("cgroup", config["cgroupns"]),
        ("network", config["network"]["mode"]),
    ):
        if mode == "host":
            found[kind] = "host"
        elif name := modes.container_of(mode):
            other = engine.containers.record(name)
            now = status.status_of(engine.root, other)
            if not now.running:
                raise FailedPrecondition(
                    f"--{kind} {mode[:22]}: container {other.name} is not running", hint=f"orlop start {other.name}"
                )
            found[kind] = f"/proc/{now.pid}/ns/{'net' if kind == 'network' else kind}"
        elif kind == "network" and (path := modes.path_of(mode)):
            found[kind] = path
    return found


def seccomp_profile(config: dict[str, Any]) -> dict[str, Any] | None:
    """The profile: docker's default for the container's capabilities, a file's, or none."""
    wanted = config["security"]["seccomp"]
    if wanted == "unconfined" or config["privileged"]:
        return None
    if wanted != "default":
        try:
            with open(wanted, "rb") as file:
                return jsontext.load_object(file.read(), what=f"seccomp profile {wanted}")
        except FileNotFoundError as error:
            raise NotFound(f"there is no seccomp profile {wanted}", hint="give a JSON file, or unconfined") from error
    from orlop.engine.options import capabilities as chosen
    from orlop.linux import capabilities, seccomp

    return seccomp.for_capabilities(chosen(config, capabilities.DEFAULT, capabilities.known()))


def device_of(device: dict[str, str]) -> dict[str, Any]:
    """One --device as the spec's device, with the numbers of the host's node."""
    try:
        info = os.stat(device["source"])
    except FileNotFoundError as error:
        raise NotFound(f"there is no device {device['source']} on this machine") from error
    if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
        raise InvalidArgument(f"--device {device['source']} is not a device", hint="mount files and folders with -v")
    return {
        "path": device["target"],
        "type": "b" if stat.S_ISBLK(info.st_mode) else "c",
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "access": device["access"],
    }


def host_devices() -> list[dict[str, Any]]:
    """Every device node under /dev, for --privileged."""
    found = []
    for folder, folders, names in os.walk("/dev"):
        folders[:] = [name for name in folders if name not in {"pts", "shm", "mqueue", "hugepages", "fd"}]
        for name in names:
            path = f"{folder}/{name}"
            try:
                info = os.lstat(path)
            except OSError:
                continue  # unplugged while we looked
            if (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)) and path not in {"/dev/console", "/dev/ptmx"}:
                found.append(device_of({"source": path, "target": path, "access": "rwm"}))
    return found


def init_program(config: dict[str, Any]) -> str:
    """--init: a small program that reaps and passes signals on, bound into the container."""
    if not config["init"]:
        return ""
    for path in ("/usr/libexec/docker/docker-init", "/usr/bin/docker-init", "/usr/bin/catatonit", "/usr/bin/tini"):
        if os.access(path, os.X_OK):
            return path
    raise FailedPrecondition(
        "--init needs an init program, and this machine has none", hint="apt install catatonit (or tini)"
    )
