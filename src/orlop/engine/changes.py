"""What a container has changed in its file system: `diff`."""

from __future__ import annotations

from orlop.engine import bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.engine.core import Engine
    from orlop.store.containers import ContainerRecord

# where every start mounts something: the places are made in the container's tree if the image has none
_ALWAYS = ("/dev", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc", "/sys")


def changes(engine: Engine, record: ContainerRecord) -> list[tuple[str, str]]:
    """(A added, C changed or D deleted; path), by path. What is in volumes and other mounts is not the container's."""
    found = engine.snapshotter.changes(engine.snapshotter.get(record.id))
    own = [mount["target"] for mount in record.config["mounts"]]
    init = bundle.init_program(record.config)
    return without_mounts(found, [*_ALWAYS, *own, *([init] if init else [])])


def without_mounts(found: Iterable[tuple[str, str]], places: Iterable[str]) -> list[tuple[str, str]]:
    """Leave out the places of mounts, and directories in which nothing but such a place is listed."""
    mounted = set(places)
    every = list(found)
    left = [(kind, path) for kind, path in every if path not in mounted]
    above_mounts = {above for _, path in every if path in mounted for above in _above(path)}
    above_others = {above for _, path in left if path not in above_mounts for above in _above(path)}
    return [(kind, path) for kind, path in left if path not in above_mounts or path in above_others]


def _above(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)]
