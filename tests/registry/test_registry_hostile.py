"""Registries that lie, stall, redirect in circles or break: each gets an error that says so, and never our secrets."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import warnings
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import (
    ContentMismatch,
    FailedPrecondition,
    InvalidArgument,
    OrlopError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.mediatype import OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from orlop.oci.reference import Reference
from orlop.registry import endpoints, failures, headers
from orlop.registry.client import Client
from orlop.registry.credentials import Keychain
from orlop.registry.testing import Fake, drain, image, reply
from orlop.registry.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

    from orlop.registry.transport import Options

CONTENT = os.urandom(3_000_000)
BLOB = Descriptor.of(CONTENT, OCI_LAYER)
MANIFEST, _ = image(b"layer")


def at(fake: Fake, tag: str = "v1") -> Reference:
    return Reference.parse(f"{fake.address}/a/b:{tag}")


def fetch(client: Client, ref: Reference, offset: int = 0) -> bytes:
    with client.blob(ref, BLOB, offset) as pieces:
        return b"".join(pieces)


def ranged(handler: BaseHTTPRequestHandler) -> tuple[int, bytes]:
    """Where a request wants the blob from, and the bytes from there."""
    start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    return start, CONTENT[start:]


def test_a_download_that_breaks_is_resumed(client: Client) -> None:
    """Each broken connection costs only what did not arrive: the pieces are put together with Range requests."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start, rest = ranged(handler)
        where = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
        reply(handler, 206 if start else 200, rest[:700_000], Content_Length=str(len(rest)), **where)
        handler.close_connection = True

    with Fake(answer) as fake:
        assert fetch(client, at(fake)) == CONTENT
        starts = [headers.get("range") for _, path, headers in fake.requests if "blobs" in path]
        assert starts[:3] == [None, "bytes=700000-", "bytes=1400000-"]


def test_a_registry_without_ranges_is_read_from_the_start(client: Client) -> None:
    """If Range is ignored, the bytes before the offset are skipped."""
    with Fake(lambda handler: reply(handler, 200, CONTENT)) as fake:
        assert fetch(client, at(fake), 1_234_567) == CONTENT[1_234_567:]


def test_another_range_than_asked_for_is_not_believed(client: Client) -> None:
    """A 206 with other bytes is an error, not a blob with a hole."""
    wrong = f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"
    with (
        Fake(lambda handler: reply(handler, 206, CONTENT[7:], Content_Range=wrong)) as fake,
        pytest.raises(Unavailable, match="another part"),
    ):
        fetch(client, at(fake), 100)


@pytest.mark.parametrize("length", [len(CONTENT) + 1, len(CONTENT) - 1, 0])
def test_a_blob_of_another_length_is_refused_at_once(client: Client, length: int) -> None:
    """A Content-Length that is not the descriptor's size is a ContentMismatch before any byte is given on."""
    with (
        Fake(lambda handler: reply(handler, 200, b"x" * 10, Content_Length=str(length))) as fake,
        pytest.raises(ContentMismatch),
    ):
        fetch(client, at(fake))


def test_an_endless_blob_is_cut(client: Client) -> None:
    """Without Content-Length, more bytes than the descriptor says are a ContentMismatch, not a full disk."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 200, b"", Content_Length="", Connection="close")
        while True:
            handler.wfile.write(b"x" * 65536)

    got: list[int] = []
    with Fake(answer) as fake, client.blob(at(fake), BLOB) as pieces, pytest.raises(ContentMismatch, match="longer"):
        got.extend(map(len, pieces))
    assert sum(got) <= BLOB.size


def test_a_stream_that_always_breaks_is_given_up(client: Client) -> None:
    """A registry that never sends anything more is tried a few times, then named."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 200, b"", Content_Length=str(len(CONTENT)))
        handler.close_connection = True

    with Fake(answer) as fake:
        with pytest.raises(Unavailable, match=f"connection to {fake.address} broke"):
            fetch(client, at(fake))
        assert len(fake.requests) < 10


def test_a_registry_that_drips_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte a connection is progress, but not for ever."""
    monkeypatch.setattr("orlop.registry.download._RECONNECTIONS", 12)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start, rest = ranged(handler)
        where = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
        reply(handler, 206 if start else 200, rest[:1], Content_Length=str(len(rest)), **where)
        handler.close_connection = True

    with Fake(answer) as fake, pytest.raises(Unavailable, match="12 times"):
        fetch(client, at(fake))


def test_a_registry_that_stalls_times_out(quick: Options) -> None:
    """Silence in the middle of a body ends with an error after the read timeout."""
    client = Client(None, options=quick.replace(read_timeout=0.2))
    done = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 200, b"x" * 10, Content_Length=str(len(CONTENT)))
        handler.wfile.flush()
        done.wait(60)
        handler.close_connection = True

    with Fake(answer) as fake:
        with pytest.raises(Unavailable):
            fetch(client, at(fake))
        done.set()
    client.close()


def test_a_manifest_that_is_another_one_is_refused(client: Client) -> None:
    """By digest the bytes must be the digest's; by tag they must be what the registry itself says they are."""
    other = b"{}"
    with (
        Fake(lambda handler: reply(handler, 200, other, Content_Type=OCI_MANIFEST)) as fake,
        pytest.raises(ContentMismatch),
    ):
        client.manifest(at(fake), MANIFEST.digest)
    digest = str(MANIFEST.digest)
    with (
        Fake(lambda handler: reply(handler, 200, other, Docker_Content_Digest=digest)) as fake,
        pytest.raises(ContentMismatch),
    ):
        client.manifest(at(fake), "v1")


def test_a_head_that_names_another_digest_is_refused(client: Client) -> None:
    """HEAD by digest must be answered with that digest."""
    lie = {"Docker_Content_Digest": str(Digest.of(b"x")), "Content_Type": OCI_MANIFEST}
    with Fake(lambda handler: reply(handler, 200, MANIFEST.raw, **lie)) as fake, pytest.raises(ContentMismatch):
        client.resolve(at(fake).replace(digest=MANIFEST.digest))


def test_old_registries_do_not_tell_digests(client: Client) -> None:
    """Without Docker-Content-Digest, or without HEAD, the manifest is fetched and hashed."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "HEAD":
            reply(handler, 405)
        else:
            reply(handler, 200, MANIFEST.raw, Content_Type=f"{OCI_MANIFEST}; charset=utf-8")

    with Fake(answer) as fake:
        assert client.resolve(at(fake)) == MANIFEST.descriptor


@pytest.mark.parametrize("announced", [True, False])
def test_a_huge_manifest_is_not_read(client: Client, announced: bool) -> None:  # a parameter of pytest
    """More than 4 MiB are refused, announced or not."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        length = "999999999" if announced else ""
        reply(handler, 200, b" " * (6 << 20), Content_Length=length, Connection="close")

    with Fake(answer) as fake, pytest.raises(ResourceExhausted, match="not believable"):
        client.manifest(at(fake), "v1")


def test_schema_1_is_named(client: Client) -> None:
    """Docker's old format is refused by name."""
    raw = json.dumps({"schemaVersion": 1, "fsLayers": []}).encode()
    with (
        Fake(lambda handler: reply(handler, 200, raw, Content_Type="application/json")) as fake,
        pytest.raises(Unimplemented, match="schema 1"),
    ):
        client.manifest(at(fake), "v1")


def test_header_and_manifest_must_agree(client: Client) -> None:
    """A manifest that is announced as an index is refused."""
    with (
        Fake(lambda handler: reply(handler, 200, MANIFEST.raw, Content_Type=OCI_INDEX)) as fake,
        pytest.raises(InvalidArgument, match="but the manifest says"),
    ):
        client.manifest(at(fake), "v1")


def test_redirects_in_circles_end(client: Client) -> None:
    """A registry that redirects for ever is left after ten times."""
    with Fake(lambda handler: reply(handler, 307, Location=handler.path + "x")) as fake:
        with pytest.raises(FailedPrecondition, match="in circles"):
            fetch(client, at(fake))
        assert len(fake.requests) == 12


def test_credentials_stay_with_their_host(tmp_path: Path, quick: Options) -> None:
    """A redirect to another host (or port) is followed without the Authorization header; back home it is sent again."""
    keychain = Keychain(str(tmp_path / "config.json"))
    with Fake(lambda handler: reply(handler, 200, CONTENT)) as storage:

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if "authorization" not in {name.lower() for name in handler.headers}:
                reply(handler, 401, WWW_Authenticate='Basic realm="r"')
            elif "moved" not in handler.path:
                reply(handler, 307, Location="/v2/moved/here")
            else:
                reply(handler, 307, Location=f"http://{storage.address}/bucket?signature=s3cr3t")

        with Fake(answer) as fake:
            keychain.store(fake.address, "bob", "hunter2")
            client = Client(keychain, options=quick)
            assert fetch(client, at(fake)) == CONTENT
            assert fetch(client, at(fake), 5) == CONTENT[5:]
            client.close()
            moved = [headers for _, path, headers in fake.requests if "moved" in path]
            assert all(headers["authorization"].startswith("Basic ") for headers in moved)
        assert storage.requests
        assert not any("authorization" in headers for _, _, headers in storage.requests)
        assert storage.requests[-1][2]["range"] == "bytes=5-"


def test_signatures_are_not_in_errors(client: Client) -> None:
    """Errors about a redirect's target do not quote its query, where signatures are."""
    gone = "http://127.0.0.1:1/bucket/blob?X-Signature=s3cr3t&token=t0k3n"
    with Fake(lambda handler: reply(handler, 307, Location=gone)) as fake, pytest.raises(Unavailable) as caught:
        fetch(client, at(fake))
    said = str(caught.value) + caught.value.hint
    assert "bucket" in said
    assert "s3cr3t" not in said
    assert "t0k3n" not in said


@given(st.text(max_size=60))
def test_redaction_leaves_no_secret(text: str) -> None:
    """Whatever the secret is made of, it is cut from user info, query and fragment, and nothing unprintable is left."""
    secret = "s3cr3t" + text.replace("/", "").replace("@", "").replace("?", "").replace("#", "")
    for url in (
        f"https://{secret}@host/path",
        f"https://bob:{secret}@host/path",
        f"https://host/path?x={secret}",
        f"https://host/path#{secret}",
    ):
        assert "s3cr3t" not in failures.redacted(url)
        assert failures.redacted(url).startswith("https://host/path")
        assert failures.redacted(url).isprintable()


def test_what_registries_say_cannot_drive_a_terminal(client: Client) -> None:
    """Escape sequences in a registry's error do not reach the message."""
    body = json.dumps(
        {"errors": [{"code": "DENIED", "message": "\x1b[2J\x1b]0;owned\x07 no\r\nfake line " + "x" * 999}]}
    )
    with Fake(lambda handler: reply(handler, 400, body.encode())) as fake, pytest.raises(InvalidArgument) as caught:
        client.tags(at(fake))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_faults_are_tried_again(client: Client, status: int) -> None:
    """429 and 5xx are tried again, with Retry-After honoured, until they pass."""
    left = [2]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        left[0] -= 1
        if left[0] >= 0:
            reply(handler, status, Retry_After="0")
        else:
            reply(handler, 200, b'{"tags":["v1"]}')

    with Fake(answer) as fake:
        assert client.tags(at(fake)) == ["v1"]


def test_a_limit_that_stays_is_said(client: Client) -> None:
    """A registry that keeps answering 429, or asks for an hour, is named with the wait it wants."""
    with Fake(lambda handler: reply(handler, 429, Retry_After="3600")) as fake:
        with pytest.raises(ResourceExhausted, match="limits how many requests") as caught:
            client.tags(at(fake))
        assert "3600 s" in caught.value.hint
        assert "orlop login" in caught.value.hint
        assert len([1 for _, path, _ in fake.requests if "tags" in path]) == 1


def test_a_connection_that_was_closed_meanwhile_is_made_anew(client: Client) -> None:
    """A registry that drops idle connections without saying so costs nothing but a new one."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 200, b'{"tags":[]}')
        handler.close_connection = True

    with Fake(answer) as fake:
        for _ in range(5):
            assert client.tags(at(fake)) == []


def test_nobody_there(quick: Options) -> None:
    """Refused connections, unknown names and servers that speak something else are told apart."""
    client = Client(None, options=quick)
    with pytest.raises(Unavailable, match="refuses connections"):
        client.tags(Reference.parse("127.0.0.1:1/a"))
    with pytest.raises(Unavailable, match=r"cannot find registry\.invalid"):
        client.tags(Reference.parse("registry.invalid/a"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9\r\n")
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Unavailable):
            client.tags(Reference.parse(f"{address}/a"))
        thread.join()
    client.close()


def test_an_insecure_registry_may_be_plain(quick: Options) -> None:
    """A listed registry is tried with TLS first and then without; no warning is printed."""
    with Fake(lambda handler: reply(handler, 200, b'{"tags":["v1"]}')) as fake, warnings.catch_warnings():
        warnings.simplefilter("error")
        client = Client(None, options=quick.replace(insecure=("127.0.0.0/8",)))
        assert client.tags(at(fake)) == ["v1"]
        client.close()


@pytest.mark.parametrize("location", ["http://r.example/x?sig=s3cr3t", "file:///etc/passwd", "ftp://x", "javascript:x"])
def test_tls_registries_may_not_redirect_to_plain_http(location: str) -> None:
    """What was asked for over TLS is not fetched in the clear, nor from anything that is not HTTP."""
    with pytest.raises(FailedPrecondition, match="not encrypted") as caught:
        endpoints.redirected("https://r.example/v2/", location, plain_is_fine=False)
    assert "s3cr3t" not in str(caught.value)


def test_other_redirects_are_followed() -> None:
    """Relative ones, to other TLS hosts, and from plain HTTP to anywhere."""
    assert endpoints.redirected("https://r.example/v2/", "/x", plain_is_fine=False) == "https://r.example/x"
    assert endpoints.redirected("https://r.example/v2/", "//s.example/x", plain_is_fine=False) == "https://s.example/x"
    assert endpoints.redirected("http://r.example/v2/", "http://s.example", plain_is_fine=False) == "http://s.example"


def pages(handler: BaseHTTPRequestHandler) -> None:
    """A list whose next page is always itself."""
    reply(handler, 200, b'{"tags":["v1"]}', Link=f'<{handler.path}>; rel="next"')


def test_pages_in_circles_end(client: Client) -> None:
    """A list that leads back to itself is read once."""
    with Fake(pages) as fake:
        assert client.tags(at(fake)) == ["v1"]


def test_lists_do_not_go_on_elsewhere() -> None:
    """The next page of a list is looked for at the same registry, whichever host its Link names."""
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        link = '<http://169.254.169.254/latest/meta-data?x=1>; rel="next"' if len(asked) == 1 else ""
        reply(handler, 200, b'{"tags":["v1"]}', Link=link)

    client = Client(None)
    with Fake(answer) as fake:
        assert client.tags(at(fake)) == ["v1", "v1"]
    client.close()
    assert asked[1] == "/latest/meta-data?x=1"
    for target in ("https://evil//evil/x", "//evil/x", "https://evil", "file:///etc/passwd"):
        assert headers.next_link(f'<{target}>; rel="next"') in {"/evil/x", "/x", "/", "/etc/passwd"}


@pytest.mark.parametrize("path", ["http://r.example/up", "file:///etc/passwd", "http://169.254.169.254/"])
def test_uploads_stay_encrypted(path: str) -> None:
    """Where a TLS registry says that an upload goes on is judged like a redirect: not in the clear, not another scheme."""
    client = Client(None)
    transport = client._transport("r.example")  # nothing is sent: the address is refused before
    with pytest.raises(FailedPrecondition, match="not encrypted"):
        transport.request(Request(method="PATCH", path=path))
    client.close()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["tags", "errors", "manifests", "mediaType", "config", "layers", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=10,
    ),
    st.sampled_from([200, 201, 204, 206, 301, 307, 400, 401, 403, 404, 405, 416, 418, 500]),
)
def test_any_answer_is_a_value_or_our_error(value: object, status: int) -> None:
    """Whatever JSON a registry answers with whatever status, verbs return or raise an OrlopError."""
    from orlop.registry.transport import Options

    client = Client(None, options=Options(attempts=1))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        drain(handler)
        reply(handler, status, json.dumps(value).encode())

    with Fake(answer) as fake:
        ref = at(fake)
        verbs: list[Callable[[], object]] = [
            lambda: client.tags(ref),
            lambda: client.manifest(ref, "v1"),
            lambda: client.resolve(ref),
            lambda: client.referrers(ref, Digest.of(b"x")),
            lambda: client.has(ref, Digest.of(b"x")),
            lambda: client.upload(ref, Descriptor.of(b"x", OCI_LAYER), lambda: io.BytesIO(b"x"), ["c"]),
            lambda: client.put_manifest(ref, MANIFEST.raw, MANIFEST.media_type),
            lambda: client.delete(ref),
            lambda: client.check_login(fake.address, "a", "b"),
        ]
        for verb in verbs:
            try:
                verb()
            except OrlopError as error:
                assert error.message  # any of our errors will do
    client.close()
