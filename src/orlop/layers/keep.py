"""What a snapshot's changes become: a blob in the content store, made in one pass."""

from __future__ import annotations

from orlop.layers import compress
from orlop.layers.streams import Aside
from orlop.oci import mediatype
from orlop.store.images import LayerRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.layers.packing import Diffed
    from orlop.layers.tarentry import Buffer
    from orlop.store.leases import Lease
    from orlop.store.root import Root


def ingest_diff(
    root: Root, pack: Callable[[Callable[[Buffer], object]], Diffed], media_type: str, lease: Lease
) -> tuple[LayerRef, Diffed]:
    """Run `pack(write)` and keep the tar it writes, compressed as `media_type` says. The blob is held by the lease.

    The tree is read and hashed in this thread, while another compresses, hashes and writes the blob.
    """
    with root.content.begin(f"commit-{lease.id}-{id(pack)}", resume=False) as ingest:
        packer = compress.writer(ingest.write, mediatype.compression_of(media_type))
        with Aside(packer.write, name="compress") as beside:
            diffed = pack(beside.put)
            beside.finish()
        packer.close()
        lease.hold_all([("blob", ingest.digest), ("layer", diffed.diff_id)])
        digest, size = ingest.commit(None)
    return LayerRef(diff_id=diffed.diff_id, digest=digest, size=size, media_type=media_type), diffed
