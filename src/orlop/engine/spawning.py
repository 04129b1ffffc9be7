"""Which way shims are started from this process."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.runtime.spawner import Spawner


def choose_spawner(before_fork: Callable[[], None], *, once: bool = False) -> Spawner:
    """A spawner process: forked at once while this process has one thread, started fresh when it is first needed else.

    `before_fork` closes the databases: SQLite's locks and memory are not for two processes.

    Forked at once it loads the runtime's modules on another core while we look up the image and write the record: a
    direct fork later would have to load them first. `once`: there will be one start, so it becomes that shim itself.
    """
    from orlop.linux.process import thread_count
    from orlop.runtime.spawner import ProcessSpawner

    spawner = ProcessSpawner(before_fork)
    if thread_count() == 1:
        spawner.begin(once=once)
    return spawner
