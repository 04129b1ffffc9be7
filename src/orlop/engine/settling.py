"""After a container's end: how it ended is recorded, and what its start borrowed is given back."""

from __future__ import annotations

import os
import time

from orlop.engine import attaching, journal, status
from orlop.errors import NotFound
from orlop.runtime import exit as exit_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.events import Report
    from orlop.runtime.records import ExitRecord
    from orlop.store.containers import ContainerRecord

_RUN_LONG_ENOUGH = 10.0  # seconds after which a program counts as started, and the delay begins anew
_KEPT_EXITS = 3600.0  # seconds that the exit of an auto-removed container is kept for whoever waits


def settle(engine: Engine, container: str, *, restart: bool = False, report: Report | None = None) -> None:
    """After the end: record it, give back what was lent; then remove or (`restart`) start again, as was asked."""
    record = settle_once(engine, container, None, restart=restart)
    if record is None or not restart:
        return
    from orlop.engine import launch, restarting, restartpolicy
    from orlop.layers import unpack

    if restartpolicy.wanted(record, record.state.get("exit_code", 0)):
        restarting.restart(
            engine, record, lambda: launch.start(engine, record, None, report or (lambda _: None), again=True)
        )
    else:
        unpack.settle(engine.root)  # nobody waits for this process, so this is where trees are brought to disk


def settle_once(
    engine: Engine, container: str, ended: ExitRecord | None, *, restart: bool = False
) -> ContainerRecord | None:
    """Settle once; None when there is nothing left of the container. `restart`: announce a restart that is wanted."""
    from orlop.engine import creation

    root = engine.root
    with root.lock(f"container-{container}"):
        record = root.state.containers.get(container)
        if record is None:
            return None
        settled = status.launch_record(root, container) is None  # by somebody else
        if not settled and status.status_of(root, record).running:
            return None
        removing = record.config["auto_remove"] and _goes(engine, record, settled=settled)
        if not settled:
            ended = ended or exit_record.read(status.run_dir(root, container))
            if removing:
                _keep_exit(engine, record, ended)
            else:
                record = record_end(engine, record, ended)
        if restart:
            _announce(engine, record)
        if not settled:
            give_back(engine, record)
        if removing:
            creation.remove(engine, record, volumes=True)
            return None
    return record


def _goes(engine: Engine, record: ContainerRecord, *, settled: bool) -> bool:
    """Whether a container that removes itself does so now: not where `restart` of it goes on after this end.

    Whoever was killed between giving back and removing has recorded no end, and the next one goes on from there.
    """
    return not record.state.get("finished") if settled else not status.awaited(engine.root, record.id)


def _announce(engine: Engine, record: ContainerRecord) -> None:
    """Say that it will start again before the launch record goes: to others it is never just exited in between."""
    from orlop.engine import restarting, restartpolicy

    if restartpolicy.wanted(record, record.state.get("exit_code", 0)):
        restarting.announce(engine.root, record.id)


def record_end(engine: Engine, record: ContainerRecord, ended: ExitRecord | None) -> ContainerRecord:
    """Write how it ended into the container's record; the truth is that we may not know."""
    now = status.status_of(engine.root, record)
    code = ended.code if ended else status.UNKNOWN_EXIT
    finished = ended.finished if ended else time.time_ns()

    def change(state: dict[str, Any]) -> dict[str, Any]:
        quick = (finished - now.started) / 1e9 < _RUN_LONG_ENOUGH
        return state | {
            "exit_code": code,
            "started": now.started,
            "finished": finished,
            "oom": bool(ended and ended.oom_killed),
            "error": "" if ended else "its monitor was killed, so how the program ended is unknown",
            "restarts": state.get("restarts", 0),
            "quick": state.get("quick", 0) + 1 if quick else 0,
        }

    changed = engine.root.state.containers.update_state(record.id, change)
    journal.record(engine.root, "container", "die", record.id, {"name": record.name, "exitCode": str(code)})
    return changed


def _keep_exit(engine: Engine, record: ContainerRecord, ended: ExitRecord | None) -> None:
    """Leave the exit of a container that removes itself for whoever waits for it; old ones go."""
    folder = f"{engine.root.run_path}/exits"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    code = ended.code if ended else status.UNKNOWN_EXIT
    finished = ended.finished if ended else time.time_ns()
    status.write_json(f"{folder}/{record.id}.json", {"exit_code": code, "finished": finished})
    journal.record(engine.root, "container", "die", record.id, {"name": record.name, "exitCode": str(code)})
    if record.id[0] != "0":
        return  # one in sixteen looks through all of them, of which there may be thousands
    for name in os.listdir(folder):
        try:
            if os.stat(f"{folder}/{name}").st_mtime < time.time() - _KEPT_EXITS:
                os.unlink(f"{folder}/{name}")
        except FileNotFoundError:
            continue


def give_back(engine: Engine, record: ContainerRecord) -> None:
    """Return everything that a start borrowed. Safe to do twice, and on what was never started."""
    from orlop.store.collect import discard

    root = engine.root
    attaching.detach(engine, record)
    _forget(engine, record.id)
    run = status.run_dir(root, record.id)
    if os.path.lexists(run):
        discard(root, run)


def _forget(engine: Engine, container: str) -> None:
    """Have the runtime let go of a container.

    Once the shim has written the exit record it has killed what was left and removed the cgroups, so nothing remains
    but a folder; the runtime itself, whose modules take longer to load than all the rest, is for every other case.
    """
    folder = f"{engine.root.run_path}/runtime/{container}"
    if exit_record.read(status.run_dir(engine.root, container)) is not None:
        try:
            for name in os.listdir(folder):
                os.unlink(f"{folder}/{name}")
            os.rmdir(folder)
        except FileNotFoundError:
            return
        except OSError:
            pass  # something of it is busy: the long way
        else:
            return
    from orlop.runtime import lifecycle

    try:
        lifecycle.delete(container, state_root=f"{engine.root.run_path}/runtime", force=True)
    except NotFound:
        return
