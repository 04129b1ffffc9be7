"""Which way shims are started from this process."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.core import Engine
    from orlop.runtime.spawner import Spawner


def choose_spawner(engine: Engine) -> Spawner:
    """A direct fork is the fastest, and allowed only while this process has one thread."""
    from orlop.linux.process import thread_count
    from orlop.runtime.spawner import DirectSpawner

    if thread_count() == 1:
        return DirectSpawner(before_fork=engine.disconnect)
    from orlop.runtime.spawner import ProcessSpawner

    return ProcessSpawner(before_fork=engine.disconnect)
