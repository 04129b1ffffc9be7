"""The values that describe ends: of a container, of a program run in one."""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.oci import jsontext
from orlop.values import Value


class ExitRecord(Value):
    """How a container, or a program executed in it, ended."""

    id: str
    code: int  # 0-255; 128 + signal when a signal ended it
    signal: int = 0
    oom_killed: bool = False
    started: int = 0  # nanoseconds since the epoch
    finished: int = 0


def decode_exit(data: bytes) -> ExitRecord:
    """An exit record from its file or frame; InvalidArgument when it is not one that this version understands."""
    given = jsontext.load_object(data, what="the exit record", limit=65536)
    try:
        return ExitRecord(
            id=str(given["id"]),
            code=int(given["code"]),
            signal=int(given.get("signal", 0)),
            oom_killed=bool(given.get("oom_killed", False)),
            started=int(given.get("started", 0)),
            finished=int(given.get("finished", 0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"the exit record lacks {error}") from error
