"""Networks put right: what somebody flushed comes back, and what killed commands left behind goes.

Done by every verb that changes networks, and by a start that finds the firewall's rules gone.
"""

from __future__ import annotations

import os
import time

from orlop.engine import status
from orlop.errors import OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.engine.core import Engine
    from orlop.network.values import Attachment, Network

_YOUNG = 600.0  # seconds for which a start may be under way that has written nothing down yet


def restore(engine: Engine) -> int:
    """Give the running containers of this root back what the firewall has lost of them; the ports there were."""
    from orlop.network import publishing

    return publishing.restore(_attached(engine))


def reconcile(engine: Engine) -> int:
    """Take back links, ports and addresses of containers that are no more, then `restore`; how much was amiss.

    Nothing for those who are not root, and own no bridge.
    """
    if engine.settings.uid:
        return 0
    from orlop.network import bridge

    count = bridge.reconcile(engine.networks.scope, lambda: _live(engine))
    addresses = engine.root.state.networks
    for name in (record["name"] for record in addresses.all(engine.settings.namespace)):
        held = {owner for _, owner in addresses.addresses(engine.networks.owner(name))}
        for owner in held - _live(engine):
            addresses.release("", owner)
            count += 1
    return count + restore(engine)


def _attached(engine: Engine) -> Iterator[tuple[Network, Attachment]]:
    """The bridge networks of all running containers, whatever namespace of the root they are in."""
    from orlop.network.values import Attachment, Network

    state = engine.root.state
    for record in state.containers.all():
        attached = (status.launch_record(engine.root, record.id) or {}).get("network") or {}
        if "bridge" not in attached or not status.status_of(engine.root, record).running:
            continue
        attachment = Attachment.from_json(attached)
        network = state.networks.get(record.namespace, attachment.network)
        if network is not None:
            yield Network.from_json(network["network"]), attachment


def _live(engine: Engine) -> set[str]:
    """The ids whose networks stay: of recorded containers, and of build steps, which their builds' leases hold.

    A step whose build was killed only has a folder: that is told by its processes, or, before they are written down, by
    its age.
    """
    from orlop.store import leases

    # Leases before records: what leaves the one set is in the other by then.
    held = leases.live(f"{engine.root.path}/leases", reap=False)
    found = {key for kind, key in held if kind == "container"}
    found |= {record.id for record in engine.root.state.containers.all()}
    folder = f"{engine.root.run_path}/containers"
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return found
    for name in names:
        if name not in found and _runs(engine, name):
            found.add(name)
    return found


def _runs(engine: Engine, container: str) -> bool:
    try:
        launch = status.launch_record(engine.root, container)
        if launch is not None:
            return status.lives(launch)
        return os.stat(status.run_dir(engine.root, container)).st_mtime > time.time() - _YOUNG
    except (FileNotFoundError, OrlopError):
        return False
