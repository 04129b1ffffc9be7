"""The endpoints that read, and those that change manifests, tags and blobs (spec.md, "Endpoints")."""

from __future__ import annotations

import asyncio
import os
from urllib.parse import urlencode

from orlop.errors import InvalidArgument
from orlop.oci.digest import Digest
from orlop.oci.jsontext import dumps
from orlop.oci.mediatype import OCI_INDEX
from orlop.registry.grammar import is_tag
from orlop.registry.server import manifests
from orlop.registry.server.replies import (
    API_VERSION,
    JSON,
    Refusal,
    digest_invalid,
    manifest_invalid,
    manifest_unknown,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.registry.server.exchange import Exchange
    from orlop.registry.server.storage import Storage

_SMALL = 64 * 1024
_CATALOG_PAGE = 100
_REFERRERS_PAGE = manifests.LIMIT - 4096
_TAG_PARAMETERS = 64
_BLOB_HEADERS = [
    (b"content-type", b"application/octet-stream"),
    (b"accept-ranges", b"bytes"),
    (b"cache-control", b"max-age=31536000, immutable"),
    API_VERSION,
]


def digest_in(text: str) -> Digest:
    """The digest that part of a path or query states; a 400 for anything else."""
    try:
        return Digest.parse(text)
    except InvalidArgument as error:
        raise digest_invalid(error.message[:300]) from error


async def get_base(exchange: Exchange, _: Storage) -> None:
    """end-1: yes, this is a registry."""
    await exchange.reply(200, (JSON, (b"content-length", b"2"), API_VERSION), b"{}")


# Manifests and tags


async def get_manifest(exchange: Exchange, storage: Storage) -> None:
    """end-3."""
    reference = exchange.reference
    if ":" in reference:
        stored = storage.manifest(exchange.name, digest_in(reference))
    elif is_tag(reference):
        stored = storage.tagged(exchange.name, reference)
    else:
        raise manifest_unknown(reference[:300])
    if _is_known(exchange, stored.digest):
        await exchange.reply(304, stored.headers[2:])
    else:
        await exchange.reply(200, stored.headers, stored.raw)


def _is_known(exchange: Exchange, digest: Digest) -> bool:
    known = exchange.header(b"if-none-match")
    return bool(known) and b'"%s"' % digest.encode("ascii") in known.split(b", ")


async def put_manifest(exchange: Exchange, storage: Storage, *, sparse: bool = False) -> None:
    """end-7a and end-7b."""
    reference = exchange.reference
    tags = exchange.queries("tag")
    if ":" in reference:
        digest = digest_in(reference)
    elif is_tag(reference):
        digest, tags = None, [reference, *tags]
    else:
        raise manifest_invalid(f"{reference[:300]!r} is neither a tag nor a digest")
    if len(tags) > _TAG_PARAMETERS:
        raise Refusal(414, "UNSUPPORTED", f"at most {_TAG_PARAMETERS} tags in one request")
    for tag in tags:
        if not is_tag(tag):
            raise manifest_invalid(f"{tag[:300]!r} is not a tag")
    raw = await exchange.body(manifests.LIMIT)
    content_type = exchange.header(b"content-type").decode("latin-1")

    def keep() -> tuple[Digest, Digest | None]:
        found = Digest.of(raw, digest.algorithm if digest else "sha256")
        if digest and found != digest:
            raise digest_invalid(f"the content is {found}, not {digest}")
        pushed = manifests.read(raw, content_type, found)
        storage.put_manifest(exchange.name, pushed, tags, sparse=sparse)
        return found, pushed.subject

    found, subject = await asyncio.get_running_loop().run_in_executor(None, keep)
    headers = [
        (b"location", f"/v2/{exchange.name}/manifests/{found}".encode()),
        (b"docker-content-digest", found.encode()),
    ]
    if subject:
        headers.append((b"oci-subject", subject.encode()))
    if ":" in reference and tags:
        headers.append((b"oci-tag", ", ".join(tags).encode()))
    await exchange.done(201, headers)


async def delete_manifest(exchange: Exchange, storage: Storage) -> None:
    """end-9."""
    reference = exchange.reference
    loop = asyncio.get_running_loop()
    if ":" in reference:
        await loop.run_in_executor(None, storage.delete_manifest, exchange.name, digest_in(reference))
    elif is_tag(reference):
        await loop.run_in_executor(None, storage.delete_tag, exchange.name, reference)
    else:
        raise manifest_unknown(reference[:300])
    await exchange.done(202, [])


async def get_tags(exchange: Exchange, storage: Storage) -> None:
    """end-8a and end-8b."""
    tags = await asyncio.get_running_loop().run_in_executor(None, storage.tags, exchange.name)
    page, link = _page(exchange, tags, len(tags), f"/v2/{exchange.name}/tags/list")
    await _json(exchange, {"name": exchange.name, "tags": page}, link)


async def get_catalog(exchange: Exchange, storage: Storage) -> None:
    """The names of all repositories, a page at a time (Docker Registry HTTP API V2)."""
    names = await asyncio.get_running_loop().run_in_executor(None, storage.repositories)
    page, link = _page(exchange, names, _CATALOG_PAGE, "/v2/_catalog")
    await _json(exchange, {"repositories": page}, link)


def _page(
    exchange: Exchange, entries: Sequence[str], most: int, path: str
) -> tuple[Sequence[str], list[tuple[bytes, bytes]]]:
    """The part of sorted `entries` that the query asks for, and the Link to the next one."""
    wanted = exchange.query("n")
    if wanted:
        if not wanted.isascii() or not wanted.isdigit():
            raise Refusal(400, "UNSUPPORTED", f"n={wanted[:20]!r} is not a number")
        most = int(wanted[:9])
    last = exchange.query("last")
    if last:
        entries = [entry for entry in entries if entry > last]
    page = entries[:most]
    if not page or len(page) == len(entries):
        return page, []
    return page, _link(path, {"n": str(most), "last": page[-1]})


def _link(path: str, query: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(b"link", f'<{path}?{urlencode(query)}>; rel="next"'.encode())]


async def _json(exchange: Exchange, value: object, headers: list[tuple[bytes, bytes]]) -> None:
    body = dumps(value)
    await exchange.reply(200, (JSON, (b"content-length", b"%d" % len(body)), API_VERSION, *headers), body)


async def get_referrers(exchange: Exchange, storage: Storage) -> None:
    """end-12a and end-12b."""
    subject = digest_in(exchange.reference)
    entries = await asyncio.get_running_loop().run_in_executor(None, storage.referrers, exchange.name, subject)
    headers: list[tuple[bytes, bytes]] = []
    wanted = exchange.query("artifactType")
    if wanted:
        sought = b'"artifactType":' + dumps(wanted)
        entries = [entry for entry in entries if sought in entry and manifests.kind_of_entry(entry) == wanted]
        headers.append((b"oci-filters-applied", b"artifactType"))
    last = exchange.query("last")
    if last.isascii() and last.isdigit():
        entries = entries[int(last[:9]) :]
    page, size = 0, 0
    while page < len(entries) and (page == 0 or size + len(entries[page]) < _REFERRERS_PAGE):
        size += len(entries[page]) + 1
        page += 1
    if page < len(entries):
        query = {"last": str(int(last or "0") + page)} | ({"artifactType": wanted} if wanted else {})
        headers += _link(f"/v2/{exchange.name}/referrers/{subject}", query)
    body = b'{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' % (OCI_INDEX.encode(), b",".join(entries[:page]))
    length = (b"content-length", b"%d" % len(body))
    await exchange.reply(200, ((b"content-type", OCI_INDEX.encode()), length, API_VERSION, *headers), body)


# Blobs


async def get_blob(exchange: Exchange, storage: Storage) -> None:
    """end-2."""
    digest = digest_in(exchange.reference)
    path, size = storage.blob(exchange.name, digest)
    name = digest.encode("ascii")
    headers = [*_BLOB_HEADERS, (b"docker-content-digest", name), (b"etag", b'"%s"' % name)]
    if _is_known(exchange, digest):
        await exchange.reply(304, headers)
        return
    start, end = 0, size
    wanted = exchange.header(b"range")
    if wanted and exchange.header(b"if-range") in (b"", b'"%s"' % name):
        start, end = _range(wanted, size)
    headers.append((b"content-length", b"%d" % (end - start)))
    status = 200
    if end - start != size:
        status = 206
        headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size)))
    if exchange.head:
        await exchange.reply(status, headers)
    elif end - start <= _SMALL:
        with open(path, "rb", buffering=0) as file:  # 64 KiB at most: a thread would cost more
            body = os.pread(file.fileno(), end - start, start)
        await exchange.reply(status, headers, body)
    elif status == 200 and exchange.sends_paths:
        await exchange.send_file(status, headers, path)
    else:
        await exchange.send_range(status, headers, path, start, end - start)


def _range(text: bytes, size: int) -> tuple[int, int]:
    """The bytes [start, end) that a Range header wants; all of them where it cannot be understood (RFC 9110, 14.2)."""
    unit, _, spec = text.partition(b"=")
    first, dash, last = spec.strip().partition(b"-")
    if unit.strip().lower() != b"bytes" or not dash or not (first or last) or not (first + last).isdigit():
        return 0, size
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= end:
        raise Refusal(
            416, "SIZE_INVALID", f"the blob has {size} bytes", headers=[(b"content-range", b"bytes */%d" % size)]
        )
    return start, end


async def delete_blob(exchange: Exchange, storage: Storage) -> None:
    """end-10."""
    digest = digest_in(exchange.reference)
    await asyncio.get_running_loop().run_in_executor(None, storage.delete_blob, exchange.name, digest)
    await exchange.done(202, [])
