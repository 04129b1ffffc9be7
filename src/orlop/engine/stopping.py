"""Signals, stops and pauses."""

from __future__ import annotations

import os

from orlop.engine import journal, restarting, settling, status
from orlop.errors import DeadlineExceeded, FailedPrecondition, OrlopError
from orlop.linux import process, signals, wholefile
from orlop.linux.cgroups import Cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.core import Engine
    from orlop.store.containers import ContainerRecord

_KILL = 9
_STUBBORN = 60.0  # seconds after SIGKILL


def stop(engine: Engine, record: ContainerRecord, timeout: int) -> None:
    """Stop signal, wait, SIGKILL, and everything given back. No error where it does not run."""
    if record.config["restart"]["name"] != "no":
        # before looking at all: whatever it is doing now, it must not start again
        with engine.root.lock(f"container-{record.id}"):
            _mark_stopped(engine, record)
            restarting.call_off(engine.root, record.id)
    now = status.status_of(engine.root, record)
    started = status.launch_record(engine.root, record.id)
    if not now.running or started is None:
        if not now.settled:
            settling.settle(engine, record.id)
        return
    _mark_stopped(engine, record)
    if now.word == "paused":
        let_go_on(engine, record)
    gone = False
    if timeout != 0:
        _signal(started, signals.number_of(record.config["stop_signal"]))
        gone = process.wait_gone(started["pid"], started["ticks"], None if timeout < 0 else float(timeout))
    if not gone:
        _signal(started, _KILL)
        _await_end(record, started)
    settling.settle(engine, record.id)
    journal.record(engine.root, "container", "stop", record.id, {"name": record.name})


def kill(engine: Engine, record: ContainerRecord, signal: str) -> None:
    """Send one signal to the first process. FailedPrecondition if the container does not run."""
    number = signals.number_of(signal)
    now = status.status_of(engine.root, record)
    status.require_running(now, record.name, "kill")
    started = status.launch_record(engine.root, record.id)
    if started is None:
        return
    if number == _KILL:
        _mark_stopped(engine, record)
    _signal(started, number)
    journal.record(engine.root, "container", "kill", record.id, {"name": record.name, "signal": str(number)})
    if number == _KILL:
        if now.word == "paused":  # what stands still cannot die
            let_go_on(engine, record)
        _await_end(record, started)


def _await_end(record: ContainerRecord, started: dict[str, int]) -> None:
    """Wait for the end of what was sent SIGKILL. DeadlineExceeded where it does not end even so."""
    if not process.wait_gone(started["pid"], started["ticks"], _STUBBORN):
        raise DeadlineExceeded(
            f"container {record.name} was killed, but its process {started['pid']} lives on after {_STUBBORN:.0f} s",
            hint=f"it is stuck in the kernel: see /proc/{started['pid']}/stack and the kernel's log (dmesg)",
        )


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
    cgroup = _cgroup(engine, record)
    mark = status.paused_file(engine.root, record.id)
    with open(mark, "wb"):  # first: then what stands still is never taken for running, whenever we are killed
        pass
    try:
        cgroup.freeze()
    except BaseException:
        wholefile.forget(mark)
        raise
    journal.record(engine.root, "container", "pause", record.id, {"name": record.name})


def unpause(engine: Engine, record: ContainerRecord) -> None:
    """Let its processes go on. FailedPrecondition if it is not paused."""
    if status.status_of(engine.root, record).word != "paused":
        raise FailedPrecondition(f"container {record.name} is not paused")
    _cgroup(engine, record).thaw()
    wholefile.forget(status.paused_file(engine.root, record.id))  # who has ended meanwhile has no files left
    journal.record(engine.root, "container", "unpause", record.id, {"name": record.name})


def let_go_on(engine: Engine, record: ContainerRecord) -> None:
    """As `unpause`; fine where it ends or goes on by itself meanwhile (with cgroup v2, SIGKILL ends what is frozen)."""
    try:
        unpause(engine, record)
    except (OSError, OrlopError):
        if status.status_of(engine.root, record).word == "paused":
            raise


def _cgroup(engine: Engine, record: ContainerRecord) -> Cgroup:
    started = status.launch_record(engine.root, record.id)
    assert started is not None, "a running container has a launch record"
    if not started["cgroup"]:
        raise FailedPrecondition(
            f"container {record.name} has no cgroup of its own, and only those can be paused",
            hint="without root that takes a delegated cgroup (version 2): "
            "systemd-run --user --scope -p Delegate=yes orlop run ...",
        )
    return Cgroup(started["cgroup"])
