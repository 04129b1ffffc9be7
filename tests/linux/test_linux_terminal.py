"""Terminals: real pseudo-terminals."""

from __future__ import annotations

import os
import signal
import termios
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.linux import mounts, terminal
from orlop.linux.namespaces import CLONE_NEWNS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.linux.conftest import InChild


def open_pty(ptmx: str = "/dev/ptmx") -> tuple[int, str, int]:
    """A new pseudo-terminal: (master, the slave's path, slave)."""
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    slave, number = terminal.open_slave(master)
    return master, f"/dev/pts/{number}", slave


@pytest.fixture
def pty() -> Iterator[tuple[int, str, int]]:
    """A new pseudo-terminal, closed afterwards."""
    found = open_pty()
    yield found
    os.close(found[0])
    os.close(found[2])


def _read(fd: int, size: int) -> bytes:
    """So many bytes: a terminal hands them over in any pieces."""
    found = b""
    while len(found) < size:
        found += os.read(fd, size - len(found))
    return found


def test_both_ends_are_connected(pty: tuple[int, str, int]) -> None:
    """The path names the slave, what is written to it is read from the master, and neither is inherited."""
    master, path, slave = pty
    assert os.ttyname(slave) == path
    os.write(slave, b"out\n")
    assert _read(master, 5) == b"out\r\n"
    assert not os.get_inheritable(master)
    assert not os.get_inheritable(slave)


def test_raw_hands_everything_through_and_is_undone(pty: tuple[int, str, int]) -> None:
    """In raw mode no byte is special, echoed or changed; restore brings back exactly what was."""
    master, _, slave = pty
    before = termios.tcgetattr(slave)
    saved = terminal.raw(slave)
    every = bytes(range(256))
    os.write(master, every)
    assert _read(slave, 256) == every
    os.write(slave, b"a\nb\x7f")
    assert _read(master, 4) == b"a\nb\x7f"
    terminal.restore(slave, saved)
    assert termios.tcgetattr(slave) == before


@given(rows=st.integers(0, 0xFFFF), columns=st.integers(0, 0xFFFF))
def test_the_window_size_round_trips(rows: int, columns: int) -> None:
    """What is set on one end is read on the other."""
    master, _, slave = open_pty()
    try:
        terminal.set_window_size(master, rows, columns)
        assert terminal.window_size(slave) == (rows, columns)
        terminal.set_window_size(master, -5, 1 << 20)
        assert terminal.window_size(slave) == (0, 0xFFFF)
    finally:
        os.close(master)
        os.close(slave)


def test_a_file_is_no_terminal(tmp_path: Path) -> None:
    """Asking a plain file for its size or for raw mode is an error."""
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            terminal.window_size(file.fileno())
        with pytest.raises(termios.error):
            terminal.raw(file.fileno())


def test_a_controlling_terminal_sends_signals(pty: tuple[int, str, int], in_child: InChild) -> None:
    """A session leader that takes the terminal is interrupted by its ^C."""
    master, _, slave = pty

    def body() -> int:
        os.setsid()
        terminal.make_controlling(slave)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        os.write(master, b"\x03")
        return signal.sigwait([signal.SIGINT])

    assert in_child(body) == signal.SIGINT


def test_a_container_has_terminals_of_its_own(tmp_path: Path, in_child: InChild) -> None:
    """In a devpts instance of its own the first terminal is /dev/pts/0, and the slave is that instance's."""

    def body() -> tuple[str, bool]:
        mounts.mount("devpts", str(tmp_path), "devpts", 0, "newinstance,ptmxmode=0666,mode=0620")
        _, path, slave = open_pty(f"{tmp_path}/ptmx")
        return path, os.fstat(slave).st_dev == os.stat(f"{tmp_path}/0").st_dev

    assert in_child(body, flags=CLONE_NEWNS) == ("/dev/pts/0", True)
