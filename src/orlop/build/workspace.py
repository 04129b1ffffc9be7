"""Where a build works: the store, the snapshotter, the lease, and folders of its own that vanish with it.

Folders lie in run/build/, each with a lock that dies with the process: a later build removes what a killed one left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading

from orlop.linux import files, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from orlop.layers.snapshots import Snapshot, Snapshotter
    from orlop.store.leases import Lease
    from orlop.store.root import Root


class Workspace:
    """What `solve` works with. `with` it; thread-safe."""

    def __init__(self, root: Root, snapshotter: Snapshotter, lease: Lease, *, namespace: str = "default") -> None:
        self.root = root
        self.snapshotter = snapshotter
        self.lease = lease
        self.namespace = namespace
        self._folder = ""
        self._lock_fd = -1
        self._count = 0
        self._lock = threading.Lock()

    def prepare(self, layer_keys: tuple[str, ...]) -> Snapshot:
        """A new snapshot on unpacked layers (keys, lowest first), held by the lease."""
        with self._lock:
            self._count += 1
            owner = f"build-{self.lease.id}-{self._count}"
        self.lease.hold("snapshot", owner)
        return self.snapshotter.prepare(layer_keys, owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove this build's folders."""
        with self._lock:
            if self._folder:
                _remove(self._folder)
                os.close(self._lock_fd)
                self._folder, self._lock_fd = "", -1

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """A new empty folder, 0700, in memory where run/ is; removed afterwards."""
        path = self._new()
        try:
            yield path
        finally:
            files.remove_tree(path)

    @contextlib.contextmanager
    def mounted(self, snapshot: Snapshot, *, readonly: bool = False) -> Iterator[str]:
        """A snapshot's merged tree for a while."""
        path = self._new()
        try:
            with self.snapshotter.mounted(snapshot, path, readonly=readonly, volatile=True):
                yield path
        finally:
            os.rmdir(path)

    @contextlib.contextmanager
    def view(self, layer_keys: tuple[str, ...]) -> Iterator[str]:
        """The merged tree of unpacked layers, read-only, for a while."""
        snapshot = self.prepare(layer_keys)
        try:
            with self.mounted(snapshot, readonly=True) as path:
                yield path
        finally:
            self.snapshotter.remove(snapshot.key)

    def _new(self) -> str:
        with self._lock:
            if not self._folder:
                self._open()
            self._count += 1
            path = os.path.join(self._folder, str(self._count))
        os.mkdir(path, 0o700)
        return path

    def _open(self) -> None:
        parent = os.path.join(self.root.run_path, "build")
        os.makedirs(parent, mode=0o700, exist_ok=True)
        _sweep(parent)
        folder = os.path.join(parent, self.lease.id)
        # The lock comes before the folder: a folder without a held lock is a dead build's.
        self._lock_fd = _locked(f"{folder}.lock")
        os.mkdir(folder, 0o700)
        self._folder = folder


def _locked(path: str) -> int:
    """Make and lock a file; again when a sweep took it for a dead build's in between."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)


def _sweep(parent: str) -> None:
    """Remove what builds left that were killed."""
    for name in os.listdir(parent):
        if not name.endswith(".lock"):
            continue
        try:
            fd = os.open(os.path.join(parent, name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove(os.path.join(parent, name.removesuffix(".lock")))
        finally:
            os.close(fd)


def _remove(folder: str) -> None:
    """Unmount what is mounted below `folder`, remove it and then its lock."""
    inside = f"{folder}/"
    for mount in reversed(mounts.mountinfo()):
        if mount.target.startswith(inside):
            mounts.unmount(mount.target, mounts.MNT_DETACH)
    with contextlib.suppress(FileNotFoundError):
        files.remove_tree(folder)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{folder}.lock")
