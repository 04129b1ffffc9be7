"""Collection: what nothing needs goes.

Needed is what images (of all namespaces), containers' snapshots, pins and live leases lead to. Everything is decided
and renamed into root/trash/ (run/trash/ for what lies there) under the collection lock, which whoever wants to hold
something waits for; emptying the trash takes the time that it takes, and needs no lock. Whatever kills a collection,
the next one goes on with it.
"""

from __future__ import annotations

import os
import time

from orlop.errors import Conflict, Internal
from orlop.linux.diskspace import Space
from orlop.oci import jsontext
from orlop.oci.chain import chain_ids
from orlop.store import faults, leases
from orlop.store.locks import FileLock
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.store.root import Root

_YOUNG_SECONDS = 3600.0
"""A container's folder that has no container is left alone this long: its container may be about to be recorded."""


class Collected(Value):
    """What was (or, by a dry run, would be) removed. `bytes` is the space on disk."""

    blobs: tuple[str, ...] = ()  # digests
    layers: tuple[str, ...] = ()  # keys; folders' names where there was no record
    snapshots: tuple[str, ...] = ()  # same
    ingests: tuple[str, ...] = ()
    others: tuple[str, ...] = ()  # paths below the root: forgotten containers' folders, trash of a killed collection
    left: tuple[str, ...] = ()  # sentences about what could not be removed now; the next collection tries again
    bytes: int = 0


def collect(root: Root, *, dry_run: bool = False, keep_partial_seconds: float = 0.0) -> Collected:
    """Remove all that nothing needs; returns what that was.

    Interrupted downloads are kept for resumption if they were written to in the last `keep_partial_seconds`. With
    `dry_run` nothing changes, and the result is what a collection right now would return.
    """
    left: list[str] = []
    with FileLock(root.collect_lock, what="the store's collection"):
        held = leases.live(f"{root.path}/leases", reap=not dry_run)
        if not dry_run:
            root.state.database.seal()  # whoever was killed before this has recorded nothing that could come back
        # Read after the leases: who has let go of one has recorded before what it made.
        plan = _Plan(root, _Needed(root, held), keep_partial_seconds)
        doomed = [*plan.trash]
        if dry_run:
            doomed += plan.paths
        else:
            plan.forget()
            doomed += [moved for path in plan.paths if (moved := _to_trash(root, path, left))]
    # Counting and removing take their time; nobody need wait for them.
    space = Space()
    freed = 0
    for path in doomed:
        size = space.of(path)
        if dry_run or _remove(path, left):
            freed += size
    if not dry_run:
        _drop_idle_locks(root)
        root.write_index()
    return Collected(
        blobs=tuple(plan.blobs),
        layers=tuple(plan.layers),
        snapshots=tuple(plan.snapshots),
        ingests=tuple(plan.ingests),
        others=(*plan.others, *(f"trash/{os.path.basename(path)}" for path in plan.trash)),
        left=tuple(left),
        bytes=freed + plan.partial_bytes,
    )


def discard(root: Root, path: str) -> None:
    """Remove a file or a tree: at once for all who look for it, whatever happens while it is emptied.

    A path that is gone already is fine. Mount points inside must be unmounted before: Internal with the path.
    """
    left: list[str] = []
    if trashed := _to_trash(root, path, left):
        _remove(trashed, left)
    if left:
        raise Internal(left[0], hint="it goes with the next collection, unless something is still mounted in it")


class _Needed:
    """The marks: everything that must stay."""

    def __init__(self, root: Root, held: set[tuple[str, str]]) -> None:
        self.blobs = {key for kind, key in held if kind == "blob"}
        self.layers = {key for kind, key in held if kind == "layer"}
        self.snapshots = {key for kind, key in held if kind == "snapshot"}
        self.containers = {key for kind, key in held if kind == "container"}
        # Listed before the records are read: a snapshot's record is there before its folder. What is begun after this
        # is in no list, and stays.
        self.folders = {room: set(_names(f"{root.path}/{room}")) for room in ("layers", "snapshots")}
        state = root.state
        with state.database.reading() as database:
            for manifest, config, text in database.query("SELECT manifest, config, layers FROM images"):
                layers = jsontext.loads(text, what="an image's record")
                self.blobs.update((manifest, config, *(layer[1] for layer in layers)))
                self.layers.update(layer[0] for layer in layers)
                self.layers.update(chain_ids(layer[0] for layer in layers))
            for (reference,) in database.query("SELECT reference FROM names WHERE instr(reference, '@')"):
                # Who pulled an index by digest asks for it by that digest again.
                self.blobs.add(reference.partition("@")[2])
            for kind, key in database.query("SELECT kind, key FROM pins"):
                {"blob": self.blobs, "layer": self.layers, "snapshot": self.snapshots}[kind].add(key)
            self.containers.update(id_ for (id_,) in database.query("SELECT id FROM containers"))
            self.layer_records = state.layers.all()
            self.snapshot_records = state.snapshots.all()
        for snapshot in self.snapshot_records:
            if snapshot.owner in self.containers or {snapshot.key, snapshot.owner, snapshot.short} & self.snapshots:
                self.snapshots.add(snapshot.short)
                self.layers.update(snapshot.layers)
        self.layers.update(layer.short for layer in self.layer_records if layer.key in self.layers)
        # A layer held by its folder's name is needed under its key, too.
        self.layers.update(layer.key for layer in self.layer_records if layer.short in self.layers)


class _Plan:
    """What goes: records first, then the things themselves, so that no record ever points at nothing."""

    def __init__(self, root: Root, needed: _Needed, keep_partial_seconds: float) -> None:
        self._root = root
        self.paths: list[str] = []
        self.blobs = sorted(digest for digest in root.content.digests() if digest not in needed.blobs)
        self.paths += [root.content.path(digest) for digest in self.blobs]
        layers = {layer.short: layer.key for layer in needed.layer_records}
        snapshots = {snapshot.short: snapshot.key for snapshot in needed.snapshot_records}
        self.layers = self._folders("layers", needed.folders, needed.layers, layers)
        self.snapshots = self._folders("snapshots", needed.folders, needed.snapshots, snapshots)
        self._layer_rows = [(key,) for short, key in layers.items() if short not in needed.layers]
        self._snapshot_rows = [(key,) for short, key in snapshots.items() if short not in needed.snapshots]
        oldest = time.time() - keep_partial_seconds
        partial = [
            one
            for one in root.content.ingests()
            if not one.active and (keep_partial_seconds <= 0 or one.modified < oldest)
        ]
        self.ingests = sorted(one.name for one in partial)
        self.partial_bytes = sum(Space().of(one.path) for one in partial)
        self.trash = [
            f"{base}/trash/{name}"
            for base in (root.path, root.run_path)
            if os.path.isdir(f"{base}/trash")
            for name in _names(f"{base}/trash")
        ]
        self.others = []
        for name in _names(f"{root.path}/containers"):
            path = f"{root.path}/containers/{name}"
            if name not in needed.containers and os.lstat(path).st_mtime < time.time() - _YOUNG_SECONDS:
                self.others.append(f"containers/{name}")
                self.paths.append(path)

    def forget(self) -> None:
        """Delete the records, as one, and the unfinished content (unless somebody took it up again meanwhile)."""
        if self._layer_rows or self._snapshot_rows:
            with self._root.state.writing() as transaction:
                transaction.execute_all("DELETE FROM snapshots WHERE key = ?", self._snapshot_rows)
                transaction.execute_all("DELETE FROM layers WHERE key = ?", self._layer_rows)
        for name in self.ingests:
            self._root.content.discard_partial(name)

    def _folders(self, room: str, folders: dict[str, set[str]], needed: set[str], keys: dict[str, str]) -> list[str]:
        """Folders (and records without one) of a room that go, by key where there is one."""
        names = folders[room]
        doomed = sorted(name for name in names | keys.keys() if name not in needed)
        self.paths += [f"{self._root.path}/{room}/{name}" for name in doomed if name in names]
        return [keys.get(name, name) for name in doomed]


def _names(path: str) -> list[str]:
    return sorted(os.listdir(path))


def _to_trash(root: Root, path: str, left: list[str]) -> str:
    """Rename away; the new path, "" if it was gone already or stays (then `left` gains the reason)."""
    folder = f"{root.path}/trash"
    if path.startswith(f"{root.run_path}/"):  # most often another file system, across which nothing can be renamed
        folder = f"{root.run_path}/trash"
        os.makedirs(folder, mode=0o700, exist_ok=True)
    target = f"{folder}/{os.urandom(8).hex()}"
    try:
        os.rename(path, target)
    except FileNotFoundError:
        return ""
    except OSError as error:
        left.append(faults.explained(error, "remove", path).message)
        return ""
    return target


def _remove(path: str, left: list[str]) -> bool:
    """Remove for good; whether that was possible (else `left` gains the reason)."""
    from orlop.linux.files import remove_tree  # dry runs do not need it

    try:
        remove_tree(path)
    except OSError as error:
        left.append(faults.explained(error, "remove", path).message)
        return False
    return True


def _drop_idle_locks(root: Root) -> None:
    """Remove the lock files that nobody holds: one is left of every container that ever was."""
    for name in _names(f"{root.run_path}/locks"):
        lock = FileLock(f"{root.run_path}/locks/{name}", wait=False, removable=True)
        try:
            lock.acquire()
        except Conflict:
            continue
        lock.remove()
        lock.release()
