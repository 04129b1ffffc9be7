"""Starting again what has ended, where its restart policy wants it.

The shim's exit command does the waiting, so there is no daemon. From the moment that it records the end, a file in the
run directory says who waits: that is how `ps` knows the state "restarting". Taking the file away (`stop`, `rm`) calls
the restart off. The file is written and taken away under the container's lock, and only its writer may start.
"""

from __future__ import annotations

import os
import time

from orlop.engine import restartpolicy, status
from orlop.linux import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.engine.core import Engine
    from orlop.store.containers import ContainerRecord
    from orlop.store.root import Root

_LOOK = 0.1  # seconds between looks whether it was called off


def announce(root: Root, container: str) -> None:
    """Say that this process waits to start it. The container's lock is held."""
    path = status.restarting_file(root, container)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    status.write_json(path, {"pid": os.getpid(), "ticks": process.start_ticks(os.getpid())})


def restart(engine: Engine, record: ContainerRecord, start: Callable[[], object]) -> None:
    """Wait as long as the policy says, then `start`, unless somebody has stopped, started or removed the container."""
    root = engine.root
    try:
        engine.disconnect()
        until = time.monotonic() + restartpolicy.delay(record)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK))
            if not _is_ours(root, record.id):
                return
        start()
    finally:
        # By now it may run again, and even have ended again: then the file is the next waiter's.
        with root.lock(f"container-{record.id}"):
            if _is_ours(root, record.id):
                call_off(root, record.id)


class kept:  # noqa: N801  # used as a verb
    """A context in which an end does not remove a container that removes itself: somebody starts it again at once."""

    __slots__ = ("_record", "_root")

    def __init__(self, root: Root, record: ContainerRecord) -> None:
        self._root = root
        self._record = record

    def __enter__(self) -> None:
        if self._record.config["auto_remove"]:
            with self._root.lock(f"container-{self._record.id}"):
                announce(self._root, self._record.id)

    def __exit__(self, *_: object) -> None:
        if self._record.config["auto_remove"]:
            with self._root.lock(f"container-{self._record.id}"):
                call_off(self._root, self._record.id)


def call_off(root: Root, container: str) -> None:
    """Whoever waits to start the container goes away. The container's lock is held."""
    try:
        os.unlink(status.restarting_file(root, container))
    except FileNotFoundError:
        return


def _is_ours(root: Root, container: str) -> bool:
    waiting = status.read_json(status.restarting_file(root, container))
    return waiting is not None and waiting["pid"] == os.getpid()
