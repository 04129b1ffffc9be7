"""Layers brought and unpacked, side by side, each in one flow: source -> verify and keep -> expand -> hash and apply.

Nothing is read twice and no blob is whole in memory. A layer's tree becomes known (gets its record) only when its blob
was verified and its diffID is what the image says; whatever stops a flow before leaves at most a folder without a
record, which the next collection removes.
"""

from __future__ import annotations

import os

from orlop.errors import ContentMismatch, DataLoss
from orlop.oci.chain import chain_ids
from orlop.store.layers import LayerRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import BinaryIO, TypeAlias

    from orlop.layers.apply import Applied, Limits
    from orlop.layers.parallel import Stop
    from orlop.oci.descriptor import Descriptor
    from orlop.oci.digest import Digest
    from orlop.store.content import Ingest
    from orlop.store.images import LayerRef
    from orlop.store.leases import Lease
    from orlop.store.root import Root

    # Opens a blob that is not here, from an offset.
    Opener: TypeAlias = Callable[[Descriptor, int], AbstractContextManager[Iterable[bytes]]]
    # What happens to a blob: ("progress" | "exists" | "unpacked", digest, bytes so far, bytes in all).
    Progress: TypeAlias = Callable[[str, str, int, int], object]

_SIDE_BY_SIDE = 3  # layers at once: enough to keep a link and two cores busy, without a crowd of threads
_CHUNK = 1 << 20


def tree_path(root: Root, record: LayerRecord) -> str:
    """Where a layer's tree lies."""
    return f"{root.path}/layers/{record.short}"


def ready(root: Root, layers: Sequence[LayerRef], lease: Lease) -> tuple[str, ...] | None:
    """The keys of an image's layers, lowest first, held by the lease; None when one of them has yet to be unpacked."""
    diff_ids = [layer.diff_id for layer in layers]
    chains = chain_ids(diff_ids)
    lease.hold_all([("layer", key) for key in (*diff_ids, *chains)])
    keys = []
    for diff_id, chain in zip(diff_ids, chains, strict=True):
        record = _known(root, diff_id, chain)
        if record is None:
            return None
        keys.append(record.key)
    return tuple(keys)


def _known(root: Root, diff_id: str, chain: str) -> LayerRecord | None:
    """A usable tree of the layer: one that stands on its own, or one made for this place in a stack."""
    for key in (diff_id, chain) if diff_id != chain else (diff_id,):
        record = root.state.layers.get(key)
        if record is None or not record.usable(root.boot_id):
            continue
        if os.path.isdir(tree_path(root, record)):
            return record
        root.state.layers.delete(key)  # somebody has removed the folder by hand: it is made again
    return None


def unpack(
    root: Root,
    layers: Sequence[LayerRef],
    opener: Opener,
    lease: Lease,
    *,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> tuple[str, ...]:
    """Make sure that all layers (lowest first) are here, packed and unpacked; returns their keys, held by the lease.

    Blobs that are not in the content store come from `opener(descriptor, offset)`, and are kept; interrupted ones are
    resumed. `progress` is called from several threads, one call at a time; what it raises stops everything. Raises what
    went wrong first: DataLoss for content that is not what was promised, ResourceExhausted for bombs, the opener's own.
    """
    from orlop.layers.apply import Limits as Default  # threads and archives: only for those who unpack
    from orlop.layers.parallel import run  # the same

    keys = ready(root, layers, lease)
    lease.hold_all([("blob", layer.digest) for layer in layers])
    absent = {layer.digest for layer in layers if layer.digest not in root.content}
    if keys is not None and not absent:
        return keys
    job = _Job(root, opener, lease, progress, limits or Default())
    chains = chain_ids(layer.diff_id for layer in layers)
    tasks: dict[str, Callable[[Stop], None]] = {}
    for at, (layer, chain) in enumerate(zip(layers, chains, strict=True)):
        if layer.digest in absent or _known(root, layer.diff_id, chain) is None:
            # An image may have a layer twice (the empty one): it is brought once.
            tasks.setdefault(layer.digest, job.task(layer, chain, lowest=at == 0))
    run(list(tasks.values()), width=_SIDE_BY_SIDE)
    return _stacked(job, layers, chains)


def _stacked(job: _Job, layers: Sequence[LayerRef], chains: Sequence[Digest]) -> tuple[str, ...]:
    """The layers' keys; those that lean on what is below are unpacked again here, now that it is known."""
    keys: list[str] = []
    below: list[str] = []  # trees, uppermost first
    for layer, chain in zip(layers, chains, strict=True):
        record = _known(job.root, layer.diff_id, chain) or job.again(layer, chain, below)
        keys.append(record.key)
        below.insert(0, tree_path(job.root, record))
    return tuple(keys)


class _Job:
    """What all flows of one unpacking share."""

    def __init__(self, root: Root, opener: Opener, lease: Lease, progress: Progress | None, limits: Limits) -> None:
        from threading import Lock  # only for those who unpack

        from orlop.layers.whiteouts import needs_userxattr  # the same

        self.root = root
        self._opener = opener
        self._lease = lease
        self._progress = progress
        self._telling = Lock()
        self._limits = limits
        self._userxattr = needs_userxattr()

    def tell(self, action: str, layer: LayerRef, current: int) -> None:
        """Report progress, one thread at a time."""
        if self._progress is not None:
            with self._telling:
                self._progress(action, layer.digest, current, layer.size)

    def task(self, layer: LayerRef, chain: str, *, lowest: bool) -> Callable[[Stop], None]:
        """One layer's flow, as a task."""

        def task(stop: Stop) -> None:
            self._bring(layer, chain, stop, lowest=lowest)

        return task

    def _bring(self, layer: LayerRef, chain: str, stop: Stop, *, lowest: bool) -> None:
        """Afterwards the blob is kept, and the tree known unless the layer leans on lower ones."""
        content = self.root.content
        # Two processes that pull the same image do the work once.
        with self.root.lock(f"layer-{layer.diff_id.encoded}"):
            if layer.digest not in content:
                with content.begin(layer.digest, algorithm=layer.digest.algorithm) as ingest:
                    if layer.digest not in content and self._fetch(layer, chain, ingest, stop, lowest=lowest):
                        return
            if _known(self.root, layer.diff_id, chain) is not None:
                self.tell("exists", layer, layer.size)
                return
            with content.open(layer.digest) as blob:
                self._unpack(layer, _pieces(blob, stop), lowest=lowest)

    def _fetch(self, layer: LayerRef, chain: str, ingest: Ingest, stop: Stop, *, lowest: bool) -> bool:
        """Bring the blob; whether that also took care of the tree."""
        arriving = self._arriving(layer, ingest, stop)
        if ingest.offset or _known(self.root, layer.diff_id, chain) is not None:
            # The first part of a resumed blob has gone by already: it is read back when all of it is here.
            for _ in arriving:
                pass
            return False
        self._unpack(layer, arriving, lowest=lowest)
        return True

    def _arriving(self, layer: LayerRef, ingest: Ingest, stop: Stop) -> Iterator[bytes]:
        """The blob as it comes in and is kept. The end is only reached when it was verified and is in the store."""
        from orlop.oci.descriptor import Descriptor  # who has all layers needs none

        wanted = Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)
        with self._opener(wanted, ingest.offset) as chunks:
            for chunk in chunks:
                stop.check()
                ingest.write(chunk)
                if ingest.offset > layer.size:
                    raise ContentMismatch(wanted=f"{layer.digest} ({layer.size} bytes)", got="longer")
                self.tell("progress", layer, ingest.offset)
                yield chunk
        ingest.commit(wanted)

    def _unpack(self, layer: LayerRef, chunks: Iterable[bytes], *, lowest: bool) -> None:
        """Make the layer's own tree, unless it turns out to lean on lower ones."""
        try:
            self._tree(layer, chunks, key=layer.diff_id, below=() if lowest else None)
        except DataLoss as error:
            if isinstance(error, ContentMismatch) or layer.digest in error.message:
                raise  # it says which content
            raise DataLoss(f"layer {layer.digest}: {error.message}", hint=error.hint) from error
        self.tell("unpacked", layer, layer.size)

    def again(self, layer: LayerRef, chain: str, below: Sequence[str]) -> LayerRecord:
        """The tree of a layer that leans on lower ones, for this stack."""
        from orlop.layers.parallel import Stop as Never  # nothing runs beside

        with self.root.content.open(layer.digest) as blob:
            record = self._tree(layer, _pieces(blob, Never()), key=chain, below=below)
        if record is None:
            raise DataLoss(f"layer {layer.diff_id} does not stand on the layers below it")
        return record

    def _record(self, layer: LayerRef, key: str, short: str, applied: Applied) -> LayerRecord:
        if applied.diff_id != layer.diff_id:
            raise ContentMismatch(wanted=f"a layer with diffID {layer.diff_id}", got=applied.diff_id)
        return recorded(self.root, key=key, short=short, diff_id=layer.diff_id, size=applied.size)

    def _tree(
        self, layer: LayerRef, chunks: Iterable[bytes], *, key: str, below: Sequence[str] | None
    ) -> LayerRecord | None:
        """Unpack into a new folder and record it; None, and no folder, when lower layers are needed and not known."""
        from orlop.layers.apply import apply  # as above
        from orlop.layers.compress import plain
        from orlop.layers.streams import ReadAhead
        from orlop.store.collect import discard

        short = self.root.fresh_folder("layers", self._lease)
        path = f"{self.root.path}/layers/{short}"
        try:
            with (
                ReadAhead(chunks, name="fetch") as fetched,
                ReadAhead(plain(fetched, max_ratio=self._limits.max_ratio), name="expand") as expanded,
            ):
                applied = apply(
                    expanded,
                    path,
                    below=below,
                    limits=self._limits,
                    userxattr=self._userxattr,
                    algorithm=layer.diff_id.algorithm,
                )
            record = None if applied.needs_below else self._record(layer, key, short, applied)
        except BaseException:
            discard(self.root, path)
            raise
        if record is None or record.short != short:
            discard(self.root, path)
        return record


def recorded(root: Root, *, key: str, short: str, diff_id: Digest, size: int) -> LayerRecord:
    """Make the tree in folder `short` known as layer `key`; the record that counts, which may be another's."""
    return root.state.layers.add(
        LayerRecord(
            key=key,
            short=short,
            diff_id=diff_id,
            chained=key != diff_id,
            size=size,
            boot_id=root.boot_id,
            settled=False,
        )
    )


def _pieces(blob: BinaryIO, stop: Stop) -> Iterator[bytes]:
    while piece := blob.read(_CHUNK):
        stop.check()
        yield piece


def settle(root: Root) -> int:
    """Bring the trees that this boot has unpacked to the disk and note that; returns how many.

    Until then a crash of the machine makes them be unpacked again, which is all that it costs.
    """
    from orlop.linux.files import sync_fs

    keys = [record.key for record in root.state.layers.all() if not record.settled and record.boot_id == root.boot_id]
    if not keys:
        return 0
    fd = os.open(f"{root.path}/layers", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_fs(fd)
    finally:
        os.close(fd)
    root.state.layers.settle(keys)
    return len(keys)
