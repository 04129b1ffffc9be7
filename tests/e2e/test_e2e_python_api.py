"""The Python API: the documented example runs, from a threaded program too."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import Orlop

import orlop
from orlop.engine import stopping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.engine.core import Engine

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/python_api.py"


def test_example_runs() -> None:
    """examples/python_api.py does what it says, threads included, and cleans up."""
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    assert "starboard ended with 0 and wrote 'hello from starboard'" in done.stdout
    assert "not-found" in done.stdout


def test_verbs_and_events(tmp_path: Path) -> None:
    """A verb reports what happens, returns a value, and raises typed errors."""
    seen: list[str] = []
    with orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run")) as engine:
        engine.images.from_host(orlop.FromHost(name="base", programs=("busybox",)))
        (tmp_path / "Dockerfile").write_text('FROM base\nRUN ["busybox", "touch", "/x"]\nCMD ["busybox", "true"]\n')
        built = engine.builds.build(
            orlop.Build(context=str(tmp_path), tags=("app",)), lambda event: seen.append(event.action)
        )
        ran = engine.containers.run(orlop.CreateContainer(image="app", network="none"))
        assert engine.containers.wait(ran.id) == 0
        assert engine.containers.inspect(ran.id)["Image"] == built.id
        engine.system.prune(orlop.Prune(all=True))
        assert engine.images.list() == []
    assert "build.step" in seen
    Orlop(tmp_path)("internal", "teardown")  # the bridge that the build's step had


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that has busybox, for all tests below."""
    folder = tmp_path_factory.mktemp("engine")
    with orlop.open(root=str(folder / "root"), run_root=str(folder / "run")) as opened:
        opened.images.from_host(orlop.FromHost(name="base", programs=("busybox",)))
        yield opened
        opened.system.prune(orlop.Prune(all=True))


def test_output_goes_to_a_function(engine: Engine) -> None:
    """All that a program writes is handed over, to its last byte, each stream under its name, with the exit code."""
    found: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    def output(stream: str, data: bytes) -> None:
        found[stream] += data

    script = "busybox seq 50000; echo oops >&2; exit 3"
    ran = engine.containers.run(
        orlop.CreateContainer(image="base", command=("busybox", "sh", "-c", script), network="none", auto_remove=True),
        output=output,
    )
    assert ran.exit_code == 3
    assert found == {"stdout": b"".join(b"%d\n" % at for at in range(1, 50001)), "stderr": b"oops\n"}


def test_exec_hands_over_output_too(engine: Engine) -> None:
    """So does exec; what it leaves in the background is not waited for, and the caller's own failure is the caller's."""
    name = "giver"
    engine.containers.run(
        orlop.CreateContainer(image="base", name=name, command=("busybox", "sleep", "1000"), network="none")
    )
    try:
        said: list[bytes] = []
        script = "busybox sleep 1000 & echo done"
        request = orlop.Exec(container=name, command=("busybox", "sh", "-c", script))
        assert engine.containers.exec(request, output=lambda _, data: said.append(data)) == 0
        assert b"".join(said) == b"done\n"

        def refuse(stream: str, data: bytes) -> None:
            raise ValueError(f"no {stream}, thanks: {data!r}")

        with pytest.raises(ValueError, match="no stdout, thanks"):
            engine.containers.exec(request, output=refuse)
        with pytest.raises(orlop.errors.InvalidArgument, match="not to both"):
            engine.containers.exec(request, orlop.Stdio(), output=refuse)
    finally:
        engine.containers.remove(name, force=True)


def test_a_detached_exec_leaves_no_environment_behind(engine: Engine) -> None:
    """Once a detached program is executed, nothing on the disk holds the environment that it was given."""
    name = "keeper"
    engine.containers.run(
        orlop.CreateContainer(image="base", name=name, command=("busybox", "sleep", "1000"), network="none")
    )
    try:
        engine.containers.exec(
            orlop.Exec(
                container=name,
                command=("busybox", "sh", "-c", "echo $TOKEN > /said"),
                env=("TOKEN=s3cr3t",),
                detach=True,
            )
        )
        for folder, _, files in os.walk(engine.root.run_path):
            for file in files:
                path = f"{folder}/{file}"
                if stat.S_ISREG(os.lstat(path).st_mode):
                    with open(path, "rb") as opened:
                        assert b"s3cr3t" not in opened.read(), path
    finally:
        engine.containers.remove(name, force=True)


def test_letting_go_on_what_goes_on_already_is_fine(tmp_path: Path) -> None:
    """What stands still when it is killed may have died before it is let go on: that is no failure of the kill."""
    with orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run")) as engine:
        engine.images.from_host(orlop.FromHost(name="base", programs=("busybox",)))
        wanted = orlop.CreateContainer(image="base", command=("busybox", "sleep", "1000"), network="none")
        identity = engine.containers.run(wanted).id
        try:
            record = engine.containers.record(identity)
            stopping.let_go_on(engine, record)
            engine.containers.pause(identity)
            stopping.let_go_on(engine, record)
            assert engine.containers.status(record).word == "running"
            engine.containers.pause(identity)
            engine.containers.kill(identity)
            assert engine.containers.wait(identity) == 137
            stopping.let_go_on(engine, record)
        finally:
            engine.containers.remove(identity, force=True)
