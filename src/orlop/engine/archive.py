"""Images as one file: `save` and `load`.

What `save` writes is an OCI image layout (image-spec, image-layout.md) with, unless `oci-archive` was asked for,
docker's manifest.json beside it: docker, podman, skopeo and containerd all read it. Blobs are copied as they are.

`load` reads that, and docker's older layout (a folder a layer), compressed or not. The archive is read once, in
whatever order its members come; each member's content is verified where it has a digest for a name. What it may cost
is bounded as for a layer, because who wrote it is not known.
"""

from __future__ import annotations

import posixpath

from orlop.engine import journal
from orlop.engine.storage import check_blobs, image_record, unpack_image
from orlop.engine.transfer import choose, keep_blob, sized
from orlop.errors import ContentMismatch, DataLoss, InvalidArgument, NotFound, ResourceExhausted
from orlop.events import Event
from orlop.layers import compress, tar
from orlop.layers.apply import Limits
from orlop.oci import dockerarchive, jsontext, mediatype
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.image import ImageConfig
from orlop.oci.manifest import Index, Manifest, parse
from orlop.oci.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from orlop.engine.core import Engine
    from orlop.engine.requests import Load, Save
    from orlop.events import Report
    from orlop.layers.tarentry import Buffer
    from orlop.store.images import ImageRecord
    from orlop.store.leases import Lease

_BLOCK = 1 << 20
_SMALL = 4 << 20  # bytes; no manifest, index or manifest.json is larger
_NESTED = 4  # indexes inside each other; buildx writes two
_HOSTILE = "it may be hostile: load what save wrote"
_REF_NAME = "org.opencontainers.image.ref.name"  # image-spec, annotations.md
_CONTAINERD_NAME = "io.containerd.image.name"  # what containerd and docker add, with the whole name


def save(engine: Engine, request: Save, write: Callable[[Buffer], object]) -> None:
    """Write the images as one tar to `write`. A name saves that name, an id saves the image without names."""
    if request.format not in {"docker-archive", "oci-archive"}:
        raise InvalidArgument(f"--format {request.format!r} is not known", hint="use docker-archive or oci-archive")
    content = engine.root.content
    chosen = _chosen(engine, request.images)
    archive = tar.Writer(write)
    written: set[str] = set()
    index: list[Descriptor] = []
    docker: list[dockerarchive.SavedImage] = []
    with engine.root.lease() as lease:
        for record, names in chosen:
            manifest = parse(content.read(record.manifest), record.media_type)
            assert isinstance(manifest, Manifest)
            for blob in (*manifest.layers, manifest.config, manifest.descriptor):
                lease.hold("blob", blob.digest)
                if blob.digest not in written:
                    written.add(blob.digest)
                    _add_blob(engine, archive, blob)
            entry = manifest.descriptor.replace(platform=None)
            index += [entry.replace(annotations=_naming(name)) for name in names] or [entry]
            docker.append(
                dockerarchive.SavedImage(
                    config=_blob_path(manifest.config.digest),
                    layers=tuple(_blob_path(layer.digest) for layer in manifest.layers),
                    names=tuple(names),
                )
            )
        _add_text(archive, "index.json", Index.build(manifests=index).raw)
        if request.format == "docker-archive":
            _add_text(archive, dockerarchive.NAME, dockerarchive.build(docker))
        _add_text(archive, "oci-layout", jsontext.dumps({"imageLayoutVersion": "1.0.0"}))
        archive.close()


def _chosen(engine: Engine, wanted: tuple[str, ...]) -> list[tuple[ImageRecord, list[Reference]]]:
    """Each image once, with the names it was asked for by."""
    chosen: dict[str, tuple[ImageRecord, list[Reference]]] = {}
    for text in wanted:
        record, by_id = engine.root.state.images.match(engine.settings.namespace, text)
        names = chosen.setdefault(record.manifest, (record, []))[1]
        if not by_id:
            reference = Reference.parse(text)
            if not reference.digest:
                names.append(reference)
    return list(chosen.values())


def _naming(name: Reference) -> dict[str, str]:
    return {_CONTAINERD_NAME: str(name), _REF_NAME: name.tag}


def _blob_path(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"blobs/{algorithm}/{encoded}"


def _add_blob(engine: Engine, archive: tar.Writer, blob: Descriptor) -> None:
    try:
        source = engine.root.content.open(blob.digest)
    except NotFound as error:
        raise DataLoss(f"blob {blob.digest} is missing here", hint="pull or build the image again") from error
    with source:
        chunks = iter(lambda: source.read(_BLOCK), b"")
        try:
            archive.add(tar.Entry(_blob_path(blob.digest), size=blob.size), blob.verified(chunks))
        except ContentMismatch:
            check_blobs(engine, [blob.digest])
            raise


def _add_text(archive: tar.Writer, name: str, data: bytes) -> None:
    archive.add(tar.Entry(name, size=len(data)), [data])


class _Member:
    """What one member of the archive became: a blob in the store, and its first bytes."""

    __slots__ = ("digest", "head", "size")

    def __init__(self, digest: Digest, size: int, head: bytes) -> None:
        self.digest = digest
        self.size = size
        self.head = head

    def layer(self) -> Descriptor:
        """A descriptor for this member as a layer; the compression is told by its first bytes."""
        kind = compress.detect(self.head)
        media_type = {"gzip": mediatype.OCI_LAYER_GZIP, "zstd": mediatype.OCI_LAYER_ZSTD, "none": mediatype.OCI_LAYER}
        if kind not in media_type:
            raise InvalidArgument(f"a layer is compressed with {kind}, which no image may be")
        return Descriptor(media_type=media_type[kind], digest=self.digest, size=self.size)


class _Archive:
    """The members of an archive, ingested under a lease."""

    def __init__(self, engine: Engine, lease: Lease, limits: Limits) -> None:
        self._engine = engine
        self._lease = lease
        self._limits = limits
        self.members: dict[str, _Member] = {}
        self._links: dict[str, str] = {}

    def read(self, stream: BinaryIO) -> None:
        """Take in the whole archive. ResourceExhausted once it costs more than the limits allow."""
        limits = self._limits
        chunks = iter(lambda: stream.read(_BLOCK), b"")
        plain = compress.plain(chunks, max_bytes=limits.max_bytes, max_ratio=limits.max_ratio)
        for count, entry in enumerate(tar.read(plain), 1):
            if count > limits.max_entries > 0:
                raise ResourceExhausted(f"the archive has more than {limits.max_entries} entries", hint=_HOSTILE)
            name = posixpath.normpath(entry.name.lstrip("/"))
            if entry.kind == tar.FILE:
                self._take(name, entry)
            elif entry.kind == tar.SYMLINK:
                self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.link))
            elif entry.kind == tar.HARDLINK:
                self._links[name] = posixpath.normpath(entry.link.lstrip("/"))
        if not self.members:
            raise InvalidArgument("the archive is empty", hint="load what save wrote: a docker or OCI archive")

    def _take(self, name: str, entry: tar.Entry) -> None:
        """Ingest one file. One that is named by its digest must have that content."""
        if entry.extents is not None:
            raise InvalidArgument(
                f"{entry.name!r} is a sparse file, which no image's archive has",
                hint="pack the archive again without --sparse",
            )
        if entry.size > self._limits.max_bytes > 0:
            raise ResourceExhausted(
                f"{entry.name!r} has {entry.size} bytes, more than a whole archive may", hint=_HOSTILE
            )
        content = self._engine.root.content
        parts = name.split("/")
        expected = None
        if len(parts) == 3 and parts[0] == "blobs":
            expected = Descriptor(media_type="", digest=Digest.parse(f"{parts[1]}:{parts[2]}"), size=entry.size)
            self._lease.hold("blob", expected.digest)
            if expected.digest in content:
                with content.open(expected.digest) as blob:
                    self.members[name] = _Member(expected.digest, entry.size, blob.read(16))
                return
        head = b""
        with content.begin(f"load-{self._lease.id}-{len(self.members)}", resume=False) as ingest:
            for chunk in entry.chunks():
                head = head or bytes(chunk[:16])
                ingest.write(chunk)
            if expected is None:
                self._lease.hold("blob", ingest.digest)
            digest, size = ingest.commit(expected)
        self.members[name] = _Member(digest, size, head)

    def find(self, name: str) -> _Member | None:
        """A member by path, through the archive's own links."""
        for _ in range(8):
            if name in self.members:
                return self.members[name]
            if name not in self._links:
                return None
            name = self._links[name]
        return None

    def text(self, name: str) -> bytes | None:
        """A small member's content; None if it is not there."""
        member = self.find(name)
        return None if member is None else self._engine.root.content.read(member.digest, limit=_SMALL)


def load(
    engine: Engine,
    request: Load,
    stream: BinaryIO,
    report: Report,
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> tuple[str, ...]:
    """Read an archive from `stream`; returns the familiar names it brought, or the id of an image without one.

    ResourceExhausted where the archive (expanded), a member or the number of its members passes `limits`.
    """
    with engine.root.lease() as lease:
        archive = _Archive(engine, lease, limits)
        archive.read(stream)
        found = list(_images(engine, archive, request, lease))
        if not found:
            raise InvalidArgument(
                "the archive holds no image", hint="it has neither index.json nor manifest.json: load what save wrote"
            )
        loaded: list[str] = []
        for manifest, names in found:
            raw = engine.root.content.read(manifest.config.digest, limit=8 << 20)
            record = image_record(engine.settings.namespace, manifest, ImageConfig.parse(raw))
            keys = unpack_image(engine, record, lease, report)
            keep_blob(engine, lease, manifest.descriptor, [manifest.raw])
            engine.images.add(sized(engine, record, keys), names)
            loaded += [name.familiar for name in names] or [record.config]
            journal.record(engine.root, "image", "load", record.config)
    for name in loaded:
        report(Event(action="load.image", subject=name))
    return tuple(loaded)


def _images(
    engine: Engine, archive: _Archive, request: Load, lease: Lease
) -> Iterator[tuple[Manifest, list[Reference]]]:
    """The images of an archive with their names. An OCI index wins; docker's manifest.json adds names to it."""
    table = archive.text(dockerarchive.NAME)
    listed = () if table is None else dockerarchive.parse(table)
    names_by_config: dict[str, tuple[Reference, ...]] = {
        member.digest: image.names for image in listed if (member := archive.find(posixpath.normpath(image.config)))
    }
    index = archive.find("index.json")
    if index is None:
        for image in listed:
            yield _from_docker(engine, archive, image, lease)
        return
    top = parse(engine.root.content.read(index.digest, limit=_SMALL), mediatype.OCI_INDEX)
    assert isinstance(top, Index)
    names: dict[str, list[Reference]] = {}
    for entry in top.manifests:
        named = names.setdefault(entry.digest, [])
        annotations = entry.annotations or {}
        text = annotations.get(_CONTAINERD_NAME) or annotations.get(_REF_NAME, "")
        if _CONTAINERD_NAME in annotations or ":" in text or "/" in text:
            named.append(Reference.parse(text))
    for digest, named in names.items():
        manifest = _manifest(engine, Digest.parse(digest), request)
        known = names_by_config.get(manifest.config.digest, ())
        yield manifest, list(dict.fromkeys([*named, *known]))


def _manifest(engine: Engine, digest: Digest, request: Load) -> Manifest:
    for _ in range(_NESTED):
        found = parse(engine.root.content.read(digest, limit=_SMALL))
        if isinstance(found, Manifest):
            return found
        digest = choose(found, request.platform, digest).digest
    raise InvalidArgument(f"the archive has more than {_NESTED} indexes inside each other", hint="save the image again")


def _from_docker(
    engine: Engine, archive: _Archive, image: dockerarchive.SavedImage, lease: Lease
) -> tuple[Manifest, list[Reference]]:
    """One entry of docker's manifest.json, as an OCI manifest of our own making."""
    config = archive.find(posixpath.normpath(image.config))
    layers = [archive.find(posixpath.normpath(path)) for path in image.layers]
    if config is None or None in layers:
        raise DataLoss("the archive's manifest.json names members that are not there", hint="save the image again")
    manifest = Manifest.build(
        config=Descriptor(media_type=mediatype.OCI_CONFIG, digest=config.digest, size=config.size),
        layers=[layer.layer() for layer in layers if layer],
    )
    keep_blob(engine, lease, manifest.descriptor, [manifest.raw])
    return manifest, list(image.names)
