"""From a container's config to the OCI runtime spec that any runtime can run (runtime-spec v1.2, config.md). Pure."""

from __future__ import annotations

from orlop.engine.options import capabilities
from orlop.errors import InvalidArgument
from orlop.linux import capabilities as kernel_capabilities
from orlop.runtime import spec as runtime_spec
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from orlop.linux.users import Identity

_NAMESPACES = ("pid", "ipc", "uts", "network", "cgroup")
_SHM_SIZE = 64 << 20  # bytes, docker's default


class Surroundings(Value):
    """What a spec needs to know beyond the container's own config.

    `joined` maps a namespace's type to the path of an existing one; "host" in it means none at all.
    `mounts` are runtime-spec mounts, in order; `files` are host paths of hosts, hostname and resolv.conf.
    """

    root: str
    hostname: str
    identity: Identity
    mounts: tuple[dict[str, Any], ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # (host path, path in the container)
    joined: tuple[tuple[str, str], ...] = ()
    cgroup: str = ""
    seccomp: dict[str, Any] | None = None
    devices: tuple[dict[str, Any], ...] = ()
    init_program: str = ""
    rootless: bool = False
    host_devices: tuple[dict[str, Any], ...] = ()


def build(config: dict[str, Any], around: Surroundings) -> dict[str, Any]:
    """The runtime spec of one start of a container."""
    spec = runtime_spec.default_spec(rootless=around.rootless)
    spec["root"] = {"path": around.root, "readonly": config["read_only"]}
    joined = dict(around.joined)
    if joined.get("uts") == "host":
        del spec["hostname"]
    else:
        spec["hostname"] = around.hostname
        if config["domainname"]:
            spec["domainname"] = config["domainname"]
    spec["process"] = process(config, around, spec["process"])
    linux = spec["linux"]
    linux["namespaces"] = _namespaces(joined)
    if around.cgroup:
        linux["cgroupsPath"] = around.cgroup
    linux["resources"] = resources(config["limits"], linux.get("resources") or {})
    linux["seccomp"] = around.seccomp
    if around.seccomp is None:
        del linux["seccomp"]
    if config["sysctls"]:
        linux["sysctl"] = dict(config["sysctls"])
    for device in around.devices:
        linux.setdefault("devices", []).append(
            {key: device[key] for key in ("path", "type", "major", "minor", "fileMode")}
        )
        linux["resources"].setdefault("devices", []).append(
            {"allow": True} | {key: device[key] for key in ("type", "major", "minor", "access")}
        )
    spec["mounts"] = _mounts(spec["mounts"], config, around)
    if config["privileged"]:
        _open_up(spec, around)
    elif not config["security"]["masks"]:
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
    if config["annotations"]:
        spec["annotations"] = dict(config["annotations"])
    return spec


def process(config: dict[str, Any], around: Surroundings, base: dict[str, Any]) -> dict[str, Any]:
    """The spec's `process` for the container's own program."""
    argv = [*config["entrypoint"], *config["cmd"]]
    if around.init_program:
        argv = [around.init_program, "--", *argv]
    found = base | {
        "terminal": config["tty"],
        "args": argv,
        "env": with_home(config["env"], around),
        "cwd": config["cwd"],
        "user": user(around.identity, ()),
        "noNewPrivileges": config["security"]["no_new_privileges"],
        "capabilities": capability_sets(config, around.identity),
    }
    if config["limits"]["ulimits"]:
        found["rlimits"] = [_ulimit(text) for text in config["limits"]["ulimits"]]
    if config["limits"]["oom_score_adj"]:
        found["oomScoreAdj"] = config["limits"]["oom_score_adj"]
    return found


def with_home(env: list[str], around: Surroundings) -> list[str]:
    """The environment with HOME and HOSTNAME where nobody has set them, as docker does."""
    names = {entry.partition("=")[0] for entry in env}
    found = list(env)
    if "HOSTNAME" not in names:
        found.insert(1, f"HOSTNAME={around.hostname}")
    if "HOME" not in names:
        found.append(f"HOME={around.identity.home or '/'}")
    return found


def user(identity: Identity, groups: Iterable[int]) -> dict[str, Any]:
    """The spec's `user`; extra groups are numbers here (names were looked up before).

    The group itself is among the additional ones, as docker has it since CVE-2022-36109: otherwise a setgid program
    could shed it, and with it what a file's mode denies to just that group.
    """
    more = [identity.gid, *identity.groups, *groups]
    return {"uid": identity.uid, "gid": identity.gid, "additionalGids": list(dict.fromkeys(more))}


def capability_sets(config: dict[str, Any], identity: Identity) -> dict[str, list[str]]:
    """The five sets. An ordinary user gets the bounding set only: capabilities come with setuid programs."""
    every = kernel_capabilities.known()
    chosen = capabilities(config, kernel_capabilities.DEFAULT, every)
    held = chosen if identity.uid == 0 else []
    return {"bounding": chosen, "effective": held, "permitted": held, "inheritable": [], "ambient": []}


def resources(limits: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Docker's limits as the spec's `resources` (config-linux.md); absent means no limit."""
    memory = _given(
        limit=limits["memory"],
        reservation=limits["memory_reservation"],
        # docker gives as much swap as memory where --memory-swap is not said
        swap=limits["memory_swap"] or (2 * limits["memory"] if limits["memory"] else 0),
    )
    if limits["memory_swappiness"] >= 0:
        memory["swappiness"] = limits["memory_swappiness"]
    if limits["oom_kill_disable"]:
        memory["disableOOMKiller"] = True
    cpu = _given(
        shares=limits["cpu_shares"],
        period=limits["cpu_period"],
        quota=limits["cpu_quota"],
        cpus=limits["cpuset_cpus"],
        mems=limits["cpuset_mems"],
    )
    if limits["nano_cpus"]:
        cpu |= {"period": 100_000, "quota": limits["nano_cpus"] // 10_000}
    found = dict(base)
    if memory:
        found["memory"] = memory
    if cpu:
        found["cpu"] = cpu
    if limits["pids"]:
        found["pids"] = {"limit": limits["pids"]}
    if limits["blkio_weight"]:
        found["blockIO"] = {"weight": limits["blkio_weight"]}
    return found


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _namespaces(joined: dict[str, str]) -> list[dict[str, str]]:
    found = [{"type": "mount"}]
    for kind in _NAMESPACES:
        path = joined.get(kind, "")
        if path == "host":
            continue
        found.append({"type": kind, "path": path} if path else {"type": kind})
    return found


def _mounts(base: list[dict[str, Any]], config: dict[str, Any], around: Surroundings) -> list[dict[str, Any]]:
    """Default mounts, then the small files, then what was asked for; an asked one replaces a default at its place."""
    asked = {mount["destination"] for mount in around.mounts}
    found = [mount for mount in base if mount["destination"] not in asked]
    for at, mount in enumerate(found):
        if mount["destination"].endswith("/shm"):
            size = config["limits"]["shm_size"] or _SHM_SIZE
            options = [option for option in mount["options"] if not option.startswith("size=")]
            found[at] = mount | {"options": [*options, f"size={size}"]}
    if dict(around.joined).get("ipc") or config["ipc"] == "none":
        found = [mount for mount in found if not mount["destination"].endswith("/shm")]  # the other's is bound instead
    for source, target in around.files:
        if target not in asked:
            options = ["rbind", "rprivate", *(["ro"] if config["read_only"] else [])]
            found.append({"destination": target, "type": "bind", "source": source, "options": options})
    if around.init_program:
        found.append(
            {
                "destination": around.init_program,
                "type": "bind",
                "source": dict(around.joined).get("init", around.init_program),
                "options": ["bind", "ro"],
            }
        )
    return [*found, *around.mounts]


def _open_up(spec: dict[str, Any], around: Surroundings) -> None:
    """--privileged: all devices, nothing masked, /sys and cgroups writable; the caller leaves seccomp out."""
    linux = spec["linux"]
    linux["maskedPaths"], linux["readonlyPaths"] = [], []
    linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    linux["devices"] = [
        {key: device[key] for key in ("path", "type", "major", "minor", "fileMode")} for device in around.host_devices
    ]
    for mount in spec["mounts"]:
        if mount["type"] in {"sysfs", "cgroup", "cgroup2"}:
            mount["options"] = [option for option in mount["options"] if option != "ro"]


def _ulimit(text: str) -> dict[str, Any]:
    """`--ulimit nofile=1024:2048`."""
    name, _, numbers = text.partition("=")
    soft, _, hard = numbers.partition(":")
    known = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
    if name not in known or not _is_number(soft) or (hard and not _is_number(hard)):
        raise InvalidArgument(f"--ulimit {text!r} is not NAME=SOFT[:HARD]", hint=f"names: {', '.join(known)}")
    unlimited = (1 << 64) - 1
    low = int(soft) if soft != "-1" else unlimited
    high = int(hard) if hard not in {"", "-1"} else (unlimited if hard == "-1" else low)
    if low > high:
        raise InvalidArgument(f"--ulimit {text!r}: the soft limit is above the hard one")
    return {"type": f"RLIMIT_{name.upper()}", "soft": low, "hard": high}


def _is_number(text: str) -> bool:
    return text.isdigit() or text == "-1"
