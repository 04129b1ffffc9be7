"""A terminal of a container served by this process itself, as long as the program lives (no shim in between)."""

from __future__ import annotations

import os
import select

from orlop.linux import terminal
from orlop.runtime.attach import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.runtime.attach import Signals

_READ_SIZE = 1 << 16
_END_OF_INPUT = b"\x04"


def serve(
    master: int, pid: int, watch: Signals, *, stdin: int = 0, stdout: int = 1, forward: Callable[[int], None]
) -> None:
    """Pass bytes both ways until process `pid` (our child, not reaped here) has ended and its output is through.

    A terminal at `stdin` is made raw meanwhile, and its size is the program's. Signals that `watch` sees are given to
    `forward`.
    """
    raw = terminal.raw(stdin) if stdin >= 0 and os.isatty(stdin) else None
    pidfd = os.pidfd_open(pid)
    try:
        _resize(master, stdin)
        _pass_on(master, pidfd, stdin, stdout, watch, forward)
    finally:
        os.close(pidfd)
        if raw is not None:
            terminal.restore(stdin, raw)


def _resize(master: int, source: int) -> None:
    if source >= 0 and os.isatty(source):
        terminal.set_window_size(master, *terminal.window_size(source))


def _pass_on(master: int, pidfd: int, stdin: int, stdout: int, watch: Signals, forward: Callable[[int], None]) -> None:
    poll = select.poll()
    for fd in (master, pidfd, watch.fd, stdin):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    ended = False
    while True:
        ready = dict(poll.poll(0 if ended else None))
        if watch.fd in ready:
            for number in watch.taken():
                if number == watch.RESIZED:
                    _resize(master, stdin)
                else:
                    forward(number)
        if stdin in ready and not _typed(stdin, master):
            poll.unregister(stdin)
        if master in ready:
            if not _shown(master, stdout):
                poll.unregister(master)
        elif ended:
            return  # dead, and nothing more to be read
        if pidfd in ready:
            poll.unregister(pidfd)
            ended = True


def _typed(stdin: int, master: int) -> bool:
    """Pass input on; whether there may be more."""
    try:
        data = os.read(stdin, _READ_SIZE)
    except OSError:
        data = b""
    write_all(master, data or _END_OF_INPUT)
    return bool(data)


def _shown(master: int, stdout: int) -> bool:
    """Pass output on; whether there may be more."""
    try:
        data = os.read(master, _READ_SIZE)
    except OSError:  # EIO: the last user has closed it
        return False
    write_all(stdout, data)
    return bool(data)


def send(path: str, master: int) -> None:
    """Hand the master side to whoever listens at the Unix socket `path` (runc's --console-socket)."""
    from orlop.linux import sockets

    connection = sockets.unix_connect(path)
    try:
        sockets.send_with_descriptors(connection, b"/dev/ptmx", [master])
    finally:
        connection.close()
