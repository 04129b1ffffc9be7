"""A program in a container with a terminal of its own, served by this process while it runs."""

from __future__ import annotations

import os
import select
import sys

from orlop.linux import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.engine.requests import Stdio
    from orlop.runtime.attach import DetachKeys
    from orlop.runtime.spawner import ExecHandle

_READ_SIZE = 1 << 16


def execute(begin: Callable[[dict[str, Any]], ExecHandle], given: dict[str, Any], stdio: Stdio) -> int | None:
    """Begin the program `given`, joined to `stdio` until it ends, its exit code; or until the user detaches: None."""
    from orlop.runtime.attach import DetachKeys

    keys = DetachKeys(stdio.detach_keys)  # a bad key is refused before anything runs
    if os.isatty(stdio.stdout):
        rows, columns = terminal.window_size(stdio.stdout)
        given = given | {"consoleSize": {"height": rows, "width": columns}}
    with begin(given) as started:
        raw = terminal.raw(stdio.stdin) if stdio.stdin >= 0 and os.isatty(stdio.stdin) else None
        try:
            left = _serve(started.terminal, stdio, keys)
            if left:
                _keep(started.terminal)
        finally:
            if raw is not None:
                terminal.restore(stdio.stdin, raw)
            os.close(started.terminal)
            started.terminal = -1
        return None if left else started.wait()


def _keep(master: int) -> None:
    """Leave a small process behind that holds the terminal, and forgets what is written to it, while it has a user.

    Without a holder the program would be hung up on; without a reader it would stand still once the kernel's buffer is
    full.
    """
    drain = "import os\ntry:\n    while os.read(0, 65536): pass\nexcept OSError: pass"
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", drain],
        {},
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, master, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
        ],
    )


def _serve(master: int, stdio: Stdio, keys: DetachKeys) -> bool:
    """Pass bytes both ways until the terminal has no user any more; True if the user leaves before that."""
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
                    if not data:
                        os.write(master, b"\x04")  # end of input, as a terminal says it
                        poll.unregister(fd)
                        continue
                    passed, left = keys.feed(data)
                    if passed:
                        os.write(master, passed)
                    if left:
                        return True
                    continue
                try:
                    data = os.read(master, _READ_SIZE)
                except OSError:  # EIO: the last user has closed it
                    return False
                if not data:
                    return False
                while data:
                    data = data[os.write(stdio.stdout, data) :]
    finally:
        signal.signal(signal.SIGWINCH, before)
