"""What containers wrote: docker's json-file logs, read from either end, and followed until the program ends."""

from __future__ import annotations

import os
import time

from orlop.engine import moments, status
from orlop.engine.requests import LogLine
from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.oci import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from orlop.engine.core import Engine
    from orlop.engine.requests import Logs
    from orlop.store.containers import ContainerRecord

_BLOCK = 64 << 10  # bytes read at a time when looking for the tail
_POLL = 0.05  # seconds between looks at a followed log


def log_path(engine: Engine, container: str) -> str:
    """Where a container's log is."""
    return f"{status.data_dir(engine.root, container)}/log.json"


def read(engine: Engine, record: ContainerRecord, request: Logs) -> Iterator[LogLine]:
    """The lines that `request` asks for, oldest first; with `follow`, until the container has ended."""
    if record.config["log"]["driver"] == "none":
        raise FailedPrecondition(
            f"container {record.name} keeps no log: it was made with --log-driver none",
            hint="attach to it instead, or make it again without --log-driver none",
        )
    since = moments.moment(request.since, what="--since") if request.since else 0.0
    until = moments.moment(request.until, what="--until") if request.until else 0.0
    path = log_path(engine, record.id)
    seen = _size(path)  # what is written from here on belongs to following
    for line in _files(path, request.tail, seen):
        entry = _entry(line)
        if entry and _within(entry, since, until):
            yield entry
    if request.follow:
        yield from _follow(engine, record, path, seen, until)


def _within(entry: LogLine, since: float, until: float) -> bool:
    """Whether a line is of the time asked for; the time is only parsed when it matters."""
    if not since and not until:
        return True
    at = moments.unix(entry.time)
    return since <= at and (not until or at <= until)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _files(path: str, tail: int, seen: int) -> Iterator[bytes]:
    """Lines of the rotated files (highest number is oldest) and of the first `seen` bytes of the live one.

    Only the last `tail` lines unless that is -1.
    """
    numbers: list[int] = []
    while os.path.exists(f"{path}.{len(numbers) + 1}"):
        numbers.append(len(numbers) + 1)
    paths = [f"{path}.{number}" for number in reversed(numbers)] + [path]
    if tail < 0:
        for one in paths:
            left = seen if one == path else -1
            try:
                with open(one, "rb") as log:
                    for line in log:
                        if one == path and (left := left - len(line)) < 0:
                            break
                        yield line
            except FileNotFoundError:
                continue
        return
    kept: list[bytes] = []
    for one in reversed(paths):
        if len(kept) >= tail:
            break
        try:
            with open(one, "rb") as log:
                end = seen if one == path else log.seek(0, os.SEEK_END)
                kept = _last_lines(log, end, tail - len(kept)) + kept
        except FileNotFoundError:
            continue
    yield from kept


def _last_lines(log: BinaryIO, end: int, count: int) -> list[bytes]:
    """The last `count` lines before offset `end`, reading backwards only as far as needed."""
    data = b""
    while end > 0 and data.count(b"\n") <= count:
        step = min(_BLOCK, end)
        end -= step
        log.seek(end)
        data = log.read(step) + data
    return data.splitlines(keepends=True)[-count:] if count else []


def _follow(engine: Engine, record: ContainerRecord, path: str, seen: int, until: float) -> Iterator[LogLine]:
    """Lines after offset `seen` as they come, until the container has ended and everything it wrote is read."""
    try:
        log = open(path, "rb")  # noqa: SIM115  # closed below; reopened when the log is rotated
    except FileNotFoundError:
        return
    log.seek(seen)
    rest = b""
    try:
        while not until or time.time() < until:
            # before reading: what was written until then is read below
            ended = not status.status_of(engine.root, record).running
            rotated = _rotated(log, path)
            block = log.read(_BLOCK)
            if block:
                *whole, rest = (rest + block).split(b"\n")
                for line in whole:
                    entry = _entry(line)
                    if entry:
                        yield entry
                continue
            if rotated:
                log.close()
                log = open(path, "rb")  # noqa: SIM115  # closed below
                continue
            if ended:
                return
            time.sleep(_POLL)
    finally:
        log.close()


def _rotated(log: BinaryIO, path: str) -> bool:
    try:
        return os.fstat(log.fileno()).st_ino != os.stat(path).st_ino
    except FileNotFoundError:
        return False


def _entry(line: bytes) -> LogLine | None:
    """One line of the json-file format; None for one that a crash cut short."""
    try:
        found = jsontext.loads(line, what="the log")
        return LogLine(stream=found["stream"], time=found["time"], data=found["log"].encode(errors="surrogateescape"))
    except (InvalidArgument, KeyError, TypeError, AttributeError):
        return None
