"""A process that moves itself into cgroups."""

from __future__ import annotations

import os

from orlop.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def join(directories: Iterable[str]) -> None:
    """Move this process, which has one thread, into each of the cgroup directories.

    Moving another process stops all forks on the machine for an RCU grace period: 5 to 30 ms over the hierarchies
    of cgroup v1. A thread that moves only itself (by `tasks`, which v2 does not have) does not (Linux 5.5).
    """
    for directory in directories:
        try:
            fd = os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        except OSError as error:
            raise syscalls.failure(error.errno or 0, f"join the cgroup {directory}") from error
        finally:
            os.close(fd)
