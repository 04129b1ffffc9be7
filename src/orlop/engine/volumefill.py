"""A fresh volume takes what the image has at its place: files, owners, modes, and the folder's own owner and mode."""

from __future__ import annotations

import os

from orlop.layers import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.core import Engine
    from orlop.layers.snapshots import Snapshot
    from orlop.store.containers import ContainerRecord


def fill(engine: Engine, record: ContainerRecord, snapshot: Snapshot) -> None:
    """Fill the volumes of a container that is about to start, each once in its life, as docker does.

    A volume that already holds something keeps it. A crash half way leaves the volume unfilled, and the next start
    begins it anew.
    """
    for mount in record.config["mounts"]:
        if mount["kind"] == "volume" and mount.get("copy", True) and not engine.volumes.is_filled(mount["source"]):
            with engine.root.lock(f"volume-{mount['source']}"):
                if not engine.volumes.is_filled(mount["source"]):
                    _fill(engine, snapshot, mount["source"], mount["target"])


def _fill(engine: Engine, snapshot: Snapshot, volume: str, target: str) -> None:
    path = engine.volumes.path(volume)
    trees = (snapshot.upper, *snapshot.lowers)
    half = f"{path}.filling"  # there while we copy: what is in the volume then is ours, not the user's
    if (os.path.exists(half) or not os.listdir(path)) and merged.is_directory(trees, target):
        os.close(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _copy(engine, snapshot, path, target)
        os.unlink(half)
    engine.volumes.mark_filled(volume)


def _copy(engine: Engine, snapshot: Snapshot, path: str, target: str) -> None:
    """Copy by way of a mount that nobody sees, so that a crash leaves none behind."""
    from orlop.layers import tree
    from orlop.linux import files, safepath
    from orlop.runtime import sources
    from orlop.runtime.request import RootMount

    (step,) = engine.snapshotter.mounts(snapshot, readonly=True)
    root = RootMount(fstype=step.fstype, source=step.source, lowers=step.lowers, options=step.options)
    mounted = sources.open_root(root, "", "private")
    try:
        source = safepath.open_in_root(mounted, target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if tree.copy_tree(source, path).files:
                folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    files.sync_fs(folder)  # before the record says that it is there
                finally:
                    os.close(folder)
        finally:
            os.close(source)
    finally:
        os.close(mounted)
