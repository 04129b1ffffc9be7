"""Small processes that serve a container's network: started here, found again by any later command.

A file in the run folder holds the process' number and start time, which together are its identity.
"""

from __future__ import annotations

import errno
import os

from orlop.linux import process, wholefile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIGPIPE = 13
_TERM = 15
_KILL = 9
_PATIENCE = 2.0  # seconds for a process to end by itself


def spawn(
    path: str,
    arguments: Sequence[str],
    pid_file: str,
    *,
    keep: Mapping[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Start a program in a session of its own, with /dev/null as its input and outputs; returns its pid.

    `keep`: {descriptor it will have: descriptor of ours}. posix_spawn, so that threads of ours do not matter.
    """
    actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
        (os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in (keep or {}).items()
    ]
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        actions.append((os.POSIX_SPAWN_OPEN, fd, "/dev/null", flags, 0))
    pid = os.posix_spawn(
        path, list(arguments), dict(environment or {}), file_actions=actions, setsid=True, setsigdef=[SIGPIPE]
    )
    remember(pid_file, pid)
    return pid


def remember(pid_file: str, pid: int) -> None:
    """Write down who serves."""
    try:
        ticks = process.start_ticks(pid)
    except ProcessLookupError:
        return
    wholefile.write(pid_file, f"{pid} {ticks}\n".encode("ascii"), mode=0o644)


def running(pid_file: str) -> int:
    """The pid of the process that serves, 0 when there is none (any more)."""
    try:
        with open(pid_file, encoding="ascii") as file:
            pid, ticks = (int(word) for word in file.read().split())
    except (FileNotFoundError, ValueError):
        return 0
    return pid if process.alive(pid, ticks) else 0


def stop(pid_file: str) -> None:
    """End the process, if it still runs, and forget it. Nothing of it is left when this returns."""
    pid = running(pid_file)
    if pid:
        _end(pid)
    wholefile.forget(pid_file)


def _end(pid: int) -> None:
    try:
        fd = process.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ticks = process.start_ticks(pid)
        process.pidfd_send_signal(fd, _TERM)
        if not process.wait_gone(pid, ticks, _PATIENCE):
            process.pidfd_send_signal(fd, _KILL)
            process.wait_gone(pid, ticks, _PATIENCE)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
    try:
        os.waitpid(pid, os.WNOHANG)  # where it was our own child
    except OSError as error:
        if error.errno != errno.ECHILD:
            raise
