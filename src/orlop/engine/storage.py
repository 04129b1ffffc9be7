"""Between images and trees: image records out of manifests, layers unpacked when they are first needed."""

from __future__ import annotations

from orlop.errors import ContentMismatch, DataLoss, InvalidArgument
from orlop.events import Event
from orlop.store.images import ImageRecord, LayerRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.engine.settings import Settings
    from orlop.events import Report
    from orlop.layers.snapshots import Snapshotter
    from orlop.oci.descriptor import Descriptor
    from orlop.oci.digest import Digest
    from orlop.oci.image import ImageConfig
    from orlop.oci.manifest import Manifest
    from orlop.store.leases import Lease
    from orlop.store.root import Root


def choose_snapshotter(root: Root, settings: Settings) -> Snapshotter:
    """The snapshotter that the settings name, or the best that works on this root (tried once per root, remembered)."""
    from orlop.layers import snapshots

    return snapshots.choose(root, settings.snapshotter)


def image_record(namespace: str, manifest: Manifest, config: ImageConfig) -> ImageRecord:
    """A record for an image; its size is filled in when its layers are unpacked."""
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidArgument(
            f"image {manifest.descriptor.digest} has {len(manifest.layers)} layers but {len(config.diff_ids)} diffIDs",
            hint="its config does not belong to its manifest: build or push it again",
        )
    return ImageRecord(
        namespace=namespace,
        manifest=manifest.descriptor.digest,
        config=manifest.config.digest,
        media_type=manifest.media_type,
        platform=str(config.platform),
        created=config.created or "",
        size=0,
        layers=tuple(
            LayerRef(diff_id=diff_id, digest=layer.digest, size=layer.size, media_type=layer.media_type)
            for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        ),
        config_json=config.to_json(),
    )


def unpack_image(
    engine: Engine,
    record: ImageRecord,
    lease: Lease,
    report: Report,
    opener: Callable[[Descriptor, int], Any] | None = None,
) -> tuple[str, ...]:
    """Make sure that every layer is unpacked; returns their keys, lowest first, all held by the lease.

    `opener(descriptor, offset)` brings the bytes of a blob that is not here; without it such a blob is DataLoss.
    """
    from orlop.layers import unpack

    if opener is None:  # else blobs that are missing here are brought too, though their trees may be there
        ready = unpack.ready(engine.root, record.layers, lease)
        if ready is not None:
            return ready

    def missing(layer: Descriptor, _: int) -> Any:
        raise DataLoss(
            f"layer {layer.digest} of image {record.config} is missing here", hint="pull or build the image again"
        )

    def progress(action: str, digest: str, current: int, total: int) -> None:
        word = {"progress": "layer", "exists": "exists", "unpacked": "unpacked"}[action]
        report(Event(action=f"pull.{word}", subject=digest, current=current, total=total))

    try:
        return unpack.unpack(engine.root, record.layers, opener or missing, lease, progress=progress)
    except (DataLoss, InvalidArgument):
        check_blobs(engine, [layer.digest for layer in record.layers])
        raise


def check_blobs(engine: Engine, digests: Iterable[Digest]) -> None:
    """Read blobs again. DataLoss names those that the disk has changed, which are removed so that they can be replaced.

    For when something went wrong with them: it costs as much as reading them all.
    """
    content = engine.root.content
    damaged = []
    for digest in digests:
        if digest not in content:
            continue
        try:
            content.verify(digest)
        except ContentMismatch:
            content.delete(digest)
            damaged.append(digest)
    if damaged:
        raise DataLoss(
            f"{' and '.join(damaged)} in the store: the disk has changed the content, so it was removed",
            hint="orlop pull, load or build the image again to bring it back; then look after that disk",
        )
