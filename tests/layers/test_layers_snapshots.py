"""Snapshotters: one contract, kept by all of them."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from typing import TYPE_CHECKING, NoReturn

import pytest
from layerkit import archive, folder, member, seen

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlop.layers import compress, snapshots, tar, unpack
from orlop.layers.native import Native
from orlop.layers.overlay import Overlay
from orlop.oci import mediatype
from orlop.oci.digest import Digest
from orlop.store.collect import collect
from orlop.store.images import LayerRef

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from pathlib import Path

    from orlop.layers.snapshots import Snapshotter
    from orlop.oci.descriptor import Descriptor
    from orlop.store.leases import Lease
    from orlop.store.root import Root

pytestmark = pytest.mark.root


def _never(wanted: Descriptor, _offset: int) -> NoReturn:
    raise AssertionError(f"{wanted.digest} must be here")


class World:
    """A root with layers, a snapshotter, and a place to mount."""

    def __init__(self, root: Root, lease: Lease, snapshotter: Snapshotter, place: str) -> None:
        self.root, self.lease, self.snapshotter, self.place = root, lease, snapshotter, place

    def layer(self, *members: tuple[tarfile.TarInfo, bytes]) -> LayerRef:
        packed = archive(*members)
        blob = self.root.content.put(packed, mediatype.OCI_LAYER)
        return LayerRef(diff_id=Digest.of(packed), digest=blob.digest, size=blob.size, media_type=blob.media_type)

    def keys(self, *layers: LayerRef) -> tuple[str, ...]:
        return unpack.unpack(self.root, layers, _never, self.lease)

    def shown(self, keys: tuple[str, ...], owner: str) -> dict[str, tuple[object, ...]]:
        """What a new snapshot on `keys` looks like when mounted."""
        self.lease.hold("snapshot", owner)
        with self.snapshotter.mounted(self.snapshotter.prepare(keys, owner), self.place) as merged:
            found = seen(merged)
        self.snapshotter.remove(owner)
        return found


@pytest.fixture(params=[Overlay, Native], ids=["overlay", "native"])
def world(request: pytest.FixtureRequest, root: Root, lease: Lease, tmp_path: Path) -> Iterator[World]:
    """The contract's stage, once for each snapshotter."""
    place = tmp_path / "place"
    place.mkdir()
    yield World(root, lease, request.param(root), str(place))
    assert subprocess.run(["mountpoint", "-q", place], check=False).returncode != 0


@pytest.fixture
def base(world: World) -> tuple[str, ...]:
    """Two layers: the second changes, removes and replaces things of the first."""
    return world.keys(
        world.layer(
            folder("./", 0o751, uid=3),
            folder("etc"),
            member("etc/hosts", b"one", mtime=5),
            member("etc/gone", b"gone"),
            folder("old"),
            member("old/x"),
            folder("bin", 0o700, uid=9),
            member("bin/su", b"#!", mode=0o4755),
            member("bin/alias", kind="link", link="bin/su"),
            member("null", kind="char", device=(1, 3), mode=0o666),
        ),
        world.layer(
            folder("etc"),
            member("etc/hosts", b"two", mtime=6),
            member("etc/.wh.gone"),
            folder("old"),
            member("old/.wh..wh..opq"),
            member("old/y"),
        ),
    )


def test_a_snapshot_shows_its_layers(world: World, base: tuple[str, ...]) -> None:
    """Upper layers win, what they remove is gone, the root has the mode and owner that the layers give it."""
    snapshot = world.snapshotter.prepare(base, "c1")

    with world.snapshotter.mounted(snapshot, world.place) as merged:
        found = seen(merged)
        info = os.stat(merged)

    assert sorted(found) == ["bin", "bin/alias", "bin/su", "etc", "etc/hosts", "null", "old", "old/y"]
    assert found["etc/hosts"][5] == b"two"
    assert found["bin/su"][1] == 0o4755
    assert found["bin"][2] == 9
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o751, 3)


def test_writes_stay_in_their_snapshot(world: World, base: tuple[str, ...]) -> None:
    """Two snapshots of the same layers do not see each other's writes; what was written is there at the next mount."""
    one, other = world.snapshotter.prepare(base, "c1"), world.snapshotter.prepare(base, "c2")
    with world.snapshotter.mounted(one, world.place) as merged, open(f"{merged}/etc/hosts", "wb") as file:
        file.write(b"mine")

    with world.snapshotter.mounted(other, world.place) as merged:
        assert seen(merged)["etc/hosts"][5] == b"two"
    with world.snapshotter.mounted(world.snapshotter.get("c1"), world.place) as merged:
        assert seen(merged)["etc/hosts"][5] == b"mine"


def test_readonly_shows_what_was_written_and_takes_nothing(world: World, base: tuple[str, ...]) -> None:
    """A read-only mount of a snapshot is its present state."""
    snapshot = world.snapshotter.prepare(base, "c1")
    with world.snapshotter.mounted(snapshot, world.place) as merged, open(f"{merged}/new", "wb"):
        os.unlink(f"{merged}/etc/hosts")

    with world.snapshotter.mounted(snapshot, world.place, readonly=True) as merged:
        assert os.path.exists(f"{merged}/new")
        assert not os.path.exists(f"{merged}/etc/hosts")
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir(f"{merged}/more")


def test_no_layers_are_an_empty_root(world: World) -> None:
    """FROM scratch: an empty root, 0755 and root's, that can be written, committed and mounted read-only."""
    snapshot = world.snapshotter.prepare((), "c1")
    with world.snapshotter.mounted(snapshot, world.place, readonly=True) as merged:
        assert os.listdir(merged) == []
        assert os.stat(merged).st_mode & 0o7777 == 0o755
    with world.snapshotter.mounted(snapshot, world.place) as merged, open(f"{merged}/tool", "wb"):
        pass

    layer = world.snapshotter.commit(snapshot, mediatype.OCI_LAYER_GZIP, world.lease)

    assert sorted(world.shown((layer.diff_id,), "c2")) == ["tool"]


@pytest.mark.parametrize("media_type", [mediatype.OCI_LAYER_GZIP, mediatype.OCI_LAYER_ZSTD, mediatype.OCI_LAYER])
def test_a_commit_is_a_layer(world: World, base: tuple[str, ...], media_type: str) -> None:
    """Blob and tree are there and agree; a snapshot on top of it shows what the committed one showed, and no more."""
    snapshot = world.snapshotter.prepare(base, "c1")
    with world.snapshotter.mounted(snapshot, world.place) as merged:
        with open(f"{merged}/etc/new", "wb") as file:
            file.write(b"new")
        os.unlink(f"{merged}/bin/su")
        os.rename(f"{merged}/old/y", f"{merged}/moved")
        os.rmdir(f"{merged}/old")
        os.mkfifo(f"{merged}/old")
        os.setxattr(f"{merged}/moved", "user.k", b"v")
        before = seen(merged)

    layer = world.snapshotter.commit(snapshot, media_type, world.lease)

    with world.root.content.open(layer.digest) as blob:
        data = blob.read()
    assert (layer.media_type, layer.size) == (media_type, len(data))
    packed = b"".join(compress.plain([data]))
    assert layer.diff_id == f"sha256:{hashlib.sha256(packed).hexdigest()}"
    names = [entry.name for entry in tar.read([packed])]
    assert "bin/.wh.su" in names
    assert "etc/hosts" not in names
    assert unpack.ready(world.root, [layer], world.lease) == (layer.diff_id,)
    assert world.shown((*base, layer.diff_id), "c2") == before
    with pytest.raises(NotFound):
        world.snapshotter.get("c1")


def test_a_commit_applied_elsewhere_is_the_same(world: World, base: tuple[str, ...], tmp_path: Path) -> None:
    """The tree that a commit leaves and the tree that its blob unpacks to stack to the same view."""
    snapshot = world.snapshotter.prepare(base, "c1")
    with world.snapshotter.mounted(snapshot, world.place) as merged:
        os.chmod(merged, 0o711)
        os.mkdir(f"{merged}/d", 0o2775)
        os.unlink(f"{merged}/etc/hosts")
    layer = world.snapshotter.commit(snapshot, mediatype.OCI_LAYER, world.lease)
    once = world.shown((*base, layer.diff_id), "c2")
    world.root.state.layers.delete(layer.diff_id)

    assert world.keys(layer) == (layer.diff_id,)
    assert world.shown((*base, layer.diff_id), "c3") == once


def test_an_untouched_snapshot_commits_to_the_empty_layer(world: World, base: tuple[str, ...]) -> None:
    """Nothing written is the archive without entries, whoever makes it, and twice is fine."""
    made = []
    for owner in ("c1", "c2"):
        snapshot = world.snapshotter.prepare(base, owner)
        with world.snapshotter.mounted(snapshot, world.place) as merged:
            os.listdir(merged)
        made.append(world.snapshotter.commit(snapshot, mediatype.OCI_LAYER_GZIP, world.lease))

    assert made[0] == made[1]
    assert made[0].diff_id == Digest.of(bytes(1024))
    assert world.shown((*base, made[0].diff_id), "c3") == world.shown(base, "c4")


def test_the_root_of_a_stack_keeps_its_mode(world: World, base: tuple[str, ...]) -> None:
    """A layer that says nothing of the root directory does not reset what lower ones said."""
    top = world.layer(folder("x"))
    keys = (*base, *world.keys(top))

    with world.snapshotter.mounted(world.snapshotter.prepare(keys, "c1"), world.place) as merged:
        assert os.stat(merged).st_mode & 0o7777 == 0o751


def test_a_layer_twice_in_a_stack(world: World) -> None:
    """Overlayfs refuses a directory twice; the uppermost occurrence says all there is to say."""
    a = world.layer(member("f", b"a"), member("only-a"))
    b = world.layer(member("f", b"b"), member(".wh.only-a"))
    keys = world.keys(a, b, a)

    found = world.shown(keys, "c1")
    assert found["f"][5] == b"a"
    assert "only-a" in found


def test_an_opaque_root_hides_everything_below(world: World) -> None:
    """A layer may begin the whole image afresh."""
    keys = world.keys(world.layer(member("f")), world.layer(member(".wh..wh..opq"), member("g")))

    assert sorted(world.shown(keys, "c1")) == ["g"]


def test_many_layers_mount(world: World) -> None:
    """127 layers, docker's limit, and a few more."""
    layers = [world.layer(member(f"f{number}"), member("top", str(number).encode())) for number in range(130)]
    found = world.shown(world.keys(*layers), "c1")

    assert len(found) == 131
    assert found["top"][5] == b"129"


def test_usage_grows_with_what_is_written(world: World, base: tuple[str, ...]) -> None:
    """Bytes on the disk; a snapshot that does not exist takes none."""
    snapshot = world.snapshotter.prepare(base, "c1")
    before = world.snapshotter.usage("c1")
    with world.snapshotter.mounted(snapshot, world.place) as merged, open(f"{merged}/big", "wb") as file:
        file.write(b"x" * 1_000_000)

    assert 1_000_000 <= world.snapshotter.usage("c1") - before < 1_100_000
    assert world.snapshotter.usage("nobody") == 0


def test_changes_are_listed_by_name(world: World) -> None:
    """What was added, changed and deleted, also while it is mounted; what was only looked at is not there."""
    keys = world.keys(
        world.layer(
            folder("kept"), member("kept/same", b"1"), member("kept/edited", b"1"), member("gone", b"1"),
            folder("emptied"), member("emptied/one", b"1"), folder("replaced"), member("replaced/old", b"1"),
            member("replaced/both", b"1"),
        )
    )  # fmt: skip
    world.lease.hold("snapshot", "busy")
    snapshot = world.snapshotter.prepare(keys, "busy")
    assert world.snapshotter.changes(snapshot) == []

    with world.snapshotter.mounted(snapshot, world.place) as top:
        subprocess.run(
            "cat kept/same; echo 22 > kept/edited; rm gone emptied/one; mkdir -p new/deep; echo 1 > new/deep/file;"
            "rm -r replaced; mkdir replaced; echo 33 > replaced/both; ln -s nowhere link",
            shell=True, cwd=top, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        mounted = world.snapshotter.changes(snapshot)
    found = world.snapshotter.changes(snapshot)

    assert mounted == found
    assert {path: kind for kind, path in found} == {
        "/emptied": "C", "/emptied/one": "D", "/gone": "D", "/kept": "C", "/kept/edited": "C", "/link": "A", "/new": "A",
        "/new/deep": "A", "/new/deep/file": "A", "/replaced": "C", "/replaced/both": "C", "/replaced/old": "D",
    }  # fmt: skip
    assert [path for _, path in found] == sorted(path for _, path in found)


def test_removing_leaves_nothing(world: World, base: tuple[str, ...]) -> None:
    """Record and files are gone, also directories that nobody may read; removing twice is fine."""
    snapshot = world.snapshotter.prepare(base, "c1")
    with world.snapshotter.mounted(snapshot, world.place) as merged:
        os.makedirs(f"{merged}/locked/inner")
        os.chmod(f"{merged}/locked", 0)
    world.snapshotter.remove("c1")
    world.snapshotter.remove("c1")

    assert os.listdir(f"{world.root.path}/snapshots") == []
    assert os.listdir(f"{world.root.path}/trash") == []
    with pytest.raises(NotFound):
        world.snapshotter.get("c1")


def test_a_key_is_taken_once(world: World, base: tuple[str, ...]) -> None:
    """A second snapshot of the same owner is refused, and the first one is unharmed."""
    world.snapshotter.prepare(base, "c1")

    with pytest.raises(AlreadyExists):
        world.snapshotter.prepare(base, "c1")
    assert world.snapshotter.get("c1").layers == base


def test_layers_must_be_unpacked(world: World) -> None:
    """A layer that is not here is named, and nothing is left of the attempt."""
    with pytest.raises(NotFound, match="sha256:"):
        world.snapshotter.prepare((Digest.of(b"nowhere"),), "c1")
    assert os.listdir(f"{world.root.path}/snapshots") == []


def test_a_held_snapshot_survives_collection(world: World, base: tuple[str, ...]) -> None:
    """The lease on its owner keeps a snapshot and its layers; afterwards both may go."""
    world.lease.hold("snapshot", "step")
    world.snapshotter.prepare(base, "step")
    collect(world.root)
    assert "etc" in os.listdir(world.snapshotter.get("step").upper) or world.snapshotter.name == "overlay"

    world.lease.close()
    collect(world.root)
    assert os.listdir(f"{world.root.path}/snapshots") == []


def test_sockets_do_not_prevent_a_commit(world: World, base: tuple[str, ...]) -> None:
    """A stopped server's socket is left out."""
    snapshot = world.snapshotter.prepare(base, "c1")
    with world.snapshotter.mounted(snapshot, world.place) as merged:
        os.mknod(f"{merged}/etc/sock", stat.S_IFSOCK | 0o600)
        os.mknod(f"{merged}/top", stat.S_IFSOCK | 0o600)
        with open(f"{merged}/real", "wb"):
            pass
    layer = world.snapshotter.commit(snapshot, mediatype.OCI_LAYER, world.lease)

    found = world.shown((*base, layer.diff_id), "c2")
    assert "real" in found
    assert "etc/sock" not in found
    assert "top" not in found


def test_a_failed_commit_changes_nothing(world: World, base: tuple[str, ...]) -> None:
    """What cannot be packed stays where it is, to be looked at or committed later."""
    snapshot = world.snapshotter.prepare(base, "c1")
    with world.snapshotter.mounted(snapshot, world.place) as merged, open(f"{merged}/.wh.x", "wb"):
        pass
    with pytest.raises(InvalidArgument, match=r"\.wh\.x"):
        world.snapshotter.commit(snapshot, mediatype.OCI_LAYER, world.lease)

    with world.snapshotter.mounted(world.snapshotter.get("c1"), world.place) as merged:
        os.rename(f"{merged}/.wh.x", f"{merged}/fine")
    layer = world.snapshotter.commit(snapshot, mediatype.OCI_LAYER, world.lease)
    assert "fine" in world.shown((*base, layer.diff_id), "c2")


def test_volatile_mounts_can_be_repeated(world: World, base: tuple[str, ...]) -> None:
    """A build step's snapshot is mounted several times, with and without the promise to sync."""
    snapshot = world.snapshotter.prepare(base, "c1")
    for number, volatile in enumerate([True, True, False, True]):
        with world.snapshotter.mounted(snapshot, world.place, volatile=volatile) as merged:
            with open(f"{merged}/f{number}", "wb") as file:
                os.fsync(file)
            assert len([name for name in os.listdir(merged) if name.startswith("f")]) == number + 1


def test_a_failed_mount_leaves_nothing_mounted(world: World, base: tuple[str, ...]) -> None:
    """The place must be there."""
    snapshot = world.snapshotter.prepare(base, "c1")

    with pytest.raises(OSError, match="missing"), world.snapshotter.mounted(snapshot, f"{world.place}/missing"):
        pass


# Overlay only.


def test_a_mounted_overlay_is_not_committed(root: Root, lease: Lease, tmp_path: Path) -> None:
    """Somebody may still write to it."""
    overlay = Overlay(root)
    snapshot = overlay.prepare((), "c1")
    with overlay.mounted(snapshot, str(tmp_path)), pytest.raises(FailedPrecondition, match="mounted"):
        overlay.commit(snapshot, mediatype.OCI_LAYER, lease)


def test_an_overlays_commit_copies_nothing(root: Root, lease: Lease, tmp_path: Path) -> None:
    """The upper directory itself becomes the layer: the same inodes."""
    overlay = Overlay(root)
    snapshot = overlay.prepare((), "c1")
    place = tmp_path / "place"
    place.mkdir()
    with overlay.mounted(snapshot, str(place)) as merged, open(f"{merged}/f", "wb"):
        pass
    inode = os.stat(f"{snapshot.upper}/f").st_ino
    layer = overlay.commit(snapshot, mediatype.OCI_LAYER, lease)

    record = root.state.layers.get(layer.diff_id)
    assert record is not None
    assert os.stat(f"{unpack.tree_path(root, record)}/f").st_ino == inode


def test_the_best_snapshotter_is_chosen(root: Root) -> None:
    """Overlay where it works, found by trying once; a wish is followed; an unknown one is answered with the choice."""
    assert snapshots.choose(root).name == "overlay"
    assert snapshots.choose(root).name == "overlay"
    assert snapshots.choose(root, "native").name == "native"
    assert os.listdir(f"{root.path}/trash") == []
    with pytest.raises(InvalidArgument, match="zfs"):
        snapshots.choose(root, "zfs")
