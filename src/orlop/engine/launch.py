"""Start a container, and stay joined to it.

A start is: small files and bundle on disk -> shim (create) -> network -> launch record -> the program is let go. What a
start borrows (an address, ports, a cgroup, the runtime's state, run files) `settling` returns, whether the start
failed half way, the program ended, or we were killed.
"""

from __future__ import annotations

import os
import time

from orlop.engine import attaching, bundle, journal, limiting, settling, status
from orlop.errors import NotFound, OrlopError
from orlop.events import Event
from orlop.linux import process
from orlop.runtime import exit as exit_record
from orlop.runtime.request import RootMount, ShimRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket  # noqa: N812  # a class, whatever its name
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.engine.requests import Stdio
    from orlop.engine.settings import Settings
    from orlop.events import Report
    from orlop.layers.snapshots import Snapshot
    from orlop.runtime.attach import Session
    from orlop.runtime.request import HealthProbe
    from orlop.runtime.spawner import Handle, Process
    from orlop.store.containers import ContainerRecord


def start(
    engine: Engine, record: ContainerRecord, stdio: Stdio | None, report: Report, *, again: bool = False
) -> int | None:
    """Start a container that does not run. With `stdio`, returns the exit code when it ends; None when detached.

    `again`: the restart policy does it, which is nothing where somebody has stopped or removed the container.
    """
    root = engine.root
    session: Session | None = None
    with root.lock(f"container-{record.id}"):
        now = status.status_of(root, record)
        if now.running:
            return None
        if not now.settled:
            settling.record_end(engine, record, exit_record.read(status.run_dir(root, record.id)))
            settling.give_back(engine, record)
        known = root.state.containers.get(record.id)
        if again and (known is None or known.state.get("stopped_by_user")):
            return None
        record = _count(engine, known or root.state.containers.find(record.namespace, record.id), again=again)
        try:
            snapshot = _snapshot(engine, record, report)
            if record.config["mounts"]:
                from orlop.engine import volumefill

                volumefill.fill(engine, record, snapshot)
            session = launch(engine, record, snapshot, stdio, report)
        except BaseException as error:
            settling.give_back(engine, record)
            _remember_failure(engine, record, error)
            raise
    journal.record(root, "container", "start", record.id, {"name": record.name, "image": record.image_name})
    return None if session is None else _stay(engine, record, session)


def _count(engine: Engine, record: ContainerRecord, *, again: bool) -> ContainerRecord:
    """Restarts by the policy are counted; a start by hand begins anew, and lets the policy act again."""
    if not again and not any(record.state.get(key) for key in ("stopped_by_user", "restarts", "quick")):
        return record
    new = {"restarts": record.state.get("restarts", 0) + 1} if again else {"restarts": 0, "quick": 0}
    return engine.root.state.containers.update_state(record.id, lambda state: state | new | {"stopped_by_user": False})


def launch(
    engine: Engine,
    record: ContainerRecord,
    snapshot: Snapshot,
    stdio: Stdio | None,
    report: Report,
    *,
    transient: bool = False,
) -> Session | None:
    """Start the program; returns the session that `stdio` is joined to it by, None without.

    `transient` is for what has no record (a build's step): nothing is logged, and nothing runs after its end.
    """
    run = status.run_dir(engine.root, record.id)
    os.makedirs(run, mode=0o700, exist_ok=True)
    plan = attaching.plan(engine, record)
    made = bundle.write_bundle(engine, record, snapshot, plan.files, plan.hostname)
    if engine.settings.uid and made.cgroup:
        limiting.make_room()

    def warn(text: str) -> None:
        report(Event(action="warning", subject=record.name, text=text))

    for text in made.lost:
        warn(text)
    request = _shim_request(engine, record, made, snapshot, stdio, transient=transient)
    ports: list[Socket] = []
    session: Session | None = None
    own_end, other_end = (-1, -1) if stdio is None else _socket_pair()
    try:  # another process is at work then: what can wait is loaded meanwhile
        with engine.spawner.spawn(request, attach=other_end, warn=warn) as handle:
            if stdio is not None:
                session = _session(own_end, stdio, tty=record.config["tty"], settles=_settles(record))
            attaching.load(plan)
            first = handle.wait_namespaces()
            network = _attach(engine, record, plan, handle, first, report, ports=ports)
            _load_the_end(stdio)
            handle.wait_created()
            _note(run, first, handle.shim_pid, made.cgroup, network)
            handle.hold([port.fileno() for port in ports])
            handle.start()
    except BaseException:
        if session is not None:
            session.close()
        elif own_end >= 0:
            os.close(own_end)
        raise
    finally:
        for port in ports:
            port.close()
        if other_end >= 0:
            os.close(other_end)
    return session


def _note(run: str, first: Process, shim: int, cgroup: str, network: dict[str, Any]) -> None:
    """Write the launch record."""
    record = {
        "pid": first.pid,
        "ticks": first.ticks,
        "shim_pid": shim,
        "shim_ticks": _ticks(shim),
        "started": time.time_ns(),
        "cgroup": cgroup,
        "network": network,
    }
    status.write_json(f"{run}/launch.json", record)


def _attach(
    engine: Engine,
    record: ContainerRecord,
    plan: attaching.Plan,
    handle: Handle,
    first: Process,
    report: Report,
    *,
    ports: list[Socket],
) -> dict[str, Any]:
    """Attach the network; where the container dies meanwhile, its maker says why, and better than we could."""
    try:
        return attaching.attach(engine, record, plan, first.pid, report, ports=ports)
    except (OSError, OrlopError):
        # a process that is dying lets go of its namespaces before it counts as dead
        if not process.alive(first.pid, first.ticks) or not os.path.exists(f"/proc/{first.pid}/ns/net"):
            handle.wait_created()
        raise


def _ticks(pid: int) -> int:
    try:
        return process.start_ticks(pid)
    except ProcessLookupError:
        return 0


def _settles(record: ContainerRecord) -> bool:
    """Whether the foreground client settles; where a policy may start it again, the exit command does, and stays."""
    return bool(record.config["restart"]["name"] == "no")


def _socket_pair() -> tuple[int, int]:
    """A foreground client's end of its connection, and the shim's."""
    import _socket

    mine, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    return mine.detach(), other.detach()


def _session(end: int, stdio: Stdio, *, tty: bool, settles: bool) -> Session:
    """A foreground client's session over its end of the connection, which it now owns."""
    from orlop.runtime.attach import Session

    return Session(
        end,
        stdin=stdio.stdin,
        stdout=stdio.stdout,
        stderr=stdio.stderr,
        terminal=tty,
        detach_keys=stdio.detach_keys,
        proxy_signals=stdio.proxy_signals,
        settles=settles,
    )


def _load_the_end(stdio: Stdio | None) -> None:
    """Load what a foreground client needs when the program has ended: nobody should wait for it then."""
    if stdio is None:
        return
    from orlop.engine import creation  # noqa: F401  # loaded for later
    from orlop.linux import files  # noqa: F401
    from orlop.runtime import records  # noqa: F401
    from orlop.store import collect  # noqa: F401


def root_mount(engine: Engine, snapshot: Snapshot, *, volatile: bool = False) -> RootMount:
    """The container's root as the shim mounts it, in a mount namespace of its own."""
    (step,) = engine.snapshotter.mounts(snapshot, volatile=volatile)
    return RootMount(
        fstype=step.fstype,
        source=step.source,
        lowers=step.lowers,
        upper=step.upper,
        work=step.work,
        options=step.options,
    )


def _snapshot(engine: Engine, record: ContainerRecord, report: Report) -> Snapshot:
    """The container's tree; layers that a crash of the machine has made doubtful are unpacked again first."""
    try:
        return engine.snapshotter.get(record.id)
    except NotFound:
        image = engine.root.state.images.get(record.namespace, record.image)
        if image is None:
            raise
        from orlop.engine.storage import unpack_image

        with engine.root.lease() as lease:
            unpack_image(engine, image, lease, report)
        return engine.snapshotter.get(record.id)


def _shim_request(
    engine: Engine,
    record: ContainerRecord,
    made: bundle.Bundle,
    snapshot: Snapshot,
    stdio: Stdio | None,
    *,
    transient: bool,
) -> ShimRequest:
    config = record.config
    run = status.run_dir(engine.root, record.id)
    settings = engine.settings
    program = config["runtime"] or settings.runtime
    logs = not transient and config["log"]["driver"] != "none"
    if logs:
        os.makedirs(status.data_dir(engine.root, record.id), mode=0o700, exist_ok=True)
    return ShimRequest(
        id=record.id,
        bundle=made.path,
        state_root=f"{engine.root.run_path}/runtime",
        shim_dir=run,
        root=root_mount(engine, snapshot, volatile=transient or config["auto_remove"]),
        terminal=config["tty"],
        console_size=_console_size(stdio) if config["tty"] else (0, 0),
        open_stdin=config["stdin"],
        stdin_once=stdio is not None,
        log_path=f"{status.data_dir(engine.root, record.id)}/log.json" if logs else "",
        log_format="json-file" if logs else "none",
        log_max_size=config["log"]["max_size"],
        log_max_files=config["log"]["max_files"],
        exit_argv=() if transient else _exit_command(engine, record),
        environment=_later_environment(settings),
        health=None if transient else _probe(engine, record, made),
        runtime=(program,) if program and program != "orlop" else (),
    )


def _probe(engine: Engine, record: ContainerRecord, made: bundle.Bundle) -> HealthProbe | None:
    if not record.config.get("health"):
        return None
    from orlop.engine import probing

    return probing.probe_of(engine, record, made.spec["process"])


def _exit_command(engine: Engine, record: ContainerRecord) -> tuple[str, ...]:
    """What the shim runs after the end, in a fresh process."""
    settings = engine.settings
    where = ("--root", settings.root, "--run-root", settings.run_root)
    return (*settings.program, *where, "internal", "settle", record.namespace, record.id)


def _later_environment(settings: Settings) -> tuple[tuple[str, str], ...]:
    """The environment of the exit command: what we kept of ours, and who we are outside."""
    from orlop.engine.settings import OUTER_UID

    more = ((OUTER_UID, str(settings.uid)),) if settings.uid else ()
    return (*settings.environ, ("HOME", settings.home), ("DOCKER_CONFIG", settings.docker_config), *more)


def _console_size(stdio: Stdio | None) -> tuple[int, int]:
    from orlop.linux import terminal

    if stdio is not None and os.isatty(stdio.stdout):
        return terminal.window_size(stdio.stdout)
    return (0, 0)


def _stay(engine: Engine, record: ContainerRecord, session: Session) -> int | None:
    """Stay joined until the program ends, then settle it ourselves and tell the shim that we did; its exit code.

    None when the user let go, and it runs on.
    """
    try:
        ended = session.run()
        if ended is None:
            return None
        if _settles(record):
            settling.settle_once(engine, record.id, ended)
            session.settled()
    finally:
        session.close()
    return ended.code


def attach(engine: Engine, record: ContainerRecord, stdio: Stdio) -> int | None:
    """Join a program that runs already; its exit code, or None when the user let go. Its shim settles it."""
    from orlop.runtime import attach as attachment

    session = attachment.Session(
        attachment.connect(status.run_dir(engine.root, record.id)),
        stdin=stdio.stdin if record.config["stdin"] else -1,
        stdout=stdio.stdout,
        stderr=stdio.stderr,
        terminal=record.config["tty"],
        detach_keys=stdio.detach_keys,
        proxy_signals=stdio.proxy_signals,
        settles=False,
    )
    try:
        ended = session.run()
    finally:
        session.close()
    return None if ended is None else ended.code


def _remember_failure(engine: Engine, record: ContainerRecord, error: BaseException) -> None:
    """A start that failed is told by `inspect`, as docker does."""
    code = getattr(error, "exit_code", None) or 128
    text = error.message if isinstance(error, OrlopError) else type(error).__name__
    try:
        engine.root.state.containers.update_state(record.id, lambda state: state | {"error": text, "exit_code": code})
    except NotFound:
        return  # it was removed meanwhile
