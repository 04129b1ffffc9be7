"""Restart policies: whether a container that has ended starts again, and the wait before it does.

The shim's exit command does the waiting, so there is no daemon. While it waits, a file in the run directory says who
it is: that is how `ps` knows the state "restarting", and taking the file away (`stop`, `rm`) calls the restart off.
"""

from __future__ import annotations

import os
import time

from orlop.engine import status
from orlop.linux import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.engine.core import Engine
    from orlop.store.containers import ContainerRecord

_DELAY = 0.1  # seconds before the first restart; doubled each time, as docker does
_DELAY_MAX = 60.0
_LOOK = 0.1  # seconds between looks whether it was called off


def wanted(record: ContainerRecord) -> bool:
    """Whether the policy starts it again, after the end that its record tells of."""
    policy, state = record.config["restart"], record.state
    if state.get("stopped_by_user") or policy["name"] == "no":
        return False
    if policy["name"] == "on-failure":
        return state.get("exit_code", 0) != 0 and (not policy["max"] or state.get("restarts", 0) < policy["max"])
    return True


def restart(engine: Engine, record: ContainerRecord, start: Callable[[], object]) -> None:
    """Wait as long as the policy says, then `start`, unless somebody has stopped or removed the container."""
    root = engine.root
    path = status.restarting_file(root, record.id)
    with root.lock(f"container-{record.id}"):
        if root.state.containers.get(record.id) is None or status.launch_record(root, record.id) is not None:
            return
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        status.write_json(path, {"pid": os.getpid(), "ticks": process.start_ticks(os.getpid())})
    try:
        engine.disconnect()
        # the quick ends so far, this one among them: the first wait is the shortest
        quick = max(record.state.get("quick", 0) - 1, 0)
        until = time.monotonic() + min(_DELAY * 2 ** min(quick, 10), _DELAY_MAX)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK))
            if not os.path.exists(path):
                return
        start()
    finally:
        if os.path.exists(path):
            os.unlink(path)


def call_off(engine: Engine, record: ContainerRecord) -> None:
    """Whoever waits to start the container goes away. The container's lock is held."""
    try:
        os.unlink(status.restarting_file(engine.root, record.id))
    except FileNotFoundError:
        return
