"""One engine, many threads: what is made on first use is made once, and a closed engine stays closed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import orlop
from orlop.engine import doctor
from orlop.errors import FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orlop.engine.core import Engine

THREADS = 8


def at_once(what: Callable[[], object]) -> list[object]:
    """What eight threads get that ask at the same moment."""
    barrier = threading.Barrier(THREADS)
    found: list[object] = []

    def ask() -> None:
        barrier.wait()
        found.append(what())

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == THREADS
    return found


def holders(path: Path) -> list[str]:
    """Our open descriptors of `path` itself."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.path.realpath(f"/proc/self/fd/{name}") == str(path):
                found.append(name)
        except FileNotFoundError:
            continue
    return found


@pytest.mark.parametrize("name", ["root", "snapshotter", "spawner", "images", "containers"])
def test_threads_share_what_is_made_on_first_use(tmp_path: Path, name: str) -> None:
    """Threads that ask for the same thing at the same moment get the same one, and closing lets go of all of it."""
    engine = orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run"))
    try:
        assert len({id(one) for one in at_once(lambda: getattr(engine, name))}) == 1
        assert engine.root.path
        assert len(holders(tmp_path / "root")) == 1  # the folder's lock
    finally:
        engine.close()
    assert holders(tmp_path / "root") == []


@pytest.mark.parametrize(
    "use",
    [
        lambda engine: engine.root,
        lambda engine: engine.snapshotter,
        lambda engine: engine.spawner,
        lambda engine: engine.images.list(orlop.ListImages()),
    ],
)
def test_a_closed_engine_stays_closed(tmp_path: Path, use: Callable[[Engine], object]) -> None:
    """After `close` nothing is opened again behind the program's back; closing twice is closing once."""
    with orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run")) as engine:
        engine.images.list(orlop.ListImages())
    engine.close()
    with pytest.raises(FailedPrecondition, match="this engine is closed") as caught:
        use(engine)
    assert caught.value.hint
    assert holders(tmp_path / "root") == []


_FORK = """
import os, sys, orlop
def open_databases():
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return [os.readlink(link) for link in links if os.path.lexists(link) and ".db" in os.readlink(link)]
with orlop.open(root=sys.argv[1], run_root=sys.argv[2]) as engine:
    engine.images.list(orlop.ListImages())
    assert open_databases(), "the verb has opened the database"
    forked = os.fork
    seen = []
    os.fork = lambda: (seen.append(open_databases()), forked())[1]
    engine.spawner
    assert seen == [[]], seen
    assert engine.images.list(orlop.ListImages()) == []
"""


def test_the_database_is_closed_before_the_spawner_is_forked(tmp_path: Path) -> None:
    """A verb first, then the fork of the spawner's process: in that moment no database is open; later it is again."""
    argv = [sys.executable, "-P", "-c", _FORK, str(tmp_path / "root"), str(tmp_path / "run")]
    ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_doctor_never_forks_a_program_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be tried in a process is tried in a fresh one: it also works where forking is unsafe."""
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it forks"))
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert doctor._tried().state == "ok"
    finally:
        stop.set()
        thread.join()
