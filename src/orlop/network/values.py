"""What the network room is asked for and what it gives."""

from __future__ import annotations

from orlop.network import ports
from orlop.network.ports import Binding, Published
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_BRIDGE = "orlop0"


class Network(Value):
    """A bridge network.

    `subnet` "10.91.0.0/16" and `gateway` "10.91.0.1" (the bridge's own address) belong together; `subnet6`/`gateway6`
    are "" without IPv6. `internal`: no way out and no published ports. `talk`: containers reach each other. `mtu` 0:
    the kernel's default. `name` is what the bridge is labelled with, so that two stores cannot share it by accident.
    """

    name: str
    bridge: str = DEFAULT_BRIDGE
    subnet: str
    gateway: str
    subnet6: str = ""
    gateway6: str = ""
    internal: bool = False
    talk: bool = True
    mtu: int = 0

    def to_json(self) -> dict[str, Any]:
        """As the store keeps it."""
        return {field: getattr(self, field) for field in self._fields}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Network:
        """`to_json`, read back; unknown members (of later versions) are left out."""
        return cls(**{field: data[field] for field in cls._fields if field in data})


class AttachRequest(Value):
    """Join a container's network namespace to a network.

    `container` is its id, `scope` tells stores on one host apart (a few characters made of the root's path). `ip` (and
    `ip6`) are already allocated in the network's subnet. `number` counts the container's networks. `bindings` are the
    ports to publish; `taken` are (container's name, port) of running containers. `run_dir` is a folder for this
    container's process files. `python` is the interpreter for the proxy.
    """

    container: str
    network: Network
    ip: str
    ip6: str = ""
    mac: str = ""
    interface: str = "eth0"
    number: int = 0
    default_route: bool = True
    bindings: tuple[Binding, ...] = ()
    taken: tuple[tuple[str, Published], ...] = ()
    scope: str = ""
    run_dir: str = ""
    python: str = ""
    beside_docker: bool = True


class Attachment(Value):
    """What a container has got: kept by the caller, to be shown and handed back to `detach`.

    `proxied` are those of `ports` that the userland proxy serves, `pid_file` is where that is written down. `warning`
    is a sentence for the user, or "".
    """

    network: str
    bridge: str
    container: str
    scope: str
    interface: str
    veth: str
    ip: str
    prefix: int
    gateway: str
    mac: str
    ip6: str = ""
    prefix6: int = 0
    gateway6: str = ""
    ports: tuple[Published, ...] = ()
    proxied: tuple[Published, ...] = ()
    pid_file: str = ""
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a container's launch record keeps it."""
        data = {field: getattr(self, field) for field in self._fields}
        return data | {key: [port.to_json() for port in data[key]] for key in ("ports", "proxied")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Attachment:
        """`to_json`, read back; unknown members (of later versions) are left out."""
        known = {field: data[field] for field in cls._fields if field in data}
        for key in ("ports", "proxied"):
            known[key] = tuple(ports.Published.from_json(port) for port in data.get(key, ()))
        return cls(**known)
