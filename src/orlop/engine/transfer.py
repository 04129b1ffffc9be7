"""Images to and from registries: each byte of a pull flows once, and nothing is named before it is whole."""

from __future__ import annotations

from orlop.engine import journal
from orlop.engine.registries import client as registry_client
from orlop.engine.storage import check_blobs, image_record, unpack_image
from orlop.errors import DataLoss, InvalidArgument, NotFound
from orlop.events import Event
from orlop.oci import mediatype
from orlop.oci.descriptor import Descriptor
from orlop.oci.image import ImageConfig
from orlop.oci.manifest import Index, Manifest, parse
from orlop.oci.platform import Platform, best_match
from orlop.oci.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from typing import BinaryIO

    from orlop.engine.core import Engine
    from orlop.engine.requests import Pull, Push
    from orlop.events import Report
    from orlop.registry.client import Client
    from orlop.store.images import ImageRecord
    from orlop.store.leases import Lease

_SOURCES = 3  # repositories that are asked for one blob before it is sent
_CONFIG_LIMIT = 8 << 20  # bytes; docker's own configs stay below 100 kB


def pull(engine: Engine, request: Pull, report: Report) -> ImageRecord:
    """Fetch the image that `request.reference` names. Afterwards it is kept, unpacked, and named."""
    reference = Reference.parse(request.reference)
    with registry_client(engine.settings) as client:
        if not request.all_tags:
            return _pull_one(engine, client, reference, request, report)
        tags = client.tags(reference)
        records = [_pull_one(engine, client, reference.replace(tag=tag), request, report) for tag in tags]
    if not records:
        raise NotFound(f"{reference.familiar_name} has no tags")
    return records[-1]


def _pull_one(engine: Engine, client: Client, reference: Reference, request: Pull, report: Report) -> ImageRecord:
    root = engine.root
    with root.lease() as lease:
        report(Event(action="pull.manifest", subject=reference.familiar))
        raw, media_type = client.manifest(reference, reference.digest or reference.tag)
        target = parse(raw, media_type)
        if isinstance(target, Index):
            keep_blob(engine, lease, target.descriptor, [target.raw])
            chosen = choose(target, request.platform, reference.familiar)
            raw, media_type = client.manifest(reference, chosen.digest)
            target = parse(raw, media_type)
        if not isinstance(target, Manifest):
            raise InvalidArgument(f"{reference.familiar} is an index inside an index, which has no platform to choose")
        record = fetch(engine, client, reference, target, lease, report, platform=request.platform)
        engine.images.add(record, [reference])
        journal.record(root, "image", "pull", record.config, {"name": reference.familiar})
    return record


def fetch(
    engine: Engine,
    client: Client,
    reference: Reference,
    manifest: Manifest,
    lease: Lease,
    report: Report,
    *,
    platform: str = "",
) -> ImageRecord:
    """Bring everything that `manifest` needs into the store, unpacked; returns the record, which is not yet put.

    NotFound for an image of another platform than `platform` ("": any).
    """
    root = engine.root
    if not mediatype.is_image_config(manifest.config.media_type):
        raise InvalidArgument(
            f"{reference.familiar} is not a container image: its config is {manifest.config.media_type}",
            hint="it may be another kind of artifact (a chart, a signature)",
        )
    if manifest.config.size > _CONFIG_LIMIT:
        raise InvalidArgument(f"{reference.familiar}: its config has {manifest.config.size} bytes, more than 8 MiB")
    lease.hold("blob", manifest.config.digest)  # first hold, then look: a collection may be under way
    if manifest.config.digest not in root.content:
        with client.blob(reference, manifest.config) as chunks:
            root.content.ingest(manifest.config, chunks)
    config = ImageConfig.parse(root.content.read(manifest.config.digest, limit=_CONFIG_LIMIT))
    if platform and best_match(Platform.parse(platform), [config.platform]) is None:
        raise NotFound(
            f"{reference.familiar} is not there for {platform}",
            hint=f"it offers {config.platform} and nothing else",
        )
    record = image_record(engine.settings.namespace, manifest, config)

    def opener(layer: Descriptor, offset: int) -> object:
        return client.blob(reference, layer, offset)

    keys = unpack_image(engine, record, lease, report, opener)
    keep_blob(engine, lease, manifest.descriptor, [manifest.raw])
    return sized(engine, record, keys)


def sized(engine: Engine, record: ImageRecord, keys: Iterable[str]) -> ImageRecord:
    """The record with its size: the unpacked bytes of its layers."""
    layers = engine.root.state.layers
    found = (layers.get(key) for key in keys)
    return record.replace(size=sum(layer.size for layer in found if layer))


def keep_blob(engine: Engine, lease: Lease, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
    """Ingest one small blob under the lease, unless it is already there."""
    lease.hold("blob", descriptor.digest)
    if descriptor.digest not in engine.root.content:
        engine.root.content.ingest(descriptor, chunks)


def choose(index: Index, platform: str, name: str) -> Descriptor:
    """The manifest of an index that fits `platform` (the host's when ""). NotFound lists what there is."""
    import os

    wanted = Platform.parse(platform) if platform else Platform.of_machine(os.uname().machine)
    images = [entry for entry in index.manifests if not (entry.annotations or {}).get("vnd.docker.reference.type")]
    offered = [entry.platform or wanted for entry in images]
    at = best_match(wanted, offered)
    if at is None:
        there = ", ".join(sorted({str(one) for one in offered})) or "no image at all"
        raise NotFound(f"{name} is not there for {wanted}", hint=f"it offers {there}: choose with --platform")
    return images[at]


def push(engine: Engine, request: Push, report: Report) -> str:
    """Send an image: blobs first, side by side, then the manifest under its tag. Returns the manifest's digest."""
    reference = Reference.parse(request.reference)
    with registry_client(engine.settings) as client:
        if not request.all_tags:
            return _push_one(engine, client, reference, report)
        names = [Reference.parse(name) for name, _ in engine.root.state.images.names(engine.settings.namespace)]
        mine = [name for name in names if name.name == reference.name and name.tag]
        if not mine:
            raise NotFound(f"no image is named {reference.familiar_name}")
        return [_push_one(engine, client, name, report) for name in mine][-1]


def _push_one(engine: Engine, client: Client, reference: Reference, report: Report) -> str:
    record = engine.images.find(str(reference))
    content = engine.root.content
    manifest = parse(content.read(record.manifest), record.media_type)
    assert isinstance(manifest, Manifest)
    with engine.root.lease() as lease:
        for blob in (manifest.config, *manifest.layers):
            lease.hold("blob", blob.digest)
            if blob.digest not in content and not client.has(reference, blob.digest):
                raise DataLoss(
                    f"blob {blob.digest} of {reference.familiar} is missing here", hint="pull or build the image again"
                )
        sources = _holders(engine, reference)
        for _ in _side_by_side(
            (lambda blob=blob: _send_blob(engine, client, reference, blob, sources.get(blob.digest, ()), report))
            for blob in _once(manifest)
        ):
            pass
        client.put_manifest(reference, manifest.raw, manifest.media_type)
    report(Event(action="push.manifest", subject=record.manifest, text=reference.familiar))
    journal.record(engine.root, "image", "push", record.config, {"name": reference.familiar})
    return record.manifest


def _once(manifest: Manifest) -> Iterator[Descriptor]:
    """Each blob of a manifest once; layers first, because they take longest."""
    seen: set[str] = set()
    for blob in (*manifest.layers, manifest.config):
        if blob.digest not in seen:
            seen.add(blob.digest)
            yield blob


def _holders(engine: Engine, reference: Reference) -> dict[str, list[str]]:
    """Blobs by digest, with the other repositories of the registry that have them, as far as our images' names tell."""
    images = engine.root.state.images
    blobs = {
        record.manifest: {record.config, *(layer.digest for layer in record.layers)}
        for record in images.all(engine.settings.namespace)
    }
    found: dict[str, list[str]] = {}
    for name, manifest in images.names(engine.settings.namespace):
        other = Reference.parse(name)
        if other.registry != reference.registry or other.repository == reference.repository:
            continue
        for digest in blobs.get(manifest, ()):
            known = found.setdefault(digest, [])
            if other.repository not in known and len(known) < _SOURCES:
                known.append(other.repository)
    return found


def _send_blob(
    engine: Engine, client: Client, reference: Reference, blob: Descriptor, sources: Iterable[str], report: Report
) -> None:
    def progress(sent: int) -> None:
        report(Event(action="push.layer", subject=blob.digest, current=sent, total=blob.size))

    def opened() -> BinaryIO:
        return engine.root.content.open(blob.digest)

    try:
        how = client.upload(reference, blob, opened, mount_from=tuple(sources), progress=progress)
    except DataLoss:
        check_blobs(engine, [blob.digest])
        raise
    if how == "exists":
        report(Event(action="push.exists", subject=blob.digest))
    else:
        report(Event(action="push.layer", subject=blob.digest, current=blob.size, total=blob.size))


def _side_by_side(tasks: Iterable[object]) -> Iterator[object]:
    """Run tasks on four threads; the first failure is raised and the rest are not started."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=4) as pool:
        futures: list[Future[object]] = [pool.submit(task) for task in tasks]  # type: ignore[arg-type]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise
