"""The event log: what happened to what, as JSON lines that followers watch.

Rotated, and never fsynced: it is news, not a record.
"""

from __future__ import annotations

import os
import time

from orlop.oci import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, BinaryIO

    from orlop.engine.filters import Maker
    from orlop.engine.requests import Filter
    from orlop.store.root import Root

KINDS = ("container", "image", "volume", "network")
_LOOK = 0.1  # seconds between a follower's looks
_LIMIT = 4 << 20  # bytes before the log is rotated; one old log is kept


def record(root: Root, kind: str, action: str, subject: str, attributes: Mapping[str, str] | None = None) -> None:
    """Append one event. `kind` is one of KINDS; `action` is docker's word.

    What cannot be written (a full disk) is lost: news of a deed never makes the deed fail.
    """
    now = time.time_ns()
    line = jsontext.dumps(
        {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": subject, "Attributes": dict(attributes or {})},
            "time": now // 1_000_000_000,
            "timeNano": now,
        }
    )
    path = f"{root.path}/events.jsonl"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.write(descriptor, line + b"\n")  # one write: lines of concurrent commands never mix
        mine = os.fstat(descriptor)
        if mine.st_size > _LIMIT:
            _rotate(root, path, mine.st_ino)
    except OSError:
        pass  # no space; or another command rotated it first
    finally:
        os.close(descriptor)


def _rotate(root: Root, path: str, inode: int) -> None:
    """Put the log with this inode aside; of several who find it long, one does."""
    with root.lock("events"):
        if os.stat(path).st_ino == inode:
            os.replace(path, path + ".1")


def chosen(filters: Iterable[Filter]) -> Callable[[dict[str, Any]], bool]:
    """One test of events out of all filters: docker's keys. InvalidArgument for others."""
    from orlop.engine.filters import equal, judge, labels

    def attributes(event: dict[str, Any]) -> dict[str, str]:
        return dict(event["Actor"]["Attributes"])

    def about(kind: str) -> Maker[dict[str, Any]]:
        def is_it(text: str) -> Callable[[dict[str, Any]], bool]:
            def test(event: dict[str, Any]) -> bool:
                named = text in {attributes(event).get("name"), attributes(event).get("image")}
                identifier = event["Actor"]["ID"].removeprefix("sha256:")
                return event["Type"] == kind and (named or identifier.startswith(text.removeprefix("sha256:")))

            return test

        return is_it

    def does(word: str) -> Callable[[dict[str, Any]], bool]:
        return lambda event: word in {event["Action"], event["Action"].partition(":")[0]}  # "health_status: healthy"

    known: dict[str, Maker[dict[str, Any]]] = {
        **equal("type", lambda event: event["Type"]),
        "event": does,
        **labels(attributes),
        **{kind: about(kind) for kind in KINDS},
    }
    return judge(filters, known, what="events")


def read(root: Root, since: float = 0.0, until: float = 0.0, *, follow: bool = False) -> Iterator[dict[str, Any]]:
    """Events after `since` (Unix seconds), oldest first; with `follow` it goes on for ever, or to `until`."""
    path = f"{root.path}/events.jsonl"
    # The newer log is opened first: one that is rotated in between is then found twice, rather than not at all.
    newer = _opened(path)
    older = _opened(f"{path}.1")
    if older is not None:
        with older:
            if newer is None or os.fstat(older.fileno()).st_ino != os.fstat(newer.fileno()).st_ino:
                yield from _between(older, since, until)
    try:
        while True:
            if newer is None:
                newer = _opened(path)
            if newer is not None:
                rotated = _rotated(newer, path)  # before reading: what was written to it until then is read below
                yield from _between(newer, since, until)
                if rotated:
                    newer.close()
                    newer = None
                    continue
            if not follow or (until and time.time() >= until):
                return
            time.sleep(_LOOK)
    finally:
        if newer is not None:
            newer.close()


def _opened(path: str) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def _rotated(log: BinaryIO, path: str) -> bool:
    try:
        return os.fstat(log.fileno()).st_ino != os.stat(path).st_ino
    except FileNotFoundError:
        return True


def _between(log: BinaryIO, since: float, until: float) -> Iterator[dict[str, Any]]:
    """The whole lines from where `log` stands, as far as their time fits."""
    for line in iter(log.readline, b""):
        if not line.endswith(b"\n"):
            log.seek(-len(line), os.SEEK_CUR)  # it is being written
            return
        event = _parse(line)
        if event and event["timeNano"] >= since * 1e9 and (not until or event["timeNano"] <= until * 1e9):
            yield event


def _parse(line: bytes) -> dict[str, Any] | None:
    from orlop.errors import InvalidArgument

    try:
        event = jsontext.loads(line, what="the event log")
    except InvalidArgument:
        return None  # a line cut by a full disk
    return _told(event) if isinstance(event, dict) and "timeNano" in event else None


def _told(event: dict[str, Any]) -> dict[str, Any]:
    """An event with what docker's clients of old look for beside Type, Action and Actor."""
    if event["Type"] not in {"container", "image"}:
        return event | {"scope": "local"}
    old = {"status": event["Action"], "id": event["Actor"]["ID"]}
    image = event["Actor"]["Attributes"].get("image") if event["Type"] == "container" else None
    return old | ({"from": image} if image else {}) | event | {"scope": "local"}
