"""Restart policies: what starts again, after how long, and who may do it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from orlop.engine import restarting, restartpolicy, status
from orlop.store.containers import ContainerRecord
from orlop.store.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _record(policy: str, maximum: int = 0, **state: Any) -> ContainerRecord:
    return ContainerRecord(
        id="c" * 64, namespace="default", name="one", image="sha256:" + "0" * 64, image_name="busybox", created=0, sandbox="", labels={},
        config={"restart": {"name": policy, "max": maximum}}, state=state,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "maximum", "code", "state", "wanted"),
    [
        ("no", 0, 1, {}, False),
        ("always", 0, 0, {}, True),
        ("always", 0, 1, {"stopped_by_user": True}, False),
        ("unless-stopped", 0, 0, {}, True),
        ("unless-stopped", 0, 0, {"stopped_by_user": True}, False),
        ("on-failure", 0, 0, {}, False),
        ("on-failure", 0, 3, {"restarts": 1000}, True),
        ("on-failure", 2, 3, {"restarts": 1}, True),
        ("on-failure", 2, 3, {"restarts": 2}, False),
    ],
)
def test_what_starts_again(policy: str, maximum: int, code: int, state: dict[str, Any], *, wanted: bool) -> None:
    """Docker's policies; whoever stops a container has the last word."""
    assert restartpolicy.wanted(_record(policy, maximum, **state), code) is wanted


@pytest.mark.parametrize(
    ("quick", "seconds"), [(0, 0.1), (1, 0.1), (2, 0.2), (5, 1.6), (10, 51.2), (11, 60.0), (99, 60.0)]
)
def test_the_wait_doubles(quick: int, seconds: float) -> None:
    """Each end that came quickly doubles the wait, from 100 ms up to a minute."""
    assert restartpolicy.delay(_record("always", quick=quick)) == pytest.approx(seconds)


class _Engine:
    """As much of an engine as waiting needs."""

    def __init__(self, root: Root) -> None:
        self.root = root

    def disconnect(self) -> None:
        self.root.disconnect()


@pytest.fixture
def engine(root_dir: Path, run_dir: Path) -> Iterator[Any]:
    with Root.open(str(root_dir), str(run_dir)) as root:
        yield _Engine(root)


def test_the_next_waiter_is_left_alone(engine: Any) -> None:
    """A container that is started again and ends again at once is waited for by somebody else: that file stays."""
    record = _record("always")
    path = status.restarting_file(engine.root, record.id)
    other = {"pid": os.getppid(), "ticks": 1}
    restarting.announce(engine.root, record.id)

    restarting.restart(engine, record, lambda: status.write_json(path, other))

    assert status.read_json(path) == other


def test_a_waiter_that_is_called_off_starts_nothing(engine: Any) -> None:
    """Without its own file there is nothing to start, whether it is gone or another's."""
    record, started = _record("always"), []
    path = status.restarting_file(engine.root, record.id)

    restarting.restart(engine, record, lambda: started.append("gone"))
    restarting.announce(engine.root, record.id)
    status.write_json(path, {"pid": os.getppid(), "ticks": 1})
    restarting.restart(engine, record, lambda: started.append("another's"))

    assert started == []


def test_a_waiter_clears_up(engine: Any) -> None:
    """After the start nothing says any more that somebody waits."""
    record, started = _record("always"), []
    restarting.announce(engine.root, record.id)

    restarting.restart(engine, record, lambda: started.append("started"))

    assert started == ["started"]
    assert not os.path.exists(status.restarting_file(engine.root, record.id))
