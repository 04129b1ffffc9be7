"""Health checks: what the shim runs again and again, and how that program gets into the container."""

from __future__ import annotations

import os

from orlop.engine import journal, status
from orlop.errors import NotFound
from orlop.runtime.request import HealthProbe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.store.containers import ContainerRecord

_FILE = "probe.json"  # in the run directory: the probe's process object, and its timeout
_INTERVAL = 30_000_000_000  # nanoseconds, docker's defaults from here on
_TIMEOUT = 30_000_000_000
_RETRIES = 3
_START_INTERVAL = 5_000_000_000
_LEAST = 1_000_000  # what options must keep to; an image's own numbers are bounded by it, too


def probe_of(engine: Engine, record: ContainerRecord, process: dict[str, Any]) -> HealthProbe | None:
    """The container's health check as its shim runs it; None where there is none. `process` is its own program's."""
    check = record.config.get("health")
    if not check or check["Test"][0] == "NONE":
        return None
    kind, *argv = check["Test"]
    if kind == "CMD-SHELL":
        argv = [*record.config["shell"], *argv]
    timeout = max(check.get("Timeout") or _TIMEOUT, _LEAST)
    path = f"{status.run_dir(engine.root, record.id)}/{_FILE}"
    status.write_json(path, {"process": process | {"terminal": False, "args": argv}, "timeout": timeout / 1e9})
    settings = engine.settings
    where = ("--root", settings.root, "--run-root", settings.run_root)
    return HealthProbe(
        argv=(*settings.program, *where, "internal", "probe", record.namespace, record.id),
        interval=max(check.get("Interval") or _INTERVAL, _LEAST),
        timeout=timeout,
        retries=check.get("Retries") or _RETRIES,
        start_period=check.get("StartPeriod") or 0,
        start_interval=max(check.get("StartInterval") or _START_INTERVAL, _LEAST),
        changed_argv=(*settings.program, *where, "internal", "health", record.namespace, record.id),
    )


def changed(engine: Engine, container: str, health: str) -> None:
    """Tell the journal that a container is "healthy" or "unhealthy" now."""
    record = engine.containers.record(container)
    about = {"name": record.name, "image": record.image_name}
    journal.record(engine.root, "container", f"health_status: {health}", record.id, about)


def probe(engine: Engine, container: str) -> int:
    """Run the health check once, with our own outputs: its exit code. DeadlineExceeded when it took too long."""
    kept = status.read_json(f"{status.run_dir(engine.root, container)}/{_FILE}")
    if kept is None:
        raise NotFound(f"container {container} has no health check")
    record = engine.containers.record(container)
    program = record.config["runtime"] or engine.settings.runtime
    if program and program != "orlop":
        from orlop.engine.execs import by_program

        return by_program(engine, record, program, kept["process"])
    engine.disconnect()
    from orlop.runtime import execute

    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    return execute.execute(
        container,
        kept["process"],
        state_root=f"{engine.root.run_path}/runtime",
        stdio=(nothing, 1, 2),
        timeout=kept["timeout"],
    )
