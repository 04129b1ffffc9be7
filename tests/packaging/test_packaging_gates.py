"""The gates themselves: a planted violation fails, and the package is what it says it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's sources with their gates, to be spoilt."""
    shutil.copytree(TOP / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    return tmp_path


def test_layers_hold(copy: Path) -> None:
    """No room imports from its own floor or above."""
    done = lint_imports(copy)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("store/planted.py", "import orlop.engine.core"),
        ("build/planted.py", "import orlop.runtime.request"),
        ("network/planted.py", "import ctypes"),
        ("engine/planted.py", "import asyncio"),
        ("registry/planted.py", "import asyncio"),
        ("planted.py", "import os"),  # a room that no floor was given
    ],
)
def test_planted_violation_fails(copy: Path, module: str, line: str) -> None:
    """An import that the design forbids breaks the contract: the gate can fail."""
    (copy / "src/orlop" / module).write_text(f'"""Planted."""\n\n{line}\n')

    assert lint_imports(copy).returncode != 0


@pytest.mark.slow
def test_wheel_in_a_clean_environment(tmp_path: Path) -> None:
    """The wheel installs without extras, brings py.typed, and its command works."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(TOP)],
        check=True,
        cwd=tmp_path,
    )
    wheel = next(tmp_path.glob("orlop-*.whl"))
    venv.create(tmp_path / "clean", with_pip=True)
    binaries = tmp_path / "clean/bin"
    subprocess.run([str(binaries / "python"), "-m", "pip", "install", "-q", str(wheel)], check=True, cwd=tmp_path)
    typed = "import orlop, os; print(os.path.exists(os.path.join(os.path.dirname(orlop.__file__), 'py.typed')))"
    shown = subprocess.run(
        [str(binaries / "python"), "-c", typed], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert shown.stdout.strip() == "True"
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ORLOP_ROOT": str(tmp_path / "root"),
        "ORLOP_RUN_ROOT": str(tmp_path / "run"),
    }
    listed = subprocess.run(
        [str(binaries / "orlop"), "images"], check=True, capture_output=True, text=True, env=environ, cwd=tmp_path
    )
    assert "REPOSITORY" in listed.stdout


def test_importing_orlop_is_light() -> None:
    """`import orlop` loads no room: every start of every program pays for it."""
    code = "import sys; before = set(sys.modules); import orlop; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(TOP / 'src')!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["__future__", "orlop"]


def test_every_public_name_resolves() -> None:
    """Each name in orlop.__all__ is there when asked for, and nothing else is."""
    import orlop

    for name in orlop.__all__:
        assert getattr(orlop, name) is not None
    with pytest.raises(AttributeError):
        _ = orlop.nonsense
