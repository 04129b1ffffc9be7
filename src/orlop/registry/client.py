"""The client of the distribution specification v1.1: pull, push, discover, delete.

Threads, not asyncio: one `Client` may be used by many threads at once, and keeps connections open between requests.
Importing this module is cheap; urllib3 comes in with the first request.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

from orlop.errors import ContentMismatch, InvalidArgument, NotFound, OrlopError, Unauthenticated, Unimplemented
from orlop.oci import mediatype
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.jsontext import EMPTY, load_object
from orlop.oci.manifest import MAX_BYTES
from orlop.registry import endpoints, failures, referrers
from orlop.registry.credentials import Credential
from orlop.registry.download import Download
from orlop.registry.headers import next_link
from orlop.registry.transport import Options, Pools, Request, Transport, joined_query, read
from orlop.registry.upload import Upload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO, Self, TypeVar

    from urllib3 import BaseHTTPResponse

    from orlop.oci.reference import Reference
    from orlop.registry.credentials import Keychain

    T = TypeVar("T")
    Query = list[tuple[str, str]]
    Ask = Callable[[Transport, str, Query], T]

ACCEPT = ", ".join((*mediatype.MANIFESTS, *mediatype.INDEXES, mediatype.OCI_ARTIFACT_MANIFEST, "*/*;q=0.1"))
_SCHEMA_1 = (mediatype.DOCKER_MANIFEST_V1, mediatype.DOCKER_MANIFEST_V1_SIGNED)
_PAGE = 1000
_PAGES = 10_000
_DOWN_SECONDS = 60.0


class Client:
    """Speaks to registries with the credentials of one keychain (None: always anonymously).

    `insecure` lists registries (host, host:port, networks) whose certificates are not checked and that may be plain
    HTTP; those on loopback addresses always may. `proxies` are HTTPS_PROXY and its kin, as the environment has them.
    `mirrors` are "REGISTRY=HOST[/PREFIX]": asked first when something is pulled; "HOST" alone is a mirror of docker.io.
    `certificates` are folders laid out as docker's certs.d. `options`, where given, replaces all these but `mirrors`.
    """

    def __init__(
        self,
        keychain: Keychain | None,
        insecure: Sequence[str] = (),
        *,
        proxies: Mapping[str, str] = EMPTY,
        mirrors: Sequence[str] = (),
        certificates: Sequence[str] = (),
        options: Options | None = None,
    ) -> None:
        self._keychain = keychain
        self._options = options or Options(
            insecure=tuple(insecure), proxies=dict(proxies), certificates=tuple(certificates)
        )
        self._mirrors = endpoints.mirrors(mirrors)
        self._down: dict[str, float] = {}
        self._pools = Pools(self._options)
        self._transports: dict[str, Transport] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close idle connections. The client stays usable."""
        self._pools.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Pull

    def resolve(self, ref: Reference) -> Descriptor:
        """The descriptor of what `ref` names; fetched only where the registry does not say what it is."""
        which = ref.digest or ref.tag

        def ask(transport: Transport, name: str, query: Query) -> Descriptor:
            found = _head(transport, name, which, query)
            if found is not None:
                return found
            raw, media_type = _get(transport, ref, name, which, query)
            return Descriptor.of(raw, media_type)

        return self._pulling(ref, ask)

    def manifest(self, ref: Reference, which: str) -> tuple[bytes, str]:
        """The raw bytes and media type of the manifest or index `which` (a tag or a digest) in `ref`'s repository.

        The bytes are verified against the digest, if `which` is one, and against what the registry says they are.
        """
        return self._pulling(ref, lambda transport, name, query: _get(transport, ref, name, which, query))

    @contextmanager
    def blob(self, ref: Reference, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """The bytes of a blob from `offset` on, in pieces of at most 1 MiB.

        A broken connection is resumed where it broke. That the bytes are the blob's is for the caller to verify
        (`descriptor.verified`, an ingest); that they are not more than `descriptor.size` is certain.
        """
        if not 0 <= offset <= descriptor.size:
            raise InvalidArgument(
                f"offset {offset} is outside of {descriptor.digest}, which has {descriptor.size} bytes"
            )
        if descriptor.data is not None and len(descriptor.data) == descriptor.size:
            yield iter((descriptor.data[offset:],))
            return

        def start(transport: Transport, name: str, query: Query) -> Download:
            path = joined_query(f"/v2/{name}/blobs/{descriptor.digest}", query)
            scopes = (_pull(name),)
            return Download(transport, path, scopes, descriptor, offset, repository=ref.familiar_name).opened()

        try:
            download = self._pulling(ref, start)
        except NotFound:
            elsewhere = self._elsewhere(ref, descriptor, offset)
            if elsewhere is None:
                raise
            download = elsewhere
        try:
            yield download.pieces()
        finally:
            download.close()

    def _elsewhere(self, ref: Reference, descriptor: Descriptor, offset: int) -> Download | None:
        """A blob that its registry need not have, from the addresses in its descriptor."""
        for url in descriptor.urls:
            host = url.removeprefix("https://").partition("/")[0]
            if url.startswith("https://") and host:
                transport = Transport(host, None, self._options, self._pools)
                download = Download(transport, url, (), descriptor, offset, repository=ref.familiar_name)
                try:
                    return download.opened()
                except OrlopError:
                    continue
        return None

    def _pulling(self, ref: Reference, ask: Ask[T]) -> T:
        """Ask the mirrors, then the registry itself, whose errors count. A mirror that is down gets a minute's rest."""
        for mirror in self._mirrors.get(ref.registry, ()):
            if self._down.get(mirror.registry, 0.0) > time.monotonic():
                continue
            name = f"{mirror.prefix}/{ref.repository}" if mirror.prefix else ref.repository
            query = [] if mirror.prefix else [("ns", ref.registry)]
            try:
                return ask(self._transport(mirror.registry), name, query)
            except failures.Unreachable:
                self._down[mirror.registry] = time.monotonic() + _DOWN_SECONDS
            except OrlopError:
                continue
        return ask(self._transport(ref.registry), ref.repository, [])

    # Push

    def has(self, ref: Reference, digest: str) -> bool:
        """Whether the repository has the blob already."""
        return self._upload(ref).exists(Digest.parse(digest))

    def upload(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        mount_from: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> str:
        """Bring a blob into the repository: "exists", "mounted" or "uploaded" says how.

        `open_blob` opens the content; it is called again for every try and must give a seekable file. `mount_from`
        names repositories of the same registry that may have the blob. `progress` is told the bytes sent so far. An
        upload that breaks goes on where the registry says that it broke.
        """
        return self._upload(ref).send(descriptor, open_blob, mount_from, progress or _silent)

    def _upload(self, ref: Reference) -> Upload:
        return Upload(self._transport(ref.registry), ref.repository, ref.familiar_name)

    def put_manifest(self, ref: Reference, raw: bytes, media_type: str) -> Digest:
        """Put a manifest or index under `ref`'s tag, or under its digest where it has no tag. Returns the digest.

        If it has a subject and the registry has no referrers API, the list of referrers that the specification defines
        for such registries is brought up to date.
        """
        transport = self._transport(ref.registry)
        digest = Digest.of(raw, ref.digest.algorithm if ref.digest and not ref.tag else "sha256")
        if ref.digest and ref.digest.algorithm == digest.algorithm and ref.digest != digest:
            raise ContentMismatch(wanted=ref.digest, got=digest)
        response = transport.request(
            Request(
                method="PUT",
                path=f"/v2/{ref.repository}/manifests/{ref.tag or digest}",
                scopes=(_push(ref.repository),),
                headers={"Content-Type": media_type},
                body=lambda: raw,
            )
        )
        body = read(response)
        if response.status not in (200, 201, 202):
            raise _refused(response, body, transport, ref.familiar, "push to")
        told = response.headers.get("Docker-Content-Digest", "")
        if told and told.startswith(digest.algorithm + ":") and told != digest:
            raise ContentMismatch(wanted=digest, got=told)
        if "OCI-Subject" not in response.headers:
            referrers.register(self, ref, raw, media_type, digest)
        return digest

    # Discover

    def tags(self, ref: Reference) -> list[str]:
        """All tags of the repository, in the registry's order."""
        path = f"/v2/{ref.repository}/tags/list?n={_PAGE}"
        return self._listed(ref.registry, path, "tags", (_pull(ref.repository),), ref.familiar_name)

    def catalog(self, registry: str) -> list[str]:
        """The names of all repositories of a registry, as far as it tells."""
        path = f"/v2/_catalog?n={_PAGE}"
        return self._listed(registry, path, "repositories", ("registry:catalog:*",), f"the catalog of {registry}")

    def _listed(self, registry: str, path: str, field: str, scopes: tuple[str, ...], what: str) -> list[str]:
        transport = self._transport(registry)
        found: list[str] = []
        seen: set[str] = set()
        while path and path not in seen and len(seen) < _PAGES:
            seen.add(path)
            response = transport.request(Request(method="GET", path=path, scopes=scopes))
            body = read(response)
            if response.status != 200:
                raise _refused(response, body, transport, what, "list")
            page = load_object(body, what=f"the answer of {registry}", limit=len(body)).get(field)
            if page is not None and not isinstance(page, list):
                raise InvalidArgument(f"{registry} answered with something else than a list of {field}")
            found += [failures.plain(entry) for entry in page or () if isinstance(entry, str)]
            path = next_link(response.headers.get("Link", ""))
        return found

    def referrers(self, ref: Reference, digest: str, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """The descriptors of manifests whose subject is `digest`; only those of `artifact_type`, if it is given."""
        return referrers.listed(self, ref, Digest.parse(digest), artifact_type)

    # Manage

    def delete(self, ref: Reference) -> None:
        """Remove `ref`'s digest (and all tags that point to it) or, without one, its tag."""
        transport = self._transport(ref.registry)
        which = ref.digest or ref.tag
        gone = referrers.before_delete(self, ref) if ref.digest else None
        response = transport.request(
            Request(
                method="DELETE",
                path=f"/v2/{ref.repository}/manifests/{which}",
                scopes=(f"repository:{ref.repository}:delete,pull,push",),
            )
        )
        body = read(response)
        if response.status not in (200, 202, 204):
            error = _refused(response, body, transport, ref.familiar, "delete")
            if response.status in (400, 405) and not ref.digest:
                raise Unimplemented(f"{ref.registry} does not delete by tag", hint="delete by digest") from error
            raise error
        if gone is not None:
            referrers.unregister(self, ref, gone)

    def check_login(self, registry: str, user: str, password: str) -> None:
        """Return if the registry accepts the credentials; Unauthenticated if it does not."""
        transport = Transport(registry, None, self._options, self._pools)
        transport.log_in_as(Credential(username=user, password=password))
        response = transport.request(Request(method="GET", path="/v2/"))
        body = read(response)
        if response.status in (401, 403):
            _, message = failures.said(body)
            raise Unauthenticated(
                f"{registry} refuses the user name or password of {failures.plain(user)}"
                + (f" ({message})" if message else ""),
                hint="some registries want an access token in place of the password",
            )
        if response.status != 200:
            raise _refused(response, body, transport, f"{registry}/v2/", "log in to")
        with self._lock:
            self._transports.pop(registry, None)

    def exchange(self, registry: str, request: Request) -> tuple[BaseHTTPResponse, bytes]:
        """One request and its whole, small answer, whatever its status."""
        response = self._transport(registry).request(request)
        return response, read(response)

    def _transport(self, registry: str) -> Transport:
        with self._lock:
            found = self._transports.get(registry)
            if found is None:
                found = self._transports[registry] = Transport(registry, self._keychain, self._options, self._pools)
            return found


def _silent(_: int) -> None:
    """The progress of a caller who does not want to know."""


def _pull(name: str) -> str:
    return f"repository:{name}:pull"


def _push(name: str) -> str:
    return f"repository:{name}:pull,push"


def _refused(response: BaseHTTPResponse, body: bytes, transport: Transport, what: str, verb: str) -> OrlopError:
    return failures.refused(
        response.status,
        body,
        response.headers,
        what=what,
        registry=transport.registry,
        user=transport.user,
        verb=verb,
    )


def _named(ref: Reference, which: str) -> str:
    return f"{ref.familiar_name}{'@' if ':' in which else ':'}{which}"


def _head(transport: Transport, name: str, which: str, query: Query) -> Descriptor | None:
    """A descriptor from the headers alone; None where they do not tell enough, or HEAD fails (GET then says why)."""
    path = joined_query(f"/v2/{name}/manifests/{which}", query)
    response = transport.request(Request(method="HEAD", path=path, scopes=(_pull(name),), headers={"Accept": ACCEPT}))
    read(response)
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    length = response.headers.get("Content-Length", "")
    told = response.headers.get("Docker-Content-Digest", "")
    known = mediatype.is_manifest(media_type) or mediatype.is_index(media_type)
    if response.status != 200 or not known or not length.isdigit() or int(length) > MAX_BYTES:
        return None
    try:
        digest = Digest.parse(told)
    except InvalidArgument:
        return None
    if ":" in which and digest != which:
        raise ContentMismatch(wanted=which, got=digest)
    return Descriptor(media_type=media_type, digest=digest, size=int(length))


def _get(transport: Transport, ref: Reference, name: str, which: str, query: Query) -> tuple[bytes, str]:
    path = joined_query(f"/v2/{name}/manifests/{which}", query)
    response = transport.request(Request(method="GET", path=path, scopes=(_pull(name),), headers={"Accept": ACCEPT}))
    raw = read(response, MAX_BYTES)
    if response.status != 200:
        raise _refused(response, raw, transport, _named(ref, which), "read")
    told = which if ":" in which else response.headers.get("Docker-Content-Digest", "")
    if told:
        wanted = Digest.parse(told)
        got = Digest.of(raw, wanted.algorithm)
        if got != wanted:
            raise ContentMismatch(wanted=wanted, got=got)
    return raw, _media_type(raw, response.headers.get("Content-Type", ""), _named(ref, which))


def _media_type(raw: bytes, header: str, what: str) -> str:
    """What a manifest is. Header and manifest must agree (spec.md, "Pulling manifests")."""
    body = load_object(raw, what=f"the manifest of {what}", limit=MAX_BYTES)
    stated = body.get("mediaType")
    header = header.partition(";")[0].strip()
    if body.get("schemaVersion") == 1 or stated in _SCHEMA_1 or header in _SCHEMA_1:
        raise Unimplemented(
            f"{what} is in Docker's image format of before 2016 (schema 1), which is not supported",
            hint="pull it with an old docker and push it again, or ask its owner to",
        )
    known = mediatype.is_manifest(header) or mediatype.is_index(header)
    if isinstance(stated, str) and stated:
        if known and stated != header:
            raise InvalidArgument(f"the registry calls {what} {header}, but the manifest says that it is {stated}")
        return stated
    if known:
        return header
    return mediatype.OCI_INDEX if "manifests" in body else mediatype.OCI_MANIFEST
