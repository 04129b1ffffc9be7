"""A container's network: planned before its start, made when its namespace is there, given back when it has ended."""

from __future__ import annotations

import os

from orlop.engine import modes, status
from orlop.events import Event
from orlop.network import names
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket  # noqa: N812  # a class, whatever its name
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.events import Report
    from orlop.network.ports import Published
    from orlop.network.values import Network
    from orlop.store.containers import ContainerRecord


class Plan(Value):
    """What a start will need of the network: decided before anything runs.

    `files` are (host path, path in the container) of the small files that every container has.
    """

    mode: str
    hostname: str
    files: tuple[tuple[str, str], ...]
    network: Network | None = None
    ip: str = ""


def plan(engine: Engine, record: ContainerRecord) -> Plan:
    """Choose the address, and write hosts, hostname and resolv.conf."""
    config = record.config
    mode = config["network"]["mode"]
    hostname = config["hostname"] or (os.uname().nodename if "host" in {mode, config["uts"]} else record.id[:12])
    network, ip = None, ""
    if modes.names_network(mode):
        if engine.settings.uid:
            from orlop.engine import pasta

            mode, ip = "pasta", pasta.address(engine)
        else:
            network = engine.networks.network(mode)
            owner = engine.networks.owner(network.name)
            addresses = engine.root.state.networks
            with engine.root.state.database.relaxed():  # after a crash of the machine nobody has an address
                ip = addresses.allocate(
                    owner, record.id, network.subnet, config["network"]["ip"], reserved=[network.gateway]
                )
    if other := modes.container_of(mode):
        files = _files_of_other(engine, other)
    else:
        files = _write_files(engine, record, mode, hostname, network, ip)
    return Plan(mode=mode, hostname=hostname, files=files, network=network, ip=ip)


def _files_of_other(engine: Engine, other: str) -> tuple[tuple[str, str], ...]:
    """Who shares a network shares its files."""
    folder = f"{status.run_dir(engine.root, engine.containers.record(other).id)}/etc"
    return tuple((f"{folder}/{name}", f"/etc/{name}") for name in ("hosts", "hostname", "resolv.conf"))


def _write_files(
    engine: Engine, record: ContainerRecord, mode: str, hostname: str, network: Network | None, ip: str
) -> tuple[tuple[str, str], ...]:
    config = record.config["network"]
    additions = [names.parse_add_host(text) for text in config["add_hosts"]]
    if mode == "host":
        hosts = names.host_network_hosts(_read("/etc/hosts"), additions)
    else:
        hosts = names.hosts(
            hostname=hostname,
            domain=record.config["domainname"],
            addresses=[ip] if ip else [],
            aliases=config["aliases"],
            add_hosts=additions,
            gateway=network.gateway if network else "",
        )
    dns = config["dns"]
    if mode == "pasta" and not dns:
        from orlop.engine import pasta

        dns = pasta.nameservers(engine)  # what the program beside the container answers for
    servers = names.resolvers(
        names.host_resolvers(),
        shares_host_network=mode in {"host", "none"},
        dns=dns,
        dns_search=config["dns_search"],
        dns_options=config["dns_options"],
    )
    folder = f"{status.run_dir(engine.root, record.id)}/etc"
    os.makedirs(folder, mode=0o755, exist_ok=True)
    texts = {"hosts": hosts, "hostname": names.hostname_file(hostname), "resolv.conf": names.resolv_conf(servers)}
    for name, text in texts.items():
        descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(descriptor, 0o644)  # whatever the umask: every user of the container reads them
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    return tuple((f"{folder}/{name}", f"/etc/{name}") for name in texts)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def load(made: Plan) -> None:
    """Load what `attach` will need, while the namespace that it waits for is being made."""
    if made.network is not None:
        from orlop.network import bridge  # noqa: F401  # loaded for later


def attach(
    engine: Engine, record: ContainerRecord, made: Plan, pid: int, report: Report, *, ports: list[Socket]
) -> dict[str, Any]:
    """Join the namespace of process `pid` to its network; returns what the launch record keeps ({}: nothing).

    `ports` gets the bound sockets by which the host's ports are held, as long as they are open.
    """
    if made.mode == "pasta":
        from orlop.engine import pasta

        return pasta.attach(engine, record, pid)
    if made.network is None:
        return {}  # a namespace of its own has its loopback link set up by the runtime
    from orlop.network import bridge
    from orlop.network.values import AttachRequest

    given = bridge.attach(
        f"/proc/{pid}/ns/net",
        AttachRequest(
            container=record.id,
            network=made.network,
            ip=made.ip,
            mac=record.config["network"]["mac"],
            bindings=bindings(record.config),
            taken=taken(engine, record),
            scope=engine.networks.scope,
            run_dir=status.run_dir(engine.root, record.id),
        ),
        keep=ports,
        flushed=lambda: _restore(engine),
    )
    if given.warning:
        how = "; published ports are served by a proxy" if given.proxied else ""
        report(Event(action="warning", subject=record.name, text=f"{given.warning}{how}"))
    return given.to_json()


def _restore(engine: Engine) -> None:
    """Somebody has flushed the firewall: the other containers get back what it had of theirs."""
    from orlop.engine import netrepair

    netrepair.restore(engine)


def bindings(config: dict[str, Any]) -> tuple[Any, ...]:
    """The ports to publish: those asked for with -p, and with -P every exposed one."""
    if not config["network"]["publish"] and not config["network"]["publish_all"]:
        return ()
    from orlop.network import ports

    found = [binding for text in config["network"]["publish"] for binding in ports.parse(text)]
    if config["network"]["publish_all"]:
        asked = {(one.container_port, one.protocol) for one in found}
        for text in config["network"]["expose"]:
            for port, protocol in ports.parse_exposed(text):
                if (port, protocol) not in asked:
                    found.append(ports.Binding(container_port=port, protocol=protocol))
    return tuple(found)


def taken(engine: Engine, record: ContainerRecord) -> tuple[tuple[str, Published], ...]:
    """Ports that other running containers have published, with the containers' names, for a clear refusal.

    Who was killed with nobody to tidy up has his ports no more: they are taken over.
    """
    if not record.config["network"]["publish"]:
        return ()
    from orlop.network.ports import Published

    found: list[tuple[str, Published]] = []
    for other in engine.root.state.containers.all():
        started = status.launch_record(engine.root, other.id) if other.id != record.id else None
        if started is None or not status.lives(started):
            continue
        ports = (started["network"] or {}).get("ports", ())
        found += [(other.name, Published.from_json(port)) for port in ports]
    return tuple(found)


def check(config: dict[str, Any], *, rootless: bool) -> None:
    """Refuse what cannot be meant, or cannot be had without root, before anything is made."""
    found = bindings(config)
    if rootless:
        from orlop.engine import pasta

        pasta.check(config["network"], found)
    for text in config["network"]["add_hosts"]:
        names.parse_add_host(text)


def detach(engine: Engine, record: ContainerRecord) -> None:
    """Give back the address, the ports and the proxy. Safe to do twice."""
    mode = record.config["network"]["mode"]
    if mode in {"none", "host"} or modes.is_shared(mode):
        return
    started = status.launch_record(engine.root, record.id)
    attached = (started or {}).get("network") or {}
    if "pasta" in attached:
        from orlop.engine import pasta

        pasta.detach(attached)
    elif attached:
        from orlop.network import bridge
        from orlop.network.values import Attachment

        # the namespace has died with its processes, and the kernel takes the link with it
        bridge.detach(Attachment.from_json(attached), delete_link=False)
    if not engine.settings.uid:
        with engine.root.state.database.relaxed():
            engine.root.state.networks.release("", record.id)
