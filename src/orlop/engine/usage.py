"""What each single thing takes on disk: `system df -v`. The answer has the shape of docker's GET /system/df."""

from __future__ import annotations

from orlop.engine import moments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.core import Engine


def details(engine: Engine) -> dict[str, Any]:
    """Images, Containers, Volumes and BuildCache, a list of objects each, and LayersSize. Sizes are bytes on disk."""
    images, total = _images(engine)
    return {
        "LayersSize": total,
        "Images": images,
        "Containers": _containers(engine),
        "Volumes": _volumes(engine),
        "BuildCache": _cache(engine),
    }


def _images(engine: Engine) -> tuple[list[dict[str, Any]], int]:
    state = engine.root.state
    sizes: dict[str, int] = {layer.diff_id: layer.size for layer in state.layers.all()}
    layers: dict[str, list[str]] = {
        record.manifest: list(dict.fromkeys(layer.diff_id for layer in record.layers))
        for record in state.images.all(engine.settings.namespace)
    }
    users: dict[str, int] = {}
    for diff_ids in layers.values():
        for diff_id in diff_ids:
            users[diff_id] = users.get(diff_id, 0) + 1
    found = [
        {
            "Id": row.id,
            "RepoTags": list(row.names),
            "Created": int(row.created),
            "Size": sum(sizes.get(diff_id, 0) for diff_id in layers[row.target]),
            "SharedSize": sum(sizes.get(diff_id, 0) for diff_id in layers[row.target] if users[diff_id] > 1),
            "Containers": row.containers,
        }
        for row in engine.images.list()
    ]
    return found, sum(sizes.get(diff_id, 0) for diff_id in users)


def _containers(engine: Engine) -> list[dict[str, Any]]:
    return [
        {
            "Id": row.id,
            "Names": [f"/{name}" for name in row.names],
            "Image": row.image,
            "Command": row.command,
            "Created": int(row.created),
            "SizeRw": engine.snapshotter.usage(row.id),
            "State": row.state,
            "Status": row.status,
            "LocalVolumes": row.local_volumes,
        }
        for row in engine.containers.summaries()
    ]


def _volumes(engine: Engine) -> list[dict[str, Any]]:
    users: dict[str, int] = {}
    for record in engine.root.state.containers.all(engine.settings.namespace):
        for name in {mount["source"] for mount in record.config["mounts"] if mount["kind"] == "volume"}:
            users[name] = users.get(name, 0) + 1
    return [
        row | {"UsageData": {"RefCount": users.get(row["Name"], 0), "Size": engine.volumes.size(row["Name"])}}
        for row in engine.volumes.list()
    ]


def _cache(engine: Engine) -> list[dict[str, Any]]:
    from orlop.engine import buildcache

    contents = buildcache.Contents(engine)
    return [
        {
            "ID": entry.key,
            "Type": entry.kind,
            "Size": contents.size([entry]),
            "LastUsedAt": moments.rfc3339(int(entry.used * 1e9)),
        }
        for entry in contents.entries
        if entry.held or entry.size
    ]
