"""The laws of leases and collection."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.oci import mediatype
from orlop.oci.chain import chain_id
from orlop.oci.digest import Digest
from orlop.store.collect import Collected, collect, discard
from orlop.store.containers import ContainerRecord
from orlop.store.images import ImageRecord, LayerRef
from orlop.store.layers import LayerRecord
from orlop.store.root import Root
from orlop.store.snapshots import SnapshotRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.store.conftest import Spawn


@pytest.fixture
def root(root_dir: Path, run_dir: Path) -> Iterator[Root]:
    with Root.open(str(root_dir), str(run_dir)) as opened:
        yield opened


def put_layer(root: Root, name: str, *, key: str = "", recorded: bool = True) -> str:
    """One unpacked layer with some files; returns its key."""
    with root.lease() as lease:
        short = root.fresh_folder("layers", lease)
        folder = f"{root.path}/layers/{short}"
        os.mkdir(f"{folder}/etc")
        with open(f"{folder}/etc/{name}", "w", encoding="utf-8") as file:
            file.write(name * 5000)
        os.link(f"{folder}/etc/{name}", f"{folder}/hard")
        os.symlink("/etc/passwd", f"{folder}/link")
        diff_id = Digest.of(name.encode())
        record = LayerRecord(
            key=key or diff_id,
            short=short,
            diff_id=diff_id,
            chained=bool(key),
            size=1,
            boot_id=root.boot_id,
            settled=False,
        )
        if recorded:
            root.state.layers.put(record)
    return record.key if recorded else short


def put_image(root: Root, name: str, *, namespace: str = "default", unpack: bool = True) -> ImageRecord:
    layer = root.content.put(f"layer {name}".encode(), mediatype.OCI_LAYER)
    config = root.content.put(f"config {name}".encode(), mediatype.OCI_CONFIG)
    manifest = root.content.put(f"manifest {name}".encode(), mediatype.OCI_MANIFEST)
    record = ImageRecord(
        namespace=namespace,
        manifest=manifest.digest,
        config=config.digest,
        media_type=manifest.media_type,
        platform="linux/amd64",
        created="",
        size=0,
        layers=(
            LayerRef(
                diff_id=Digest.of(name.encode()), digest=layer.digest, size=layer.size, media_type=layer.media_type
            ),
        ),
        config_json={},
    )
    root.state.images.put(record)
    if unpack:
        put_layer(root, name)
    return record


def put_snapshot(root: Root, key: str, layers: tuple[str, ...], owner: str) -> None:
    with root.lease() as lease:
        short = root.fresh_folder("snapshots", lease)
        os.mkdir(f"{root.path}/snapshots/{short}/fs")
        root.state.snapshots.put(SnapshotRecord(key=key, short=short, layers=layers, owner=owner))


def put_container(root: Root, key: str, *, namespace: str = "default") -> None:
    record = ContainerRecord(
        id=key,
        namespace=namespace,
        name=key,
        image="",
        image_name="",
        sandbox="",
        created=0,
        labels={},
        config={},
        state={},
    )
    root.state.containers.add(record)


def space_of(root: Root) -> int:
    """Bytes on disk below the root, without the databases and the index, each file once."""
    seen: dict[int, int] = {}
    for folder, folders, files in os.walk(root.path):
        for name in (*folders, *files):
            about = os.lstat(f"{folder}/{name}")
            if ".db" not in name and not name.startswith("index."):
                seen[about.st_ino] = about.st_blocks * 512
    return sum(seen.values())


def test_nothing_of_an_empty_store_goes(root: Root) -> None:
    """Collecting nothing removes nothing."""
    assert collect(root) == Collected()


def test_what_an_image_needs_stays(root: Root) -> None:
    """Blobs and layers of images of every namespace stay, named or not; when the image goes, they go."""
    one, two = put_image(root, "one"), put_image(root, "two", namespace="k8s")
    root.state.images.tag("default", "a:1", one.manifest)
    assert collect(root) == Collected()
    root.state.images.delete("default", one.manifest)
    gone = collect(root)
    assert set(gone.blobs) == {one.manifest, one.config, one.layers[0].digest}
    assert gone.layers == (one.layers[0].diff_id,)
    assert set(root.content.digests()) == {two.manifest, two.config, two.layers[0].digest}
    assert [layer.diff_id for layer in root.state.layers.all()] == [two.layers[0].diff_id]
    assert len(os.listdir(f"{root.path}/layers")) == 1
    assert os.listdir(f"{root.path}/trash") == []


def test_layers_keyed_by_chain_stay_with_their_image(root: Root) -> None:
    """A layer that needs what is below it is found by its chain id."""
    record = put_image(root, "base")
    upper = record.layers[0].replace(diff_id=Digest.of(b"upper"))
    root.state.images.put(record.replace(layers=(record.layers[0], upper)))
    put_layer(root, "upper", key=chain_id([record.layers[0].diff_id, upper.diff_id]))
    assert collect(root) == Collected()


def test_a_containers_snapshot_keeps_its_layers(root: Root) -> None:
    """While the container is recorded, its snapshot and all layers below stay, image or not; then they go."""
    record = put_image(root, "one")
    put_snapshot(root, "c1", (record.layers[0].diff_id,), "c1")
    put_container(root, "c1", namespace="k8s")
    root.state.images.delete("default", record.manifest)
    gone = collect(root)
    assert gone.layers == gone.snapshots == ()
    assert len(gone.blobs) == 3
    root.state.containers.delete("c1")
    gone = collect(root)
    assert gone.snapshots == ("c1",)
    assert gone.layers == (record.layers[0].diff_id,)
    assert root.state.snapshots.all() == []
    assert os.listdir(f"{root.path}/snapshots") == os.listdir(f"{root.path}/layers") == []


@pytest.mark.parametrize("how", ["lease", "pin"])
def test_what_is_held_or_pinned_stays(root: Root, how: str) -> None:
    """A blob, a layer (by key or folder) and a snapshot (by key, owner or folder) stay while held, no longer."""
    blob = root.content.put(b"blob", "x").digest
    put_layer(root, "layer")
    put_snapshot(root, "s", (Digest.of(b"below"),), "build-7")
    put_layer(root, "below")
    things = [("blob", str(blob)), ("layer", str(Digest.of(b"layer"))), ("snapshot", "s")]
    if how == "pin":
        root.state.pins.put("default", "cache", things)
        assert collect(root) == Collected()
        root.state.pins.drop("default", "cache")
    else:
        short = root.state.layers.all()[0].short
        with root.lease() as lease:
            lease.hold_all(things)
            assert collect(root) == Collected()
        with root.lease() as lease:
            lease.hold_all([("layer", short), ("snapshot", "build-7"), ("blob", str(blob))])
            gone = collect(root)
            assert gone.blobs == gone.snapshots == ()
    gone = collect(root)
    assert gone.bytes > 0
    assert list(root.content.digests()) == []
    assert os.listdir(f"{root.path}/layers") == os.listdir(f"{root.path}/snapshots") == []


def test_an_index_pulled_by_digest_stays(root: Root) -> None:
    """A name with a digest keeps the blob of that digest: it is asked for by it again."""
    record = put_image(root, "one")
    index = root.content.put(b"index", mediatype.OCI_INDEX).digest
    root.state.images.tag("default", f"docker.io/library/x@{index}", record.manifest)
    assert collect(root) == Collected()


def test_all_that_nothing_needs_goes(root: Root) -> None:
    """Orphaned folders and files of every kind are reclaimed to the last byte, and the prediction was exact."""
    before = space_of(root)
    root.content.put(b"orphan", "x")
    put_layer(root, "recorded")
    put_layer(root, "unrecorded", recorded=False)
    put_snapshot(root, "s", (), "nobody")
    os.mkdir(f"{root.path}/snapshots/unrecorded")
    with root.content.begin("key") as ingest:
        ingest.write(b"half" * 10_000)
    os.makedirs(f"{root.path}/trash/killed/deep")
    os.makedirs(f"{root.path}/containers/forgotten")
    os.utime(f"{root.path}/containers/forgotten", (1000, 1000))
    os.mkdir(f"{root.path}/containers/young")
    predicted = collect(root, dry_run=True)
    assert collect(root, dry_run=True) == predicted
    full = space_of(root)
    gone = collect(root)
    assert gone == predicted
    assert gone.bytes == full - space_of(root) > 0
    assert "containers/forgotten" in gone.others
    assert os.listdir(f"{root.path}/containers") == ["young"]
    os.rmdir(f"{root.path}/containers/young")
    assert space_of(root) == before
    assert collect(root) == Collected()


def test_a_dry_run_changes_nothing(root: Root) -> None:
    """Not even what dead processes left."""
    put_image(root, "one", unpack=False)
    root.content.put(b"orphan", "x")
    dead = f"{root.path}/leases/dead"
    with open(dead, "w", encoding="utf-8"):
        pass
    tree = sorted(os.walk(root.path))
    collect(root, dry_run=True)
    assert sorted(os.walk(root.path)) == tree
    collect(root)
    assert not os.path.exists(dead)


def test_recent_downloads_can_be_kept(root: Root) -> None:
    """`keep_partial_seconds` spares what was written to lately; one that is being written to is always spared."""
    with root.content.begin("key") as ingest:
        ingest.write(b"half")
        assert collect(root).ingests == ()
    assert collect(root, keep_partial_seconds=3600).ingests == ()
    path = root.content.ingests()[0].path
    os.utime(path, (time.time() - 7200,) * 2)
    assert len(collect(root, keep_partial_seconds=3600).ingests) == 1
    assert root.content.ingests() == []


def test_volumes_are_never_collected(root: Root) -> None:
    """What is in a volume is somebody's data, with a record or without."""
    os.makedirs(f"{root.path}/volumes/default/v/_data/file")
    collect(root)
    assert os.path.isdir(f"{root.path}/volumes/default/v/_data/file")


def test_a_lease_ends_with_its_process(root: Root, spawn: Spawn) -> None:
    """SIGKILL ends a lease: what only it held goes with the next collection, and so does its file."""
    blob = root.content.put(b"blob", "x").digest
    code = (
        "import sys, time; from orlop.store.root import Root; root = Root.open(sys.argv[1], sys.argv[2]);"
        "lease = root.lease().__enter__(); lease.hold('blob', sys.argv[3]); print('held', flush=True); time.sleep(600)"
    )
    holder = spawn(code, root.path, root.run_path, blob)
    assert holder.stdout
    holder.stdout.readline()
    assert collect(root) == Collected()
    holder.kill()
    holder.communicate()
    assert collect(root).blobs == (blob,)
    assert os.listdir(f"{root.path}/leases") == []


def test_a_lease_refuses_what_it_cannot_mean(root: Root) -> None:
    """Unknown kinds and broken keys are InvalidArgument; an ended lease holds nothing any more."""
    with root.lease() as lease:
        for kind, key in (("image", "x"), ("blob", ""), ("blob", "a b"), ("blob", "a\nblob b")):
            with pytest.raises(InvalidArgument):
                lease.hold(kind, key)
        lease.hold("blob", "x")
        lease.hold("blob", "x")
    with pytest.raises(FailedPrecondition):
        lease.hold("blob", "y")


@pytest.mark.root
def test_hostile_trees_are_removed(root: Root, tmp_path: Path) -> None:
    """Device nodes, links out, unreadable and very deep folders go; what links point at stays."""
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").touch()
    with root.lease() as lease:
        short = root.fresh_folder("layers", lease)
    folder = f"{root.path}/layers/{short}"
    os.mknod(f"{folder}/.wh", stat.S_IFCHR, os.makedev(0, 0))
    os.mkfifo(f"{folder}/pipe")
    os.symlink(keep, f"{folder}/out")
    os.mkdir(f"{folder}/closed", 0)
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep-deep-deep", dir_fd=descriptor)
        inner = os.open("deep-deep-deep", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    try:
        predicted = collect(root, dry_run=True).bytes
        assert predicted >= 3000 * 4096
        assert collect(root).bytes == predicted
    finally:
        subprocess.run(["rm", "-rf", root.path + "/layers/" + short], check=True)  # pytest could not
    assert os.listdir(f"{root.path}/layers") == os.listdir(f"{root.path}/trash") == []
    assert os.listdir(keep) == ["file"]


def test_discard_removes_a_tree_or_a_file(root: Root, tmp_path: Path) -> None:
    """Gone at once, with all that is in it; what is not there is no error."""
    folder = f"{root.path}/volumes/x"
    os.makedirs(f"{folder}/y")
    with open(f"{folder}/y/z", "wb") as file:
        file.write(b"z" * 10_000)
    discard(root, folder)
    assert not os.path.exists(folder)
    assert os.listdir(f"{root.path}/trash") == []
    discard(root, folder)
    outside = tmp_path / "elsewhere"
    outside.touch()
    discard(root, str(outside))
    assert not outside.exists()


WORK = """
import os, random, sys
from orlop.errors import NotFound
from orlop.oci.digest import Digest
from orlop.store.images import ImageRecord, LayerRef
from orlop.store.layers import LayerRecord
from orlop.store.root import Root

rng = random.Random(sys.argv[3])
with Root.open(sys.argv[1], sys.argv[2]) as root:
    for turn in range(int(sys.argv[4])):
        name = f"image{rng.randrange(4)}"
        with root.lease() as lease:
            blobs = [f"{kind} {name}".encode() * 50 for kind in ("manifest", "config", "layer")]
            digests = [Digest.of(blob) for blob in blobs]
            diff_id = Digest.of(name.encode())
            lease.hold_all([("layer", str(diff_id)), *(("blob", str(digest)) for digest in digests)])
            for blob in blobs:
                root.content.put(blob, "x")
            record = root.state.layers.get(diff_id)
            if record is None:
                short = root.fresh_folder("layers", lease)
                with open(f"{root.path}/layers/{short}/file", "w") as file:
                    file.write(name)
                record = root.state.layers.add(LayerRecord(key=diff_id, short=short, diff_id=diff_id, chained=False,
                                                           size=1, boot_id=root.boot_id, settled=False))
            for digest, blob in zip(digests, blobs):
                assert root.content.read(digest) == blob
            assert open(f"{root.path}/layers/{record.short}/file").read() == name
            layer = LayerRef(diff_id=diff_id, digest=digests[2], size=1, media_type="x")
            image = ImageRecord(namespace="default", manifest=digests[0], config=digests[1], media_type="x",
                                platform="", created="", size=0, layers=(layer,), config_json={})
            with root.state.writing():
                root.state.images.put(image)
                root.state.images.tag("default", name, digests[0])
        if rng.random() < 0.5:
            root.state.images.delete("default", digests[0])
print("done")
"""

COLLECT = """
import sys
from orlop.store.collect import collect
from orlop.store.root import Root
with Root.open(sys.argv[1], sys.argv[2]) as root:
    for turn in range(int(sys.argv[4])):
        collect(root)
print("done")
"""


def check_whole(root: Root) -> None:
    """Every image has all its blobs and, if its layer is recorded, that layer's tree."""
    for record in root.state.images.all("default"):
        for digest in (record.manifest, record.config, record.layers[0].digest):
            root.content.verify(digest)
    for layer in root.state.layers.all():
        assert os.path.isdir(f"{root.path}/layers/{layer.short}")


HALF_COMMITTED = """
import os, sys
from orlop.oci.digest import Digest
from orlop.store.collect import collect
from orlop.store.layers import LayerRecord
from orlop.store.root import Root

root = Root.open(sys.argv[1], sys.argv[2])
assert root.state.layers.all() == []  # from now on the log's index is shared
shared = f"{root.path}/state.db-shm"
if not os.fork():
    with open(shared, "rb") as file:
        before = file.read()
    with root.lease() as lease:
        short = root.fresh_folder("layers", lease)
        root.state.layers.add(LayerRecord(key=Digest.of(b"x"), short=short, diff_id=Digest.of(b"x"), chained=False, size=1,
                                          boot_id=root.boot_id, settled=False))
        with open(shared, "r+b") as file:  # as if killed when the log was written, and its index not yet
            file.write(before)
        os._exit(0)
os.wait()
assert root.state.layers.all() == []
collect(root)
assert os.listdir(f"{root.path}/layers") == []
os._exit(0)
"""


def test_what_was_half_committed_does_not_come_back(root: Root, spawn: Spawn) -> None:
    """A record whose writer was killed before it was announced is not there for a collection; nor ever after."""
    root.disconnect()
    worker = spawn(HALF_COMMITTED, root.path, root.run_path)
    assert worker.communicate(timeout=120)[1] == ""
    assert worker.returncode == 0
    check_whole(root)


def test_collection_beside_work_loses_nothing(root: Root, spawn: Spawn) -> None:
    """Three processes pull, name and delete four images while two collect: no live content is ever missing."""
    workers = [spawn(WORK, root.path, root.run_path, seed, 120) for seed in range(3)]
    workers += [spawn(COLLECT, root.path, root.run_path, seed, 200) for seed in range(2)]
    outputs = [worker.communicate(timeout=240) for worker in workers]
    assert [output for output, _ in outputs] == ["done\n"] * 5, outputs
    check_whole(root)
    for record in root.state.images.all("default"):
        root.state.images.delete("default", record.manifest)
    collect(root)
    assert list(root.content.digests()) == []
    assert root.state.layers.all() == []
    for room in ("layers", "trash", "leases", "content/ingest"):
        assert os.listdir(f"{root.path}/{room}") == []


def test_killed_at_any_moment_the_store_stays_whole(root: Root, spawn: Spawn) -> None:
    """Workers and collectors killed at random moments leave a store that is whole and can be emptied."""
    rng = random.Random(7)
    for _ in range(8):
        workers = [spawn(program, root.path, root.run_path, rng.randrange(1000), 10**9) for program in (WORK, COLLECT)]
        with pytest.raises(subprocess.TimeoutExpired):
            workers[0].wait(timeout=rng.random() * 0.5 + 0.1)
        for worker in workers:
            worker.kill()
            _, errors = worker.communicate()
            assert (errors, worker.returncode) == ("", -signal.SIGKILL)
        check_whole(root)
    for record in root.state.images.all("default"):
        root.state.images.delete("default", record.manifest)
    predicted = collect(root, dry_run=True)
    assert collect(root).bytes == predicted.bytes
    for room in ("layers", "trash", "leases", "content/ingest", "content/blobs/sha256"):
        assert os.listdir(f"{root.path}/{room}") == []
    assert not [name for name in os.listdir(f"{root.path}/content") if name.endswith(".new")]


def test_a_snapshot_begun_during_a_collection_stays(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds a snapshot and makes it while a collection looks at what is there finds it whole afterwards."""
    digests = root.content.digests
    folder = f"{root.path}/snapshots/new"

    def meanwhile() -> Iterator[Digest]:
        if not os.path.isdir(folder):
            root.state.snapshots.add(SnapshotRecord(key="one", short="new", layers=(), owner="one"))
            os.mkdir(folder)
        return digests()

    with root.lease() as lease:
        lease.hold("snapshot", "one")
        monkeypatch.setattr(root.content, "digests", meanwhile)  # what a collection looks at after the records
        collect(root)
        assert os.path.isdir(folder)
        assert root.state.snapshots.get("one") is not None

    collect(root)
    assert not os.path.exists(folder)
    assert root.state.snapshots.get("one") is None
