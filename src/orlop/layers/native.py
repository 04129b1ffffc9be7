"""Snapshots by copying: a plain directory that holds everything, for where overlayfs does not work.

Blocks are shared where the file system can (reflinks). What changed is found by comparing with the layers' trees; files
whose status has not changed since the copy was made are not read.
"""

from __future__ import annotations

import os

from orlop.errors import NotFound
from orlop.layers import faults, snapshots
from orlop.layers.snapshots import Mounted, MountStep, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from orlop.layers.packing import Diffed
    from orlop.layers.tarentry import Buffer
    from orlop.oci.descriptor import Descriptor
    from orlop.store.images import LayerRef
    from orlop.store.leases import Lease
    from orlop.store.root import Root
    from orlop.store.snapshots import SnapshotRecord


class Native:
    """The snapshotter: `root/snapshots/<short>/fs`, and `copied`, a file made when the copy was complete."""

    name = "native"

    def __init__(self, root: Root) -> None:
        self._root = root

    def prepare(self, layer_keys: Sequence[str], owner: str) -> Snapshot:
        """A new snapshot on top of layers; see the protocol. It takes as long as copying them does."""
        from orlop.layers.tree import stack_tree  # walks files: not for those who only mount

        lowers = snapshots.trees(self._root, layer_keys)
        record = snapshots.enroll(self._root, layer_keys, owner)
        snapshot = self._snapshot(record)
        try:
            os.mkdir(snapshot.upper)
            os.chmod(snapshot.upper, snapshots.ROOT_MODE)
            for tree in reversed(lowers):
                stack_tree(tree, snapshot.upper)
            with open(self._stamp(record.short), "xb"):
                pass
        except BaseException as error:
            snapshots.remove(self._root, owner)
            if isinstance(error, OSError):
                raise faults.from_os(error, f"prepare the snapshot {owner}") from error
            raise
        return snapshot

    def _stamp(self, short: str) -> str:
        return f"{snapshots.folder(self._root, short)}/copied"

    def _snapshot(self, record: SnapshotRecord) -> Snapshot:
        return Snapshot(
            key=record.key,
            short=record.short,
            layers=record.layers,
            lowers=(),
            upper=f"{snapshots.folder(self._root, record.short)}/fs",
            work="",
        )

    def get(self, key: str) -> Snapshot:
        """The snapshot with this key; NotFound."""
        return self._snapshot(snapshots.found(self._root, key))

    def mounts(self, snapshot: Snapshot, *, readonly: bool = False, volatile: bool = False) -> list[MountStep]:
        """One bind mount. There is no scratch state, so `volatile` changes nothing."""
        del volatile
        return [MountStep(fstype="bind", source=snapshot.upper, readonly=readonly)]

    def mounted(self, snapshot: Snapshot, target: str, *, readonly: bool = False, volatile: bool = False) -> Mounted:
        """The snapshot mounted on `target` while the context lasts."""
        return Mounted(self.mounts(snapshot, readonly=readonly, volatile=volatile), target)

    def commit(self, snapshot: Snapshot, media_type: str, lease: Lease) -> LayerRef:
        """Keep the changes as a blob, and unpack that as any other layer."""
        from orlop.layers.compare import compare  # all this only for those who commit
        from orlop.layers.keep import ingest_diff
        from orlop.layers.unpack import unpack

        lowers = snapshots.trees(self._root, snapshot.layers)

        def pack(write: Callable[[Buffer], object]) -> Diffed:
            return compare(snapshot.upper, write, lowers=lowers, since=self._since(snapshot))

        layer, _ = ingest_diff(self._root, pack, media_type, lease)
        unpack(self._root, [layer], _nothing, lease)
        snapshots.remove(self._root, snapshot.key)
        return layer

    def changes(self, snapshot: Snapshot) -> list[tuple[str, str]]:
        """Where the copy differs from its layers."""
        from orlop.layers.changes import listed  # for those who ask only
        from orlop.layers.compare import TreeWalk

        lowers = snapshots.trees(self._root, snapshot.layers)
        since = self._since(snapshot)
        return listed(snapshot.upper, lowers, lambda lister: TreeWalk(snapshot.upper, lister, lowers, since))

    def _since(self, snapshot: Snapshot) -> int:
        """When the copy was complete, as the file system's clock says; 0 when it never was."""
        try:
            return os.stat(self._stamp(snapshot.short)).st_ctime_ns
        except FileNotFoundError:
            return 0

    def usage(self, key: str) -> int:
        """Bytes on the disk that the whole copy takes; 0 when there is none."""
        from orlop.linux.diskspace import below  # as above

        record = self._root.state.snapshots.get(key)
        return 0 if record is None else below(f"{snapshots.folder(self._root, record.short)}/fs")

    def remove(self, key: str) -> None:
        """Forget a snapshot and all that was written to it."""
        snapshots.remove(self._root, key)


def _nothing(wanted: Descriptor, _offset: int) -> NoReturn:
    raise NotFound(f"blob {wanted.digest}, which was just written, is gone")
