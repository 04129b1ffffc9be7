"""A program in a container with a terminal of its own, served by this process while it runs."""

from __future__ import annotations

import os
import select

from orlop.linux import terminal
from orlop.runtime import execute as programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.requests import Stdio

_READ_SIZE = 1 << 16


def execute(container: str, given: dict[str, Any], *, state_root: str, stdio: Stdio) -> int:
    """Run it joined to `stdio` until it ends; its exit code."""
    if os.isatty(stdio.stdout):
        rows, columns = terminal.window_size(stdio.stdout)
        given = given | {"consoleSize": {"height": rows, "width": columns}}
    started = programs.begin(container, given, state_root=state_root)
    raw = terminal.raw(stdio.stdin) if stdio.stdin >= 0 and os.isatty(stdio.stdin) else None
    try:
        _serve(started.terminal, stdio)
    finally:
        if raw is not None:
            terminal.restore(stdio.stdin, raw)
        os.close(started.terminal)
    return programs.wait(started.pid)


def _serve(master: int, stdio: Stdio) -> None:
    """Pass bytes both ways until the terminal has no user any more."""
    import _signal as signal  # type: ignore[import-not-found]  # `signal` would load enum

    def resized(*_: object) -> None:
        if os.isatty(stdio.stdout):
            terminal.set_window_size(master, *terminal.window_size(stdio.stdout))

    resized()
    before = signal.signal(signal.SIGWINCH, resized)
    poll = select.poll()
    poll.register(master, select.POLLIN)
    if stdio.stdin >= 0:
        poll.register(stdio.stdin, select.POLLIN)
    try:
        while True:
            for fd, _ in poll.poll():
                if fd == stdio.stdin:
                    data = os.read(fd, _READ_SIZE)
                    if data:
                        os.write(master, data)
                    else:
                        os.write(master, b"\x04")  # end of input, as a terminal says it
                        poll.unregister(fd)
                    continue
                try:
                    data = os.read(master, _READ_SIZE)
                except OSError:  # EIO: the last user has closed it
                    return
                if not data:
                    return
                while data:
                    data = data[os.write(stdio.stdout, data) :]
    finally:
        signal.signal(signal.SIGWINCH, before)
