"""What every room's tests share."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATIENCE = 60.0  # seconds; only a failure waits that long

settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.register_profile("deep", parent=settings.get_profile("ci"), max_examples=2000)
settings.load_profile("ci")

# Who starts the tests in the background of a script, or by nohup, has these ignored, and so would all that tests start.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def _threads() -> list[str]:
    """The kernel's list of this process's threads: what C code started is among them."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with (
            contextlib.suppress(OSError),
            open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as file,
        ):
            found.append(f"{task} ({file.read().strip()})")
    return found


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """A test ends its threads: the next one may fork, and then go on in Python, which only one thread can do safely."""
    before = len(os.listdir("/proc/self/task"))
    yield
    deadline = time.monotonic() + _PATIENCE
    while len(os.listdir("/proc/self/task")) > before:
        if time.monotonic() > deadline:
            pytest.fail(f"threads are left: {_threads()}, of Python's: {threading.enumerate()}")
        time.sleep(0.002)


@pytest.fixture
def root_dir(tmp_path: Path) -> Path:
    """A fresh folder for a store's root; `run_dir` is its companion."""
    return tmp_path / "root"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A fresh folder for what dies at boot."""
    return tmp_path / "run"
