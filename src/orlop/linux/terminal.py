"""Terminals: pseudo-terminals, raw mode and window sizes (tty_ioctl(4), pty(7))."""

from __future__ import annotations

import fcntl
import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TIOCGPTN = 0x80045430
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


def open_slave(master: int) -> tuple[int, int]:
    """Unlock a new pseudo-terminal (an opened ptmx): (the slave, closed on execve; its number in that devpts).

    The slave is opened through the master, not by its path, which may mean something else in this mount namespace.
    """
    fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
    number = int.from_bytes(fcntl.ioctl(master, _TIOCGPTN, bytes(4)), "little")
    return fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC), number


def make_controlling(fd: int) -> None:
    """Make the terminal `fd` the controlling one of this process, which must lead a session (os.setsid) without one."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


def raw(fd: int) -> list[Any]:
    """Hand every key through and print every byte as it is; the settings before, for `restore`.

    termios.error when `fd` is no terminal.
    """
    before = termios.tcgetattr(fd)
    now = termios.tcgetattr(fd)
    now[0] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    now[1] &= ~termios.OPOST
    now[2] = (now[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
    now[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    now[6][termios.VMIN] = 1
    now[6][termios.VTIME] = 0
    termios.tcsetattr(fd, termios.TCSANOW, now)
    return before


def restore(fd: int, settings: list[Any]) -> None:
    """Undo `raw` once all output has been printed."""
    termios.tcsetattr(fd, termios.TCSADRAIN, settings)


def window_size(fd: int) -> tuple[int, int]:
    """(rows, columns); (0, 0) when the terminal does not know. OSError (ENOTTY) when `fd` is none."""
    data = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
    return int.from_bytes(data[0:2], "little"), int.from_bytes(data[2:4], "little")


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """Tell the terminal its size, cut to 65535 each; programs in its foreground get SIGWINCH."""
    sizes = (min(max(value, 0), 0xFFFF) for value in (rows, columns, 0, 0))
    fcntl.ioctl(fd, termios.TIOCSWINSZ, b"".join(size.to_bytes(2, "little") for size in sizes))
