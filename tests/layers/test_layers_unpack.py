"""Layers brought and unpacked: in one pass, verified, resumed, and nothing visible that is not whole."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import threading
from typing import TYPE_CHECKING

import pytest
import zstandard
from layerkit import archive, cut, folder, member, seen

from orlop.errors import Cancelled, ContentMismatch, DataLoss, ResourceExhausted
from orlop.layers import unpack
from orlop.layers.apply import Limits
from orlop.oci import mediatype
from orlop.oci.chain import chain_ids
from orlop.oci.digest import Digest
from orlop.store.collect import collect
from orlop.store.images import LayerRef

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable, Iterable, Iterator

    from orlop.oci.descriptor import Descriptor
    from orlop.store.leases import Lease
    from orlop.store.root import Root


class Source:
    """A registry in memory: which blobs were asked for, and where from."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, int]] = []
        self.cut_at = 0  # the connection breaks after so many bytes, once

    def layer(self, *members: tuple[tarfile.TarInfo, bytes], kind: str = "gzip") -> LayerRef:
        packed = archive(*members)
        pack: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress, "none": bytes}
        blob = pack[kind](packed)
        media_type = {"gzip": mediatype.OCI_LAYER_GZIP, "zstd": mediatype.OCI_LAYER_ZSTD, "none": mediatype.OCI_LAYER}
        digest = Digest.of(blob)
        self.blobs[digest] = blob
        return LayerRef(diff_id=Digest.of(packed), digest=digest, size=len(blob), media_type=media_type[kind])

    @contextlib.contextmanager
    def open(self, wanted: Descriptor, offset: int) -> Iterator[Iterable[bytes]]:
        self.asked.append((wanted.digest, offset))
        yield self._chunks(self.blobs[wanted.digest][offset:])

    def _chunks(self, data: bytes) -> Iterator[bytes]:
        sent = 0
        for chunk in cut(data, 100):
            if self.cut_at and sent >= self.cut_at:
                self.cut_at = 0
                raise ConnectionError("the line was cut")
            sent += len(chunk)
            yield chunk


@pytest.fixture
def source() -> Source:
    """An empty registry."""
    return Source()


def _noise(name: str, size: int = 20_000) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


def _tree(root: Root, key: str) -> dict[str, tuple[object, ...]]:
    record = root.state.layers.get(key)
    assert record is not None
    return seen(unpack.tree_path(root, record))


def _nothing_left(root: Root) -> bool:
    return not os.listdir(f"{root.path}/layers") and not root.state.layers.all()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
def test_layers_arrive_packed_and_unpacked(root: Root, lease: Lease, source: Source, kind: str) -> None:
    """Afterwards every blob is in the store, every tree is recorded under its diffID, and each was fetched once."""
    layers = [
        source.layer(folder("a"), member("a/f", _noise(f"{number}")), member(f"own-{number}"), kind=kind)
        for number in range(5)
    ]

    keys = unpack.unpack(root, layers, source.open, lease)

    assert keys == tuple(layer.diff_id for layer in layers)
    assert sorted(source.asked) == sorted((layer.digest, 0) for layer in layers)
    for number, layer in enumerate(layers):
        assert root.content.size(layer.digest) == layer.size
        assert sorted(_tree(root, layer.diff_id)) == ["a", "a/f", f"own-{number}"]
        record = root.state.layers.get(layer.diff_id)
        assert record is not None
        assert (record.size, record.chained, record.settled) == (20_000, False, False)


def test_what_is_there_is_not_fetched_again(root: Root, lease: Lease, source: Source) -> None:
    """The second time nothing is asked for; a tree that is gone is made again from the kept blob."""
    layers = [source.layer(member("f", b"x")), source.layer(folder("d"), member("d/g"))]
    keys = unpack.unpack(root, layers, source.open, lease)
    source.asked.clear()

    assert unpack.ready(root, layers, lease) == keys
    assert unpack.unpack(root, layers, source.open, lease) == keys
    root.state.layers.delete(keys[0])
    assert unpack.ready(root, layers, lease) is None
    assert unpack.unpack(root, layers, source.open, lease) == keys
    assert source.asked == []


def test_a_layer_twice_in_an_image_is_brought_once(root: Root, lease: Lease, source: Source) -> None:
    """Images with several empty layers are common."""
    empty = source.layer()
    layers = [source.layer(member("f")), empty, source.layer(member("g")), empty]

    keys = unpack.unpack(root, layers, source.open, lease)

    assert keys[1] == keys[3] == empty.diff_id
    assert len(source.asked) == 3


def test_a_cut_transfer_is_resumed(root: Root, lease: Lease, source: Source) -> None:
    """What had come is kept, the rest is asked for from there, and the layer is whole."""
    layer = source.layer(member("f", _noise("f")))
    source.cut_at = 5000
    with pytest.raises(ConnectionError, match="cut"):
        unpack.unpack(root, [layer], source.open, lease)
    assert _nothing_left(root)

    unpack.unpack(root, [layer], source.open, lease)

    assert source.asked[-1] == (layer.digest, 5000)
    assert _tree(root, layer.diff_id)["f"][5] == _noise("f")


@pytest.mark.parametrize("lie", ["blob", "longer", "diff_id", "garbage"])
def test_lies_leave_no_trace(root: Root, lease: Lease, source: Source, lie: str) -> None:
    """Content that is not what digest, size or diffID promise is refused; neither blob nor tree becomes visible."""
    honest = source.layer(member("f", _noise("f")))
    layer = honest
    blob = source.blobs[honest.digest]
    if lie == "blob":
        source.blobs[honest.digest] = gzip.compress(archive(member("f", _noise("other"))))[: len(blob)]
    elif lie == "longer":
        source.blobs[honest.digest] = blob + gzip.compress(b"more")
    elif lie == "garbage":
        source.blobs[honest.digest] = _noise("no archive", len(blob))
    else:
        layer = honest.replace(diff_id=Digest.of(b"something else"))

    with pytest.raises(DataLoss):
        unpack.unpack(root, [layer, source.layer(member("g"))], source.open, lease)

    assert root.state.layers.get(layer.diff_id) is None
    assert lie == "diff_id" or honest.digest not in root.content
    assert len(os.listdir(f"{root.path}/layers")) == len(root.state.layers.all())


def test_the_first_error_stops_everything(root: Root, lease: Lease, source: Source) -> None:
    """One bad layer ends the others' transfers; they can be resumed; no thread is left."""
    layers = [source.layer(member(f"f{number}", _noise(str(number), 3_000_000))) for number in range(3)]
    bad = source.layer(member("bad"))
    source.blobs[bad.digest] = b"\0" * bad.size

    with pytest.raises((ContentMismatch, DataLoss)):
        unpack.unpack(root, [bad, *layers], source.open, lease)

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("orlop-")]
    assert len(os.listdir(f"{root.path}/layers")) == len(root.state.layers.all())


def test_a_caller_can_cancel(root: Root, lease: Lease, source: Source) -> None:
    """What `progress` raises is raised, and nothing half-made is visible."""
    layer = source.layer(member("f", _noise("f", 500_000)))

    def progress(action: str, digest: str, current: int, total: int) -> None:
        assert (digest, total) == (layer.digest, layer.size)
        if action == "progress" and current > 10_000:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        unpack.unpack(root, [layer], source.open, lease, progress=progress)
    assert _nothing_left(root)


def test_progress_is_told(root: Root, lease: Lease, source: Source) -> None:
    """Bytes grow to the blob's size, then it is unpacked."""
    layer = source.layer(member("f", _noise("f")))
    told: list[tuple[str, int]] = []
    unpack.unpack(
        root, [layer], source.open, lease, progress=lambda action, _digest, now, _all: told.append((action, now))
    )

    amounts = [now for action, now in told if action == "progress"]
    assert amounts == sorted(amounts)
    assert amounts[-1] == layer.size
    assert told[-1] == ("unpacked", layer.size)


def test_bombs_are_refused(root: Root, lease: Lease, source: Source) -> None:
    """A layer larger than allowed ends the unpacking; nothing is kept of its tree."""
    layer = source.layer(member("f", bytes(5_000_000)))

    with pytest.raises(ResourceExhausted):
        unpack.unpack(root, [layer], source.open, lease, limits=Limits(max_bytes=1_000_000))
    assert _nothing_left(root)


def test_layers_that_lean_on_others_are_kept_by_chain(root: Root, lease: Lease, source: Source) -> None:
    """A tree that took parents or hard links from below belongs to its stack, and is not used in another one."""
    base = source.layer(folder("usr", 0o711), member("usr/tool", b"tool"))
    leaning = source.layer(member("usr/alias", kind="link", link="usr/tool"), member("usr/x"))
    stack = [base, leaning]

    keys = unpack.unpack(root, stack, source.open, lease)

    assert keys == (base.diff_id, chain_ids([base.diff_id, leaning.diff_id])[1])
    tree = _tree(root, keys[1])
    assert sorted(tree) == ["usr", "usr/alias", "usr/tool", "usr/x"]
    assert tree["usr"][1] == 0o711
    record = root.state.layers.get(keys[1])
    assert record is not None
    assert record.chained
    assert unpack.ready(root, stack, lease) == keys

    other = source.layer(folder("usr", 0o700), member("usr/tool", b"other tool"))
    others = unpack.unpack(root, [other, leaning], source.open, lease)
    assert others[1] != keys[1]
    assert _tree(root, others[1])["usr/alias"][5] == b"other tool"


def test_a_lowest_layer_needs_no_directory_entries(root: Root, lease: Lease, source: Source) -> None:
    """Nothing is below it: parents without entries are plain, and the layer is shared by its diffID."""
    layer = source.layer(member("app/bin/tool", b"tool"))

    assert unpack.unpack(root, [layer], source.open, lease) == (layer.diff_id,)
    assert _tree(root, layer.diff_id)["app"][1] == 0o755


def test_trees_of_an_earlier_boot_are_made_again(root: Root, lease: Lease, source: Source) -> None:
    """An unsettled tree is only trusted in the boot that wrote it; a settled one always."""
    layer = source.layer(member("f", b"x"))
    unpack.unpack(root, [layer], source.open, lease)
    record = root.state.layers.get(layer.diff_id)
    assert record is not None
    root.state.layers.put(record.replace(boot_id="an earlier boot"))
    with open(f"{unpack.tree_path(root, record)}/f", "wb"):
        pass  # what a crash may leave
    assert unpack.ready(root, [layer], lease) is None

    unpack.unpack(root, [layer], source.open, lease)
    assert _tree(root, layer.diff_id)["f"][5] == b"x"

    assert unpack.settle(root) == 1
    assert unpack.settle(root) == 0
    record = root.state.layers.get(layer.diff_id)
    assert record is not None
    root.state.layers.put(record.replace(boot_id="an earlier boot"))
    assert unpack.ready(root, [layer], lease) == (layer.diff_id,)


def test_the_lease_holds_what_was_brought(root: Root, source: Source) -> None:
    """Until the lease ends a collection takes nothing; then, with no image to need it, everything."""
    with root.lease() as lease:
        layer = source.layer(member("f", b"x"))
        unpack.unpack(root, [layer], source.open, lease)
        collect(root)
        assert unpack.ready(root, [layer], lease) == (layer.diff_id,)
        assert layer.digest in root.content

    collect(root)
    assert _nothing_left(root)
    assert layer.digest not in root.content


def test_two_at_once_do_the_work_once(root: Root, source: Source) -> None:
    """Two pulls of one image side by side: both succeed, each blob is fetched once."""
    layers = [source.layer(member("f", _noise(str(number), 200_000))) for number in range(3)]
    results: list[tuple[str, ...]] = []

    def pull() -> None:
        with root.lease() as lease:
            results.append(unpack.unpack(root, layers, source.open, lease))

    threads = [threading.Thread(target=pull) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert results == [tuple(layer.diff_id for layer in layers)] * 2
    assert len(source.asked) == 3
    assert len(os.listdir(f"{root.path}/layers")) == 3
