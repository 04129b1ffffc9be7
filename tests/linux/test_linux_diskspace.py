"""What trees take on the disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orlop.linux.diskspace import Space, below
from orlop.linux.files import remove_tree

if TYPE_CHECKING:
    from pathlib import Path


def test_each_file_counts_once(tmp_path: Path) -> None:
    """Bytes on the disk: hard links once, holes not, links not followed; nothing there is nothing."""
    folder = tmp_path / "d"
    folder.mkdir()
    assert below(str(folder)) == 0
    (folder / "f").write_bytes(b"x" * 100_000)
    once = below(str(folder))
    os.link(folder / "f", folder / "g")
    (folder / "l").symlink_to("/usr")
    with open(folder / "hole", "wb") as file:
        file.truncate(1 << 30)

    assert 100_000 <= once <= below(str(folder)) < 130_000
    assert below(str(tmp_path / "missing")) == 0


def test_one_count_over_several_trees_knows_what_it_has_seen(tmp_path: Path) -> None:
    """A file that two trees share is freed once."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/f").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a/f", tmp_path / "b/f")
    space = Space()
    assert space.of(str(tmp_path / "a")) >= 100_000
    assert space.of(str(tmp_path / "b")) < 100_000


def test_depth_is_no_trouble(tmp_path: Path) -> None:
    """Paths longer than the kernel takes are counted to their end."""
    deep = tmp_path / "deep"
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(2400):
        os.mkdir("dd", dir_fd=here)
        inner = os.open("dd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here), "wb") as file:
        file.write(b"content")
    os.close(here)
    try:
        assert below(str(deep)) >= 4096
    finally:
        remove_tree(str(deep))
