"""Container networks: the default bridge, and those that people make. Each is a bridge on the host."""

from __future__ import annotations

import os
import time

from orlop.engine import journal, moments
from orlop.engine.requests import Prune, Removed
from orlop.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.engine.filters import Maker
    from orlop.engine.requests import Filter
    from orlop.network.values import Network

DEFAULT = "bridge"
_BUILT_IN = {"host": "host", "none": "null"}


class Networks:
    """The verbs on networks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._namespace = engine.settings.namespace

    @property
    def scope(self) -> str:
        """Marks what belongs to this root on the machine that all roots share."""
        import zlib

        return f"{zlib.crc32(os.fsencode(self._engine.settings.root)):08x}"

    def network(self, name: str) -> Network:
        """The network's definition; the default one is made when it is first asked for."""
        from orlop.network.values import Network

        record = self._engine.root.state.networks.get(self._namespace, name)
        if record is None and name == DEFAULT:
            record = self._make(DEFAULT, "", "", internal=False, labels={})
        if record is None:
            raise NotFound(f"there is no network {name!r}", hint="see orlop network ls")
        return Network.from_json(record["network"])

    def owner(self, name: str) -> str:
        """How a network is called among those of all namespaces, where addresses are given out."""
        return f"{self._namespace}/{name}"

    def create(
        self,
        name: str,
        subnet: str = "",
        gateway: str = "",
        internal: bool = False,
        labels: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Make a network. Its subnet is chosen to overlap nothing on this machine, unless it is given."""
        from orlop.engine.mounts import volume_name

        if self._engine.settings.uid:
            raise PermissionDenied(
                "networks are bridges of the host, and bridges belong to root",
                hint="containers of ordinary users share a network with --network container:NAME; or run as root",
            )
        self.reconcile()
        if name in {DEFAULT, *_BUILT_IN, "default", "pasta"}:
            raise AlreadyExists(f"{name} is a network that is always there", hint="choose another name")
        pairs = dict(text.partition("=")[::2] for text in labels)
        record = self._make(volume_name(name), subnet, gateway, internal=internal, labels=pairs)
        journal.record(self._engine.root, "network", "create", record["id"], {"name": name, "type": "bridge"})
        return self._shown(record)

    def _make(self, name: str, subnet: str, gateway: str, *, internal: bool, labels: dict[str, str]) -> dict[str, Any]:
        from orlop.network import bridge, subnets

        networks = self._engine.root.state.networks
        with self._engine.root.lock("networks"):
            known = networks.get(self._namespace, name)
            if known is not None:
                if name == DEFAULT:
                    return known
                raise AlreadyExists(
                    f"there is a network {name} already", hint="remove it first, or choose another name"
                )
            others = [record["network"]["subnet"] for record in networks.all(self._namespace)]
            chosen = bridge.choose_network(name, taken=others, bridge=self._bridge(name))
            if subnet:
                subnets.parse(subnet)
                chosen = chosen.replace(subnet=subnet, gateway=gateway or subnets.gateway_of(subnet))
            elif gateway:
                raise InvalidArgument("--gateway needs --subnet", hint="e.g. --subnet 10.5.0.0/24 --gateway 10.5.0.1")
            record = {
                "id": os.urandom(32).hex(),
                "name": name,
                "created": time.time_ns(),
                "labels": labels,
                "network": chosen.replace(internal=internal).to_json(),
            }
            networks.put(self._namespace, name, record)
        return record

    def _bridge(self, name: str) -> str:
        """The network's bridge: orlop0 for everybody's default, else a name that only this root can mean.

        Several roots share a machine, and a bridge that is down after a reboot does not show that it is taken.
        """
        import zlib

        if (self._engine.settings.root, self._namespace, name) == ("/var/lib/orlop", "default", DEFAULT):
            return "orlop0"
        return f"orlop{zlib.crc32(f'{self.scope}/{self._namespace}/{name}'.encode()):08x}"

    def list(self, filters: Iterable[Filter] = ()) -> builtins.list[dict[str, Any]]:
        """All networks in docker's shape, the built-in ones too."""
        records = {record["name"]: record for record in self._engine.root.state.networks.all(self._namespace)}
        shown = [self._shown(records[name]) for name in sorted(records)]
        if DEFAULT not in records:
            shown.append(_built_in(DEFAULT, "bridge"))
        shown += [_built_in(name, driver) for name, driver in _BUILT_IN.items()]
        return sorted(filter(_shown_test(filters), shown), key=lambda one: str(one["Name"]))

    def inspect(self, name: str) -> dict[str, Any]:
        """One network in docker's shape, with the containers that are in it."""
        if name in _BUILT_IN:
            return _built_in(name, _BUILT_IN[name])
        record = self._find(name)
        shown = self._shown(record)
        from orlop.engine import status

        for container in self._engine.root.state.containers.all(self._namespace):
            if container.config["network"]["mode"] != record["name"]:
                continue
            started = status.launch_record(self._engine.root, container.id)
            attached = (started or {}).get("network") or {}
            if attached:
                shown["Containers"][container.id] = {
                    "Name": container.name,
                    "MacAddress": attached["mac"],
                    "IPv4Address": f"{attached['ip']}/{attached['prefix']}",
                }
        return shown

    def _find(self, name: str) -> dict[str, Any]:
        networks = self._engine.root.state.networks
        record = networks.get(self._namespace, name)
        if record is None and name == DEFAULT:
            self.network(DEFAULT)
            record = networks.get(self._namespace, name)
        if record is None:
            by_id = [one for one in networks.all(self._namespace) if len(name) > 3 and one["id"].startswith(name)]
            record = by_id[0] if len(by_id) == 1 else None
        if record is None:
            raise NotFound(f"there is no network {name!r}", hint="see orlop network ls")
        return record

    def remove(self, name: str) -> None:
        """Delete a network. Conflict while a container, running or not, is in it."""
        record = None if name in {DEFAULT, *_BUILT_IN} else self._find(name)
        if record is None or record["name"] == DEFAULT:  # by its id
            raise InvalidArgument(f"{name} is a network that is always there and cannot be removed")
        self.reconcile()
        users = [
            one.name
            for one in self._engine.root.state.containers.all(self._namespace)
            if one.config["network"]["mode"] == record["name"]
        ]
        if users:
            raise Conflict(
                f"network {record['name']} is used by container {users[0]}",
                hint=f"remove it first: orlop rm {users[0]}",
            )
        self._delete(record)

    def _delete(self, record: dict[str, Any]) -> None:
        from orlop.network import bridge
        from orlop.network.values import Network

        bridge.remove_network(Network.from_json(record["network"]), self.scope)
        self._engine.root.state.networks.delete(self._namespace, record["name"])
        journal.record(self._engine.root, "network", "destroy", record["id"], {"name": record["name"]})

    def prune(self, request: Prune = Prune()) -> Removed:
        """Delete the networks that people made and no container is in."""
        fits = _prune_test(request.filters)
        self.reconcile()
        used = {one.config["network"]["mode"] for one in self._engine.root.state.containers.all(self._namespace)}
        doomed = [
            record
            for record in self._engine.root.state.networks.all(self._namespace)
            if record["name"] not in {DEFAULT, *used} and fits(record)
        ]
        for record in doomed:
            self._delete(record)
        return Removed(actions=tuple(("deleted network", record["name"]) for record in doomed))

    def reconcile(self) -> int:
        """Take back what killed commands left of networks on this machine, and restore what others have flushed.

        Done by every verb here that changes something. Returns how much was amiss.
        """
        from orlop.engine import netrepair

        return netrepair.reconcile(self._engine)

    def tear_down(self) -> None:
        """Take every bridge of this root off the machine; the definitions stay, and bring them back when needed."""
        from orlop.network import bridge
        from orlop.network.values import Network

        self.reconcile()
        for record in self._engine.root.state.networks.all(self._namespace):
            bridge.remove_network(Network.from_json(record["network"]), self.scope)

    def _shown(self, record: dict[str, Any]) -> dict[str, Any]:
        network = record["network"]
        return {
            "Name": record["name"],
            "Id": record["id"],
            "Created": moments.rfc3339(record["created"]),
            "Scope": "local",
            "Driver": "bridge",
            "EnableIPv6": bool(network["subnet6"]),
            "IPAM": {"Driver": "default", "Config": [{"Subnet": network["subnet"], "Gateway": network["gateway"]}]},
            "Internal": network["internal"],
            "Containers": {},
            "Options": {"com.docker.network.bridge.name": network["bridge"]},
            "Labels": record["labels"],
        }


def _built_in(name: str, driver: str) -> dict[str, Any]:
    return {
        "Name": name,
        "Id": name,
        "Created": "0001-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": driver,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": []},
        "Internal": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    }


def _shown_test(filters: Iterable[Filter]) -> Callable[[dict[str, Any]], bool]:
    from orlop.engine.filters import equal, judge, labels, matching, starting

    def kind(shown: dict[str, Any]) -> str:
        return "builtin" if shown["Name"] in {DEFAULT, *_BUILT_IN} else "custom"

    known: dict[str, Maker[dict[str, Any]]] = {
        **matching("name", lambda shown: shown["Name"]),
        **starting("id", lambda shown: shown["Id"]),
        **equal("driver", lambda shown: shown["Driver"]),
        **labels(lambda shown: shown["Labels"]),
        **equal("scope", lambda shown: shown["Scope"]),
        **equal("type", kind, words=("builtin", "custom")),
    }
    return judge(filters, known, what="networks")


def _prune_test(filters: Iterable[Filter]) -> Callable[[dict[str, Any]], bool]:
    from orlop.engine.filters import judge, labels, until

    known: dict[str, Maker[dict[str, Any]]] = {
        **labels(lambda record: record["labels"]),
        **until(lambda record: record["created"] / 1e9),
    }
    return judge(filters, known, what="prunes of networks")
