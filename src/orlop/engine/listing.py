"""Containers as people look at them: rows of `ps`, and the object that `inspect` prints."""

from __future__ import annotations

from orlop.engine import moments, status
from orlop.engine.requests import ContainerSummary, ListContainers
from orlop.errors import InvalidArgument, NotFound
from orlop.oci.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    from orlop.engine.core import Engine
    from orlop.engine.filters import Maker
    from orlop.engine.requests import Filter
    from orlop.engine.status import Status
    from orlop.store.containers import ContainerRecord

    Found: TypeAlias = tuple[ContainerRecord, Status]

_STATES = ("created", "running", "paused", "exited", "restarting", "removing", "dead")
_HEALTH = ("starting", "healthy", "unhealthy", "none")


def rows(engine: Engine, request: ListContainers) -> list[ContainerSummary]:
    """The containers that `request` asks for, newest first."""
    state = engine.root.state
    records = sorted(state.containers.all(engine.settings.namespace), key=lambda record: -record.created)
    found = [(record, status.status_of(engine.root, record)) for record in records]
    fits = _test(engine, request.filters, found) if request.filters else None
    by_state = any(one.key in {"status", "exited"} for one in request.filters)
    if request.last >= 0:
        found = found[: request.last] if request.last else found
    elif not (request.all or by_state):
        found = [(record, now) for record, now in found if now.active]
    ids: dict[str, str] = {record.manifest: record.config for record in state.images.all(engine.settings.namespace)}
    return [
        summary(engine, record, now, image_id=ids.get(record.image, ""), size=request.size)
        for record, now in found
        if fits is None or fits((record, now))
    ]


def summary(
    engine: Engine, record: ContainerRecord, now: Status, *, image_id: str = "", size: bool = False
) -> ContainerSummary:
    """One row."""
    config = record.config
    launch = status.launch_record(engine.root, record.id) if now.running else None
    attached = (launch or {}).get("network") or {}
    command = " ".join([*config["entrypoint"], *config["cmd"]])
    return ContainerSummary(
        id=record.id,
        names=(record.name,),
        image=record.image_name or image_id,
        image_id=image_id,
        command=command,
        created=record.created / 1e9,
        state=now.word,
        status=now.sentence(),
        ports=tuple(_ports(attached, config)),
        labels=record.labels,
        mounts=tuple(mount.get("source") or mount["target"] for mount in config["mounts"]),
        networks=(config["network"]["mode"],),
        local_volumes=sum(mount["kind"] == "volume" for mount in config["mounts"]),
        size_rw=engine.snapshotter.usage(record.id) if size else -1,
        size_root=_root_size(engine, record) if size else -1,
    )


def _root_size(engine: Engine, record: ContainerRecord) -> int:
    image = engine.root.state.images.get(record.namespace, record.image)
    return image.size if image else 0


def _ports(attached: dict[str, Any], config: dict[str, Any]) -> Iterable[str]:
    """The PORTS column: what is published, then what is merely exposed."""
    published = set()
    for port in attached.get("ports", ()):
        published.add(f"{port['container_port']}/{port['protocol']}")
        host = f"[{port['host_ip']}]" if ":" in port["host_ip"] else port["host_ip"]
        yield f"{host}:{port['host_port']}->{port['container_port']}/{port['protocol']}"
    if attached:
        yield from (port for port in config["network"]["expose"] if port not in published)


def _test(engine: Engine, filters: Iterable[Filter], found: list[Found]) -> Callable[[Found], bool]:
    """One test of containers out of all filters: docker's keys."""
    from orlop.engine.filters import equal, judge, labels, matching, ordered, starting

    def created(key: str, name: str) -> float:
        for record, _ in found:
            if record.name == name or record.id.startswith(name):
                return record.created
        raise NotFound(f"--filter {key}={name}: there is no container {name}")

    def ended_with(code: str) -> Callable[[Found], bool]:
        if not code.removeprefix("-").isdigit():
            raise InvalidArgument(f"--filter exited={code} is no exit code")
        return lambda row: row[1].word == "exited" and row[1].exit_code == int(code)

    def made_of(image: str) -> Callable[[Found], bool]:
        manifests = {row.target for row in engine.images.list() if _is_image(row, image)}
        return lambda row: row[0].image in manifests

    def mounts(place: str) -> Callable[[Found], bool]:
        return lambda row: any(place in {one.get("source"), one["target"]} for one in row[0].config["mounts"])

    def publishes(port: str) -> Callable[[Found], bool]:
        number = port.partition("/")[0]
        return lambda row: any(number in text.split(":") for text in row[0].config["network"]["publish"])

    known: dict[str, Maker[Found]] = {
        **starting("id", lambda row: row[0].id),
        **matching("name", lambda row: row[0].name),
        **labels(lambda row: row[0].labels),
        **equal("status", lambda row: row[1].word, words=_STATES),
        **equal("health", lambda row: (row[1].health or "none") if row[1].running else "", words=_HEALTH),
        "exited": ended_with,
        "ancestor": made_of,
        "volume": mounts,
        **equal("network", lambda row: row[0].config["network"]["mode"]),
        **ordered(lambda row: row[0].created, created),
        "publish": publishes,
    }
    return judge(filters, known, what="containers")


def _is_image(row: Any, wanted: str) -> bool:
    if row.id.removeprefix("sha256:").startswith(wanted.removeprefix("sha256:")):
        return True
    return any(Reference.parse(name) == Reference.parse(wanted) for name in row.names)


def inspect(engine: Engine, record: ContainerRecord, *, size: bool = False) -> dict[str, Any]:
    """Everything about a container, in the shape of `docker inspect`."""
    now = status.status_of(engine.root, record)
    launch = status.launch_record(engine.root, record.id) if now.running else None
    image = engine.root.state.images.get(record.namespace, record.image)
    config = record.config
    argv = [*config["entrypoint"], *config["cmd"]]
    data, run = status.data_dir(engine.root, record.id), status.run_dir(engine.root, record.id)
    found = {
        "Id": record.id,
        "Created": moments.rfc3339(record.created),
        "Path": argv[0],
        "Args": argv[1:],
        "State": _state(now) | ({"Health": health} if (health := status.health_of(engine.root, record)) else {}),
        "Image": image.config if image else "",
        "ResolvConfPath": f"{run}/etc/resolv.conf",
        "HostnamePath": f"{run}/etc/hostname",
        "HostsPath": f"{run}/etc/hosts",
        "LogPath": f"{data}/log.json" if config["log"]["driver"] != "none" else "",
        "Name": f"/{record.name}",
        "RestartCount": now.restarts,
        "Driver": engine.snapshotter.name,
        "Platform": "linux",
        "HostConfig": _host_config(config),
        "Mounts": [_mount(engine, mount) for mount in config["mounts"]],
        "Config": _config(record),
        "NetworkSettings": _network(config, (launch or {}).get("network") or {}),
    }
    if size:
        found["SizeRw"] = engine.snapshotter.usage(record.id)
        found["SizeRootFs"] = found["SizeRw"] + (image.size if image else 0)
    return found


def _state(now: Status) -> dict[str, Any]:
    return {
        "Status": now.word,
        "Running": now.active,
        "Paused": now.word == "paused",
        "Restarting": now.word == "restarting",
        "OOMKilled": now.oom,
        "Dead": False,
        "Pid": now.pid,
        "ExitCode": now.exit_code,
        "Error": now.error,
        "StartedAt": moments.rfc3339(now.started),
        "FinishedAt": moments.rfc3339(now.finished),
    }


def _host_config(config: dict[str, Any]) -> dict[str, Any]:
    limits = config["limits"]
    return {
        "Binds": [
            f"{mount.get('source', '')}:{mount['target']}" + (":ro" if mount.get("read_only") else "")
            for mount in config["mounts"]
            if mount["kind"] != "tmpfs"
        ],
        "NetworkMode": config["network"]["mode"],
        "PortBindings": dict.fromkeys(config["network"]["publish"]),
        "RestartPolicy": {"Name": config["restart"]["name"], "MaximumRetryCount": config["restart"]["max"]},
        "AutoRemove": config["auto_remove"],
        "LogConfig": {"Type": config["log"]["driver"], "Config": {}},
        "CapAdd": config["cap_add"] or None,
        "CapDrop": config["cap_drop"] or None,
        "Dns": config["network"]["dns"],
        "DnsSearch": config["network"]["dns_search"],
        "ExtraHosts": config["network"]["add_hosts"] or None,
        "IpcMode": config["ipc"] or "private",
        "PidMode": config["pid"],
        "UTSMode": config["uts"],
        "UsernsMode": config["userns"],
        "Privileged": config["privileged"],
        "ReadonlyRootfs": config["read_only"],
        "SecurityOpt": [key for key, value in config["security"].items() if key == "no_new_privileges" and value]
        or None,
        "Sysctls": config["sysctls"],
        "ShmSize": limits["shm_size"] or 64 << 20,
        "Runtime": config["runtime"] or "orlop",
        "Memory": limits["memory"],
        "MemoryReservation": limits["memory_reservation"],
        "MemorySwap": limits["memory_swap"],
        "CpuShares": limits["cpu_shares"],
        "CpuPeriod": limits["cpu_period"],
        "CpuQuota": limits["cpu_quota"],
        "NanoCpus": limits["nano_cpus"],
        "CpusetCpus": limits["cpuset_cpus"],
        "CpusetMems": limits["cpuset_mems"],
        "PidsLimit": limits["pids"] or None,
        "BlkioWeight": limits["blkio_weight"],
        "OomScoreAdj": limits["oom_score_adj"],
        "Init": config["init"],
    }


def _mount(engine: Engine, mount: dict[str, Any]) -> dict[str, Any]:
    source = mount.get("source", "")
    found = {
        "Type": mount["kind"],
        "Source": engine.volumes.path(source) if mount["kind"] == "volume" and source else source,
        "Destination": mount["target"],
        "Mode": "",
        "RW": not mount.get("read_only", False),
        "Propagation": mount.get("propagation", ""),
    }
    return {"Name": source, "Driver": "local"} | found if mount["kind"] == "volume" else found


def _config(record: ContainerRecord) -> dict[str, Any]:
    config = record.config
    return {
        "Hostname": config["hostname"] or record.id[:12],
        "Domainname": config["domainname"],
        "User": config["user"],
        "Tty": config["tty"],
        "OpenStdin": config["stdin"],
        "ExposedPorts": {port: {} for port in config["network"]["expose"]},
        "Env": config["env"],
        "Cmd": config["cmd"] or None,
        "Image": record.image_name,
        "Volumes": {mount["target"]: {} for mount in config["mounts"] if mount["kind"] == "volume"} or None,
        "WorkingDir": config["cwd"],
        "Entrypoint": config["entrypoint"] or None,
        "Labels": dict(record.labels),
        "StopSignal": config["stop_signal"],
        "StopTimeout": config["stop_timeout"],
        **({"Healthcheck": config["health"]} if config.get("health") else {}),
    }


def _network(config: dict[str, Any], attached: dict[str, Any]) -> dict[str, Any]:
    ports: dict[str, list[dict[str, str]] | None] = dict.fromkeys(config["network"]["expose"])
    for port in attached.get("ports", ()):
        key = f"{port['container_port']}/{port['protocol']}"
        binding = {"HostIp": port["host_ip"], "HostPort": str(port["host_port"])}
        ports[key] = [*(ports.get(key) or ()), binding]
    endpoint = {
        "Gateway": attached.get("gateway", ""),
        "IPAddress": attached.get("ip", ""),
        "IPPrefixLen": attached.get("prefix", 0),
        "MacAddress": attached.get("mac", ""),
    }
    return {"Ports": ports if attached else {}, **endpoint, "Networks": {config["network"]["mode"]: endpoint}}
