"""What a pushed manifest says, and whether it may be kept: pure, no I/O (spec.md, "Pushing Manifests").

The server keeps a manifest byte for byte; it reads only what it must: the type, what the manifest refers to, and its
subject. Unknown types are kept as they are, so that artifacts of tomorrow can be stored today.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.oci import mediatype
from orlop.oci.digest import Digest
from orlop.oci.jsontext import dumps, load_object
from orlop.registry.server.replies import manifest_invalid
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT = 4 * 1024 * 1024
"""Bytes of a manifest; the least that the specification wants to be possible."""

_REFERENCES_LIMIT = 20_000
_TYPE_LIMIT = 255
_TYPE_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$&-^_.+/")
_SCHEMA_1 = (mediatype.DOCKER_MANIFEST_V1, mediatype.DOCKER_MANIFEST_V1_SIGNED)


class Needed(Value):
    """Something a manifest refers to, that must be in the repository before the manifest is."""

    digest: Digest
    size: int  # bytes
    is_manifest: bool = False  # an entry of an index: usually a manifest, but build caches list blobs there


class Pushed(Value):
    """A manifest as it was pushed."""

    digest: Digest
    media_type: str
    raw: bytes
    needs: tuple[Needed, ...] = ()
    subject: Digest | None = None
    entry: bytes = b""  # its descriptor in the list of its subject's referrers, as JSON; empty without a subject


def read(raw: bytes, content_type: str, digest: Digest) -> Pushed:
    """What `raw`, pushed with the header `content_type`, is. Raises the specification's MANIFEST_INVALID."""
    try:
        body = load_object(raw, what="the manifest", limit=LIMIT)
        media_type = _media_type(body, content_type)
        needs = _needs(body, media_type)
        subject = _digest_of(body["subject"], "subject") if isinstance(body.get("subject"), dict) else None
    except InvalidArgument as error:
        raise manifest_invalid(error.message) from error
    entry = _entry(body, media_type, digest, len(raw)) if subject else b""
    return Pushed(digest=digest, media_type=media_type, raw=raw, needs=needs, subject=subject, entry=entry)


def _media_type(body: dict[str, Any], content_type: str) -> str:
    """The type: the header's, the manifest's own, or the one its fields show. Header and manifest must agree."""
    header = content_type.partition(";")[0].strip()
    stated = body.get("mediaType", "")
    if not isinstance(stated, str):
        raise InvalidArgument("mediaType is not a string")
    if body.get("schemaVersion") == 1 or header in _SCHEMA_1 or stated in _SCHEMA_1:
        raise InvalidArgument(
            "Docker image manifest schema 1 is not supported: push the image again with schema 2 or OCI"
        )
    if header and stated and header != stated:
        raise InvalidArgument(f"Content-Type is {header}, but the manifest's mediaType is {stated}")
    chosen = header or stated or (mediatype.OCI_INDEX if "manifests" in body else mediatype.OCI_MANIFEST)
    if len(chosen) > _TYPE_LIMIT or "/" not in chosen or not _TYPE_LETTERS.issuperset(chosen):
        raise InvalidArgument(f"{chosen[:_TYPE_LIMIT]!r} is not a media type")
    return chosen


def _needs(body: dict[str, Any], media_type: str) -> tuple[Needed, ...]:
    needs: list[Needed] = []
    if "manifests" in body and ("layers" in body or "config" in body):
        raise InvalidArgument("the manifest could be read as an image and as an index (CVE-2021-41190)")
    if mediatype.is_manifest(media_type) and not isinstance(body.get("config"), dict):
        raise InvalidArgument("an image manifest needs a config")
    if mediatype.is_index(media_type) and not isinstance(body.get("manifests"), list):
        raise InvalidArgument("an index needs a list of manifests")
    if isinstance(body.get("config"), dict):
        needs.append(_need(body["config"], "config"))
    for field in ("layers", "blobs", "manifests"):
        entries = body.get(field)
        if entries is None:
            continue
        if not isinstance(entries, list):
            raise InvalidArgument(f"{field} is not a list")
        if len(entries) > _REFERENCES_LIMIT:
            raise InvalidArgument(f"{field} has {len(entries)} entries, more than {_REFERENCES_LIMIT}")
        for number, entry in enumerate(entries):
            where = f"{field}[{number}]"
            if not isinstance(entry, dict):
                raise InvalidArgument(f"{where} is not a descriptor")
            if not _lives_elsewhere(entry):
                needs.append(_need(entry, where, is_manifest=field == "manifests"))
    return tuple(needs)


def _lives_elsewhere(entry: dict[str, Any]) -> bool:
    """Whether the content need not be pushed: it has its own addresses, or must not be distributed."""
    return bool(entry.get("urls")) or mediatype.is_foreign(str(entry.get("mediaType", "")))


def _need(entry: dict[str, Any], where: str, *, is_manifest: bool = False) -> Needed:
    size = entry.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidArgument(f"{where} has no valid size")
    return Needed(digest=_digest_of(entry, where), size=size, is_manifest=is_manifest)


def _digest_of(entry: dict[str, Any], where: str) -> Digest:
    digest = entry.get("digest")
    if not isinstance(digest, str):
        raise InvalidArgument(f"{where} has no digest")
    return Digest.parse(digest)


def _entry(body: dict[str, Any], media_type: str, digest: Digest, size: int) -> bytes:
    """The descriptor in the subject's list of referrers (spec.md, "Listing Referrers")."""
    entry: dict[str, Any] = {"mediaType": media_type, "digest": str(digest), "size": size}
    kind = body.get("artifactType")
    if not kind and isinstance(body.get("config"), dict) and not mediatype.is_index(media_type):
        kind = body["config"].get("mediaType")
    if isinstance(kind, str) and kind:
        entry["artifactType"] = kind
    notes = body.get("annotations")
    if isinstance(notes, dict) and notes:
        entry["annotations"] = {key: value for key, value in notes.items() if isinstance(value, str)}
    return dumps(entry)


def kind_of_entry(entry: bytes) -> str:
    """The artifact type in a descriptor made by `read`; "" without one."""
    kind = load_object(entry, what="a referrer's descriptor", limit=LIMIT).get("artifactType", "")
    return kind if isinstance(kind, str) else ""
