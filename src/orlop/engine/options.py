"""From what was asked, and what the image says, to what a container is: its record's `config`. Pure.

The config is a JSON object that is written once, at create, and never changed: everything about it that could be wrong
is refused here, before anything is made.
"""

from __future__ import annotations

import os

from orlop.engine import limitrules, modes
from orlop.errors import InvalidArgument, Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from orlop.engine.mounts import MountPoint
    from orlop.engine.requests import CreateContainer

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STOP_TIMEOUT = 10  # seconds between the stop signal and SIGKILL, docker's default
_SHORTEST_PROBE = 1_000_000  # nanoseconds; docker's limit for intervals and timeouts of health checks


def resolve(request: CreateContainer, image: dict[str, Any]) -> dict[str, Any]:
    """The container's config. `image` is the image config's JSON ({} for none)."""
    run = image.get("config") or {}
    entrypoint = list(run.get("Entrypoint") or ()) if request.entrypoint is None else list(request.entrypoint)
    own_command = list(run.get("Cmd") or ()) if request.entrypoint is None else []
    command = list(request.command) or own_command
    if not entrypoint + command:
        raise InvalidArgument(
            f"nothing to run: {request.image} has neither ENTRYPOINT nor CMD, and no command was given",
            hint=f"orlop run {request.image} COMMAND",
        )
    limitrules.check(request.limits, cpus=os.cpu_count() or 1)
    cwd = request.workdir or run.get("WorkingDir") or "/"
    if not cwd.startswith("/"):
        raise InvalidArgument(f"--workdir {cwd!r} is not an absolute path", hint=f"e.g. --workdir /{cwd}")
    _check_modes(request)
    if request.stop_signal:
        from orlop.linux import signals

        signals.number_of(request.stop_signal)
    mode = network_mode(request)
    return {
        "entrypoint": entrypoint,
        "cmd": command,
        "env": environment(run.get("Env") or (), request.env, request.env_unset, tty=request.tty),
        "cwd": cwd,
        "user": run.get("User", "") if request.user is None else request.user,
        "groups": list(request.groups),
        "hostname": request.hostname,
        "domainname": request.domainname,
        "tty": request.tty,
        "stdin": request.interactive,
        "mounts": [mount.to_json() for mount in _mounts(request, run)],
        "volumes_from": list(request.volumes_from),
        "devices": [_device(text) for text in request.devices],
        "network": {
            "mode": mode,
            "publish": list(request.publish),
            "publish_all": request.publish_all,
            "expose": [_port(text) for text in (*(run.get("ExposedPorts") or {}), *request.expose)],
            "aliases": list(request.network_alias),
            "ip": request.ip,
            "mac": request.mac,
            "dns": list(request.dns),
            "dns_search": list(request.dns_search),
            "dns_options": list(request.dns_options),
            "add_hosts": list(request.add_hosts),
        },
        "pid": request.pid_mode,
        "ipc": request.ipc_mode,
        "uts": request.uts_mode,
        "userns": request.userns_mode,
        "cgroupns": request.cgroupns_mode,
        "cgroup_parent": request.cgroup_parent,
        "cap_add": [_capability(name) for name in request.cap_add],
        "cap_drop": [_capability(name) for name in request.cap_drop],
        "security": security(request.security),
        "privileged": request.privileged,
        "read_only": request.read_only,
        "sysctls": dict(_pair(text, "--sysctl") for text in request.sysctls),
        "limits": {field: getattr(request.limits, field) for field in request.limits._fields},
        "stop_signal": request.stop_signal or run.get("StopSignal") or "SIGTERM",
        "stop_timeout": _STOP_TIMEOUT if request.stop_timeout is None else request.stop_timeout,
        "restart": restart_policy(request.restart, auto_remove=request.auto_remove),
        "auto_remove": request.auto_remove,
        "init": request.init,
        "log": log_options(request.log_driver, request.log_options),
        "runtime": request.runtime,
        "health": healthcheck(request, run),
        "shell": list(run.get("Shell") or ("/bin/sh", "-c")),
        "annotations": dict(_pair(text, "--annotation") for text in request.annotations),
    }


def environment(
    image: Iterable[str], asked: Iterable[str], unset: Iterable[str] = (), *, tty: bool = False
) -> list[str]:
    """The program's environment: PATH, what the image says, what was asked; later ones replace, in place."""
    found: dict[str, str] = {"PATH": DEFAULT_PATH[5:]}
    if tty:
        found["TERM"] = "xterm"
    for entry in (*image, *asked):
        name, _, value = entry.partition("=")
        if not name or "\0" in entry:
            raise InvalidArgument(f"environment entry {entry!r} is not NAME=VALUE")
        found[name] = value
    for name in unset:
        found.pop(name, None)
    return [f"{name}={value}" for name, value in found.items()]


def network_mode(request: CreateContainer) -> str:
    """The network mode, checked against the options that make no sense with it."""
    mode = request.network or "bridge"
    if mode == "default":
        mode = "bridge"
    if mode in {"none", "host"} or modes.container_of(mode):
        for option, given in (("--publish", request.publish), ("--ip", request.ip)):
            if given and not (mode == "host" and option == "--publish"):
                raise InvalidArgument(
                    f"{option} makes no sense with --network {mode}", hint=f"leave out {option}, or --network {mode}"
                )
    if mode == "host" and request.hostname and request.uts_mode == "host":
        raise InvalidArgument("--hostname cannot be set with --uts host: it would rename this machine")
    return mode


def security(options: Sequence[str]) -> dict[str, Any]:
    """`--security-opt` texts: no-new-privileges, seccomp, and the names that switch off what is not there anyway."""
    found: dict[str, Any] = {"no_new_privileges": False, "seccomp": "default", "masks": True}
    for text in options:
        key, separator, value = text.partition("=")
        if not separator:
            key, separator, value = text.partition(":")
        if key == "no-new-privileges":
            if value.lower() not in {"", "true", "1", "false", "0"}:
                raise InvalidArgument(f"--security-opt {text!r} is neither true nor false", hint=f"use {key}=true")
            found["no_new_privileges"] = value.lower() not in {"false", "0"}
        elif key == "seccomp":
            found["seccomp"] = value  # "unconfined", or the path of a profile
        elif key == "systempaths" and value == "unconfined":
            found["masks"] = False
        elif (key, value) in {("label", "disable"), ("apparmor", "unconfined")}:
            continue  # orlop applies neither SELinux labels nor AppArmor profiles
        else:
            raise InvalidArgument(
                f"--security-opt {text!r} is not known",
                hint="use no-new-privileges, seccomp=unconfined, seccomp=FILE or systempaths=unconfined",
            )
    return found


def healthcheck(request: CreateContainer, run: dict[str, Any]) -> dict[str, Any]:
    """The health check in docker's shape, {} for none: the image's, with what was asked for in its place."""
    asked: dict[str, Any] = {
        key: _nanoseconds(text, option)
        for key, text, option in (
            ("Interval", request.health_interval, "--health-interval"),
            ("Timeout", request.health_timeout, "--health-timeout"),
            ("StartPeriod", request.health_start_period, "--health-start-period"),
            ("StartInterval", request.health_start_interval, "--health-start-interval"),
        )
        if text
    }
    if request.health_retries < 0:
        raise InvalidArgument(f"--health-retries is {request.health_retries}", hint="use 1 or more")
    if request.health_retries:
        asked["Retries"] = request.health_retries
    if request.health_cmd:
        asked["Test"] = ["CMD-SHELL", request.health_cmd]
    if request.no_healthcheck:
        if asked:
            raise InvalidArgument("--no-healthcheck contradicts the other --health options", hint="leave out one")
        return {"Test": ["NONE"]}
    found = (run.get("Healthcheck") or {}) | asked
    return found if found.get("Test") else {}


def _nanoseconds(text: str, option: str) -> int:
    from orlop.engine import moments

    found = round(moments.duration(text, what=option) * 1e9)
    if 0 < found < _SHORTEST_PROBE:
        raise InvalidArgument(f"{option} {text} is shorter than a millisecond", hint="e.g. 30s")
    return found


def restart_policy(text: str, *, auto_remove: bool) -> dict[str, Any]:
    """`--restart` as {"name", "max"}."""
    name, _, most = (text or "no").partition(":")
    if name not in {"no", "on-failure", "always", "unless-stopped"} or (
        most and (name != "on-failure" or not most.isdigit())
    ):
        raise InvalidArgument(
            f"--restart {text!r} is not known", hint="use no, on-failure[:MOST], always or unless-stopped"
        )
    if auto_remove and name != "no":
        raise InvalidArgument(f"--rm and --restart {text} contradict each other", hint="leave out one of them")
    return {"name": name, "max": int(most or 0)}


def log_options(driver: str, options: Iterable[str]) -> dict[str, Any]:
    """`--log-driver` and `--log-opt`: json-file (max-size, max-file) and none."""
    driver = driver or "json-file"
    if driver not in {"json-file", "none"}:
        raise Unimplemented(f"there is no log driver {driver!r}", hint="use json-file or none")
    found: dict[str, Any] = {"driver": "none" if driver == "none" else "json-file", "max_size": 0, "max_files": 1}
    for key, value in (_pair(text, "--log-opt") for text in options):
        if key == "max-size":
            found["max_size"] = size(value, what="--log-opt max-size")
        elif key == "max-file" and value.isdigit() and int(value) > 0:
            found["max_files"] = int(value)
        else:
            raise InvalidArgument(f"--log-opt {key}={value} is not known", hint="use max-size=10m and max-file=3")
    return found


def size(text: str, *, what: str) -> int:
    """`10m`, `1gb`, `512` as bytes (powers of 1024, as docker's limits are)."""
    lowered = text.strip().lower().removesuffix("b").removesuffix("i")
    shift = {"k": 10, "m": 20, "g": 30, "t": 40}.get(lowered[-1:], 0)
    number = lowered[:-1] if shift else lowered
    try:
        return int(float(number) * (1 << shift))
    except ValueError as error:
        raise InvalidArgument(f"{what} is {text!r}, which is no size", hint="write it as 200m or 1g") from error


# What each --KIND takes besides "" and, where it ends with ":", the name of a container.
_MODES = {
    "pid": ("private", "host", "container:"),
    "ipc": ("private", "shareable", "none", "host", "container:"),
    "uts": ("private", "host"),
    "userns": ("host",),
    "cgroupns": ("private", "host"),
}


def _check_modes(request: CreateContainer) -> None:
    """InvalidArgument for a namespace mode that is none; Unimplemented for docker's that we do not have."""
    for kind, allowed in _MODES.items():
        mode = getattr(request, f"{kind}_mode")
        if not mode or mode in allowed or any(one.endswith(":") and mode.startswith(one) for one in allowed):
            continue
        if (kind, mode) == ("userns", "auto"):
            raise Unimplemented(f"--{kind} {mode} is not there yet", hint=f"use {', '.join(allowed)}, or leave it out")
        raise InvalidArgument(f"--{kind} {mode!r} is not a mode", hint=f"use {', '.join(allowed)}")


def _mounts(request: CreateContainer, run: dict[str, Any]) -> list[MountPoint]:
    volumes = run.get("Volumes") or {}
    if not (volumes or request.volumes or request.mounts or request.tmpfs):
        return []
    from orlop.engine.mounts import merge, parse_mount, parse_tmpfs, parse_volume

    asked = [
        *(parse_volume(text) for text in request.volumes),
        *(parse_mount(text) for text in request.mounts),
        *(parse_tmpfs(text) for text in request.tmpfs),
    ]
    return merge(volumes, asked)


def _device(text: str) -> dict[str, str]:
    """`--device HOST[:CONTAINER[:rwm]]`."""
    parts = text.split(":")
    source = parts[0]
    if not source.startswith("/") or len(parts) > 3:
        raise InvalidArgument(f"--device {text!r} is not HOST[:CONTAINER[:rwm]]", hint="e.g. --device /dev/fuse")
    target, access = source, "rwm"
    for part in parts[1:]:
        if part.startswith("/"):
            target = part
        elif part and set(part) <= set("rwm"):
            access = part
        else:
            raise InvalidArgument(f"--device {text!r}: {part!r} is neither a path nor some of 'rwm'")
    return {"source": source, "target": target, "access": access}


def _port(text: str) -> str:
    number, _, protocol = text.partition("/")
    ends = number.split("-")
    if len(ends) > 2 or not all(end.isdigit() and 0 < int(end) < 65536 for end in ends):
        raise InvalidArgument(f"--expose {text!r} is not PORT[-PORT][/PROTOCOL]", hint="e.g. 80, 8000-8010/udp")
    return f"{number}/{protocol or 'tcp'}"


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


def _pair(text: str, option: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InvalidArgument(f"{option} {text!r} is not KEY=VALUE")
    return key, value


def capabilities(config: dict[str, Any], default: Iterable[str], every: Sequence[str]) -> list[str]:
    """The capability set: docker's rule. `--cap-drop ALL` empties, `--cap-add ALL` fills, single names adjust."""
    if config["privileged"]:
        return list(every)
    known = set(every)
    for name in (*config["cap_add"], *config["cap_drop"]):
        if name != "ALL" and name not in known:
            raise InvalidArgument(f"capability {name} is not known to this kernel", hint="see capabilities(7)")
    chosen = set(default)
    if "ALL" in config["cap_drop"]:
        chosen = set()
    if "ALL" in config["cap_add"]:
        chosen = set(every)
    chosen |= {name for name in config["cap_add"] if name != "ALL"}
    chosen -= {name for name in config["cap_drop"] if name != "ALL"}
    return [name for name in every if name in chosen]
