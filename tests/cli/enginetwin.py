"""An engine in memory: the nouns that the command line asks, with the answers of a machine that a test describes."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

from orlop.engine import journal
from orlop.engine.requests import (
    Built,
    ContainerSummary,
    Finding,
    HistoryRow,
    ImageSummary,
    LogLine,
    Ran,
    Removed,
    Stats,
    Usage,
)
from orlop.errors import FailedPrecondition, NotFound
from orlop.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orlop.engine.requests import (
        Build,
        CreateContainer,
        Exec,
        Filter,
        ListContainers,
        ListImages,
        Login,
        Logs,
        Prune,
        Pull,
        RemoveImage,
        Save,
        Stdio,
    )
    from orlop.events import Report

NOW = 1_700_000_000.0
DIGEST = "sha256:" + "ab" * 32


def container(name: str = "web", **changes: Any) -> ContainerSummary:
    """A container that runs; `changes` are other fields."""
    base: dict[str, Any] = {
        "id": "4c01db0b339c" + "0" * 52,
        "names": (name,),
        "image": "nginx:1.25",
        "image_id": DIGEST,
        "command": "/docker-entrypoint.sh nginx -g 'daemon off;'",
        "created": NOW - 7200,
        "state": "running",
        "status": "Up 2 hours",
        "ports": ("0.0.0.0:8080->80/tcp",),
        "labels": {"team": "deck", "app": "web"},
        "mounts": ("a-volume-with-a-long-name",),
        "networks": ("bridge",),
    }
    return ContainerSummary(**base | changes)


def image(*names: str, **changes: Any) -> ImageSummary:
    """An image of 1.24 MB; `changes` are other fields."""
    base: dict[str, Any] = {
        "id": DIGEST,
        "target": "sha256:" + "cd" * 32,
        "names": names,
        "digests": tuple(f"{name.rpartition(':')[0]}@sha256:{'cd' * 32}" for name in names),
        "created": NOW - 14 * 86400,
        "size": 1_240_000,
        "labels": {},
        "containers": 0,
        "platform": "linux/amd64",
    }
    return ImageSummary(**base | changes)


class Containers:
    """Containers that do what their names say: "stuck" cannot be stopped, "gone" is not there."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin

    def _known(self, name: str) -> ContainerSummary:
        for row in self.twin.rows:
            if name in row.names or row.id.startswith(name):
                return row
        raise NotFound(f"there is no container {name}", hint="see `orlop ps -a`")

    def create(self, request: CreateContainer, report: Report) -> str:
        self.twin.asked.append(request)
        report(Event(action="status", text=f"Unable to find image '{request.image}' locally"))
        return "f" * 64

    def run(self, request: CreateContainer, stdio: Stdio | None, report: Report) -> Ran:
        self.twin.asked += [request, stdio]
        report(Event(action="warning", text="this machine cannot limit swap"))
        return Ran(id="f" * 64, exit_code=self.twin.exit_code if stdio else None)

    def exec(self, request: Exec, stdio: Stdio | None) -> int:
        self.twin.asked += [request, stdio]
        return self.twin.exit_code

    def start(self, name: str, stdio: Stdio | None, report: Report) -> int | None:  # noqa: ARG002  # the engine's shape
        self._known(name)
        self.twin.asked.append(("start", name, stdio))
        return self.twin.exit_code if stdio else None

    def stop(self, name: str, timeout: int | None = None) -> None:
        if name == "stuck":
            raise FailedPrecondition("container stuck does not stop", hint="wait for the disk")
        self._known(name)
        self.twin.asked.append(("stop", name, timeout))

    def kill(self, name: str, signal: str) -> None:
        self.twin.asked.append(("kill", name, signal))

    def remove(self, name: str, *, force: bool = False, volumes: bool = False) -> None:
        self._known(name)
        self.twin.asked.append(("remove", name, force, volumes))

    def wait(self, name: str) -> int:
        self._known(name)
        return self.twin.exit_code

    def logs(self, request: Logs) -> Iterator[LogLine]:
        self.twin.asked.append(request)
        yield LogLine(stream="stdout", time="2026-01-31T12:00:00.5Z", data=b"out \xff\n")
        yield LogLine(stream="stderr", time="2026-01-31T12:00:01Z", data=b"err\n")

    def list(self, request: ListContainers) -> builtins.list[ContainerSummary]:
        self.twin.asked.append(request)
        return [row for row in self.twin.rows if request.all or row.state == "running"]

    def inspect(self, name: str) -> dict[str, Any]:
        row = self._known(name)
        return {
            "Id": row.id,
            "State": {"Status": row.state, "Paused": False, "ExitCode": 0},
            "Config": {"OpenStdin": False, "Tty": False, "Env": ["A=1", "B=2"], "Labels": dict(row.labels)},
            "HostConfig": {"CapAdd": None},
        }

    def stats(self, name: str) -> Stats:
        row = self._known(name)
        return Stats(
            id=row.id,
            name=row.names[0],
            cpu_percent=12.345,
            memory_usage=3 << 20,
            memory_limit=2 << 30,
            memory_percent=0.146,
            network_rx=1_234,
            network_tx=0,
            block_read=5_000_000,
            block_write=999_960,
            pids=3,
        )

    def top(self, name: str, options: Sequence[str] = ()) -> builtins.list[dict[str, Any]]:
        self.twin.asked.append(("top", name, tuple(options)))
        self._known(name)
        return [{"UID": "0", "PID": "1234", "CMD": "nginx"}]

    def ports(self, name: str) -> builtins.list[str]:
        self._known(name)
        return ["80/tcp -> 0.0.0.0:8080", "53/udp -> [::]:5353"]

    def prune(self, request: Prune) -> Removed:
        self.twin.asked.append(request)
        return Removed(actions=(("deleted container", "f" * 64),), reclaimed=1_200)


class Images:
    """Images by name."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin

    def list(self, request: ListImages | None = None) -> builtins.list[ImageSummary]:
        self.twin.asked.append(request)
        return self.twin.images_there

    def history(self, name: str) -> builtins.list[HistoryRow]:
        del name
        return [
            HistoryRow(id=DIGEST, created=NOW - 60, created_by="RUN\tmake", size=2_500_000, comment="orlop"),
            HistoryRow(id="<missing>", created=0.0, created_by="ADD " + "x" * 60, size=0, comment=""),
        ]

    def remove(self, request: RemoveImage) -> Removed:
        if request.image == "gone":
            raise NotFound("there is no image gone")
        return Removed(actions=(("untagged", request.image), ("deleted", DIGEST)))

    def pull(self, request: Pull, report: Report) -> ImageSummary:
        self.twin.asked.append(request)
        layer = "sha256:" + "12" * 32
        report(Event(action="pull.manifest", subject="busybox:latest"))
        for current in (0, 50, 100):
            report(Event(action="pull.layer", subject=layer, current=current, total=100))
        report(Event(action="pull.unpacked", subject=layer))
        report(Event(action="pull.exists", subject="sha256:" + "34" * 32))
        return image("busybox:latest")

    def save(self, request: Save, write: Callable[[bytes], object]) -> None:
        self.twin.asked.append(request)
        write(b"archive")
        if "broken" in request.images:
            raise NotFound("there is no image broken")


class Builds:
    """Builds that always work."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin

    def build(self, request: Build, report: Report) -> Built:
        self.twin.asked.append(request)
        report(Event(action="build.cached", subject="stage-0/1", text="WORKDIR /app", current=1, total=2))
        report(Event(action="build.step", subject="stage-0/2", text="RUN make", current=2, total=2))
        report(Event(action="build.output", subject="stage-0/2", data=b"one\ntw"))
        report(Event(action="build.output", subject="stage-0/2", data=b"o\n"))
        return Built(id=DIGEST, target=DIGEST, tags=request.tags)


class System:
    """The whole."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin

    def inspect(self, name: str, kind: str = "", *, size: bool = False) -> dict[str, Any]:
        self.twin.asked.append(("inspect", name, kind))
        return self.twin.containers.inspect(name) | ({"SizeRw": 7} if size else {})

    def df(self) -> builtins.list[Usage]:
        return [
            Usage(kind="Images", total=2, active=1, size=4_000_000, reclaimable=1_000_000),
            Usage(kind="Build Cache", total=1, active=0, size=10, reclaimable=10),
        ]

    def prune(self, request: Prune) -> Removed:
        self.twin.asked.append(request)
        actions = (("deleted container", "f" * 64), ("untagged", "app:1"), ("deleted", DIGEST))
        return Removed(actions=actions, reclaimed=1_200_000_000)

    def info(self) -> dict[str, Any]:
        return {"ServerVersion": "0.1.0", "NCPU": 2, "MemTotal": 1 << 30, "Rootless": False}

    def doctor(self) -> builtins.list[Finding]:
        good = Finding(subject="kernel", state="ok", detail="6.1")
        return [good, *self.twin.findings]

    def events(self, since: str, until: str, *, filters: Iterable[Filter] = ()) -> Iterator[dict[str, Any]]:
        self.twin.asked.append(("events", since, until))
        return filter(journal.chosen(filters), self._events())

    def _events(self) -> Iterator[dict[str, Any]]:
        for kind, action in (("container", "start"), ("image", "pull")):
            actor = {"ID": "abc", "Attributes": {"name": "web"}}
            yield {"Type": kind, "Action": action, "Actor": actor, "time": 0, "timeNano": 1_000_000_001}


class Volumes:
    """Volumes by name."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin

    def create(self, name: str, labels: Iterable[str]) -> dict[str, Any]:
        self.twin.asked.append(("volume", name, tuple(labels)))
        return {"Name": name or "0" * 64}

    def list(self, filters: Iterable[Filter] = ()) -> builtins.list[dict[str, Any]]:
        self.twin.asked.append(tuple(filters))
        return [{"Name": "data", "Driver": "local", "Labels": {"a": "b"}, "Mountpoint": "/m", "Scope": "local"}]


class Networks:
    """Networks by name."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin

    def list(self, filters: Iterable[Filter] = ()) -> builtins.list[dict[str, Any]]:
        del filters
        return [{"Name": "bridge", "Id": "b" * 64, "Driver": "bridge", "Scope": "local"}]


class Registries:
    """Registries that take every password."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin

    def login(self, request: Login) -> None:
        self.twin.asked.append(request)


class Twin:
    """The engine's shape. `asked` are the requests in order; the other fields are what a test says is there."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.rows: list[ContainerSummary] = [container()]
        self.images_there: list[ImageSummary] = [image("nginx:1.25", "web:latest")]
        self.findings: list[Finding] = []
        self.exit_code = 0
        self.closed = False
        self.containers = Containers(self)
        self.images = Images(self)
        self.builds = Builds(self)
        self.system = System(self)
        self.volumes = Volumes(self)
        self.networks = Networks(self)
        self.registries = Registries(self)

    def close(self) -> None:
        self.closed = True
