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
    from typing import Any

    from orlop.engine.filters import Maker
    from orlop.engine.requests import Filter
    from orlop.store.root import Root

KINDS = ("container", "image", "volume", "network")
_LIMIT = 4 << 20  # bytes before the log is rotated; one old log is kept


def record(root: Root, kind: str, action: str, subject: str, attributes: Mapping[str, str] | None = None) -> None:
    """Append one event. `kind` is one of KINDS; `action` is docker's word."""
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
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line + b"\n")  # one write: lines of concurrent commands never mix
        mine = os.fstat(descriptor)
        if mine.st_size > _LIMIT and os.stat(path).st_ino == mine.st_ino:  # else somebody else has rotated it
            os.replace(path, path + ".1")
    except FileNotFoundError:
        pass  # another command rotated it first
    finally:
        os.close(descriptor)


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
    for path in (f"{root.path}/events.jsonl.1", f"{root.path}/events.jsonl"):
        try:
            with open(path, "rb") as log:
                for line in log:
                    event = _parse(line)
                    if event and event["timeNano"] >= since * 1e9 and (not until or event["timeNano"] <= until * 1e9):
                        yield event
                end = log.tell()
        except FileNotFoundError:
            end = 0
    if follow:
        yield from _follow(f"{root.path}/events.jsonl", end, until)


def _follow(path: str, end: int, until: float) -> Iterator[dict[str, Any]]:
    while not until or time.time() < until:
        try:
            with open(path, "rb") as log:
                if os.fstat(log.fileno()).st_size < end:
                    end = 0  # rotated
                log.seek(end)
                for line in log:
                    if not line.endswith(b"\n"):
                        break
                    end += len(line)
                    event = _parse(line)
                    if event:
                        yield event
        except FileNotFoundError:
            end = 0
        time.sleep(0.1)


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
