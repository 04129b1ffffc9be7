"""Copying trees: all that files can carry, holes and links too, never through a symlink."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from layerkit import seen

from orlop.errors import InvalidArgument
from orlop.layers.tree import Change, copy_tree
from orlop.linux.files import remove_tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with a bit of everything."""
    root = tmp_path / "source"
    deep = root / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"content")
    os.chown(deep / "file", 11, 12)
    os.chmod(deep / "file", 0o6711)
    os.setxattr(deep / "file", "user.k", b"\0v")
    os.setxattr(deep, "trusted.k", b"t")
    os.link(deep / "file", root / "alias")
    os.symlink("/nowhere", root / "link")
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with open(root / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(4_000_000)
        file.write(b"middle")
        file.truncate(8_000_000)
    os.chmod(deep, 0o2770)
    for path in root.rglob("*"):
        os.utime(path, ns=(1, 1_600_000_000_000_000_001), follow_symlinks=False)
    os.chmod(root, 0o711)
    return root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty directory."""
    made = tmp_path / "target"
    made.mkdir()
    return made


def test_a_copy_is_the_same(source: Path, target: Path) -> None:
    """Content, owners, modes, times to the nanosecond, attributes, hard links, devices, holes."""
    copied = copy_tree(str(source), str(target))

    assert seen(str(target)) == seen(str(source))
    assert (target / "sparse").stat().st_blocks * 512 < 1_000_000
    assert target.stat().st_mode == source.stat().st_mode
    assert copied.files == 6


def test_descriptors_do_as_well_as_paths(source: Path, target: Path) -> None:
    """Both ends may be given as open directories, which stay open."""
    one, other = os.open(source, os.O_RDONLY), os.open(target, os.O_RDONLY)
    copy_tree(one, other)

    assert seen(str(target)) == seen(str(source))
    os.close(one)
    os.close(other)


def test_changes_are_made_on_the_way(source: Path, target: Path) -> None:
    """Owner, mode and time can be set for everything, as COPY --chown and --chmod ask."""
    copy_tree(str(source), str(target), change=Change(uid=5, gid=6, mode=lambda _info: 0o640, mtime_ns=9))

    for path in target.rglob("*"):
        info = path.lstat()
        assert (info.st_uid, info.st_gid, info.st_mtime_ns) == (5, 6, 9)
        assert stat.S_ISLNK(info.st_mode) or info.st_mode & 0o7777 == 0o640


def test_what_is_in_the_way_is_replaced(source: Path, target: Path) -> None:
    """Files over directories and symlinks, directories over files; directories are merged."""
    (target / "alias").mkdir()
    (target / "alias" / "x").write_bytes(b"")
    (target / "fifo").write_bytes(b"")
    (target / "a").mkdir()
    (target / "a" / "mine").write_bytes(b"mine")
    (target / "a" / "b").write_bytes(b"a file")
    copy_tree(str(source), str(target))

    expected = seen(str(source))
    found = seen(str(target))
    assert found.pop("a/mine")[5] == b"mine"
    assert found == expected


def test_keeping_changes_nothing_that_is_there(source: Path, target: Path) -> None:
    """With `keep`, files that are there stay, and directories keep their metadata."""
    (target / "a").mkdir(mode=0o700)
    (target / "alias").write_bytes(b"mine")
    before = target.stat().st_mode
    copy_tree(str(source), str(target), keep=True)

    assert (target / "alias").read_bytes() == b"mine"
    assert (target / "a" / "b" / "file").read_bytes() == b"content"
    assert (target / "a").stat().st_mode & 0o7777 == 0o700
    assert target.stat().st_mode == before


def test_keeping_refuses_a_file_where_a_directory_must_go(source: Path, target: Path) -> None:
    """There is nowhere to put its content."""
    (target / "a").write_bytes(b"file")

    with pytest.raises(InvalidArgument, match="'a'"):
        copy_tree(str(source), str(target), keep=True)


def test_symlinks_in_the_target_are_not_followed(source: Path, target: Path, tmp_path: Path) -> None:
    """A symlink where a directory goes is replaced, and what it points at is left alone."""
    outside = tmp_path / "outside"
    outside.mkdir()
    os.symlink(outside, target / "a")
    os.symlink(outside / "made", target / "alias")
    copy_tree(str(source), str(target))

    assert list(outside.iterdir()) == []
    assert seen(str(target)) == seen(str(source))


def test_a_copy_into_itself_ends(source: Path) -> None:
    """The part that is being made is not copied again."""
    (source / "into").mkdir()
    copy_tree(str(source), str(source / "into"))

    assert (source / "into" / "a" / "b" / "file").read_bytes() == b"content"
    assert not (source / "into" / "into" / "a").exists()


def test_depth_costs_nothing(tmp_path: Path, target: Path) -> None:
    """Trees deeper than Python's stack and the descriptor limit are copied."""
    deep = tmp_path / "deep"
    path = "/".join(["d"] * 1200)
    subprocess.run(["mkdir", "-p", deep / path], check=True)
    copy_tree(str(deep), str(target))

    assert os.path.isdir(f"{target}/{path}")
    remove_tree(str(deep))
    remove_tree(str(target))
