"""Snapshots by overlayfs: nothing is copied until something is written, and a commit is a rename."""

from __future__ import annotations

import os
import stat

from orlop.layers import faults, merged, snapshots, whiteouts
from orlop.layers.snapshots import Mounted, MountStep, Snapshot
from orlop.linux import owners
from orlop.linux.files import lgetxattrs, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.layers.packing import Diffed
    from orlop.layers.tarentry import Buffer
    from orlop.store.images import LayerRef
    from orlop.store.leases import Lease
    from orlop.store.root import Root
    from orlop.store.snapshots import SnapshotRecord

# Whatever the kernel's defaults are: an upper directory must make sense without the layers it was written on.
_OPTIONS = ("index=off", "metacopy=off", "redirect_dir=off")
_USER_OPTIONS = ("index=off", "userxattr")  # userxattr rules the others out by itself


class Overlay:
    """The snapshotter: `root/snapshots/<short>/{fs,work}`, and `base`, an empty lower where there are no layers."""

    name = "overlay"

    def __init__(self, root: Root) -> None:
        self._root = root
        self._userxattr = whiteouts.needs_userxattr()

    def prepare(self, layer_keys: Sequence[str], owner: str) -> Snapshot:
        """A new snapshot on top of layers; see the protocol."""
        lowers = snapshots.trees(self._root, layer_keys)
        record = snapshots.enroll(self._root, layer_keys, owner)
        snapshot = self._snapshot(record, lowers)
        try:
            os.mkdir(snapshot.upper)
            os.mkdir(snapshot.work, 0o700)
            if not lowers:
                os.mkdir(snapshot.lowers[0], 0o755)
            self._dress(snapshot.upper, lowers)
        except OSError as error:
            snapshots.remove(self._root, owner)
            raise faults.from_os(error, f"prepare the snapshot {owner}") from error
        return snapshot

    @staticmethod
    def _dress(upper: str, lowers: tuple[str, ...]) -> None:
        """The merged root shows the uppermost directory's metadata, so that one takes them from below."""
        if not lowers:
            os.chmod(upper, snapshots.ROOT_MODE)
            return
        source = merged.root_of(lowers)
        info = owners.told(os.stat(source), source)
        owners.give(upper, info.st_uid, info.st_gid)
        os.chmod(upper, stat.S_IMODE(info.st_mode))
        for name, value in lgetxattrs(source).items():
            if not whiteouts.is_overlay_xattr(name) and name not in {
                merged.ROOT_XATTR,
                owners.XATTR,
                "security.selinux",
            }:
                os.setxattr(upper, name, value)
        os.utime(upper, ns=(info.st_mtime_ns, info.st_mtime_ns))

    def _snapshot(self, record: SnapshotRecord, lowers: tuple[str, ...]) -> Snapshot:
        base = snapshots.folder(self._root, record.short)
        return Snapshot(
            key=record.key,
            short=record.short,
            layers=record.layers,
            lowers=lowers or (f"{base}/base",),
            upper=f"{base}/fs",
            work=f"{base}/work",
        )

    def get(self, key: str) -> Snapshot:
        """The snapshot with this key; NotFound."""
        record = snapshots.found(self._root, key)
        return self._snapshot(record, snapshots.trees(self._root, record.layers))

    def mounts(self, snapshot: Snapshot, *, readonly: bool = False, volatile: bool = False) -> list[MountStep]:
        """One overlay mount. Read-only, the upper directory is the topmost of the lower ones."""
        options = _USER_OPTIONS if self._userxattr else _OPTIONS
        if readonly:
            lowers = (snapshot.upper, *snapshot.lowers)
            return [MountStep(fstype="overlay", lowers=lowers, options=options, readonly=True)]
        _forget_volatile(snapshot.work)
        if volatile:
            options = (*options, "volatile")
        return [
            MountStep(
                fstype="overlay", lowers=snapshot.lowers, upper=snapshot.upper, work=snapshot.work, options=options
            )
        ]

    def mounted(self, snapshot: Snapshot, target: str, *, readonly: bool = False, volatile: bool = False) -> Mounted:
        """The snapshot mounted on `target` while the context lasts."""
        return Mounted(self.mounts(snapshot, readonly=readonly, volatile=volatile), target)

    def commit(self, snapshot: Snapshot, media_type: str, lease: Lease) -> LayerRef:
        """Keep the changes: the upper directory becomes the layer's tree by a rename."""
        from orlop.layers.keep import ingest_diff  # threads and compression: not for those who only mount

        snapshots.check_unmounted(snapshot.upper)

        def pack(write: Callable[[Buffer], object]) -> Diffed:
            from orlop.layers.diff import diff  # the same

            lowers = snapshot.lowers if snapshot.layers else ()
            return diff(snapshot.upper, write, lowers=lowers, userxattr=self._userxattr)

        layer, diffed = ingest_diff(self._root, pack, media_type, lease)
        try:
            self._publish(snapshot, layer, diffed, lease)
        except OSError as error:
            raise faults.from_os(error, f"keep the snapshot {snapshot.key}") from error
        snapshots.remove(self._root, snapshot.key)
        return layer

    def changes(self, snapshot: Snapshot) -> list[tuple[str, str]]:
        """What the upper directory says."""
        from orlop.layers.changes import listed  # for those who ask only
        from orlop.layers.diff import UpperWalk

        lowers = snapshot.lowers if snapshot.layers else ()
        return listed(
            snapshot.upper,
            lowers,
            lambda lister: UpperWalk(snapshot.upper, lister, tuple(lowers), userxattr=self._userxattr),
        )

    def _publish(self, snapshot: Snapshot, layer: LayerRef, diffed: Diffed, lease: Lease) -> None:
        from orlop.layers.unpack import recorded  # as above
        from orlop.store.collect import discard

        remove_sockets(snapshot.upper)
        if diffed.explicit_root:
            _unmark(snapshot.upper)
        else:
            _mark(snapshot.upper)
        short = self._root.fresh_folder("layers", lease)
        target = f"{self._root.path}/layers/{short}"
        os.rename(snapshot.upper, target)  # onto the empty folder that was just made
        record = recorded(self._root, key=layer.diff_id, short=short, diff_id=layer.diff_id, size=diffed.content)
        if record.short != short:
            discard(self._root, target)

    def usage(self, key: str) -> int:
        """Bytes on the disk that were written to the snapshot; 0 when there is none."""
        from orlop.linux.diskspace import below  # walks files: not for those who only mount

        record = self._root.state.snapshots.get(key)
        return 0 if record is None else below(f"{snapshots.folder(self._root, record.short)}/fs")

    def remove(self, key: str) -> None:
        """Forget a snapshot and all that was written to it."""
        snapshots.remove(self._root, key)


def _mark(upper: str) -> None:
    try:
        os.setxattr(upper, merged.ROOT_XATTR, b"implicit")
    except OSError:
        return  # no user attributes here: the root's metadata then count as said, and they are those of the stack


def _unmark(upper: str) -> None:
    try:
        os.removexattr(upper, merged.ROOT_XATTR)
    except OSError:
        return  # it was not there


def _forget_volatile(work: str) -> None:
    """Remove the mark that a volatile mount leaves, with which overlayfs refuses to mount what may be incomplete.

    After a crash of the machine nobody mounts a build step's snapshot again: it has ended with its builder.
    """
    if os.path.lexists(f"{work}/work/incompat"):
        remove_tree(f"{work}/work/incompat")


def remove_sockets(tree: str) -> None:
    """Remove the sockets that a stopped program left: no layer can hold them."""
    stack = [tree]
    while stack:
        with os.scandir(stack.pop()) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                elif not entry.is_file(follow_symlinks=False) and stat.S_ISSOCK(
                    entry.stat(follow_symlinks=False).st_mode
                ):
                    os.unlink(entry.path)


def works(root: Root) -> bool:
    """Whether overlayfs works on this root's file system and for this user: tried once a boot, remembered in run/."""
    note = f"{root.run_path}/overlay-{'user' if whiteouts.needs_userxattr() else 'trusted'}"
    try:
        return os.readlink(note) == "works"
    except OSError:
        working = _try(root)
    try:
        os.symlink("works" if working else "fails", note)  # a symlink is there in one step, with its content
    except OSError:
        return working  # somebody else has found out meanwhile, or nothing can be written there
    return working


def _try(root: Root) -> bool:
    """Mount an overlay, write to it and delete from it."""
    from orlop.store.collect import discard  # only the first time

    place = f"{root.path}/trash/{os.urandom(8).hex()}"
    names = [f"{place}/{name}" for name in ("low", "base", "fs", "work", "merged")]
    try:
        os.mkdir(place, 0o700)
        for name in names:
            os.mkdir(name)
        os.mkdir(f"{names[0]}/folder")
        options = _USER_OPTIONS if whiteouts.needs_userxattr() else _OPTIONS
        step = MountStep(fstype="overlay", lowers=tuple(names[:2]), upper=names[2], work=names[3], options=options)
        with Mounted([step], names[4]):
            os.rmdir(f"{names[4]}/folder")
            os.mkdir(f"{names[4]}/folder")
        return whiteouts.is_opaque(f"{names[2]}/folder")
    except OSError:
        return False
    finally:
        discard(root, place)
