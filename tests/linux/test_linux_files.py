"""Files: what a path lies on, atomic renames, copies, whole trees removed."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import descriptors

from orlop.linux import files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.linux.conftest import InChild


@pytest.mark.parametrize(("path", "kind"), [("/proc", "proc"), ("/sys", "sysfs"), ("/dev/shm", "tmpfs")])
def test_the_file_system_of_a_path_is_named(path: str, kind: str) -> None:
    """The mount table and statfs agree on what a path lies on."""
    assert files.filesystem_of(path) == kind
    assert files._statfs_type(path) == kind


def test_the_file_system_of_a_missing_path_is_an_error(tmp_path: Path) -> None:
    """A path that is not there has no file system, and the error says which path."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.filesystem_of(f"{tmp_path}/nowhere")


@given(size=st.integers(0, 300_000), more=st.integers(0, 100))
def test_copy_range_copies_what_is_there(size: int, more: int) -> None:
    """copy_range moves `length` bytes from the current offsets, or fewer at the end of the file, and says how many."""
    source, target = os.memfd_create("source"), os.memfd_create("target")
    try:
        data = os.urandom(size)
        files.write_all(source, data)
        os.lseek(source, size // 3, os.SEEK_SET)
        assert files.copy_range(source, target, size + more) == size - size // 3
        assert os.pread(target, size + 1, 0) == data[size // 3 :]
    finally:
        os.close(source)
        os.close(target)


def test_copy_range_from_procfs_is_not_empty(tmp_path: Path) -> None:
    """Files without a size (procfs) are copied whole, though copy_file_range takes them for empty."""
    source = os.open("/proc/self/mountinfo", os.O_RDONLY)
    target = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
    try:
        assert files.copy_range(source, target, 1 << 20) == os.fstat(target).st_size > 0
    finally:
        os.close(source)
        os.close(target)


def test_copy_range_into_a_pipe() -> None:
    """A target that copy_file_range refuses is reached another way."""
    source = os.memfd_create("source")
    reader, writer = os.pipe()
    try:
        files.write_all(source, b"hello")
        os.lseek(source, 0, os.SEEK_SET)
        assert files.copy_range(source, writer, 5) == 5
        assert os.read(reader, 10) == b"hello"
    finally:
        for fd in (source, reader, writer):
            os.close(fd)


def test_reflink_refuses_where_it_cannot(tmp_path: Path) -> None:
    """A file system without shared blocks answers with an OSError, so that the caller copies instead."""
    if files.filesystem_of(str(tmp_path)) in ("btrfs", "xfs", "bcachefs"):
        pytest.skip("this file system can share blocks")
    with open(tmp_path / "a", "wb") as one, open(tmp_path / "b", "wb") as two, pytest.raises(OSError, match=r"Errno"):
        files.reflink(one.fileno(), two.fileno())


def test_lgetxattrs_reads_the_link_itself(tmp_path: Path) -> None:
    """All attributes of a file or descriptor; those of a symlink are its own, not its target's."""
    path = tmp_path / "file"
    path.write_text("x")
    os.setxattr(path, "trusted.orlop", b"\0\1")
    os.symlink("file", tmp_path / "link")
    assert files.lgetxattrs(str(path)) == {"trusted.orlop": b"\0\1"}
    assert files.lgetxattrs(f"{tmp_path}/link") == {}
    fd = os.open(path, os.O_RDONLY)
    try:
        assert files.lgetxattrs(fd) == {"trusted.orlop": b"\0\1"}
        files.sync_fs(fd)
    finally:
        os.close(fd)


def test_remove_tree_takes_everything_and_follows_nothing(tmp_path: Path) -> None:
    """Files, directories, symlinks and sockets go; what a symlink points to stays; being gone is fine."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("keep")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("x")
    (tree / "link").symlink_to(outside)
    (tree / "a" / "self").symlink_to(".")
    os.mkfifo(tree / "fifo")
    files.remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "keep").read_text() == "keep"
    files.remove_tree(str(tree))
    (tmp_path / "single").write_text("x")
    files.remove_tree(f"{tmp_path}/single")
    assert os.listdir(tmp_path) == ["outside"]


def test_remove_tree_opens_what_its_owner_locked(tmp_path: Path, in_child: InChild) -> None:
    """An ordinary user's tree goes although its directories forbid him to read, enter or change them."""
    tmp_path.chmod(0o755)
    base = tmp_path / "mine"
    base.mkdir()
    os.chown(base, 4321, 4321)

    def body() -> list[str]:
        os.chdir(base)  # as root: the way here may be closed to others
        os.setresgid(4321, 4321, 4321)
        os.setresuid(4321, 4321, 4321)
        for mode in (0o000, 0o555, 0o300):
            os.makedirs("tree/a/b")
            open("tree/a/b/file", "wb").close()
            for path in ("tree/a/b", "tree/a", "tree"):
                os.chmod(path, mode)
            files.remove_tree("tree")
        return os.listdir(".")

    assert in_child(body) == []


def test_remove_tree_survives_depth(tmp_path: Path) -> None:
    """A tree deeper than recursion, path lengths and the descriptor limit allow is removed, and no descriptor leaks."""
    before = os.getcwd()
    tree = tmp_path / "deep"
    tree.mkdir()
    os.chdir(tree)
    try:
        for _ in range(2500):
            os.mkdir("d" * 20)
            os.chdir("d" * 20)
    finally:
        os.chdir(before)
    held = descriptors()
    files.remove_tree(str(tree))
    assert not tree.exists()
    assert descriptors() <= held


def test_remove_tree_under_attack_never_leaves_the_tree(tmp_path: Path) -> None:
    """While somebody swaps a directory for a symlink to elsewhere, nothing elsewhere is removed."""
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner" / "keep").write_text("keep")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                os.rename(tmp_path / "tree" / "a", tmp_path / "aside")
                os.symlink(outside, tmp_path / "tree" / "a")
                os.unlink(tmp_path / "tree" / "a")
                os.rename(tmp_path / "aside", tmp_path / "tree" / "a")
            except OSError:
                continue

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                (tmp_path / "tree" / "a" / "inner").mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # the attacker may make it fail, not err
                files.remove_tree(f"{tmp_path}/tree")
    finally:
        stop.set()
        thread.join()
    assert (outside / "inner" / "keep").read_text() == "keep"
