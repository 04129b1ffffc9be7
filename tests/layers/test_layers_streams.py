"""Chunks between threads: bounded, complete, stopped promptly, errors on the right side."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from orlop.layers.parallel import Stop, run
from orlop.layers.streams import Aside, Pipe, ReadAhead, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("orlop-")}


def test_everything_arrives_in_order() -> None:
    """What goes in comes out, through two stages."""
    with ReadAhead(range(1000), name="a") as first, ReadAhead((item * 2 for item in first), name="b") as second:
        assert list(second) == [item * 2 for item in range(1000)]
    assert not _threads()


def test_the_source_runs_only_so_far_ahead() -> None:
    """A slow reader holds the source back: memory is bounded."""
    made: list[int] = []

    def source() -> Iterator[int]:
        for item in range(100):
            made.append(item)
            yield item

    with ReadAhead(source(), name="a", depth=3) as items:
        assert next(items) == 0
        assert len(made) <= 6
    assert len(made) <= 6


def test_errors_of_the_source_reach_the_reader() -> None:
    """An error is raised where the items are read, after those that came before it."""

    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken source")

    with ReadAhead(source(), name="a") as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken source"):
            next(items)
    assert not _threads()


def test_leaving_early_ends_and_closes_the_source() -> None:
    """When the reader fails, the source is closed in its own thread and nothing is left running."""
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with ReadAhead(source(), name="a") as first, ReadAhead((item for item in first), name="b") as second:
        assert next(second) == 1
    assert closed.wait(60)
    assert not _threads()


def test_work_aside_gets_everything() -> None:
    """Items are worked on in order beside the caller; finish waits for the last."""
    found: list[int] = []
    with Aside(found.append, name="a") as aside:
        for item in range(500):
            aside.put(item)
        aside.finish()
        assert found == list(range(500))


def test_errors_of_work_aside_reach_the_caller() -> None:
    """A failing worker is noticed by the next put, or at the latest by finish."""

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("broken work")

    def feed() -> None:
        with Aside(work, name="a") as aside:
            for item in range(1000):
                aside.put(item)
            aside.finish()

    with pytest.raises(ValueError, match="broken work"):
        feed()
    assert not _threads()


def test_a_closed_pipe_stops_its_writer() -> None:
    """A writer that waits for room is told when the reader goes."""
    pipe: Pipe[int] = Pipe(depth=1)
    pipe.put(1)
    told = threading.Event()

    def write() -> None:
        try:
            pipe.put(2)
        except Stopped:
            told.set()

    thread = threading.Thread(target=write)
    thread.start()
    pipe.close()
    thread.join(60)
    assert told.is_set()


def test_tasks_all_run() -> None:
    """Many tasks, few threads."""
    done: list[int] = []
    run([partial(lambda number, _stop: done.append(number), number) for number in range(20)], width=3)

    assert sorted(done) == list(range(20))


def test_the_first_failure_stops_the_others() -> None:
    """A task that checks learns of a failure elsewhere; what had not begun never begins; the first error is raised."""
    begun: list[str] = []
    failed = threading.Event()

    def bad(_stop: Stop) -> None:
        begun.append("bad")
        failed.set()
        raise ValueError("first")

    def patient(stop: Stop) -> None:
        begun.append("patient")
        assert failed.wait(60)
        while True:
            stop.check()

    def never(_stop: Stop) -> None:
        begun.append("never")

    with pytest.raises(ValueError, match="first"):
        run([patient, bad, never], width=2)
    assert "never" not in begun
