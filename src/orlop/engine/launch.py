"""Start a container, stay joined to it, and settle it when it has ended.

A start is: bundle on disk -> shim (create) -> network -> launch record -> program let go. Everything before the launch record
is undone by `settle` if we die; what a start lends (an address, ports, the runtime's state, run files) is given back by it too.
"""

from __future__ import annotations

from orlop.engine import status
from orlop.runtime import attach as attachment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.core import Engine
    from orlop.engine.requests import Stdio
    from orlop.events import Report
    from orlop.store.containers import ContainerRecord

_RESTART_DELAY = 0.1  # seconds before the first restart; doubled each time, as docker does
_RESTART_DELAY_MAX = 60.0
_RUN_LONG_ENOUGH = 10.0  # seconds after which a program counts as started, and the delay begins anew


def start(engine: Engine, record: ContainerRecord, stdio: Stdio | None, report: Report) -> int | None:
    """Start a container that does not run. With `stdio`, returns the exit code; None when detached."""
    root = engine.root
    with root.lock(f"container-{record.id}"):
        now = status.status_of(root, record)
        if now.running:
            return None
        if not now.settled:
            _give_back(engine, record)
        session = attachment.Session(stdio, tty=record.config["tty"]) if stdio else None
        try:
            _launch(engine, record, session, report)
        except BaseException as error:
            _give_back(engine, record)
            _remember_failure(engine, record, error)
            raise
    if session is None:
        return None
    return _join(engine, record, session)
