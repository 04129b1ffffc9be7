"""Containers: the noun, with docker's verbs. Each verb's work is in the module that its method imports."""

from __future__ import annotations

import os

from orlop.engine import journal, names, status
from orlop.engine.requests import ListContainers, Prune, Ran, Removed
from orlop.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.events import ignore, serialised

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from orlop.engine.capturing import Output
    from orlop.engine.core import Engine
    from orlop.engine.filters import Maker
    from orlop.engine.requests import ContainerSummary, CreateContainer, Exec, Filter, LogLine, Logs, Stats, Stdio
    from orlop.engine.status import Status
    from orlop.events import Report
    from orlop.store.containers import ContainerRecord


class Containers:
    """The verbs on containers. A container is named by its name, its id, or an id prefix that only one has."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._namespace = engine.settings.namespace

    def record(self, name: str) -> ContainerRecord:
        """What is recorded of one container; NotFound, or InvalidArgument for an ambiguous prefix."""
        return self._engine.root.state.containers.find(self._namespace, name)

    def status(self, record: ContainerRecord) -> Status:
        """The container's state now, by evidence."""
        return status.status_of(self._engine.root, record)

    def create(self, request: CreateContainer, report: Report = ignore) -> str:
        """Make a container that does not run yet; returns its id."""
        from orlop.engine import creation

        if request.cid_file:
            _check_id_file(request.cid_file)
        record = creation.create(self._engine, request, serialised(report))
        if request.cid_file:
            _write_id(request.cid_file, record.id)
        return record.id

    def run(
        self,
        request: CreateContainer,
        stdio: Stdio | None = None,
        report: Report = ignore,
        *,
        output: Output | None = None,
    ) -> Ran:
        """Create and start. With `stdio` it stays joined to the program until that ends (or the user detaches).

        With `output` instead it waits for the end too, and hands over what the program writes, as it writes it:
        `output("stdout" | "stderr", data)`, called by one thread at a time, which is not the caller's.
        """
        _ = self._engine.spawner  # begins to load the runtime beside us
        if output is not None:
            with self._captured(stdio, output) as streams:
                return self.run(request, streams, report)
        from orlop.engine import creation, launch

        report = serialised(report)
        if request.cid_file:
            _check_id_file(request.cid_file)
        record = creation.create(self._engine, request, report)
        if request.cid_file:
            _write_id(request.cid_file, record.id)
        try:
            code = launch.start(self._engine, record, stdio, report)
        except BaseException:
            if request.auto_remove:
                self._discard(record)
            raise
        return Ran(id=record.id, exit_code=code)

    @staticmethod
    def _captured(stdio: Stdio | None, output: Output) -> AbstractContextManager[Stdio]:
        from orlop.engine import capturing

        if stdio is not None:
            raise InvalidArgument("a program's output goes to `stdio` or to `output`, not to both")
        return capturing.captured(output)

    def _discard(self, record: ContainerRecord) -> None:
        """Remove what never ran; the error that brought us here is the one worth telling."""
        from orlop.engine import creation, settling

        if self.status(record).running:
            return  # only we leave: it lives on, and removes itself at its end
        try:
            settling.settle(self._engine, record.id)
            creation.remove(self._engine, self.record(record.id), volumes=True)
        except OrlopError:
            return  # settle removed it already, or the next prune will

    def start(self, name: str, stdio: Stdio | None = None, report: Report = ignore) -> int | None:
        """Start a created or stopped container.

        With `stdio`: join it (also one that runs already), and return its exit code when it ends, or None when the user
        has let go.
        """
        from orlop.engine import launch

        record = self.record(name)
        if self.status(record).running:
            return None if stdio is None else self.attach(record.id, stdio)
        return launch.start(self._engine, record, stdio, serialised(report))

    def attach(self, name: str, stdio: Stdio) -> int | None:
        """Join a running container's program; returns its exit code, or None when the user has let go.

        FailedPrecondition if it does not run, or is paused.
        """
        from orlop.engine import launch

        record = self.record(name)
        now = self.status(record)
        status.require_running(now, record.name, "attach to")
        if now.word == "paused":
            raise FailedPrecondition(
                f"container {record.name} is paused", hint=f"let it go on first: orlop unpause {record.name}"
            )
        return launch.attach(self._engine, record, stdio)

    def exec(self, request: Exec, stdio: Stdio | None = None, *, output: Output | None = None) -> int:
        """Run another program in a running container; returns its exit code (0 at once when detached).

        `output` is given what it writes, as in `run`.
        """
        from orlop.engine import execs

        if output is not None:
            _ = self._engine.spawner  # forked while there may be one thread
            with self._captured(stdio, output) as streams:
                return execs.execute(self._engine, request, streams)
        return execs.execute(self._engine, request, stdio)

    def stop(self, name: str, timeout: int | None = None) -> None:
        """Ask the program to end, and after `timeout` seconds (-1: never) kill it. No error if it does not run."""
        from orlop.engine import stopping

        record = self.record(name)
        stopping.stop(self._engine, record, record.config["stop_timeout"] if timeout is None else timeout)

    def kill(self, name: str, signal: str = "KILL") -> None:
        """Send a signal to the container's first process."""
        from orlop.engine import stopping

        stopping.kill(self._engine, self.record(name), signal)

    def restart(self, name: str, timeout: int | None = None, report: Report = ignore) -> None:
        """Stop, then start. What removes itself at its end stays for it."""
        from orlop.engine import restarting

        record = self.record(name)
        with restarting.kept(self._engine.root, record):
            self.stop(record.id, timeout)
        self.start(record.id, None, report)

    def pause(self, name: str) -> None:
        """Freeze every process of a container."""
        from orlop.engine import stopping

        stopping.pause(self._engine, self.record(name))

    def unpause(self, name: str) -> None:
        """Let a paused container go on."""
        from orlop.engine import stopping

        stopping.unpause(self._engine, self.record(name))

    def rename(self, name: str, new: str) -> None:
        """Give a container another name."""
        from orlop.engine import creation
        from orlop.errors import AlreadyExists

        record, clean = self.record(name), names.checked(new).removeprefix("/")
        try:
            self._engine.root.state.containers.rename(record.id, clean)
        except AlreadyExists as error:
            raise creation.taken(clean, self.record(clean).id) from error
        journal.record(self._engine.root, "container", "rename", record.id, {"oldName": record.name, "name": clean})

    def remove(self, name: str, force: bool = False, volumes: bool = False) -> None:  # docker's words
        """Delete a container. FailedPrecondition while it runs, unless `force` (which kills it first)."""
        from orlop.engine import creation, settling, stopping

        record = self.record(name)
        now = self.status(record)
        if now.active:
            if not force:
                raise FailedPrecondition(
                    f"container {record.name} is {now.word}",
                    hint=f"stop it first (orlop stop {record.name}), or use --force",
                )
            stopping.stop(self._engine, record, 0)
        if not self.status(record).settled:
            settling.settle(self._engine, record.id)
        try:
            with self._engine.root.lock(f"container-{record.id}"):
                record = self.record(record.id)
                if self.status(record).running:  # somebody has started it since we looked
                    raise FailedPrecondition(
                        f"container {record.name} has just been started", hint=f"orlop rm --force {record.name}"
                    )
                creation.remove(self._engine, record, volumes=volumes or record.config["auto_remove"])
        except NotFound:
            if not record.config["auto_remove"]:
                raise  # an auto-removed container goes by itself once stopped

    def wait(self, name: str) -> int:
        """Wait for the program's end; returns its exit code."""
        return status.wait(self._engine.root, self.record(name)).exit_code

    def logs(self, request: Logs) -> Iterator[LogLine]:
        """What the program wrote."""
        from orlop.engine import logs

        return logs.read(self._engine, self.record(request.container), request)

    def list(self, request: ListContainers = ListContainers()) -> builtins.list[ContainerSummary]:  # frozen
        """Containers, newest first; only running ones unless `all`."""
        from orlop.engine import listing

        return listing.rows(self._engine, request)

    def summaries(self) -> builtins.list[ContainerSummary]:
        """Every container, running or not."""
        return self.list(ListContainers(all=True))

    def inspect(self, name: str, *, size: bool = False) -> dict[str, Any]:
        """Everything about a container, in docker's shape; with `size`, also the bytes of its files."""
        from orlop.engine import inspection

        return inspection.inspect(self._engine, self.record(name), size=size)

    def stats(self, name: str) -> Stats:
        """One sample of what a container uses; CPU is measured over a short moment."""
        from orlop.engine import measuring

        return measuring.sample(self._engine, self.record(name))

    def top(self, name: str, options: Sequence[str] = ()) -> builtins.list[dict[str, Any]]:
        """The processes of a container, with pids as this machine sees them; `options` are ps(1)'s."""
        from orlop.engine import processes

        return processes.listing(self._engine, self.record(name), options)

    def diff(self, name: str) -> builtins.list[tuple[str, str]]:
        """What a container has changed of its image's files: ("A" | "C" | "D", path), by path."""
        from orlop.engine import changes

        return changes.changes(self._engine, self.record(name))

    def ports(self, name: str) -> builtins.list[str]:
        """Published ports: "80/tcp -> 0.0.0.0:8080"."""
        record = self.record(name)
        attached = (status.launch_record(self._engine.root, record.id) or {}).get("network") or {}
        return [
            f"{port['container_port']}/{port['protocol']} -> "
            + (f"[{port['host_ip']}]" if ":" in port["host_ip"] else port["host_ip"])
            + f":{port['host_port']}"
            for port in attached.get("ports", ())
        ]

    def prune(self, request: Prune = Prune()) -> Removed:  # frozen
        """Delete every container that does not run."""
        from orlop.engine import creation, settling

        actions: builtins.list[tuple[str, str]] = []
        reclaimed = 0
        keep = _prune_test(request.filters)
        for record in self._engine.root.state.containers.all(self._namespace):
            now = self.status(record)
            if now.active or not keep(record):
                continue
            if not now.settled:
                settling.settle(self._engine, record.id)
            with self._engine.root.lock(f"container-{record.id}"):
                try:
                    record = self.record(record.id)  # noqa: PLW2901  # as it is under the lock
                except NotFound:
                    continue  # it was an auto-removed one
                if self.status(record).active:
                    continue  # somebody has started it since we looked
                reclaimed += creation.remove(self._engine, record, measure=True)
            actions.append(("deleted container", record.id))
        return Removed(actions=tuple(actions), reclaimed=reclaimed)

    def settle(self, container: str, report: Report = ignore) -> None:
        """After the end: give back what was lent, record how it ended, remove or restart. Safe to do twice."""
        from orlop.engine import settling

        settling.settle(self._engine, container, restart=True, report=report)


def _prune_test(filters: Iterable[Filter]) -> Callable[[ContainerRecord], bool]:
    from orlop.engine.filters import judge, labels, until

    known: dict[str, Maker[ContainerRecord]] = {
        **labels(lambda record: record.labels),
        **until(lambda record: record.created / 1e9),
    }
    return judge(filters, known, what="prunes of containers")


def _check_id_file(path: str) -> None:
    """Refuse before anything is made."""
    if os.path.lexists(path):
        raise Conflict(f"--cidfile {path} is there already", hint="remove it, or name another file")


def _write_id(path: str, container: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as error:
        raise Conflict(f"--cidfile {path} is there already", hint="remove it, or name another file") from error
    try:
        os.write(descriptor, container.encode())
    finally:
        os.close(descriptor)
