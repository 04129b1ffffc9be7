"""The event log: what is followed, and what happens when it is rotated."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from orlop.engine import journal
from orlop.store.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(root_dir: Path, run_dir: Path) -> Iterator[Root]:
    with Root.open(str(root_dir), str(run_dir)) as opened:
        yield opened


def test_a_follower_loses_nothing(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who keeps up is told of every event, also of the one that has the log rotated."""
    monkeypatch.setattr(journal, "_LIMIT", 1000)
    events = journal.read(root, until=time.time() + 120, follow=True)
    for number in range(60):
        journal.record(root, "container", "start", str(number))
        assert next(events)["Actor"]["ID"] == str(number)
    assert os.path.exists(f"{root.path}/events.jsonl.1")


def test_both_logs_are_read(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the older log comes before what is in the newer one, each once."""
    monkeypatch.setattr(journal, "_LIMIT", 1000)
    for number in range(10):
        journal.record(root, "image", "tag", str(number))
    seen = [int(event["Actor"]["ID"]) for event in journal.read(root)]
    assert seen == list(range(seen[0], 10))


def test_half_a_line_waits(root: Root) -> None:
    """A line that is being written is told when it is whole."""
    path = f"{root.path}/events.jsonl"
    journal.record(root, "image", "tag", "one")
    with open(path, "ab") as log:
        with open(path, "rb") as there:
            whole = there.read().replace(b'"one"', b'"two"')
        log.write(whole[:20])
        log.flush()
        events = journal.read(root, until=time.time() + 120, follow=True)
        assert next(events)["Actor"]["ID"] == "one"
        log.write(whole[20:])
        log.flush()
        assert next(events)["Actor"]["ID"] == "two"


def test_a_long_log_is_put_aside_once(root: Root) -> None:
    """Who finds a log long that somebody else has put aside meanwhile leaves the new one, and the old one, alone."""
    path = f"{root.path}/events.jsonl"
    journal.record(root, "image", "tag", "old")
    inode = os.stat(path).st_ino
    journal._rotate(root, path, inode)
    journal.record(root, "image", "tag", "new")
    journal._rotate(root, path, inode)
    assert [event["Actor"]["ID"] for event in journal.read(root)] == ["old", "new"]
    assert os.path.exists(path)
