"""Containers as people look at them: the rows of `ps`."""

from __future__ import annotations

from orlop.engine import status
from orlop.engine.requests import ContainerSummary, ListContainers
from orlop.errors import InvalidArgument, NotFound
from orlop.oci.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    from orlop.engine.core import Engine
    from orlop.engine.filters import Maker
    from orlop.engine.requests import Filter, ImageSummary
    from orlop.engine.status import Status
    from orlop.store.containers import ContainerRecord

    Found: TypeAlias = tuple[ContainerRecord, Status]

_STATES = ("created", "running", "paused", "exited", "restarting", "removing", "dead")
_HEALTH = ("starting", "healthy", "unhealthy", "none")


def rows(engine: Engine, request: ListContainers) -> list[ContainerSummary]:
    """The containers that `request` asks for, newest first."""
    state = engine.root.state
    records = sorted(state.containers.all(engine.settings.namespace), key=lambda record: -record.created)
    found = [(record, status.status_of(engine.root, record)) for record in records]
    fits = _test(engine, request.filters, found) if request.filters else None
    by_state = any(one.key in {"status", "exited"} for one in request.filters)
    if request.last >= 0:
        found = found[: request.last] if request.last else found
    elif not (request.all or by_state):
        found = [(record, now) for record, now in found if now.active]
    ids: dict[str, str] = {record.manifest: record.config for record in state.images.all(engine.settings.namespace)}
    return [
        summary(engine, record, now, image_id=ids.get(record.image, ""), size=request.size)
        for record, now in found
        if fits is None or fits((record, now))
    ]


def summary(
    engine: Engine, record: ContainerRecord, now: Status, *, image_id: str = "", size: bool = False
) -> ContainerSummary:
    """One row."""
    config = record.config
    launch = status.launch_record(engine.root, record.id) if now.running else None
    attached = (launch or {}).get("network") or {}
    words: list[str] = [*config["entrypoint"], *config["cmd"]]
    command = " ".join([*words[:1], *(f"'{word}'" if " " in word else word for word in words[1:])])  # as docker's
    return ContainerSummary(
        id=record.id,
        names=(record.name,),
        image=record.image_name or image_id,
        image_id=image_id,
        command=command,
        created=record.created / 1e9,
        state=now.word,
        status=now.sentence(),
        ports=tuple(_ports(attached, config)),
        labels=record.labels,
        mounts=tuple(mount["source"] for mount in config["mounts"] if mount.get("source")),
        networks=(config["network"]["mode"],),
        local_volumes=sum(mount["kind"] == "volume" for mount in config["mounts"]),
        size_rw=engine.snapshotter.usage(record.id) if size else -1,
        size_root=_root_size(engine, record) if size else -1,
    )


def _root_size(engine: Engine, record: ContainerRecord) -> int:
    image = engine.root.state.images.get(record.namespace, record.image)
    return image.size if image else 0


def _ports(attached: dict[str, Any], config: dict[str, Any]) -> Iterable[str]:
    """The PORTS column: what is published, then what is merely exposed."""
    published = set()
    for port in attached.get("ports", ()):
        published.add(f"{port['container_port']}/{port['protocol']}")
        host = f"[{port['host_ip']}]" if ":" in port["host_ip"] else port["host_ip"]
        yield f"{host}:{port['host_port']}->{port['container_port']}/{port['protocol']}"
    if attached:
        yield from (port for port in config["network"]["expose"] if port not in published)


def _test(engine: Engine, filters: Iterable[Filter], found: list[Found]) -> Callable[[Found], bool]:
    """One test of containers out of all filters: docker's keys."""
    from orlop.engine.filters import equal, judge, labels, matching, ordered, starting, yes_or_no

    def created(key: str, name: str) -> float:
        for record, _ in found:
            if record.name == name or record.id.startswith(name):
                return record.created
        raise NotFound(f"--filter {key}={name}: there is no container {name}")

    def ended_with(code: str) -> Callable[[Found], bool]:
        if not code.removeprefix("-").isdigit():
            raise InvalidArgument(f"--filter exited={code} is no exit code")
        return lambda row: row[1].word == "exited" and row[1].exit_code == int(code)

    def made_of(image: str) -> Callable[[Found], bool]:
        manifests = {row.target for row in engine.images.list() if _is_image(row, image)}
        return lambda row: row[0].image in manifests

    def mounts(place: str) -> Callable[[Found], bool]:
        return lambda row: any(place in {one.get("source"), one["target"]} for one in row[0].config["mounts"])

    def publishes(port: str) -> Callable[[Found], bool]:
        number = port.partition("/")[0]
        return lambda row: any(number in text.split(":") for text in row[0].config["network"]["publish"])

    def exposes(port: str) -> Callable[[Found], bool]:
        from orlop.engine.inspection import exposed
        from orlop.network.ports import parse_exposed

        wanted = {f"{number}/{protocol}" for number, protocol in parse_exposed(port)}
        return lambda row: not wanted.isdisjoint(exposed(row[0].config))

    by_name: dict[str, Maker[Found]] = matching("name", lambda row: row[0].name)

    def named(pattern: str) -> Callable[[Found], bool]:
        # docker's names begin with a slash that nobody has to write
        anchored = "^" + pattern[2:] if pattern.startswith("^/") else pattern.removeprefix("/")
        return by_name["name"](anchored)

    known: dict[str, Maker[Found]] = {
        **starting("id", lambda row: row[0].id),
        "name": named,
        **labels(lambda row: row[0].labels),
        **equal("status", lambda row: row[1].word, words=_STATES),
        **equal("health", lambda row: row[1].health or "none", words=_HEALTH),
        "exited": ended_with,
        "ancestor": made_of,
        "volume": mounts,
        **equal("network", lambda row: row[0].config["network"]["mode"]),
        **ordered(lambda row: row[0].created, created),
        "publish": publishes,
        "expose": exposes,
        **yes_or_no("is-task", lambda _: False),  # tasks are swarm's, and there is no swarm
    }
    return judge(filters, known, what="containers")


def _is_image(row: ImageSummary, wanted: str) -> bool:
    if row.id.removeprefix("sha256:").startswith(wanted.removeprefix("sha256:")):
        return True
    return any(Reference.parse(name) == Reference.parse(wanted) for name in row.names)
