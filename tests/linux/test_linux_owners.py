"""Owners and devices that a user namespace cannot have, against the real kernel."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from orlop.linux import namespaces, owners


def inside(body: Callable[[], None], *, ids: int = 1) -> None:
    """Run `body` in a child that is root of a new user namespace with `ids` ids; it must not raise."""
    ready, tell_ready = os.pipe()
    go, tell_go = os.pipe()
    said, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            namespaces.unshare(namespaces.CLONE_NEWUSER)
            os.write(tell_ready, b"n")
            os.read(go, 1)
            body()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  # it travels to the test
            os.write(tell, repr(error).encode())
        finally:
            os._exit(1)
    os.close(tell)
    os.read(ready, 1)
    maps = [(0, 0, 1)] if ids == 1 else [(0, 0, 1), (1, 200001, ids - 1)]
    namespaces.write_id_maps(pid, maps, maps)
    os.write(tell_go, b"g")
    with open(said, "rb") as file:
        complaint = file.read().decode()
    for fd in (ready, tell_ready, go, tell_go):
        os.close(fd)
    assert os.waitpid(pid, 0)[1] == 0, complaint


def test_owner_that_is_not_mapped_is_kept_and_told(tmp_path: Path) -> None:
    """With one id a file, a folder, a symlink and a FIFO can belong to anybody, as far as images are concerned."""

    def body() -> None:
        os.mkdir(tmp_path / "folder")
        (tmp_path / "file").write_text("x")
        os.symlink("file", tmp_path / "link")
        os.mkfifo(tmp_path / "pipe")
        for name in ("folder", "file", "link", "pipe"):
            path = str(tmp_path / name)
            owners.give(path, 1000, 1001)
            found = owners.told(os.lstat(path), path)
            assert (found.st_uid, found.st_gid) == (1000, 1001), name
            assert found.st_mtime_ns == os.lstat(path).st_mtime_ns
            assert os.lstat(path).st_uid == 0

    inside(body)


def test_root_again_leaves_nothing_behind(tmp_path: Path) -> None:
    """Given back to root, a file carries no record; a symlink of the same name made later has none either."""

    def body() -> None:
        path = str(tmp_path / "file")
        (tmp_path / "file").write_text("x")
        owners.give(path, 5, 5)
        owners.give(path, 0, 0)
        assert os.listxattr(path) == []
        link = str(tmp_path / "link")
        os.symlink("a", link)
        owners.give(link, 5, 5)
        os.unlink(link)
        os.symlink("a", link)
        os.utime(link, ns=(1, 1), follow_symlinks=False)
        assert owners.told(os.lstat(link), link).st_uid == 0

    inside(body)


def test_device_is_an_empty_file_that_says_which(tmp_path: Path) -> None:
    """Where no device can be made its stand-in is told as the device, with its owner, its number and its mode."""

    def body(owner: int) -> None:
        fd = os.open(tmp_path, os.O_RDONLY)
        owners.make_node("null", stat.S_IFCHR | 0o640, os.makedev(1, 3), dir_fd=fd)
        owners.give("null", owner, owner, dir_fd=fd)
        found = owners.told(os.lstat(tmp_path / "null"), str(tmp_path / "null"))
        assert stat.S_ISCHR(found.st_mode)
        assert (found.st_rdev, found.st_uid, stat.S_IMODE(found.st_mode)) == (os.makedev(1, 3), owner, 0o640)
        os.unlink(tmp_path / "null")

    os.chown(tmp_path, 0, 0)
    inside(lambda: body(7))
    inside(lambda: body(7), ids=10)
    inside(lambda: body(70), ids=10)


def test_mapped_owner_is_the_kernels_own(tmp_path: Path) -> None:
    """An id that is mapped is given for real; one that is not replaces it on record, and is replaced in turn."""

    def body() -> None:
        path = str(tmp_path / "file")
        (tmp_path / "file").write_text("x")
        owners.give(path, 5, 6)
        assert os.stat(path).st_uid == 5
        owners.give(path, 5000, 6)
        assert owners.told(os.stat(path), path).st_uid == 5000
        owners.give(path, 7, 6)
        assert owners.told(os.stat(path), path).st_uid == 7
        assert os.listxattr(path) == []

    inside(body, ids=10)


def test_real_root_neither_reads_nor_writes_records(tmp_path: Path) -> None:
    """Outside of user namespaces a record is an attribute like any other: root's files are what they are."""
    path = str(tmp_path / "file")
    (tmp_path / "file").write_text("")
    os.setxattr(path, owners.XATTR, b"5:5:c:1:3")
    assert owners.told(os.stat(path), path).st_uid == 0
    owners.give(path, 3, 4)
    assert os.stat(path).st_uid == 3
    assert os.getxattr(path, owners.XATTR) == b"5:5:c:1:3"


@pytest.mark.parametrize(
    "record", [b"", b"x", b"1", b"1:2:3", b"-1:2", b"1:2:q:1:3", b"1:2:c:1", b"\xff:1", b"1:2:c:1:x"]
)
def test_broken_record_counts_as_none(tmp_path: Path, record: bytes) -> None:
    """What is no record of ours changes nothing."""
    path = str(tmp_path / "file")
    (tmp_path / "file").write_text("")
    os.setxattr(path, owners.XATTR, record)

    def body() -> None:
        assert owners.told(os.stat(path), path) == os.stat(path)

    inside(body)
