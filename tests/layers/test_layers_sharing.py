"""Files that two threads make: the tree is what one thread would have made, and errors and ends are as they were."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from orlop.errors import InvalidArgument, OrlopError
from orlop.layers import tar
from orlop.layers.apply import apply
from orlop.layers.sharing import File, Sharing


def archive(*entries: tuple[tar.Entry, bytes]) -> bytes:
    """A layer of these entries."""
    out = bytearray()
    writer = tar.Writer(out.extend)
    for entry, content in entries:
        writer.add(entry, (content,) if content else ())
    writer.close()
    return bytes(out)


def file(name: str, content: bytes, mode: int = 0o644, mtime: int = 5) -> tuple[tar.Entry, bytes]:
    """A regular file."""
    return tar.Entry(name, mode=mode, size=len(content), mtime=mtime), content


def shared(folder: int, name: str, content: bytes = b"") -> File:
    """A file for Sharing itself."""
    return File(folder, name, name, shown=name, mode=0o600, mtime=0, owner=None, amend=False, pieces=(content,))


def threads() -> list[threading.Thread]:
    """The threads that make files."""
    return [thread for thread in threading.enumerate() if thread.name == "orlop-files"]


def test_many_files_are_all_made(tmp_path: Path) -> None:
    """Many files in many directories: each has its content, mode and time, whoever made it."""
    entries = []
    for number in range(1500):
        name = f"d{number % 100}/f{number}"
        entries.append(file(name, str(number).encode() * (number % 7), 0o4750 if number % 3 else 0o600, number))

    applied = apply([archive(*entries)], str(tmp_path), below=())

    assert applied.entries == 1500
    for entry, content in entries:
        path = tmp_path / entry.name
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o7777 == entry.mode
        assert path.stat().st_mtime_ns == entry.mtime
    assert not threads()


def test_names_count_in_the_order_of_the_archive(tmp_path: Path) -> None:
    """The same names again and again, as files, links, directories and whiteouts: the last of each is what is there."""
    entries = []
    for number in range(60):
        entries += [
            file("twice", b"first"),
            file("twice", b"%d" % number),
            file("origin", b"of %d" % number),
            (tar.Entry("linked", tar.HARDLINK, link="origin"), b""),
            file("folder", b"a file"),
            (tar.Entry("folder", tar.DIRECTORY, mode=0o755), b""),
            file("folder/inner", b"%d" % number),
            file("was", b"a file"),
            (tar.Entry("was", tar.SYMLINK, link="twice"), b""),
            file(f"other{number}", b"x"),
        ]

    apply([archive(*entries)], str(tmp_path), below=())

    assert (tmp_path / "twice").read_bytes() == b"59"
    assert (tmp_path / "linked").read_bytes() == b"of 59"
    assert (tmp_path / "folder/inner").read_bytes() == b"59"
    assert os.readlink(tmp_path / "was") == "twice"
    assert len(list(tmp_path.iterdir())) == 65


def test_a_file_is_no_directory_though_it_is_not_made_yet(tmp_path: Path) -> None:
    """What lies below the name of a file is refused, also when that file still waits to be made."""
    with pytest.raises(InvalidArgument, match="Not a directory"):
        apply([archive(file("x", b"1"), file("x/y", b"2"))], str(tmp_path), below=())
    assert not threads()


def test_an_error_beside_is_the_callers(tmp_path: Path) -> None:
    """A file that cannot be made ends the whole, with its name, whichever thread met it; none goes on."""
    folder = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(OrlopError, match="'no/such'"), Sharing() as sharing:  # noqa: PT012  # any of them may raise
            for number in range(200):
                sharing.add(shared(folder, f"f{number}"))
            sharing.add(shared(folder, "no/such"))
            for number in range(200, 400):
                sharing.add(shared(folder, f"f{number}"))
            sharing.settle()
    finally:
        os.close(folder)
    assert not threads()


def test_taken_names_are_told(tmp_path: Path) -> None:
    """Who finds something under a name leaves it, and says so when all others are made."""
    for number in range(0, 100, 10):
        (tmp_path / f"f{number:03}").write_text("there")
    folder = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        with Sharing() as sharing:
            for number in range(100):
                sharing.add(shared(folder, f"f{number:03}", b"new"))
            taken = sharing.settle()
            assert not sharing.pending
    finally:
        os.close(folder)

    assert sorted(one.name for one in taken) == [f"f{number:03}" for number in range(0, 100, 10)]
    assert (tmp_path / "f000").read_text() == "there"
    assert (tmp_path / "f001").read_text() == "new"
