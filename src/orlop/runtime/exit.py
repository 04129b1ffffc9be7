"""How a container ended, as the file that the monitor leaves (exit.json, by rename, so whole or not there).

The monitor writes it in a bare interpreter, so the writing half imports nothing heavy; the reading half belongs to the
engine.
"""

from __future__ import annotations

import os

from orlop.linux import wholefile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.records import ExitRecord

FILE = "exit.json"
VERSION = 1
UNKNOWN = 255
"""The code of a container whose end nobody saw (its monitor was killed)."""


def encode(container_id: str, status: int, *, oom_killed: bool, started: int, finished: int) -> bytes:
    """The record for a wait status (as waitpid gives it); times are nanoseconds since the epoch."""
    signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = 128 + signal if signal else os.WEXITSTATUS(status)
    return (
        f'{{"version":{VERSION},"id":"{container_id}","code":{code},"signal":{signal},'
        f'"oom_killed":{"true" if oom_killed else "false"},"started":{started},"finished":{finished}}}\n'
    ).encode()


def write(directory: str, name: str, data: bytes) -> None:
    """Put `data` into directory/name at once: a reader sees the old file or the new one, never a part."""
    wholefile.write(f"{directory}/{name}", data)


def decode(data: bytes) -> ExitRecord:
    """The record that `encode` wrote; InvalidArgument for anything else."""
    from orlop.runtime.records import decode_exit  # the monitor must not load JSON and values

    return decode_exit(data)


def read(shim_dir: str) -> ExitRecord | None:
    """The record in a shim's folder, or None when the container has not ended, or its end was not seen."""
    try:
        with open(f"{shim_dir}/{FILE}", "rb") as file:
            return decode(file.read(65536))
    except FileNotFoundError:
        return None
