"""An ordinary user for a test session, with an interpreter and an orlop that this user may read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from command import Orlop

_PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_PACKAGES = ("isal", "zstandard", "backports", "urllib3", "bcrypt")
_SKIPPED = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "__pycache__", "config-*")


def make_user(name: str, *, ranges: bool) -> int:
    """A user called `name` with a home folder, with subordinate ids or without; its uid."""
    remove_user(name)
    subprocess.run(["useradd", "-m", "-s", "/bin/sh", name], check=True, capture_output=True)
    for path in ("/etc/subuid", "/etc/subgid"):
        lines = Path(path).read_text().splitlines() if os.path.exists(path) else []
        kept = [line for line in lines if not line.startswith(f"{name}:")]
        if ranges:  # beyond all that useradd hands out
            kept.append(f"{name}:1000000000:65536")
        Path(path).write_text("".join(f"{line}\n" for line in kept))
    return int(subprocess.run(["id", "-u", name], check=True, capture_output=True).stdout)


def remove_user(name: str) -> None:
    """Take the user away, with its home and its subordinate ids; fine when there is none."""
    subprocess.run(["userdel", "-r", "-f", name], check=False, capture_output=True)
    for path in ("/etc/subuid", "/etc/subgid"):
        if os.path.exists(path):
            lines = Path(path).read_text().splitlines()
            Path(path).write_text("".join(f"{line}\n" for line in lines if not line.startswith(f"{name}:")))


def installed(folder: Path) -> Path:
    """The Python of a virtual environment in `folder` with this orlop, readable for everybody."""
    candidates = [Path(prefix) / "bin" / _PYTHON for prefix in (sys.base_prefix, "/usr", "/usr/local")]
    program = next(filter(_readable, candidates), None) or _copied(Path(sys.base_prefix), folder / "python")
    environment = folder / "venv"
    subprocess.run([program, "-m", "venv", "--without-pip", environment], check=True)
    (target,) = environment.glob("lib/python*/site-packages")
    import orlop

    shutil.copytree(Path(orlop.__file__).parent, target / "orlop", ignore=shutil.ignore_patterns("__pycache__"))
    for package in _PACKAGES:
        for place in map(Path, sys.path):
            if (place / package).is_dir():
                shutil.copytree(place / package, target / package)
                break
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    return environment / "bin" / "python"


def _readable(program: Path) -> bool:
    """Whether nobody in particular may run this interpreter.

    `env` comes between because setpriv itself still has root's capabilities when it executes a program.
    """
    probe = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "env",
        str(program),
        "-c",
        "import venv, json",
    ]
    try:
        return subprocess.run(probe, check=False, capture_output=True, cwd="/").returncode == 0
    except OSError:
        return False


def _copied(prefix: Path, target: Path) -> Path:
    """A copy of the interpreter of `prefix`, without what tests of ours do not need."""
    (target / "bin").mkdir(parents=True)
    shutil.copy(prefix / "bin" / _PYTHON, target / "bin" / _PYTHON)
    shutil.copytree(prefix / "lib" / _PYTHON, target / "lib" / _PYTHON, ignore=shutil.ignore_patterns(*_SKIPPED))
    return target / "bin" / _PYTHON


class UserOrlop(Orlop):
    """The `orlop` command as an ordinary user, over a root in that user's home."""

    def __init__(self, folder: Path, python: Path, user: str, uid: int, **environ: str) -> None:
        super().__init__(folder, **environ)
        self.uid = uid
        self.environ["PATH"] = environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        self.environ = {key: value for key, value in self.environ.items() if not key.startswith("COVERAGE_")}
        self.program = [
            "/usr/bin/setpriv", "--reuid", str(uid), "--regid", user, "--init-groups",
            "/usr/bin/env", str(python), "-m", "orlop",
        ]  # fmt: skip
