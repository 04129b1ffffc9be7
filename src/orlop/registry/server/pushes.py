"""The endpoints of blob uploads (spec.md, "Pushing blobs")."""

from __future__ import annotations

import asyncio
import time

from orlop.oci.digest import LENGTHS
from orlop.registry.grammar import is_repository, is_session
from orlop.registry.server.handlers import digest_in
from orlop.registry.server.replies import Refusal, digest_invalid, name_invalid, upload_unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.oci.digest import Digest
    from orlop.registry.server.exchange import Exchange
    from orlop.registry.server.replies import Headers
    from orlop.registry.server.storage import Session, Storage

_PATIENCE = 5.0
"""Seconds to wait for an earlier request on the same upload: after a broken connection it may still be writing."""


async def post_upload(exchange: Exchange, storage: Storage) -> None:
    """end-4a, end-4b, end-4c and end-11: start an upload, or mount, or take a whole blob at once."""
    loop = asyncio.get_running_loop()
    mount = exchange.query("mount")
    if mount:
        digest, source = digest_in(mount), exchange.query("from")
        if source and not is_repository(source):
            raise name_invalid(source)
        if await loop.run_in_executor(None, storage.mount, exchange.name, digest, source):
            await _created(exchange, digest)
            return
    algorithm = exchange.query("digest-algorithm") or "sha256"
    if algorithm not in LENGTHS:
        raise digest_invalid(f"digest algorithm {algorithm[:40]!r} is not supported ({', '.join(LENGTHS)} are)")
    whole = exchange.query("digest")
    if not whole:
        session = await loop.run_in_executor(None, storage.begin, exchange.name, algorithm)
        await exchange.done(202, _where(exchange, session, 0))
        return
    digest = digest_in(whole)
    exchange.reference = await loop.run_in_executor(None, storage.begin, exchange.name, digest.algorithm)
    await _take(exchange, storage, digest)


async def get_upload(exchange: Exchange, storage: Storage) -> None:
    """end-13: how far an upload is."""
    session = _session(exchange)
    await exchange.done(204, _where(exchange, session, storage.upload_size(exchange.name, session)))


async def patch_upload(exchange: Exchange, storage: Storage) -> None:
    """end-5: more bytes."""
    session = _session(exchange)
    upload = await _resumed(exchange, storage)
    try:
        _check_range(exchange, upload)
        await exchange.body_into(upload)
        offset = upload.offset
    finally:
        upload.close()
    await exchange.done(202, _where(exchange, session, offset))


async def put_upload(exchange: Exchange, storage: Storage) -> None:
    """end-6: the last bytes, if any are left, and the digest of the whole."""
    wanted = exchange.query("digest")
    if not wanted:
        raise digest_invalid("the query has no digest")
    await _take(exchange, storage, digest_in(wanted))


async def delete_upload(exchange: Exchange, storage: Storage) -> None:
    """end-14: forget an upload."""
    session = _session(exchange)
    await asyncio.get_running_loop().run_in_executor(None, storage.cancel, exchange.name, session)
    await exchange.done(204, [])


async def _take(exchange: Exchange, storage: Storage, digest: Digest) -> None:
    """The request's body ends the upload, which becomes the blob `digest`."""
    upload = await _resumed(exchange, storage)
    try:
        _check_range(exchange, upload)
        await exchange.body_into(upload)
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, upload.finish, digest))
    finally:
        upload.close()
    await _created(exchange, digest)


async def _created(exchange: Exchange, digest: Digest) -> None:
    location = f"/v2/{exchange.name}/blobs/{digest}".encode()
    await exchange.done(201, [(b"location", location), (b"docker-content-digest", digest.encode())])


def _session(exchange: Exchange) -> str:
    if not is_session(exchange.reference):
        raise upload_unknown(exchange.reference)
    return exchange.reference


async def _resumed(exchange: Exchange, storage: Storage) -> Session:
    """The upload, for this request alone."""
    session = _session(exchange)
    deadline = time.monotonic() + _PATIENCE
    while True:
        upload = storage.resume(exchange.name, session)
        if upload is not None:
            return upload
        if time.monotonic() > deadline:
            raise Refusal(409, "BLOB_UPLOAD_INVALID", "another request is writing to this upload")
        await asyncio.sleep(0.02)


def _check_range(exchange: Exchange, upload: Session) -> None:
    """Bytes must come in order: a Content-Range starts where the upload ends."""
    text = exchange.header(b"content-range")
    if not text:
        return
    first, dash, last = text.removeprefix(b"bytes ").partition(b"/")[0].partition(b"-")
    if not dash or not first.isdigit() or not last.isdigit():
        raise Refusal(400, "BLOB_UPLOAD_INVALID", "Content-Range is not `first-last`")
    start, length = int(first), exchange.length()
    if start != upload.offset:
        raise Refusal(
            416,
            "BLOB_UPLOAD_INVALID",
            f"the upload has {upload.offset} bytes, this piece starts at {start}",
            headers=_where(exchange, exchange.reference, upload.offset),
        )
    if length is not None and length != int(last) - start + 1:
        raise Refusal(400, "SIZE_INVALID", f"Content-Length is {length}, Content-Range says {int(last) - start + 1}")


def _where(exchange: Exchange, session: str, size: int) -> Headers:
    """Where an upload goes on. An empty one has the range 0-0 too: the grammar cannot say "nothing"."""
    return [
        (b"location", f"/v2/{exchange.name}/blobs/uploads/{session}".encode()),
        (b"range", b"0-%d" % max(0, size - 1)),
        (b"docker-upload-uuid", session.encode()),
    ]
