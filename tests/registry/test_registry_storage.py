"""Content in a folder: many processes at once, and processes that die."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from orlop.errors import FailedPrecondition
from orlop.oci.digest import Digest
from orlop.registry.server import durable, manifests
from orlop.registry.server.files import FileStorage
from orlop.registry.server.replies import Refusal
from orlop.registry.testing import image

if TYPE_CHECKING:
    from pathlib import Path

    from orlop.oci.manifest import Manifest


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage.open(str(tmp_path / "registry"))


def put_blob(storage: FileStorage, name: str, content: bytes) -> Digest:
    digest = Digest.of(content)
    session = storage.resume(name, storage.begin(name))
    assert session is not None
    session.write([content])
    session.finish(digest)
    session.close()
    return digest


def put_image(storage: FileStorage, name: str, tag: str, *layers: bytes) -> Manifest:
    manifest, blobs = image(*layers)
    for raw in blobs.values():
        put_blob(storage, name, raw)
    storage.put_manifest(name, manifests.read(manifest.raw, manifest.media_type, manifest.digest), [tag])
    return manifest


def run(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Another process."""
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments], stdout=subprocess.PIPE)


def test_another_process_sees_changes_at_once(storage: FileStorage) -> None:
    """What one process wrote, moved or deleted, the cache of another one never hides."""
    other = FileStorage.open(storage.root)
    for number in range(30):
        manifest = put_image(storage, "a", "v", b"%02d" % number)
        assert other.tagged("a", "v").raw == manifest.raw
        assert storage.tagged("a", "v").raw == manifest.raw
        storage.delete_manifest("a", manifest.digest)
        with pytest.raises(Refusal, match="is not in this repository"):
            other.tagged("a", "v")
        with pytest.raises(Refusal, match="is not in this repository"):
            other.manifest("a", manifest.digest)


def test_the_media_type_can_change(storage: FileStorage) -> None:
    """The same bytes pushed again as another type are served as that type."""
    put_blob(storage, "a", b"{}")
    raw = b'{"layers":[]}'
    digest = Digest.of(raw)
    for media_type in ("application/x.one", "application/x.two"):
        storage.put_manifest("a", manifests.read(raw, media_type, digest), ["v"])
        assert storage.tagged("a", "v").media_type == media_type


def test_many_writers_of_the_same_things(storage: FileStorage) -> None:
    """Threads that push and delete the same content in several repositories meet no errors but "unknown".

    In the end every repository has what its last writer put.
    """
    failures: list[BaseException] = []

    def work(number: int) -> None:
        mine = FileStorage.open(storage.root)
        try:
            for turn in range(12):
                name = f"r{turn % 3}"
                put_image(mine, name, f"t{number}", b"shared", b"of %d" % number)
                with contextlib.suppress(Refusal):
                    mine.delete_blob(f"r{(turn + 1) % 3}", Digest.of(b"other"))
                put_blob(mine, name, b"other")
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for turn in range(3):
        assert storage.tags(f"r{turn}") == ["t0", "t1", "t2", "t3"]
        for tag in storage.tags(f"r{turn}"):
            assert storage.tagged(f"r{turn}", tag).raw
    assert not os.listdir(f"{storage.root}/incoming")


def test_processes_share_one_folder(storage: FileStorage) -> None:
    """Several processes that tag into one repository at once lose nothing."""
    code = """
        import sys
        sys.path.insert(0, sys.argv[3])
        from test_registry_storage import put_image
        from orlop.registry.server.files import FileStorage
        storage = FileStorage.open(sys.argv[1])
        for turn in range(10):
            put_image(storage, "a", f"p{sys.argv[2]}-{turn}", sys.argv[2].encode())
    """
    workers = [run(code, storage.root, str(number), os.path.dirname(__file__)) for number in range(3)]
    assert [worker.wait(240) for worker in workers] == [0, 0, 0]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.close()
    assert len(storage.tags("a")) == 30


def test_a_killed_writer_leaves_only_a_resumable_upload(storage: FileStorage) -> None:
    """A process that dies by SIGKILL in an upload leaves what it wrote; the next one finishes it."""
    code = """
        import sys
        from orlop.registry.server.files import FileStorage
        storage = FileStorage.open(sys.argv[1])
        name = storage.begin("a")
        session = storage.resume("a", name)
        session.write([b"first half, "])
        print(name, flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), storage.root], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    name = process.stdout.readline().decode().strip()
    assert storage.resume("a", name) is None
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()
    assert storage.upload_size("a", name) == 12
    session = storage.resume("a", name)
    assert session is not None
    assert session.offset == 12
    session.write([b"second half"])
    session.finish(Digest.of(b"first half, second half"))
    session.close()
    path, size = storage.blob("a", Digest.of(b"first half, second half"))
    assert size == 23
    assert not os.listdir(f"{storage.root}/repositories/a/_uploads")
    with open(path, "rb") as file:
        assert file.read() == b"first half, second half"


@pytest.mark.slow
def test_writers_killed_at_any_moment_leave_a_consistent_folder(storage: FileStorage) -> None:
    """However often writers are killed, each tag names a whole manifest whose blobs are there, with right digests."""
    code = """
        import os, sys
        sys.path.insert(0, sys.argv[2])
        from test_registry_storage import put_image
        from orlop.registry.server.files import FileStorage
        storage = FileStorage.open(sys.argv[1])
        print("ready", flush=True)
        while True:
            manifest = put_image(storage, "a", f"t{os.urandom(1).hex()}", os.urandom(8), b"shared")
            if os.urandom(1)[0] < 64:
                storage.delete_manifest("a", manifest.digest)
    """
    for turn in range(12):
        process = run(code, storage.root, os.path.dirname(__file__))
        assert process.stdout is not None
        process.stdout.readline()
        threading.Event().wait(0.01 + 0.013 * turn)
        process.kill()
        process.wait()
        process.stdout.close()
        for tag in storage.tags("a") if os.path.isdir(f"{storage.root}/repositories/a/_manifests") else ():
            stored = storage.tagged("a", tag)
            assert Digest.of(stored.raw) == stored.digest
            for needed in manifests.read(stored.raw, stored.media_type, stored.digest).needs:
                path, size = storage.blob("a", needed.digest)
                assert size == needed.size
                with open(path, "rb") as file:
                    assert Digest.of(file.read()) == needed.digest


def test_content_that_vanishes_is_put_back(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """If shared content is given up by its last repository just when it would be shared, the upload takes its place."""
    digest = put_blob(storage, "a", b"content")
    content = durable.content_path(storage.root, digest)
    real = durable.link_blob
    turns: list[bool] = []

    def vanishing(root: str, source: str, blob: str) -> bool:
        if not turns:
            turns.append(True)
            os.unlink(content)
        return real(root, source, blob)

    monkeypatch.setattr(durable, "link_blob", vanishing)
    put_blob(storage, "b", b"content")
    assert storage.blob("b", digest)[1] == 7
    assert os.path.exists(content)


def test_broken_content_is_healed_by_a_push(storage: FileStorage) -> None:
    """Kept content whose size is wrong is replaced when the right bytes are pushed."""
    digest = put_blob(storage, "a", b"content")
    content = durable.content_path(storage.root, digest)
    os.unlink(content)
    with open(content, "wb") as file:
        file.write(b"con")
    put_blob(storage, "b", b"content")
    with open(storage.blob("b", digest)[0], "rb") as file:
        assert file.read() == b"content"


def test_more_links_than_a_file_can_have(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content with as many links as the file system allows gets a second copy, and goes on being shared."""
    digest = put_blob(storage, "a", b"content")
    real = os.link
    turns: list[bool] = []

    def limited(source: str, target: str) -> None:
        if "/_blobs/" in target and not turns:
            turns.append(True)
            raise OSError(31, "Too many links")
        real(source, target)

    monkeypatch.setattr("orlop.registry.server.durable.os.link", limited)
    assert storage.mount("b", digest, "a") is True
    with open(storage.blob("b", digest)[0], "rb") as file:
        assert file.read() == b"content"


def test_old_uploads_are_forgotten(storage: FileStorage) -> None:
    """Uploads and leftovers that nobody touched for a while go; younger ones stay."""
    old, young = storage.begin("a"), storage.begin("a/b")
    left = durable.temporary(storage.root)
    for path in (f"{storage.root}/repositories/a/_uploads/{old}", left):
        with open(path, "ab"):
            pass
        os.utime(path, (1000, 1000))
    assert storage.purge(3600.0) == 2
    assert not os.path.exists(left)
    assert storage.upload_size("a/b", young) == 0
    with pytest.raises(Refusal, match="is not known"):
        storage.upload_size("a", old)


def test_the_cache_is_bounded(storage: FileStorage) -> None:
    """The cache drops what was used least recently rather than grow past its limit."""
    from orlop.registry.server.cache import ManifestCache

    cache = ManifestCache(limit=1000)
    put_blob(storage, "a", b"{}")
    for number in range(20):
        raw = b'{"layers":[],"x":"%s"}' % (b"%03d" % number * 50)
        digest = Digest.of(raw)
        storage.put_manifest("a", manifests.read(raw, "application/x", digest), [])
        path = f"{storage.root}/repositories/a/_manifests/{digest.replace(':', '/')}"
        assert cache.load(path, digest).raw == raw
        assert cache._held <= 1000
    assert len(cache._entries) < 20


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    """A newer layout is refused, and so is a folder that cannot be written."""
    root = tmp_path / "registry"
    FileStorage.open(str(root))
    FileStorage.open(str(root))
    (root / "VERSION").write_text("9\n")
    with pytest.raises(FailedPrecondition, match="layout '9'"):
        FileStorage.open(str(root))
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="cannot keep a registry"):
        FileStorage.open(str(tmp_path / "file" / "below"))
