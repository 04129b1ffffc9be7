"""The whole: what it weighs, what can go, what is known about the machine, what happened."""

from __future__ import annotations

import os
import time

from orlop.engine import journal, moments
from orlop.engine.requests import Finding, Prune, Removed, Usage
from orlop.errors import InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.engine.filters import Maker
    from orlop.engine.requests import Filter


class System:
    """The verbs on everything at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def df(self) -> list[Usage]:
        """What each kind of thing takes on disk, and what a prune could give back. Shared layers count once."""
        engine = self._engine
        images = engine.images.list()
        used = {row.image_id for row in engine.containers.summaries()}
        layers = {layer.diff_id: layer.size for layer in engine.root.state.layers.all()}
        by_image = {
            record.config: [layer.diff_id for layer in record.layers]
            for record in engine.root.state.images.all(engine.settings.namespace)
        }
        live = {diff_id for image, diff_ids in by_image.items() if image in used for diff_id in diff_ids}
        everything = {diff_id for diff_ids in by_image.values() for diff_id in diff_ids}
        total = sum(layers.get(diff_id, 0) for diff_id in everything)
        containers = [(row, engine.snapshotter.usage(row.id)) for row in engine.containers.summaries()]
        volumes = [(row, engine.volumes.size(row["Name"])) for row in engine.volumes.list()]
        in_use = engine.volumes.in_use()
        cache = engine.builds.cache_size()
        return [
            Usage(
                kind="Images",
                total=len(images),
                active=len(used),
                size=total,
                reclaimable=total - sum(layers.get(diff_id, 0) for diff_id in live),
            ),
            Usage(
                kind="Containers",
                total=len(containers),
                active=sum(row.state == "running" for row, _ in containers),
                size=sum(size for _, size in containers),
                reclaimable=sum(size for row, size in containers if row.state not in {"running", "paused"}),
            ),
            Usage(
                kind="Local Volumes",
                total=len(volumes),
                active=sum(row["Name"] in in_use for row, _ in volumes),
                size=sum(size for _, size in volumes),
                reclaimable=sum(size for row, size in volumes if row["Name"] not in in_use),
            ),
            Usage(kind="Build Cache", total=cache[0], active=0, size=cache[1], reclaimable=cache[1]),
        ]

    def details(self) -> dict[str, Any]:
        """What every single thing takes, in the shape of docker's GET /system/df."""
        from orlop.engine import usage

        return usage.details(self._engine)

    def prune(self, request: Prune = Prune()) -> Removed:  # frozen
        """Delete stopped containers, unused networks, dangling images (`all`: unused ones) and the build cache.

        Volumes are kept unless `volumes` is set, and then only anonymous ones go: what has a name is somebody's data.
        """
        from orlop.engine.filters import judge, labels, until

        # Before anything is gone, and narrower than what each kind of thing knows: these keys are known to all.
        known: dict[str, Maker[Prune]] = {**labels(lambda _: None), **until(lambda _: 0.0)}
        judge(request.filters, known, what="prunes of everything")
        if request.volumes and any(one.key == "until" for one in request.filters):
            raise InvalidArgument(
                "volumes have no age: the filter until does not go with them", hint="prune volumes by themselves"
            )
        engine = self._engine
        parts = [engine.containers.prune(request), engine.networks.prune(request)]
        if request.volumes:
            parts.append(engine.volumes.prune(request.replace(all=False)))
        parts += [engine.builds.prune(request), engine.images.prune(request)]
        return Removed(
            actions=tuple(action for part in parts for action in part.actions),
            reclaimed=sum(part.reclaimed for part in parts),
        )

    def info(self) -> dict[str, Any]:
        """About this engine and this machine."""
        from orlop import __version__
        from orlop.linux import cgroups

        engine = self._engine
        rows = engine.containers.summaries()
        machine = os.uname()
        return {
            "ServerVersion": __version__,
            "Containers": len(rows),
            "ContainersRunning": sum(row.state == "running" for row in rows),
            "ContainersPaused": sum(row.state == "paused" for row in rows),
            "ContainersStopped": sum(row.state in {"created", "exited"} for row in rows),
            "Images": len(engine.images.list()),
            "Driver": engine.snapshotter.name,
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": str(cgroups.detect().version),
            "SecurityOptions": ["name=seccomp,profile=builtin", *(["name=rootless"] if engine.settings.uid else [])],
            "Swarm": {"LocalNodeState": "inactive"},
            "KernelVersion": machine.release,
            "OperatingSystem": _operating_system(),
            "OSType": "linux",
            "Architecture": machine.machine,
            "NCPU": os.cpu_count() or 1,
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "DockerRootDir": engine.settings.root,
            "RunRoot": engine.settings.run_root,
            "Namespace": engine.settings.namespace,
            "Name": machine.nodename,
            "DefaultRuntime": engine.settings.runtime or "orlop",
            "Rootless": engine.settings.uid != 0,
        }

    def doctor(self) -> list[Finding]:
        """What this machine can and cannot do for containers, and how to mend each gap."""
        from orlop.engine import doctor

        return doctor.examine(self._engine.settings)

    def tear_down(self) -> None:
        """Take everything of this namespace off the machine but its files: containers stop, bridges go.

        Images, volumes and the records of containers stay; the next start makes again what it needs.
        """
        from orlop.engine import stopping

        engine = self._engine
        for record in engine.root.state.containers.all(engine.settings.namespace):
            stopping.stop(engine, record, 0)
        if engine.settings.uid:
            from orlop.engine import rootless

            rootless.tear_down(engine.settings)
        else:
            engine.networks.tear_down()

    def events(
        self, since: str = "", until: str = "", *, filters: Iterable[Filter] = (), follow: bool = True
    ) -> Iterator[dict[str, Any]]:
        """What happened since then, and what happens from now on, as far as it passes `filters`."""
        fits = journal.chosen(filters)
        start = moments.moment(since, what="--since") if since else time.time()
        end = moments.moment(until, what="--until") if until else 0.0
        return filter(fits, journal.read(self._engine.root, start, end, follow=follow))

    def inspect(self, name: str, kind: str = "", *, size: bool = False) -> dict[str, Any]:
        """Whatever `name` is: a container, an image, a volume or a network, in this order; or the `kind` asked for.

        `size`: a container's with the bytes of its files.
        """
        engine = self._engine
        finders: dict[str, Callable[[str], dict[str, Any]]] = {
            "container": lambda name: engine.containers.inspect(name, size=size),
            "image": engine.images.inspect,
            "volume": engine.volumes.inspect,
            "network": engine.networks.inspect,
        }
        if kind and kind not in finders:
            raise InvalidArgument(f"there is no kind {kind!r} of thing", hint=f"use {', '.join(finders)}")
        unclear: InvalidArgument | None = None
        for word, find in finders.items():
            if kind in {"", word}:
                try:
                    return find(name)
                except NotFound:
                    if kind:
                        raise
                except InvalidArgument as error:  # the beginning of several ids; or no name of such a thing
                    if kind:
                        raise
                    unclear = unclear or error
        if unclear is not None:
            raise unclear
        raise NotFound(
            f"there is no container, image, volume or network {name!r}", hint="see orlop ps -a, orlop images"
        )


def _operating_system() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("PRETTY_NAME="):
                    return line[12:].strip().strip('"')
    except OSError:
        pass
    return "Linux"
