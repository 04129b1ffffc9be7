"""Manifests and indexes (image-spec v1.1, manifest.md and image-index.md; Docker schema 2).

The raw bytes are the truth: their digest is the image's name. They are kept beside the parsed value and passed on
unchanged, so that fields which this version does not know survive.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument, Unimplemented
from orlop.oci import jsontext, mediatype
from orlop.oci.descriptor import Descriptor, string, string_map
from orlop.oci.digest import Digest
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MAX_BYTES = 4 * 1024 * 1024
"""Bytes in a manifest: what distribution-spec asks registries to take at least, and no sane image needs."""

"""The content of the empty descriptor (manifest.md, "Guidance for an Empty Descriptor")."""


class Manifest(Value):
    """An image (or another artifact) for one platform: a config and layers, lowest first."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = jsontext.EMPTY
    subject: Descriptor | None = None
    artifact_type: str = ""

    def __hash__(self) -> int:
        return hash((self.media_type, self.raw))

    @classmethod
    def build(
        cls,
        *,
        config: Descriptor,
        layers: Sequence[Descriptor],
        annotations: Mapping[str, str] = jsontext.EMPTY,
        subject: Descriptor | None = None,
        artifact_type: str = "",
        media_type: str = mediatype.OCI_MANIFEST,
    ) -> Manifest:
        """A new manifest; the same arguments give the same bytes."""
        value: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type}
        if artifact_type:
            value["artifactType"] = artifact_type
        value["config"] = config.to_json()
        value["layers"] = [layer.to_json() for layer in layers]
        if subject is not None:
            value["subject"] = subject.to_json()
        if annotations:
            value["annotations"] = dict(annotations)
        return cls(
            raw=jsontext.dumps(value),
            media_type=media_type,
            config=config,
            layers=tuple(layers),
            annotations=dict(annotations),
            subject=subject,
            artifact_type=artifact_type,
        )

    @property
    def descriptor(self) -> Descriptor:
        """The pointer to this manifest."""
        return Descriptor.of(self.raw, self.media_type)

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes."""
        return Digest.of(self.raw)

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """All that must be there for this manifest to be whole: config and layers (not the subject)."""
        return (self.config, *self.layers)


class Index(Value):
    """A list of manifests: one image for several platforms, or the images in a layout."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] = jsontext.EMPTY
    subject: Descriptor | None = None
    artifact_type: str = ""

    def __hash__(self) -> int:
        return hash((self.media_type, self.raw))

    @classmethod
    def build(
        cls,
        *,
        manifests: Sequence[Descriptor],
        annotations: Mapping[str, str] = jsontext.EMPTY,
        subject: Descriptor | None = None,
        artifact_type: str = "",
        media_type: str = mediatype.OCI_INDEX,
    ) -> Index:
        """A new index; the same arguments give the same bytes."""
        value: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type}
        if artifact_type:
            value["artifactType"] = artifact_type
        value["manifests"] = [manifest.to_json() for manifest in manifests]
        if subject is not None:
            value["subject"] = subject.to_json()
        if annotations:
            value["annotations"] = dict(annotations)
        return cls(
            raw=jsontext.dumps(value),
            media_type=media_type,
            manifests=tuple(manifests),
            annotations=dict(annotations),
            subject=subject,
            artifact_type=artifact_type,
        )

    @property
    def descriptor(self) -> Descriptor:
        """The pointer to this index."""
        return Descriptor.of(self.raw, self.media_type)

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes."""
        return Digest.of(self.raw)

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """The manifests in it."""
        return self.manifests


def parse(raw: bytes, media_type: str = "", *, what: str = "the manifest") -> Manifest | Index:
    """The manifest or index that `raw` is.

    `media_type` is what the server or the descriptor said; it must not contradict the document. A document that could
    be read as both is refused: two programs would see two images under one digest (CVE-2021-41190).
    """
    value = jsontext.load_object(raw, what=what, limit=MAX_BYTES)
    kind = _kind(value, media_type.partition(";")[0].strip(), what)
    if value.get("schemaVersion") != 2:
        raise InvalidArgument(f"{what} has the schemaVersion {value.get('schemaVersion')!r}, not 2")
    if mediatype.is_index(kind):
        _refuse(value, ("config", "layers", "fsLayers"), what, "an index")
        return Index(
            raw=bytes(raw),
            media_type=kind,
            manifests=_descriptors(value, "manifests", what),
            annotations=string_map(value, "annotations", what) or {},
            subject=_subject(value, what),
            artifact_type=string(value, "artifactType", what),
        )
    _refuse(value, ("manifests", "fsLayers"), what, "an image manifest")
    if not value.get("config"):
        raise InvalidArgument(f"{what} has no config")
    return Manifest(
        raw=bytes(raw),
        media_type=kind,
        config=Descriptor.from_json(value["config"], what=f"{what}: config"),
        layers=_descriptors(value, "layers", what),
        annotations=string_map(value, "annotations", what) or {},
        subject=_subject(value, what),
        artifact_type=string(value, "artifactType", what),
    )


def _kind(value: dict[str, Any], told: str, what: str) -> str:
    stated = string(value, "mediaType", what)
    known = mediatype.is_manifest(told) or mediatype.is_index(told)
    if stated and known and stated != told:
        raise InvalidArgument(
            f"{what} was announced as {told} but says of itself that it is {stated}",
            hint="the registry is at fault: push the image again, or pull it from elsewhere",
        )
    kind = stated or (told if known else "")
    if kind in (mediatype.DOCKER_MANIFEST_V1, mediatype.DOCKER_MANIFEST_V1_SIGNED) or value.get("schemaVersion") == 1:
        raise Unimplemented(
            f"{what} is in Docker's schema 1, which was retired in 2017",
            hint="pull it with a tool of that time and push it again, or ask for a newer tag",
        )
    if not kind:
        # Before OCI 1.1 the field was optional; the shape decides.
        if "manifests" in value:
            return mediatype.OCI_INDEX
        if "config" in value and "layers" in value:
            return mediatype.OCI_MANIFEST
        raise InvalidArgument(f"{what} is JSON, but neither an image manifest nor an index")
    if not mediatype.is_manifest(kind) and not mediatype.is_index(kind):
        raise InvalidArgument(f"{what} has the type {kind}, which is neither an image manifest nor an index")
    return kind


def _refuse(value: dict[str, Any], keys: tuple[str, ...], what: str, kind: str) -> None:
    for key in keys:
        if key in value:
            raise InvalidArgument(f"{what} is {kind}, but has {key!r}: it could be read as two different images")


def _descriptors(value: dict[str, Any], key: str, what: str) -> tuple[Descriptor, ...]:
    found = value.get(key)
    if found is None and key == "manifests":
        found = []  # Go writes null for an empty list
    if not isinstance(found, list):
        raise InvalidArgument(f"{what}: {key} is not an array")
    return tuple(Descriptor.from_json(item, what=f"{what}: {key}[{number}]") for number, item in enumerate(found))


def _subject(value: dict[str, Any], what: str) -> Descriptor | None:
    subject = value.get("subject")
    return None if subject is None else Descriptor.from_json(subject, what=f"{what}: subject")
