"""Who refers to a manifest: the referrers API, and the tag that stands in for it (spec.md, "Referrers Tag Schema")."""

from __future__ import annotations

from orlop.errors import InvalidArgument, NotFound, OrlopError
from orlop.oci import mediatype
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.jsontext import load_object
from orlop.oci.manifest import Index, Manifest, parse
from orlop.registry import failures
from orlop.registry.headers import next_link
from orlop.registry.transport import Request, joined_query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.oci.reference import Reference
    from orlop.registry.client import Client

_PAGES = 1000
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def tag_of(digest: str) -> str:
    """The tag under which the referrers of `digest` are listed on registries without the API."""
    algorithm, _, encoded = digest.partition(":")
    tag = f"{algorithm[:32]}-{encoded[:64]}"
    return "".join(letter if letter in _ALLOWED else "-" for letter in tag)


def listed(client: Client, ref: Reference, digest: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
    """See `Client.referrers`."""
    found = _from_api(client, ref, digest, artifact_type)
    if found is None:
        found = _from_tag(client, ref, digest)
    return tuple(one for one in found if not artifact_type or one.artifact_type == artifact_type)


def _from_api(client: Client, ref: Reference, digest: Digest, artifact_type: str) -> list[Descriptor] | None:
    """What the API says; None where there is no such API."""
    scopes = (f"repository:{ref.repository}:pull",)
    path = joined_query(f"/v2/{ref.repository}/referrers/{digest}", [("artifactType", artifact_type)])
    found: list[Descriptor] = []
    seen: set[str] = set()
    while path and path not in seen and len(seen) < _PAGES:
        seen.add(path)
        request = Request(method="GET", path=path, scopes=scopes, headers={"Accept": mediatype.OCI_INDEX})
        response, body = client.exchange(ref.registry, request)
        if response.status == 404 and not found:
            return None
        if response.status != 200:
            what = f"{ref.familiar_name}@{digest}"
            raise failures.refused(
                response.status, body, response.headers, what=what, registry=ref.registry, user="", verb="list"
            )
        found += _entries(body, ref)
        path = next_link(response.headers.get("Link", ""))
    return found


def _entries(body: bytes, ref: Reference) -> list[Descriptor]:
    index = load_object(body, what=f"the referrers from {ref.registry}", limit=len(body))
    entries = index.get("manifests") or []
    if not isinstance(entries, list):
        raise InvalidArgument(f"{ref.registry} answered with something else than a list of referrers")
    return [Descriptor.from_json(entry) for entry in entries]


def _from_tag(client: Client, ref: Reference, digest: Digest) -> list[Descriptor]:
    """What the stand-in tag lists; nothing where it is not there or not an index."""
    index = _index(client, ref, digest)
    return list(index.manifests) if index else []


def _index(client: Client, ref: Reference, digest: Digest) -> Index | None:
    try:
        raw, media_type = client.manifest(ref, tag_of(digest))
    except NotFound:
        return None
    found = parse(raw, media_type)
    return found if isinstance(found, Index) else None


def register(client: Client, ref: Reference, raw: bytes, media_type: str, digest: Digest) -> None:
    """After a push to a registry that did not acknowledge the subject: list the manifest under the stand-in tag."""
    pushed = _parsed(raw, media_type)
    if pushed is None or pushed.subject is None:
        return
    subject = pushed.subject.digest
    if _from_api(client, ref, subject, "") is not None:  # it has the API and only forgot to say so
        return
    entry = Descriptor(
        media_type=media_type,
        digest=digest,
        size=len(raw),
        artifact_type=_kind(pushed),
        annotations=dict(pushed.annotations) or None,
    )
    index = _index(client, ref, subject)
    entries = list(index.manifests) if index else []
    if any(one.digest == digest for one in entries):
        return
    _put(client, ref, subject, [*entries, entry])


def before_delete(client: Client, ref: Reference) -> tuple[Digest, Digest] | None:
    """What must come off a stand-in list once `ref` is deleted: (subject, digest); None for nothing."""
    assert ref.digest is not None
    try:
        raw, media_type = client.manifest(ref, ref.digest)
    except OrlopError:
        return None
    found = _parsed(raw, media_type)
    if found is None or found.subject is None or _from_api(client, ref, found.subject.digest, "") is not None:
        return None
    return found.subject.digest, ref.digest


def unregister(client: Client, ref: Reference, gone: tuple[Digest, Digest]) -> None:
    """Take a deleted manifest off its subject's stand-in list."""
    subject, digest = gone
    index = _index(client, ref, subject)
    if index is None:
        return
    entries = [one for one in index.manifests if one.digest != digest]
    if len(entries) != len(index.manifests):
        _put(client, ref, subject, entries)


def _put(client: Client, ref: Reference, subject: Digest, entries: list[Descriptor]) -> None:
    index = Index.build(manifests=entries)
    client.put_manifest(ref.replace(tag=tag_of(subject), digest=None), index.raw, index.media_type)


def _parsed(raw: bytes, media_type: str) -> Manifest | Index | None:
    """The manifest, None for kinds that have no subject."""
    if b'"subject"' not in raw or not (mediatype.is_manifest(media_type) or mediatype.is_index(media_type)):
        return None
    return parse(raw, media_type)


def _kind(pushed: Manifest | Index) -> str:
    """The artifact type to list: the manifest's own, or its config's media type."""
    if pushed.artifact_type or isinstance(pushed, Index):
        return pushed.artifact_type
    return pushed.config.media_type
