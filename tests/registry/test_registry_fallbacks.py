"""Registries that cannot do all of it, or break in the middle: the client goes the longer way."""

from __future__ import annotations

import io
import json
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from orlop.errors import DataLoss, NotFound, Unavailable, Unimplemented
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.manifest import Index, Manifest
from orlop.oci.mediatype import OCI_LAYER
from orlop.oci.reference import Reference
from orlop.registry import failures, referrers
from orlop.registry.testing import Fake, drain, image, reply

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    from orlop.registry.client import Client

CONTENT = os.urandom(3_000_000)
BLOB = Descriptor.of(CONTENT, OCI_LAYER)
MANIFEST, _ = image(b"layer")


def at(fake: Fake, tag: str = "v1") -> Reference:
    return Reference.parse(f"{fake.address}/a/b:{tag}")


class Receiving:
    """A registry that takes one upload, and can be told how to fail."""

    def __init__(self) -> None:
        self.content = b""
        self.breaks = 0
        self.limit = 0
        self.least = ""
        self.log: list[str] = []

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        self.log.append(f"{handler.command} {handler.headers.get('Content-Range', '')}".strip())
        where = {"Location": "/upload/1?state=abc", "Range": f"0-{max(0, len(self.content) - 1)}"}
        length = int(handler.headers.get("Content-Length", "0"))
        if handler.command == "HEAD":
            reply(handler, 404)
        elif handler.command == "POST":
            drain(handler)
            self.content = b""
            reply(handler, 202, **where, OCI_Chunk_Min_Length=self.least)
        elif handler.command == "GET":
            reply(handler, 204, **where)
        elif self.limit and length > self.limit:
            reply(handler, 413, Connection="close")
            handler.close_connection = True
        elif self.breaks:
            self.breaks -= 1
            self.content += handler.rfile.read(length // 2)
            handler.close_connection = True
        else:
            assert "state=abc" in handler.path
            self.content += drain(handler)
            where["Range"] = f"0-{len(self.content) - 1}"
            reply(handler, 201 if handler.command == "PUT" else 202, **where)


def test_a_broken_upload_goes_on_where_it_broke(client: Client) -> None:
    """After a broken connection the registry is asked how far it got, and only the rest is sent."""
    receiving = Receiving()
    receiving.breaks = 1
    with Fake(receiving) as fake:
        assert client.upload(at(fake), BLOB, lambda: io.BytesIO(CONTENT)) == "uploaded"
    assert receiving.content == CONTENT
    half = len(CONTENT) // 2
    assert receiving.log == ["HEAD", "POST", "PUT", "GET", f"PATCH {half}-{len(CONTENT) - 1}", "PUT"]


def test_a_registry_that_takes_no_large_bodies_gets_pieces(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """413 for the whole blob makes it come in pieces, none smaller than the registry wants."""
    monkeypatch.setattr("orlop.registry.upload._CHUNK", 400_000)
    receiving = Receiving()
    receiving.limit, receiving.least = 1_100_000, "1000000"
    with Fake(receiving) as fake:
        assert client.upload(at(fake), BLOB, lambda: io.BytesIO(CONTENT)) == "uploaded"
    assert receiving.content == CONTENT
    assert [line for line in receiving.log if "PATCH" in line] == [
        "PATCH 0-999999",
        "PATCH 1000000-1999999",
        "PATCH 2000000-2999999",
    ]


def test_an_upload_that_always_breaks_is_given_up(client: Client) -> None:
    """A registry that breaks every upload is named after a few tries."""
    receiving = Receiving()
    receiving.breaks = 99
    with Fake(receiving) as fake, pytest.raises(Unavailable, match="connection to"):
        client.upload(at(fake), BLOB, lambda: io.BytesIO(CONTENT))


def test_a_local_copy_that_is_too_short_is_said(client: Client) -> None:
    """A file shorter than its descriptor is our fault, and is said so."""
    with Fake(Receiving()) as fake, pytest.raises(DataLoss, match="local copy"):
        client.upload(at(fake), BLOB, lambda: io.BytesIO(CONTENT[:-1]))


def test_a_registry_that_gets_other_bytes_is_said(client: Client) -> None:
    """DIGEST_INVALID after an upload says that the content was changed on the way or here."""
    body = b'{"errors":[{"code":"DIGEST_INVALID"}]}'

    def answer(handler: BaseHTTPRequestHandler) -> None:
        drain(handler)
        status = {"HEAD": 404, "POST": 202}.get(handler.command, 400)
        reply(handler, status, body if status == 400 else b"", Location="/x")

    with Fake(answer) as fake, pytest.raises(DataLoss, match="did not get blob"):
        client.upload(at(fake), BLOB, lambda: io.BytesIO(CONTENT))


class WithoutReferrers:
    """A registry from before the referrers API: manifests by tag and digest, nothing else."""

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[bytes, str]] = {}

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        key = handler.path.rpartition("/")[2]
        body = drain(handler)
        if "/manifests/" not in handler.path:
            reply(handler, 404)
        elif handler.command == "PUT":
            self.manifests[key] = self.manifests[str(Digest.of(body))] = (body, handler.headers["Content-Type"])
            reply(handler, 201)
        elif handler.command == "DELETE":
            reply(handler, 202 if self.manifests.pop(key, None) else 404)
        elif key in self.manifests:
            reply(handler, 200, self.manifests[key][0], Content_Type=self.manifests[key][1])
        else:
            reply(handler, 404)


def test_referrers_without_the_api(client: Client) -> None:
    """Where there is no referrers API, the list under the stand-in tag is kept: entries added once, and taken off."""
    old = WithoutReferrers()
    with Fake(old) as fake:
        ref = at(fake)
        artifacts = [
            Manifest.build(
                config=MANIFEST.config,
                layers=[],
                subject=MANIFEST.descriptor,
                artifact_type=kind,
                annotations={"n": kind},
            )
            for kind in ("application/sbom", "")
        ]
        for artifact in (*artifacts, artifacts[0]):
            client.put_manifest(ref.replace(tag="", digest=artifact.digest), artifact.raw, artifact.media_type)
        raw, _ = old.manifests[referrers.tag_of(MANIFEST.digest)]
        assert len(json.loads(raw)["manifests"]) == 2
        found = client.referrers(ref, MANIFEST.digest)
        assert [one.artifact_type for one in found] == ["application/sbom", MANIFEST.config.media_type]
        assert found[0].annotations == {"n": "application/sbom"}
        client.delete(ref.replace(tag="", digest=artifacts[0].digest))
        assert [one.digest for one in client.referrers(ref, MANIFEST.digest)] == [artifacts[1].digest]
        assert client.referrers(ref, Digest.of(b"nobody refers to this")) == ()


def test_stand_in_tags_are_those_of_the_specification() -> None:
    """The table in spec.md, "Referrers Tag Schema"."""
    assert referrers.tag_of("sha256:" + "a" * 64) == "sha256-" + "a" * 64
    assert referrers.tag_of("sha512:" + "a" * 128) == "sha512-" + "a" * 64
    long = (
        "test+algorithm+using+algorithm+separators+and+lots+of+characters+to+excercise+overall+truncation:"
        "alsoSome=InTheEncodedSectionToShowHyphenReplacementAndLotsAndLotsOfCharactersToExcerciseEncodedTruncation"
    )
    assert referrers.tag_of(long) == (
        "test-algorithm-using-algorithm-s-alsoSome-InTheEncodedSectionToShowHyphenReplacementAndLotsAndLot"
    )


def test_registries_that_do_not_delete_by_tag(client: Client) -> None:
    """405 for a tag says to delete by digest."""
    with Fake(lambda handler: reply(handler, 405)) as fake, pytest.raises(Unimplemented, match="by tag") as caught:
        client.delete(at(fake))
    assert caught.value.hint == "delete by digest"


def test_an_index_is_no_surprise(client: Client) -> None:
    """An index without mediaType and with a useless Content-Type is known by its fields."""
    raw = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    with Fake(lambda handler: reply(handler, 200, raw, Content_Type="text/plain")) as fake:
        assert client.manifest(at(fake), "v1") == (raw, Index.build(manifests=[]).media_type)


def test_missing_and_private_are_told_apart(client: Client) -> None:
    """404 is missing; 401 and 403 for a stranger are missing or private, with the way to log in."""
    for status, expected in ((404, NotFound), (401, failures.NotFoundOrPrivate), (403, failures.NotFoundOrPrivate)):
        with Fake(partial(_refuse, status)) as fake, pytest.raises(expected) as caught:
            client.manifest(at(fake), "v1")
        assert f"orlop login {fake.address}" in caught.value.hint
        assert f"{fake.address}/a/b:v1 not found" in str(caught.value)


def _refuse(status: int, handler: BaseHTTPRequestHandler) -> None:
    reply(handler, status)
