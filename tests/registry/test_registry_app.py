"""The application's answers, without a server in between: the specification's rules one by one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.oci.digest import Digest
from orlop.oci.manifest import Index, Manifest
from orlop.oci.mediatype import OCI_CONFIG as CONFIG
from orlop.oci.mediatype import OCI_LAYER as LAYER
from orlop.registry.server.app import Application
from orlop.registry.server.files import FileStorage
from orlop.registry.testing import Direct, image

if TYPE_CHECKING:
    from pathlib import Path

BLOB = b"some content, long enough to cut"
DIGEST = str(Digest.of(BLOB))


def push_blob(direct: Direct, name: str, content: bytes) -> str:
    """A blob by POST and PUT; its digest."""
    digest = str(Digest.of(content))
    location = direct("POST", f"/v2/{name}/blobs/uploads/").headers["location"]
    assert direct("PUT", f"{location}?digest={digest}", content).status == 201
    return digest


def push_image(direct: Direct, name: str, tag: str, *layers: bytes) -> Manifest:
    """An image with all its blobs."""
    manifest, blobs = image(*layers)
    for raw in blobs.values():
        push_blob(direct, name, raw)
    answer = direct("PUT", f"/v2/{name}/manifests/{tag}", manifest.raw, content_type=manifest.media_type)
    assert answer.status == 201, answer.body
    return manifest


def test_a_pushed_image_is_pulled_as_it_was(direct: Direct) -> None:
    """Manifest bytes, type, length and digest are what was pushed, by tag and by digest, for GET and for HEAD."""
    manifest = push_image(direct, "a/b", "v1", b"layer")
    for reference in ("v1", manifest.digest):
        answer = direct("GET", f"/v2/a/b/manifests/{reference}")
        assert (answer.status, answer.body) == (200, manifest.raw)
        assert answer.headers["content-type"] == manifest.media_type
        assert answer.headers["docker-content-digest"] == manifest.digest
        assert answer.headers["content-length"] == str(len(manifest.raw))
        head = direct("HEAD", f"/v2/a/b/manifests/{reference}")
        assert (head.status, head.body, head.headers) == (200, b"", answer.headers)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_blobs_of_both_algorithms(direct: Direct, algorithm: str) -> None:
    """A blob is kept under sha256 and sha512 digests, whether or not the upload was told which it would be."""
    digest = str(Digest.of(BLOB, algorithm))
    location = direct("POST", "/v2/a/blobs/uploads/").headers["location"]
    assert direct("PATCH", location, BLOB[:5]).headers["range"] == "0-4"
    assert direct("PUT", f"{location}?digest={digest}", BLOB[5:]).status == 201
    answer = direct("GET", f"/v2/a/blobs/{digest}")
    assert (answer.body, answer.headers["docker-content-digest"]) == (BLOB, digest)
    whole = direct("POST", f"/v2/b/blobs/uploads/?digest={digest}", BLOB)
    assert (whole.status, whole.headers["location"]) == (201, f"/v2/b/blobs/{digest}")


@given(
    st.binary(max_size=300),
    st.one_of(
        st.tuples(st.integers(0, 320), st.integers(0, 320) | st.none()), st.tuples(st.none(), st.integers(0, 320))
    ),
)
def test_ranges_are_slices(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, wanted: tuple[int | None, int | None]
) -> None:
    """A Range gives exactly those bytes and says so, or a 416 with the size; all of them are a 200."""
    direct = _fresh(tmp_path_factory)
    digest = push_blob(direct, "a", content)
    first, last = wanted
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is None:
        start, end = max(0, len(content) - (last or 0)), len(content)
    else:
        start, end = first, len(content) if last is None else min(last + 1, len(content))
    answer = direct("GET", f"/v2/a/blobs/{digest}", range=text)
    if start >= end:
        assert answer.status == 416
        assert answer.headers["content-range"] == f"bytes */{len(content)}"
        return
    assert answer.body == content[start:end]
    assert answer.headers["content-length"] == str(end - start)
    assert answer.status == (200 if end - start == len(content) else 206)
    if answer.status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(content)}"


_fresh_ones: list[Direct] = []


def _fresh(factory: pytest.TempPathFactory) -> Direct:
    """One application for all examples of a property: making folders for each would take most of the time."""
    if not _fresh_ones:
        storage = FileStorage.open(str(factory.mktemp("fresh") / "registry"))
        _fresh_ones.append(Direct(Application(storage), storage))
    return _fresh_ones[0]


def test_big_blobs_are_sent_by_path_or_in_pieces(direct: Direct) -> None:
    """More than 64 KiB go out as a path where the server can send one, else in pieces: the same bytes."""
    content = os.urandom(3 << 20)
    digest = push_blob(direct, "a", content)
    assert direct("GET", f"/v2/a/blobs/{digest}", pathsend=True).body == content
    assert direct("GET", f"/v2/a/blobs/{digest}").body == content
    assert direct("GET", f"/v2/a/blobs/{digest}", pathsend=True, range="bytes=5-2000004").body == content[5:2000005]


def test_what_the_client_has_is_not_sent_again(direct: Direct) -> None:
    """If-None-Match with the digest gets a 304 without a body, for blobs and for manifests."""
    manifest = push_image(direct, "a", "v1")
    blob = manifest.config.digest
    for path, digest in ((f"/v2/a/blobs/{blob}", blob), ("/v2/a/manifests/v1", manifest.digest)):
        assert direct("GET", path, if_none_match=f'"{digest}"').status == 304
        assert direct("GET", path, if_none_match='"other"').status == 200


def test_chunks_must_come_in_order(direct: Direct) -> None:
    """A piece that does not start where the upload ends gets a 416 that says where it ends; the upload goes on."""
    location = direct("POST", "/v2/a/blobs/uploads/", content_length="0").headers["location"]
    assert direct("PATCH", location, BLOB[:10], content_range="0-9", content_length="10").status == 202
    wrong = direct("PATCH", location, BLOB[20:], content_range=f"20-{len(BLOB) - 1}")
    assert (wrong.status, wrong.headers["range"], wrong.headers["location"]) == (416, "0-9", location)
    status = direct("GET", location)
    assert (status.status, status.headers["range"]) == (204, "0-9")
    assert direct("PUT", f"{location}?digest={DIGEST}", BLOB[20:], content_range="20-31").status == 416
    assert direct("PUT", f"{location}?digest={DIGEST}", BLOB[10:], content_range="10-31").status == 201
    assert direct("GET", location).code == "BLOB_UPLOAD_UNKNOWN"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.booleans())
def test_any_cut_into_pieces_gives_the_same_blob(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], last_in_put: bool
) -> None:
    """However content is cut into PATCH requests, the blob is the same."""
    direct = _fresh(tmp_path_factory)
    content = b"".join(pieces)
    digest = Digest.of(content)
    location = direct("POST", "/v2/cut/blobs/uploads/").headers["location"]
    for piece in pieces[:-1] if last_in_put else pieces:
        location = direct("PATCH", location, piece).headers["location"]
    end = pieces[-1] if last_in_put and pieces else b""
    assert direct("PUT", f"{location}?digest={digest}", end).status == 201
    assert direct("GET", f"/v2/cut/blobs/{digest}").body == content


@pytest.mark.parametrize("way", ["put", "patch", "post"])
def test_wrong_content_is_refused_and_leaves_nothing(direct: Direct, way: str) -> None:
    """Bytes that are not what their digest says are a DIGEST_INVALID; neither blob nor upload is left."""
    location = ""
    if way == "post":
        answer = direct("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}", BLOB + b"!")
    else:
        location = direct("POST", "/v2/a/blobs/uploads/").headers["location"]
        if way == "patch":
            direct("PATCH", location, BLOB)
        answer = direct("PUT", f"{location}?digest={DIGEST}", b"!")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert direct("GET", f"/v2/a/blobs/{DIGEST}").code == "BLOB_UNKNOWN"
    assert not os.listdir(f"{direct.storage.root}/repositories/a/_uploads")


def test_a_client_that_goes_away_leaves_a_resumable_upload(direct: Direct) -> None:
    """What arrived before the connection broke is kept, and the upload can be finished later."""
    location = direct("POST", "/v2/a/blobs/uploads/").headers["location"]
    direct("PATCH", location, [BLOB[:7], BLOB[7:12]], cut=True)
    assert direct("GET", location).headers["range"] == "0-11"
    short = direct("PATCH", location, BLOB[12:20], content_length="1000")
    assert short.status == 408
    assert direct("GET", location).headers["range"] == "0-19"
    assert direct("PUT", f"{location}?digest={DIGEST}", BLOB[20:]).status == 201


def test_uploads_can_be_cancelled(direct: Direct) -> None:
    """A cancelled upload is gone."""
    location = direct("POST", "/v2/a/blobs/uploads/").headers["location"]
    assert direct("DELETE", location).status == 204
    assert direct("GET", location).status == 404
    assert direct("DELETE", location).status == 404


def test_two_requests_cannot_write_to_one_upload(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one request writes to an upload, another one waits, and is told after a while that it cannot be."""
    monkeypatch.setattr("orlop.registry.server.pushes._PATIENCE", 0.0)
    location = direct("POST", "/v2/a/blobs/uploads/").headers["location"]
    held = direct.storage.resume("a", location.rpartition("/")[2])
    assert held is not None
    with contextlib.closing(held):
        assert direct("PATCH", location, b"x").status == 409
    assert direct("PATCH", location, b"x").status == 202


def test_blobs_are_mounted_from_other_repositories(direct: Direct) -> None:
    """A mount makes a blob one of another repository; what is not there starts an upload instead."""
    digest = push_blob(direct, "a", BLOB)
    assert direct("GET", f"/v2/b/blobs/{digest}").status == 404
    assert direct("POST", f"/v2/b/blobs/uploads/?mount={digest}&from=a").status == 201
    assert direct("GET", f"/v2/b/blobs/{digest}").body == BLOB
    assert direct("POST", f"/v2/c/blobs/uploads/?mount={digest}").status == 201
    assert direct("POST", f"/v2/d/blobs/uploads/?mount={digest}&from=nowhere").status == 202
    assert direct("POST", f"/v2/d/blobs/uploads/?mount={digest}&from=../x").code == "NAME_INVALID"


def test_a_repository_does_not_see_what_others_have(direct: Direct) -> None:
    """A blob of one repository is unknown in another, and a manifest there may not refer to it."""
    manifest = push_image(direct, "a", "v1", b"layer")
    assert direct("HEAD", f"/v2/b/blobs/{manifest.layers[0].digest}").status == 404
    answer = direct("PUT", "/v2/b/manifests/v1", manifest.raw, content_type=manifest.media_type)
    assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")


def test_deleting_in_one_repository_leaves_the_others_alone(direct: Direct) -> None:
    """A blob deleted from one repository stays in another; deleted from the last one, its bytes are gone."""
    digest = push_blob(direct, "a", BLOB)
    push_blob(direct, "b", BLOB)
    content = f"{direct.storage.root}/blobs/{digest.replace(':', '/')}"
    assert direct("DELETE", f"/v2/a/blobs/{digest}").status == 202
    assert direct("GET", f"/v2/a/blobs/{digest}").status == 404
    assert direct("GET", f"/v2/b/blobs/{digest}").body == BLOB
    assert os.path.exists(content)
    assert direct("DELETE", f"/v2/b/blobs/{digest}").status == 202
    assert not os.path.exists(content)
    assert direct("DELETE", f"/v2/b/blobs/{digest}").code == "BLOB_UNKNOWN"


def test_deleting_a_manifest_takes_its_tags_along(direct: Direct) -> None:
    """Deleted by digest, a manifest and every tag of it are gone; deleted by tag, only the tag is."""
    one, other = push_image(direct, "a", "v1", b"one"), push_image(direct, "a", "v2", b"other")
    direct("PUT", "/v2/a/manifests/latest", one.raw, content_type=one.media_type)
    assert direct("DELETE", "/v2/a/manifests/v1").status == 202
    assert direct("GET", "/v2/a/manifests/v1").status == 404
    assert direct("GET", "/v2/a/manifests/latest").status == 200
    assert direct("DELETE", f"/v2/a/manifests/{one.digest}").status == 202
    assert direct("GET", "/v2/a/manifests/latest").code == "MANIFEST_UNKNOWN"
    assert direct("GET", f"/v2/a/manifests/{one.digest}").status == 404
    assert json.loads(direct("GET", "/v2/a/tags/list").body) == {"name": "a", "tags": ["v2"]}
    assert direct("GET", f"/v2/a/manifests/{other.digest}").status == 200
    assert direct("DELETE", f"/v2/a/manifests/{one.digest}").code == "MANIFEST_UNKNOWN"


def test_a_moved_tag_is_seen_at_once(direct: Direct) -> None:
    """A tag names what was pushed last, also when the manifest before it had the same size."""
    for number in range(20):
        manifest = push_image(direct, "a", "v", b"layer %02d" % number)
        assert direct("GET", "/v2/a/manifests/v").body == manifest.raw


def test_tags_are_listed_in_pages(direct: Direct) -> None:
    """N and last cut the sorted list; Link leads from page to page until all tags were seen once."""
    manifest, blobs = image()
    for raw in blobs.values():
        push_blob(direct, "a", raw)
    names = sorted(["v1", "V1", "v10", "v2", "_x", "latest", "a.b-c"])
    for name in names:
        direct("PUT", f"/v2/a/manifests/{name}", manifest.raw, content_type=manifest.media_type)
    assert json.loads(direct("GET", "/v2/a/tags/list").body)["tags"] == names
    seen, path = [], "/v2/a/tags/list?n=3"
    while path:
        answer = direct("GET", path)
        seen += json.loads(answer.body)["tags"]
        path = answer.headers.get("link", "").partition(">")[0].removeprefix("<")
    assert seen == names
    empty = direct("GET", "/v2/a/tags/list?n=0")
    assert (json.loads(empty.body)["tags"], "link" in empty.headers) == ([], False)
    assert json.loads(direct("GET", "/v2/a/tags/list?last=latest").body)["tags"] == ["v1", "v10", "v2"]
    assert direct("GET", "/v2/a/tags/list?n=x").status == 400
    assert direct("GET", "/v2/nowhere/tags/list").code == "NAME_UNKNOWN"


def test_the_catalog_lists_repositories(direct: Direct) -> None:
    """Repositories are listed by name, nested ones too; an upload that was only started makes none."""
    for name in ("b", "a/x", "a", "a-b"):
        push_image(direct, name, "v")
    direct("POST", "/v2/started/blobs/uploads/")
    assert json.loads(direct("GET", "/v2/_catalog").body)["repositories"] == ["a", "a-b", "a/x", "b"]
    page = direct("GET", "/v2/_catalog?n=2")
    assert page.headers["link"] == '</v2/_catalog?n=2&last=a-b>; rel="next"'


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"not json", "", "MANIFEST_INVALID"),
        (b"[]", "", "MANIFEST_INVALID"),
        (b'{"schemaVersion":1,"fsLayers":[]}', "", "MANIFEST_INVALID"),
        (b'{"config":{"digest":"sha256:x","size":1},"layers":[]}', "", "MANIFEST_INVALID"),
        (b'{"config":{"size":1},"layers":[]}', "", "MANIFEST_INVALID"),
        (b'{"layers":[]}', "application/vnd.oci.image.manifest.v1+json", "MANIFEST_INVALID"),
        (b'{"manifests":{}}', "application/vnd.oci.image.index.v1+json", "MANIFEST_INVALID"),
        (b'{"manifests":[],"layers":[]}', "", "MANIFEST_INVALID"),
        (b'{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}', CONFIG, "MANIFEST_INVALID"),
        (b'{"mediaType":"a\\nb/c","manifests":[]}', "", "MANIFEST_INVALID"),
        (b'{"manifests":[{"digest":"sha256:%s","size":3}]}' % (b"0" * 64), "", "MANIFEST_BLOB_UNKNOWN"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "", "MANIFEST_INVALID"),
    ],
)
def test_bad_manifests_are_refused(direct: Direct, body: bytes, content_type: str, code: str) -> None:
    """What is not a manifest, or refers to what is not there, is refused with the specification's code."""
    answer = direct("PUT", "/v2/a/manifests/v1", body, content_type=content_type)
    assert (answer.status, answer.code) == (400, code)
    assert direct("GET", "/v2/a/manifests/v1").status == 404


def test_manifests_are_limited_and_verified(direct: Direct) -> None:
    """More than 4 MiB are a 413, whether announced or not; another digest than the path's is a DIGEST_INVALID."""
    large = b'{"annotations":{"a":"' + b"x" * (4 << 20) + b'"}}'
    assert direct("PUT", "/v2/a/manifests/v1", large).status == 413
    assert direct("PUT", "/v2/a/manifests/v1", b"", content_length=str(len(large))).status == 413
    manifest = push_image(direct, "a", "v1")
    wrong = direct("PUT", f"/v2/a/manifests/{DIGEST}", manifest.raw, content_type=manifest.media_type)
    assert (wrong.status, wrong.code) == (400, "DIGEST_INVALID")
    assert direct("PUT", "/v2/a/manifests/sha256:zz", manifest.raw).code == "DIGEST_INVALID"
    assert direct("PUT", "/v2/a/manifests/-bad", manifest.raw).code == "MANIFEST_INVALID"


def test_a_manifest_that_lies_about_sizes_is_refused(direct: Direct) -> None:
    """The size in a descriptor must be the blob's."""
    digest = push_blob(direct, "a", b"{}")
    raw = json.dumps({"config": {"mediaType": CONFIG, "digest": digest, "size": 3}, "layers": []}).encode()
    assert direct("PUT", "/v2/a/manifests/v1", raw).code == "MANIFEST_INVALID"


def test_an_index_needs_its_manifests_unless_sparse(direct: Direct) -> None:
    """An index refers to manifests that are there; a sparse registry does not mind, and foreign layers never count."""
    manifest, _ = image(b"layer")
    index = Index.build(manifests=[manifest.descriptor])
    assert direct("PUT", "/v2/a/manifests/i", index.raw, content_type=index.media_type).code == "MANIFEST_BLOB_UNKNOWN"
    sparse = Direct(Application(direct.storage, sparse=True), direct.storage)
    assert sparse("PUT", "/v2/a/manifests/i", index.raw, content_type=index.media_type).status == 201
    config = push_blob(direct, "a", b"{}")
    foreign = {"mediaType": LAYER, "digest": DIGEST, "size": 9, "urls": ["https://example.com/x"]}
    raw = json.dumps({"config": {"mediaType": CONFIG, "digest": config, "size": 2}, "layers": [foreign]}).encode()
    assert direct("PUT", "/v2/a/manifests/f", raw).status == 201


def test_tags_can_come_with_a_digest(direct: Direct) -> None:
    """A push by digest makes the tags in its query too, and says which (end-7b)."""
    manifest = push_image(direct, "a", "v1")
    sha512 = Digest.of(manifest.raw, "sha512")
    answer = direct("PUT", f"/v2/a/manifests/{sha512}?tag=x&tag=y", manifest.raw, content_type=manifest.media_type)
    assert (answer.status, answer.headers["oci-tag"]) == (201, "x, y")
    assert direct("GET", "/v2/a/manifests/y").headers["docker-content-digest"] == sha512
    assert direct("PUT", f"/v2/a/manifests/{sha512}?tag=/etc", manifest.raw).code == "MANIFEST_INVALID"


def referrer(direct: Direct, subject: Manifest, kind: str, note: str) -> Manifest:
    """An artifact that refers to `subject`, pushed by digest."""
    for raw in (b"{}", b"data"):
        push_blob(direct, "a", raw)
    made = Manifest.build(
        config=subject.config, layers=[], subject=subject.descriptor, artifact_type=kind, annotations={"note": note}
    )
    answer = direct("PUT", f"/v2/a/manifests/{made.digest}", made.raw, content_type=made.media_type)
    assert (answer.status, answer.headers["oci-subject"]) == (201, subject.digest)
    return made


def test_referrers_are_listed_filtered_and_forgotten(direct: Direct) -> None:
    """Manifests with a subject are listed with type and annotations, also before the subject itself is there.

    They can be filtered by artifact type, and are not listed once they are deleted.
    """
    subject, _ = image(b"later")
    assert json.loads(direct("GET", f"/v2/a/referrers/{subject.digest}").body)["manifests"] == []
    sbom = referrer(direct, subject, "application/sbom", "one")
    signature = referrer(direct, subject, "application/signature", "two")
    plain = referrer(direct, subject, "", "three")
    answer = direct("GET", f"/v2/a/referrers/{subject.digest}")
    assert answer.headers["content-type"] == "application/vnd.oci.image.index.v1+json"
    listed = {one["digest"]: one for one in json.loads(answer.body)["manifests"]}
    assert set(listed) == {sbom.digest, signature.digest, plain.digest}
    assert listed[sbom.digest]["annotations"] == {"note": "one"}
    assert listed[plain.digest]["artifactType"] == CONFIG
    filtered = direct("GET", f"/v2/a/referrers/{subject.digest}?artifactType=application/sbom")
    assert [one["digest"] for one in json.loads(filtered.body)["manifests"]] == [sbom.digest]
    assert filtered.headers["oci-filters-applied"] == "artifactType"
    direct("DELETE", f"/v2/a/manifests/{sbom.digest}")
    assert sbom.digest not in direct("GET", f"/v2/a/referrers/{subject.digest}").body.decode()
    assert direct("GET", "/v2/a/referrers/sha256:zz").status == 400


def test_many_referrers_come_in_pages(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that does not fit one manifest is cut; Link leads through all of it."""
    subject, _ = image(b"subject")
    wanted = {str(referrer(direct, subject, "application/x", f"{n}").digest) for n in range(7)}
    monkeypatch.setattr("orlop.registry.server.handlers._REFERRERS_PAGE", 700)
    found: list[str] = []
    pages, path = 0, f"/v2/a/referrers/{subject.digest}?artifactType=application/x"
    while path:
        answer = direct("GET", path)
        found += [one["digest"] for one in json.loads(answer.body)["manifests"]]
        path = answer.headers.get("link", "").partition(">")[0].removeprefix("<")
        pages += 1
    assert (set(found), len(found)) == (wanted, 7)
    assert pages > 2


def test_a_read_only_registry_changes_nothing(direct: Direct) -> None:
    """Every request that would change content is a 405; pulls work."""
    manifest = push_image(direct, "a", "v1")
    frozen = Direct(Application(direct.storage, read_only=True), direct.storage)
    digest = manifest.config.digest
    for method, path in (
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", "/v2/a/manifests/v2"),
        ("DELETE", "/v2/a/manifests/v1"),
        ("DELETE", f"/v2/a/blobs/{digest}"),
        ("PATCH", "/v2/a/blobs/uploads/" + "0" * 32),
    ):
        answer = frozen(method, path)
        assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert frozen("GET", "/v2/a/manifests/v1").status == 200


def test_unknown_paths_and_methods(direct: Direct) -> None:
    """What is not an endpoint is a 404, a wrong method a 405 that says which are right; all as JSON."""
    assert direct("GET", "/favicon.ico").status == 404
    answer = direct("PUT", "/v2/_catalog")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert direct("GET", "/v2/Bad/manifests/x").code == "NAME_INVALID"
    assert direct("GET", "/v2/").headers["docker-distribution-api-version"] == "registry/2.0"


_PARTS = st.lists(
    st.sampled_from(
        ["..", ".", "", "a", "_blobs", "_lock", "%2e%2e", "\0", "manifests", "blobs", "uploads", "tags", "list"]
    )
    | st.text(max_size=5),
    max_size=6,
)


@given(st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]), _PARTS, st.binary(max_size=20))
def test_no_request_reaches_outside_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, method: str, parts: list[str], body: bytes
) -> None:
    """Whatever the path, the answer is a registry's, never an unexpected error, and nothing is written elsewhere."""
    direct = _fresh(tmp_path_factory)
    outside = os.path.dirname(direct.storage.root)
    before = sorted(os.listdir(outside))
    path = "/v2/" + "/".join(part.replace("?", "") for part in parts)
    answer = direct(method, path, body)
    assert 200 <= answer.status < 500
    assert sorted(os.listdir(outside)) == before
    assert sorted(os.listdir(direct.storage.root)) == ["VERSION", "blobs", "incoming", "repositories"]


@given(st.text(max_size=40), st.text(max_size=40))
def test_queries_never_break_the_server(tmp_path_factory: pytest.TempPathFactory, key: str, value: str) -> None:
    """Any query is answered."""
    direct = _fresh(tmp_path_factory)
    for name in (key, "mount", "from", "digest", "digest-algorithm", "n", "last", "artifactType"):
        query = f"{name}={value}".encode("ascii", "replace").decode().replace("#", "")
        assert direct("POST", f"/v2/q/blobs/uploads/?{query}").status < 500
        assert direct("GET", f"/v2/q/tags/list?{query}").status < 500
        assert direct("GET", f"/v2/q/referrers/{DIGEST}?{query}").status < 500


def test_a_full_disk_is_said(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space left is a 507, and the upload can go on when there is space again."""
    location = direct("POST", "/v2/a/blobs/uploads/").headers["location"]
    direct("PATCH", location, BLOB[:10])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("orlop.registry.server.uploads.os.writev", full)
        answer = direct("PATCH", location, BLOB[10:])
        assert (answer.status, answer.code) == (507, "DENIED")
    assert direct("PUT", f"{location}?digest={DIGEST}", BLOB[10:]).status == 201


def test_blobs_verify_with_hashlib(direct: Direct, tmp_path: Path) -> None:
    """What is on the disk under a digest has that digest."""
    for content in (b"", b"{}", os.urandom(100_000)):
        push_blob(direct, "a", content)
    folder = tmp_path / "registry" / "blobs" / "sha256"
    for file in folder.iterdir():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.name
