"""Networks without root: pasta (or slirp4netns) beside the container."""

from __future__ import annotations

from orlop.engine import status
from orlop.network import rootless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.store.containers import ContainerRecord


def attach(engine: Engine, record: ContainerRecord, pid: int) -> dict[str, Any]:
    """Start it for the container whose first process is `pid`; what the launch record keeps."""
    from orlop.engine import attaching

    given = rootless.attach(
        rootless.RootlessRequest(
            pid=pid,
            run_dir=status.run_dir(engine.root, record.id),
            bindings=attaching.bindings(record.config),
            taken=attaching.taken(engine, record),
            search=dict(engine.settings.environ).get("PATH") or rootless.SEARCH,
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
