"""What a container leaves behind in its cgroups: processes to kill, groups to remove, the kernel's count of OOM kills.

Runs in the monitor's bare interpreter: nothing but built-in modules may be imported here.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` would load enum: 2 ms and half a megabyte
import os
import time

_PATIENCE = 2.0  # seconds in which the dead leave their cgroup after they were reaped


def _tree(directory: str) -> list[str]:
    """A cgroup and the cgroups in it, the deepest first."""
    try:
        names = [entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [path for name in names for path in _tree(f"{directory}/{name}")] + [directory]


def kill_all(cgroup: str) -> None:
    """SIGKILL every process in a cgroup and the cgroups in it; without a PID namespace, init's end ends nobody else."""
    for path in _tree(cgroup):
        try:
            with open(f"{path}/cgroup.procs", "rb") as file:
                pids = file.read().split()
        except OSError:
            continue  # the group is gone, which is what we want
        for pid in pids:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue


def remove(cgroups: list[str]) -> None:
    """Remove cgroups and what is in them. What stays busy is left for `delete`."""
    until = time.monotonic() + _PATIENCE
    for directory in cgroups:
        for path in _tree(directory):
            while True:
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > until:
                        break
                    time.sleep(0.002)
                    continue
                break


def oom_killed(source: tuple[str, int] | None) -> bool:
    """Whether the kernel has killed for lack of memory since the count in `source` (file, count) was taken."""
    return source is not None and oom_count(source[0]) > source[1]


def oom_count(path: str) -> int:
    """The oom_kill counter of memory.events (v2) or memory.oom_control (v1); 0 where it cannot be read."""
    try:
        with open(path, "rb") as file:
            for line in file:
                word, _, count = line.partition(b" ")
                if word == b"oom_kill":
                    return int(count)
    except (OSError, ValueError):
        return 0
    return 0
