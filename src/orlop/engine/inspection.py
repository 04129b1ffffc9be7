"""One container as `docker inspect` shows it: docker's names, docker's types, what is true here."""

from __future__ import annotations

from orlop.engine import modes, moments, status
from orlop.network import ports as publishing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.engine.status import Status
    from orlop.store.containers import ContainerRecord

_SHM_SIZE = 64 << 20


def inspect(engine: Engine, record: ContainerRecord, *, size: bool = False) -> dict[str, Any]:
    """Everything about a container; with `size`, also the bytes of what it wrote, and of that and its image."""
    now = status.status_of(engine.root, record)
    launch = status.launch_record(engine.root, record.id) if now.running else None
    image = engine.root.state.images.get(record.namespace, record.image)
    config = record.config
    argv = [*config["entrypoint"], *config["cmd"]]
    data, run = status.data_dir(engine.root, record.id), status.run_dir(engine.root, record.id)
    sizes = {}
    if size:
        written = engine.snapshotter.usage(record.id)
        sizes = {"SizeRw": written, "SizeRootFs": written + (image.size if image else 0)}
    return sizes | {
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
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(config),
        "GraphDriver": {"Data": None, "Name": engine.snapshotter.name},
        "Mounts": [_mount(engine, mount) for mount in config["mounts"]],
        "Config": _config(engine, record),
        "NetworkSettings": _network(engine, record, launch or {}),
    }


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


def bindings(config: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """What was asked for with -p, as docker's PortBindings: {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}."""
    found: dict[str, list[dict[str, str]]] = {}
    for text in config["network"]["publish"]:
        for one in publishing.parse(text):
            host = str(one.first_host or "")
            if one.last_host != one.first_host:
                host = f"{host}-{one.last_host}"
            key = f"{one.container_port}/{one.protocol}"
            found.setdefault(key, []).append({"HostIp": one.host_ip, "HostPort": host})
    return found


def exposed(config: dict[str, Any]) -> list[str]:
    """The ports that a container has, by EXPOSE, --expose or -p: "80/tcp", ranges unrolled."""
    told = [
        f"{port}/{protocol}"
        for text in config["network"]["expose"]
        for port, protocol in publishing.parse_exposed(text)
    ]
    return list(dict.fromkeys([*told, *bindings(config)]))


def _host_config(config: dict[str, Any]) -> dict[str, Any]:
    log, network = config["log"], config["network"]
    return {
        "Binds": [
            f"{mount.get('source', '')}:{mount['target']}" + (":ro" if mount.get("read_only") else "")
            for mount in config["mounts"]
            if mount["kind"] != "tmpfs"
        ]
        or None,
        "ContainerIDFile": "",
        "LogConfig": {
            "Type": log["driver"],
            "Config": {"max-size": str(log["max_size"]), "max-file": str(log["max_files"])} if log["max_size"] else {},
        },
        "NetworkMode": network["mode"],
        "PortBindings": bindings(config),
        "RestartPolicy": {"Name": config["restart"]["name"], "MaximumRetryCount": config["restart"]["max"]},
        "AutoRemove": config["auto_remove"],
        "VolumeDriver": "",
        "VolumesFrom": config["volumes_from"] or None,
        "CapAdd": config["cap_add"] or None,
        "CapDrop": config["cap_drop"] or None,
        "CgroupnsMode": config["cgroupns"] or "private",
        "Dns": network["dns"],
        "DnsOptions": network["dns_options"],
        "DnsSearch": network["dns_search"],
        "ExtraHosts": network["add_hosts"] or None,
        "GroupAdd": config["groups"] or None,
        "IpcMode": config["ipc"] or "private",
        "Links": None,
        "PidMode": config["pid"],
        "Privileged": config["privileged"],
        "PublishAllPorts": network["publish_all"],
        "ReadonlyRootfs": config["read_only"],
        "SecurityOpt": _security(config["security"]) or None,
        "Tmpfs": {
            mount["target"]: ",".join(mount.get("options", ()))
            for mount in config["mounts"]
            if mount["kind"] == "tmpfs"
        },
        "UTSMode": config["uts"],
        "UsernsMode": config["userns"],
        "Sysctls": config["sysctls"],
        "Runtime": config["runtime"] or "orlop",
        "Init": config["init"],
        **_resources(config),
    }


def _resources(config: dict[str, Any]) -> dict[str, Any]:
    limits = config["limits"]
    swappiness = limits["memory_swappiness"]
    return {
        "ShmSize": limits["shm_size"] or _SHM_SIZE,
        "CpuShares": limits["cpu_shares"],
        "Memory": limits["memory"],
        "NanoCpus": limits["nano_cpus"],
        "CgroupParent": config["cgroup_parent"],
        "BlkioWeight": limits["blkio_weight"],
        "CpuPeriod": limits["cpu_period"],
        "CpuQuota": limits["cpu_quota"],
        "CpusetCpus": limits["cpuset_cpus"],
        "CpusetMems": limits["cpuset_mems"],
        "Devices": [
            {"PathOnHost": one["source"], "PathInContainer": one["target"], "CgroupPermissions": one["access"]}
            for one in config["devices"]
        ],
        "MemoryReservation": limits["memory_reservation"],
        # docker gives as much swap as memory where --memory-swap is not said
        "MemorySwap": limits["memory_swap"] or 2 * limits["memory"],
        "MemorySwappiness": swappiness if swappiness >= 0 else None,
        "OomKillDisable": limits["oom_kill_disable"],
        "OomScoreAdj": limits["oom_score_adj"],
        "PidsLimit": limits["pids"] or None,
        "Ulimits": [_ulimit(text) for text in limits["ulimits"]],
    }


def _ulimit(text: str) -> dict[str, Any]:
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    return {"Name": name, "Hard": int(hard or soft), "Soft": int(soft)}


def _security(chosen: dict[str, Any]) -> list[str]:
    found = ["no-new-privileges"] if chosen["no_new_privileges"] else []
    if chosen["seccomp"] != "default":
        found.append(f"seccomp={chosen['seccomp']}")
    if not chosen["masks"]:
        found.append("systempaths=unconfined")
    return found


def _mount(engine: Engine, mount: dict[str, Any]) -> dict[str, Any]:
    source, kind = mount.get("source", ""), mount["kind"]
    volume = kind == "volume"
    return {
        "Type": kind,
        **({"Name": source} if volume else {}),
        "Source": engine.volumes.path(source) if volume and source else source,
        "Destination": mount["target"],
        **({"Driver": "local"} if volume else {}),
        "Mode": "ro" if mount.get("read_only") else "",
        "RW": not mount.get("read_only", False),
        "Propagation": mount.get("propagation") or ("rprivate" if kind == "bind" else ""),
    }


def _config(engine: Engine, record: ContainerRecord) -> dict[str, Any]:
    config = record.config
    unnamed = [
        mount["target"]
        for mount in config["mounts"]
        if mount["kind"] == "volume" and engine.volumes.is_anonymous(mount.get("source", ""))
    ]
    ports = exposed(config)
    return {
        "Hostname": config["hostname"] or record.id[:12],
        "Domainname": config["domainname"],
        "User": config["user"],
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        **({"ExposedPorts": {port: {} for port in ports}} if ports else {}),
        "Tty": config["tty"],
        "OpenStdin": config["stdin"],
        "StdinOnce": False,
        "Env": config["env"],
        "Cmd": config["cmd"] or None,
        **({"Healthcheck": config["health"]} if config.get("health") else {}),
        "Image": record.image_name,
        "Volumes": {target: {} for target in unnamed} or None,
        "WorkingDir": config["cwd"],
        "Entrypoint": config["entrypoint"] or None,
        "OnBuild": None,
        "Labels": dict(record.labels),
        "StopSignal": config["stop_signal"],
        "StopTimeout": config["stop_timeout"],
    }


def _network(engine: Engine, record: ContainerRecord, launch: dict[str, Any]) -> dict[str, Any]:
    config, attached = record.config, launch.get("network") or {}
    mode = config["network"]["mode"]
    ports: dict[str, list[dict[str, str]] | None] = dict.fromkeys(exposed(config))
    for port in attached.get("ports", ()):
        key = f"{port['container_port']}/{port['protocol']}"
        binding = {"HostIp": port["host_ip"], "HostPort": str(port["host_port"])}
        ports[key] = [*(ports.get(key) or ()), binding]
    endpoint = {
        "Gateway": attached.get("gateway", ""),
        "GlobalIPv6Address": attached.get("ip6", ""),
        "GlobalIPv6PrefixLen": attached.get("prefix6", 0),
        "IPAddress": attached.get("ip", ""),
        "IPPrefixLen": attached.get("prefix", 0),
        "IPv6Gateway": attached.get("gateway6", ""),
        "MacAddress": attached.get("mac", ""),
    }
    aliases = config["network"]["aliases"]
    known = engine.root.state.networks.get(record.namespace, mode)
    joined = endpoint | {
        "IPAMConfig": {"IPv4Address": config["network"]["ip"]} if config["network"]["ip"] else None,
        "Links": None,
        "Aliases": list(aliases) or None,
        "DriverOpts": None,
        "NetworkID": known["id"] if known else "",
        "EndpointID": "",
        "DNSNames": [record.name, *aliases, record.id[:12]] if known else None,
    }
    return {
        "Bridge": "",
        "SandboxID": record.id if attached else "",
        "SandboxKey": f"/proc/{launch['pid']}/ns/net" if attached else "",
        "Ports": ports if attached else {},
        "HairpinMode": False,
        "EndpointID": "",
        **endpoint,
        "Networks": {} if modes.container_of(mode) else {mode: joined},
    }
