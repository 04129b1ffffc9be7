"""Trees read in place: symlinks, listings, remembered hashes."""

from __future__ import annotations

import hashlib
import os
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.build.context import BUCKET, Context, FileHashes
from orlop.build.tree import Tree
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound

if TYPE_CHECKING:
    from pathlib import Path


class Remembered(dict[tuple[str, str], bytes]):
    """A cache in memory with the store's two verbs."""

    def get(self, bucket: str, key: str) -> bytes | None:  # type: ignore[override]  # the store's shape
        return super().get((bucket, key))

    def put(self, bucket: str, key: str, value: bytes) -> None:
        self[bucket, key] = value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    (place / "d/e").mkdir(parents=True)
    (place / "d/file").write_text("content")
    (tmp_path / "outside").write_text("not yours")
    return place


@pytest.mark.parametrize(
    ("target", "resolved"),
    [
        ("d/file", "d/file"),
        ("/d/file", "d/file"),
        ("../../d/file", "d/file"),
        ("d/e/../file", "d/file"),
        ("../outside", None),
        ("/etc/passwd", None),
        ("d/file/x", None),
        ("nowhere", None),
    ],
)
def test_symlinks_resolve_inside(folder: Path, target: str, resolved: str | None) -> None:
    """A link, absolute or climbing, means what it would in a chroot; outside there is nothing."""
    (folder / "link").symlink_to(target)

    with Tree(str(folder)) as tree:
        assert tree.resolve("link") == resolved
        assert tree.resolve("link", follow=False) == "link"


def test_a_loop_of_symlinks_is_an_error(folder: Path) -> None:
    """Following stops after forty links."""
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")

    with Tree(str(folder)) as tree, pytest.raises(FailedPrecondition, match="symlinks"):
        tree.resolve("a/x")


def test_a_file_swapped_for_a_symlink_is_not_read(folder: Path) -> None:
    """What was listed as a file and is opened later must still be that file."""
    with Tree(str(folder)) as tree:
        node = tree.node("d/file")
        assert node is not None
        (folder / "d/file").unlink()
        (folder / "d/file").symlink_to("../../outside")
        with pytest.raises(FailedPrecondition, match="replaced"):
            tree.digest("d/file", node)


def test_a_walk_is_sorted_and_gives_parents_first(folder: Path) -> None:
    """The order does not depend on the file system."""
    (folder / "b").write_text("")
    (folder / "a").mkdir()
    (folder / "a/z").write_text("")

    with Tree(str(folder)) as tree:
        assert [path for path, _ in tree.walk("")] == ["a", "b", "d", "a/z", "d/e", "d/file"]


def test_hashes_are_remembered_for_the_same_file(folder: Path) -> None:
    """A second context over the same folder reads no file; a changed one is read again."""
    cache = Remembered()
    path = folder / "d/file"
    os.utime(path, ns=(10**18, 10**18))
    with Context(str(folder), cache=cache) as context:
        node = context.node("d/file")
        assert node is not None
        context.hashes.put(node.found, hashlib.sha256(b"content").digest(), now=2 * 10**18)
        context.remember()
    assert list(cache) == [(BUCKET, str(folder))]

    with Context(str(folder), cache=cache) as context:
        node = context.node("d/file")
        assert node is not None
        assert context.hashes.get(node.found) == hashlib.sha256(b"content").digest()
        assert context.hashes.packed() is None

    path.write_text("other!!")
    with Context(str(folder), cache=cache) as context:
        node = context.node("d/file")
        assert node is not None
        assert context.digest("d/file", node) == hashlib.sha256(b"other!!").digest()


def test_a_file_changed_within_the_last_tick_is_not_remembered(folder: Path) -> None:
    """Between two changes in one tick of the clock the status is the same, so such a hash is not trusted."""
    found = (folder / "d/file").stat()
    hashes = FileHashes()

    hashes.put(found, b"x" * 32, now=found.st_ctime_ns + 1_000_000)
    assert hashes.get(found) is None
    hashes.put(found, b"x" * 32, now=found.st_ctime_ns + 3_000_000_000)
    assert hashes.get(found) == b"x" * 32


def test_coarse_file_systems_get_a_longer_tick(folder: Path) -> None:
    """Where times are whole seconds, a second is not long enough ago."""
    found = (folder / "d/file").stat()
    whole: Any = SimpleNamespace(
        st_mtime_ns=5 * 10**9, st_ctime_ns=5 * 10**9, st_dev=found.st_dev, st_ino=found.st_ino, st_size=found.st_size
    )
    hashes = FileHashes()

    hashes.put(whole, b"x" * 32, now=6 * 10**9)
    assert hashes.get(whole) is None


@given(st.binary(max_size=300))
def test_a_damaged_memory_is_no_memory(data: bytes) -> None:
    """Whatever the cache holds, reading it raises nothing and invents nothing."""
    FileHashes(data)
    FileHashes(b"orlop-files-1\n" + data)


def test_packing_comes_back() -> None:
    """What was learnt is the same after packing and unpacking."""
    found = os.stat(__file__)
    hashes = FileHashes()
    hashes.put(found, b"d" * 32, now=2**62)
    packed = hashes.packed()

    assert packed is not None
    assert len(packed) == len(b"orlop-files-1\n") + struct.calcsize("<QQQqq32s")
    assert FileHashes(packed).get(found) == b"d" * 32


def test_the_context_must_be_a_folder(folder: Path) -> None:
    """A missing context, and a file, are told apart."""
    with pytest.raises(NotFound):
        Context(str(folder / "nope"))
    with pytest.raises(InvalidArgument, match="not a folder"):
        Context(str(folder / "d/file"))


def test_hidden_files_know_their_rule(folder: Path) -> None:
    """A file that exists but is hidden can be explained; one that does not exist cannot."""
    (folder / ".dockerignore").write_text("# all\nd/*\n!d/e\n")

    with Context(str(folder)) as context:
        assert list(context.children("d")) == ["e"]
        assert str(context.hidden_by("d/file")) == ".dockerignore:2 (d/*)"
        assert context.hidden_by("d/nope") is None
        assert context.hidden_by("d/e") is None
