"""Networks without root: pasta (or slirp4netns) beside the container."""

from __future__ import annotations

from orlop.engine import modes, status
from orlop.errors import PermissionDenied
from orlop.network import rootless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.network.ports import Binding
    from orlop.store.containers import ContainerRecord


_PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def check(network: dict[str, Any], bindings: tuple[Binding, ...]) -> None:
    """Refuse what takes root: networks that are bridges, addresses of one's own choice, low ports of the host."""
    mode = network["mode"]
    if mode != "bridge" and modes.names_network(mode):
        raise PermissionDenied(
            f"network {mode} is a bridge of the host, and bridges belong to root",
            hint="leave out --network (pasta connects the container), use host, none or container:NAME, or run as root",
        )
    for option, given in (("--ip", network["ip"]), ("--mac-address", network["mac"])):
        if given:
            raise PermissionDenied(
                f"{option} {given} cannot be had without root", hint="pasta gives a container the host's own address"
            )
    least = _least_port()
    for one in bindings if mode != "host" else ():
        if 0 < one.first_host < least:
            raise PermissionDenied(
                f"port {one.first_host} of the host belongs to root: ordinary users may publish from {least} on",
                hint=f"publish another port (-p {one.first_host + 8000}:{one.container_port}), or as root: "
                f"sysctl net.ipv4.ip_unprivileged_port_start={one.first_host}",
            )


def _least_port() -> int:
    try:
        with open(_PORTS, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024  # Linux before 4.11


def nameservers(engine: Engine) -> tuple[str, ...]:
    """What a container asks for names."""
    return rootless.nameservers(search=_search(engine))


def address(engine: Engine) -> str:
    """The address that a container will have, "" where that is not known before."""
    return rootless.address(search=_search(engine))


def _search(engine: Engine) -> str:
    return dict(engine.settings.environ).get("PATH") or rootless.SEARCH


def attach(engine: Engine, record: ContainerRecord, pid: int) -> dict[str, Any]:
    """Start it for the container whose first process is `pid`; what the launch record keeps."""
    from orlop.engine import attaching

    given = rootless.attach(
        rootless.RootlessRequest(
            pid=pid,
            run_dir=status.run_dir(engine.root, record.id),
            bindings=attaching.bindings(record.config),
            taken=attaching.taken(engine, record),
            search=_search(engine),
        )
    )
    return {
        "pasta": given.program,
        "pid_file": given.pid_file,
        "ip": given.ip,
        "prefix": given.prefix,
        "gateway": given.gateway,
        "mac": "",
        "ports": [port.to_json() for port in given.ports],
    }


def detach(attached: dict[str, Any]) -> None:
    """End it."""
    rootless.detach(attached["pid_file"])
