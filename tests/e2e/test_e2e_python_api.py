"""The Python API: the documented example runs, from a threaded program too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from command import Orlop

import orlop

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
