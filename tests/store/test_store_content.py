"""The laws of the content store."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import Conflict, ContentMismatch, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.store.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.store.conftest import Spawn

    from orlop.store.content import ContentStore


@pytest.fixture
def content(root_dir: Path, run_dir: Path) -> Iterator[ContentStore]:
    with Root.open(str(root_dir), str(run_dir)) as root:
        yield root.content


def descriptor(data: bytes) -> Descriptor:
    return Descriptor.of(data, "application/octet-stream")


@pytest.mark.parametrize("sent", [[b"hel"], [b"hellO"], [b"hello", b"!"], [], [b"x"] * 100])
def test_wrong_content_leaves_no_trace(content: ContentStore, sent: list[bytes]) -> None:
    """A blob that is not what it claims is refused and never becomes visible."""
    blob = descriptor(b"hello")
    with pytest.raises(ContentMismatch, match=blob.digest) as caught:
        content.ingest(blob, sent)
    assert caught.value.hint
    assert blob.digest not in content
    assert list(content.digests()) == []
    assert content.ingests() == []


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_what_is_put_can_be_read(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    """However content arrives, it is found under its digest, whole, immutable, once."""
    base = tmp_path_factory.mktemp("content")
    with Root.open(f"{base}/root", f"{base}/run") as root:
        data = b"".join(pieces)
        blob = descriptor(data)
        root.content.ingest(blob, pieces)
        root.content.ingest(blob, iter(()))  # is there already: not touched
        assert root.content.put(data, "x").digest == blob.digest
        assert blob.digest in root.content
        assert root.content.read(blob.digest) == data
        assert root.content.size(blob.digest) == len(data)
        with root.content.open(blob.digest) as file:
            assert file.read() == data
        assert list(root.content.digests()) == [blob.digest]
        assert root.content.ingests() == []
        assert stat.S_IMODE(os.stat(root.content.path(blob.digest)).st_mode) == 0o444
        root.content.verify(blob.digest)


def test_a_missing_blob_is_not_found(content: ContentStore) -> None:
    """Every way to reach it says so, with a hint; deleting it is no error."""
    digest = Digest.of(b"nothing")
    for reach in (content.open, content.read, content.size, content.verify):
        with pytest.raises(NotFound, match="not in the store"):
            reach(digest)
    assert content.delete(digest) == 0


def test_no_digest_leads_out_of_the_store(content: ContentStore) -> None:
    """A text that is not a digest never becomes a path."""
    for text in ("../../../etc/passwd", "sha256:../../x", "sha256:" + "a" * 63 + "/"):
        with pytest.raises(InvalidArgument):
            content.path(text)


def test_reading_at_once_is_limited(content: ContentStore) -> None:
    """A blob larger than the limit is refused, not loaded."""
    blob = content.put(b"x" * 11, "x")
    assert content.read(blob.digest, limit=11)
    with pytest.raises(InvalidArgument, match="11 bytes"):
        content.read(blob.digest, limit=10)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_other_algorithms_are_kept_apart(content: ContentStore, algorithm: str) -> None:
    """A blob is verified with its own algorithm and stored under it."""
    digest = Digest.of(b"data", algorithm)
    content.ingest(Descriptor(media_type="x", digest=digest, size=4), [b"da", b"ta"])
    assert content.read(digest) == b"data"
    with content.begin("k") as ingest:
        ingest.write(b"data")
        assert ingest.commit(Descriptor(media_type="x", digest=digest, size=4)) == (digest, 4)
    assert set(content.digests()) == {digest}


def test_an_interrupted_ingest_resumes(content: ContentStore) -> None:
    """With `resume`, what was written stays, is hashed again, and is gone on with."""
    data = os.urandom(3_000_000)

    def fail() -> None:
        with content.begin("key") as ingest:
            ingest.write(data[:2_000_001])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(one.size, one.active) for one in content.ingests()] == [(2_000_001, False)]
    with content.begin("key") as ingest:
        assert ingest.offset == 2_000_001
        ingest.write(memoryview(data)[2_000_001:])
        assert ingest.digest == Digest.of(data)
        assert ingest.commit(descriptor(data)) == (Digest.of(data), len(data))
    assert content.read(Digest.of(data)) == data
    assert content.ingests() == []


def test_an_ingest_that_shall_not_resume_leaves_nothing(content: ContentStore) -> None:
    """Without `resume`, earlier bytes are dropped, and nothing is left."""
    with content.begin("key") as ingest:
        ingest.write(b"old")
    with content.begin("key", resume=False) as ingest:
        assert ingest.offset == 0
        ingest.write(b"new")
    assert content.ingests() == []


def test_a_corrupt_partial_is_not_kept(content: ContentStore) -> None:
    """Resuming from something else ends in ContentMismatch once, then starts from nothing."""
    with content.begin("key") as ingest:
        ingest.write(b"wrong")
    with content.begin("key") as ingest:
        ingest.write(b"!")
        with pytest.raises(ContentMismatch):
            ingest.commit(descriptor(b"right!"))
    with content.begin("key") as ingest:
        assert ingest.offset == 0


def test_a_commit_is_final(content: ContentStore) -> None:
    """After commit, abort changes nothing and a second commit is refused."""
    with content.begin("key") as ingest:
        ingest.write(b"x")
        digest, _ = ingest.commit()
        ingest.abort()
        with pytest.raises(FailedPrecondition):
            ingest.commit()
    assert digest in content


def test_one_writer_a_key(content: ContentStore) -> None:
    """A second writer gets Conflict or waits; who waited finds the blob there."""
    found: list[bool] = []

    def second() -> None:
        with content.begin("key") as ingest:
            found.append(Digest.of(b"data") in content)
            assert ingest.offset == 0

    with content.begin("key") as ingest:
        ingest.write(b"data")
        with pytest.raises(Conflict):
            content.begin("key", wait=False)
        assert [one.active for one in content.ingests()] == [True]
        thread = threading.Thread(target=second)
        thread.start()
        ingest.commit()
    thread.join(timeout=60)
    assert found == [True]


RACE = """
import sys
from orlop.oci.descriptor import Descriptor
from orlop.store.root import Root
data = b"orlop" * 200_000
blob = Descriptor.of(data, "x")
with Root.open(sys.argv[1], sys.argv[2]) as root:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(20):
        root.content.ingest(blob, (data[i : i + 50_000] for i in range(0, len(data), 50_000)))
        assert root.content.read(blob.digest) == data
"""


def test_processes_that_bring_the_same_blob_do_not_disturb_each_other(
    root_dir: Path, run_dir: Path, spawn: Spawn
) -> None:
    """Four processes ingest one blob at once, again and again: all succeed and it is whole."""
    writers = [spawn(RACE, root_dir, run_dir) for _ in range(4)]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    outputs = [writer.communicate("go\n", timeout=240) for writer in writers]
    assert outputs == [("", "")] * 4
    with Root.open(str(root_dir), str(run_dir)) as root:
        assert list(root.content.digests()) == [Digest.of(b"orlop" * 200_000)]
        assert root.content.ingests() == []


def test_a_killed_writer_leaves_only_what_can_be_reclaimed(root_dir: Path, run_dir: Path, spawn: Spawn) -> None:
    """SIGKILL in the middle of an ingest: no blob, an idle partial, and the next writer succeeds."""
    code = (
        "import sys, time; from orlop.store.root import Root; root = Root.open(sys.argv[1], sys.argv[2]);"
        "i = root.content.begin('key'); i.write(b'half'); print('ready', flush=True); time.sleep(600)"
    )
    writer = spawn(code, root_dir, run_dir)
    assert writer.stdout
    writer.stdout.readline()
    with Root.open(str(root_dir), str(run_dir)) as root:
        assert [one.active for one in root.content.ingests()] == [True]
        writer.kill()
        writer.communicate()
        assert [one.active for one in root.content.ingests()] == [False]
        with root.content.begin("key") as ingest:
            assert ingest.offset == 4
            ingest.write(b" and half")
            digest, _ = ingest.commit()
        assert root.content.read(digest) == b"half and half"


@pytest.mark.root
def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    """ENOSPC is ResourceExhausted that names the path and what is free, and leaves no blob; afterwards all works."""
    from orlop.linux import mounts

    place = tmp_path / "small"
    place.mkdir()
    mounts.mount("tmpfs", str(place), "tmpfs", 0, "size=1m")
    try:
        with Root.open(str(place / "root"), str(tmp_path / "run")) as root:
            data = os.urandom(4 << 20)
            with pytest.raises(ResourceExhausted, match="no space is left") as caught:
                root.content.ingest(descriptor(data), [data])
            assert str(place) in caught.value.message
            assert "MiB" in caught.value.message
            assert "prune" in caught.value.hint
            assert root.content.ingests() == []
            root.content.put(b"small", "x")
    finally:
        mounts.unmount(str(place))


def test_a_changed_disk_is_noticed(content: ContentStore) -> None:
    """`verify` compares what is there with the name it has."""
    blob = content.put(b"hello", "x")
    path = content.path(blob.digest)
    os.chmod(path, 0o600)
    with open(path, "wb") as file:
        file.write(b"hellO")
    with pytest.raises(ContentMismatch, match=hashlib.sha256(b"hellO").hexdigest()):
        content.verify(blob.digest)


def test_the_store_is_an_oci_layout(root_dir: Path, run_dir: Path) -> None:
    """From the start there are oci-layout and an index.json, with the specification's content."""
    with Root.open(str(root_dir), str(run_dir)):
        assert (root_dir / "content/oci-layout").read_text() == '{"imageLayoutVersion":"1.0.0"}'
        assert (root_dir / "content/index.json").read_text() == '{"schemaVersion":2,"manifests":[]}'
