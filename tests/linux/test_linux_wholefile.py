"""Files that are whole or not there."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from orlop.linux import wholefile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_as_a_whole(tmp_path: Path, durable: bool) -> None:
    """The new content stands alone, with the mode that was asked for; whoever has the old file open keeps it."""
    path = tmp_path / "name"
    path.write_bytes(b"old and longer")
    with path.open("rb") as reader:
        wholefile.write(str(path), b"new", mode=0o640, durable=durable)
        assert reader.read() == b"old and longer"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["name"]


def test_what_cannot_be_written_leaves_all_as_it_was(tmp_path: Path) -> None:
    """After an error nothing stands beside, and what was there is there."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        wholefile.write(f"{tmp_path}/folder", b"a file cannot take the place of a folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_writers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    """Many threads write one name at once: none fails, and the file is one of theirs, whole."""
    path = f"{tmp_path}/name"
    texts = [bytes([letter]) * 5000 for letter in b"abcdef"]
    failed: list[BaseException] = []

    def write_often(text: bytes) -> None:
        try:
            for _ in range(50):
                wholefile.write(path, text)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write_often, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with open(path, "rb") as file:
        assert file.read() in texts
    assert os.listdir(tmp_path) == ["name"]


def test_forgetting_twice_is_as_good_as_once(tmp_path: Path) -> None:
    """A file that is gone already is no error."""
    path = tmp_path / "name"
    path.write_bytes(b"")
    wholefile.forget(str(path))
    wholefile.forget(str(path))
    assert not path.exists()
