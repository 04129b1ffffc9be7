"""Signals, stops and pauses."""

from __future__ import annotations

import os

from orlop.engine import journal, launch, status
from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.linux import process, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.core import Engine
    from orlop.store.containers import ContainerRecord


def stop(engine: Engine, record: ContainerRecord, timeout: int) -> None:
    """Stop signal, wait, SIGKILL, and everything given back. No error where it does not run."""
    now = status.status_of(engine.root, record)
    started = status.launch_record(engine.root, record.id)
    if not now.running or started is None:
        if not now.settled:
            launch.settle(engine, record.id)
        return
    _mark_stopped(engine, record)
    if now.word == "paused":
        unpause(engine, record)
    gone = False
    if timeout != 0:
        _signal(started, signal_number(record.config["stop_signal"]))
        gone = process.wait_gone(started["pid"], started["ticks"], None if timeout < 0 else float(timeout))
    if not gone:
        _signal(started, signals.NUMBERS["KILL"])
        process.wait_gone(started["pid"], started["ticks"], None)
    launch.settle(engine, record.id)
    journal.record(engine.root, "container", "stop", record.id, {"name": record.name})


def kill(engine: Engine, record: ContainerRecord, signal: str) -> None:
    """Send one signal to the first process. FailedPrecondition if the container does not run."""
    number = signal_number(signal)
    status.require_running(status.status_of(engine.root, record), record.name, "kill")
    started = status.launch_record(engine.root, record.id)
    if started is None:
        return
    if number == signals.NUMBERS["KILL"]:
        _mark_stopped(engine, record)
    _signal(started, number)
    journal.record(engine.root, "container", "kill", record.id, {"name": record.name, "signal": str(number)})
    if number == signals.NUMBERS["KILL"]:
        process.wait_gone(started["pid"], started["ticks"], 10.0)


def signal_number(text: str) -> int:
    """A signal by name ("TERM", "SIGTERM", "RTMIN+3") or number."""
    plain = text.upper().removeprefix("SIG")
    number = int(plain) if plain.isdigit() else signals.NUMBERS.get(plain, 0)
    if not 0 < number <= 64:
        raise InvalidArgument(
            f"there is no signal {text!r}", hint="e.g. TERM, KILL, HUP, USR1, or a number; see signal(7)"
        )
    return number


def _mark_stopped(engine: Engine, record: ContainerRecord) -> None:
    """Somebody wants it stopped: restart policies hold still."""
    engine.root.state.containers.update_state(record.id, lambda state: state | {"stopped_by_user": True})


def _signal(started: dict[str, int], number: int) -> None:
    try:
        descriptor = process.pidfd_open(started["pid"])
    except ProcessLookupError:
        return
    try:
        # the pid may be somebody else's by now: only its start ticks make it ours, and the pidfd keeps it so
        if process.alive(started["pid"], started["ticks"]):
            process.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def pause(engine: Engine, record: ContainerRecord) -> None:
    """Freeze all its processes. FailedPrecondition if it does not run, or is paused."""
    now = status.status_of(engine.root, record)
    status.require_running(now, record.name, "pause")
    if now.word == "paused":
        raise FailedPrecondition(f"container {record.name} is paused already", hint=f"orlop unpause {record.name}")
    launch.runtime_for(engine, record).pause(record.id)
    with open(f"{status.run_dir(engine.root, record.id)}/paused", "wb"):
        pass
    journal.record(engine.root, "container", "pause", record.id, {"name": record.name})


def unpause(engine: Engine, record: ContainerRecord) -> None:
    """Let its processes go on. FailedPrecondition if it is not paused."""
    if status.status_of(engine.root, record).word != "paused":
        raise FailedPrecondition(f"container {record.name} is not paused")
    launch.runtime_for(engine, record).resume(record.id)
    os.unlink(f"{status.run_dir(engine.root, record.id)}/paused")
    journal.record(engine.root, "container", "unpause", record.id, {"name": record.name})
