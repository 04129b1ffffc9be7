"""Snapshots: an ordered list of unpacked layers and a writable tree on top, for a container or a build step.

A snapshotter makes them. `overlay` stacks the layers' trees with overlayfs, which costs nothing until something is
written; `native` copies them, which works everywhere. Both keep the same contract (one suite tests it), so that nobody
above needs to know which it is.
"""

from __future__ import annotations

import os

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from orlop.layers import whiteouts
from orlop.store.snapshots import SnapshotRecord
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import Protocol

    from orlop.store.images import LayerRef
    from orlop.store.leases import Lease
    from orlop.store.root import Root

    class Snapshotter(Protocol):
        """Makes, mounts, commits and removes snapshots."""

        name: str

        def prepare(self, layer_keys: Sequence[str], owner: str) -> Snapshot:
            """A new snapshot on top of unpacked layers (keys, lowest first; none is fine), with the key `owner`.

            The caller holds the layers, and ("snapshot", owner), with a lease, or is about to record a container
            `owner`. AlreadyExists when the owner has one; NotFound for layers that are not unpacked.
            """

        def get(self, key: str) -> Snapshot:
            """The snapshot with this key; NotFound."""

        def mounts(self, snapshot: Snapshot, *, readonly: bool = False, volatile: bool = False) -> list[MountStep]:
            """What to mount, in order, to see the snapshot. Read-only shows what was written, too.

            `volatile`: writes need not survive a crash of the machine, so fsync is free (build steps).
            """

        def mounted(
            self, snapshot: Snapshot, target: str, *, readonly: bool = False, volatile: bool = False
        ) -> AbstractContextManager[str]:
            """The snapshot mounted on the directory `target` while the context lasts."""

        def commit(self, snapshot: Snapshot, media_type: str, lease: Lease) -> LayerRef:
            """Keep what was written as a blob and an unpacked layer, both held by the lease; the snapshot is used up.

            It must not be mounted. After a failure the snapshot is as it was.
            """

        def changes(self, snapshot: Snapshot) -> list[tuple[str, str]]:
            """What was written: ("A" added, "C" changed or "D" deleted, absolute path), by path. It may be mounted."""

        def usage(self, key: str) -> int:
            """Bytes on the disk that only this snapshot takes; 0 when there is none."""

        def remove(self, key: str) -> None:
            """Forget a snapshot (which must not be mounted) and all that was written; fine when there is none."""


ROOT_MODE = 0o755  # of a root directory that no layer says anything of
_FOLDER_MODE = 0o700  # nobody else may reach what is in it: see _FOLDERS in store.root


class Snapshot(Value):
    """One snapshot. All paths are absolute. `upper` is where writes go; for an overlay `lowers` are the trees below."""

    key: str
    short: str
    layers: tuple[str, ...]  # keys, lowest first
    lowers: tuple[str, ...]  # directories, uppermost first; none when `upper` holds everything
    upper: str
    work: str  # overlay's scratch directory; "" when there is none


class MountStep(Value):
    """One mount. `target` is relative to where the snapshot is to appear, "" being that place itself."""

    fstype: str  # "overlay" or "bind"
    source: str = ""  # a bind mount's
    target: str = ""
    lowers: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""
    options: tuple[str, ...] = ()
    readonly: bool = False

    def mount(self, target: str) -> None:
        """Do it, with the snapshot appearing at `target`. OSError says what failed."""
        from orlop.linux import mounts  # ctypes: only for those who mount

        place = f"{target}/{self.target}" if self.target else target
        if self.fstype == "overlay":
            flags = mounts.MS_RDONLY if self.readonly else 0
            mounts.overlay(self.lowers, self.upper, self.work, place, options=self.options, flags=flags)
            return
        mounts.bind(self.source, place)
        if self.readonly:
            mounts.mount("", place, "", mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY)


class Mounted:
    """Mount steps done on entering and undone on leaving; returns the target."""

    def __init__(self, steps: Sequence[MountStep], target: str) -> None:
        self._steps = steps
        self._target = target
        self._done: list[str] = []

    def __enter__(self) -> str:
        try:
            for step in self._steps:
                step.mount(self._target)
                self._done.append(f"{self._target}/{step.target}" if step.target else self._target)
        except BaseException:
            self._undo()
            raise
        return self._target

    def __exit__(self, *_: object) -> None:
        self._undo()

    def _undo(self) -> None:
        from orlop.linux import mounts  # as above

        while self._done:
            place = self._done.pop()
            try:
                mounts.unmount(place)
            except OSError:
                # Something left behind still has a file open there: the mount goes when that is closed.
                mounts.unmount(place, mounts.MNT_DETACH)


def trees(root: Root, keys: Sequence[str]) -> tuple[str, ...]:
    """The directories of layers (keys, lowest first), uppermost first, as a stack that can be mounted.

    A tree that appears twice counts where it is uppermost, since all that it says is said there. Nothing is below a
    layer whose root is opaque. NotFound for a layer that is not unpacked.
    """
    found: list[str] = []
    for key in reversed(keys):
        record = root.state.layers.get(key)
        if record is None or not record.usable(root.boot_id):
            raise NotFound(f"layer {key} is not unpacked here", hint="unpack the image again")
        path = f"{root.path}/layers/{record.short}"
        if path in found:
            continue
        found.append(path)
        if whiteouts.is_opaque(path):
            break
    return tuple(found)


def enroll(root: Root, keys: Sequence[str], owner: str) -> SnapshotRecord:
    """Record a new snapshot of `owner` and make its folder."""
    record = SnapshotRecord(key=owner, short=os.urandom(8).hex(), layers=tuple(keys), owner=owner)
    # The record comes first: a folder that no record explains may be collected.
    root.state.snapshots.add(record)
    os.mkdir(folder(root, record.short))
    os.chmod(folder(root, record.short), _FOLDER_MODE)
    return record


def folder(root: Root, short: str) -> str:
    """A snapshot's folder."""
    return f"{root.path}/snapshots/{short}"


def found(root: Root, key: str) -> SnapshotRecord:
    """The record of a snapshot; NotFound."""
    record = root.state.snapshots.get(key)
    if record is None:
        raise NotFound(f"there is no snapshot {key}")
    return record


def remove(root: Root, key: str) -> None:
    """Forget a snapshot and remove its folder, which vanishes in one step; also when the disk is full."""
    record = root.state.snapshots.get(key)
    if record is None:
        return
    from orlop.store.collect import discard  # the walk through what is removed

    try:
        root.state.snapshots.delete(key)
    except ResourceExhausted:
        # It may be what fills the disk: when it is gone, there is room to forget it.
        discard(root, folder(root, record.short))
        root.state.snapshots.delete(key)
        return
    discard(root, folder(root, record.short))


def choose(root: Root, name: str = "") -> Snapshotter:
    """The snapshotter called `name` ("overlay", "native"); "" is the best that works on this root.

    What works is tried once (an overlay is mounted) and remembered in the root.
    """
    if name not in {"", "overlay", "native"}:
        raise InvalidArgument(f"there is no snapshotter {name!r}", hint="choose overlay or native")
    if name != "native":
        from orlop.layers.overlay import Overlay, works  # only the chosen one is loaded

        if name or works(root):
            return Overlay(root)
    from orlop.layers.native import Native

    return Native(root)


def check_unmounted(path: str) -> None:
    """FailedPrecondition when an overlay that writes to `path` is mounted in this mount namespace."""
    needle = f"upperdir={path},"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            if needle in line or f"upperdir={path}\n" in line:
                raise FailedPrecondition("the snapshot is still mounted", hint="stop what uses it first")
