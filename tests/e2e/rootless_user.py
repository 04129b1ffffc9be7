"""An ordinary user for a test session, with an interpreter and an orlop that this user may read."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from command import Orlop

_PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_PACKAGES = ("isal", "zstandard", "backports", "urllib3", "bcrypt")
_SKIPPED = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "__pycache__", "config-*")


@contextmanager
def _alone() -> Iterator[None]:
    """Several test sessions of one machine change its users one after the other."""
    fd = os.open("/run/lock/orlop-test-users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def make_user(kind: str, *, ranges: bool) -> tuple[str, int]:
    """A user of this session's own with a home folder, with subordinate ids or without; its name and uid.

    What sessions that were killed have left behind goes.
    """
    name = f"orlop-{kind}-{os.getpid()}"
    with _alone():
        for entry in pwd.getpwall():
            prefix, _, pid = entry.pw_name.rpartition("-")
            if prefix == f"orlop-{kind}" and (pid == str(os.getpid()) or not os.path.exists(f"/proc/{pid}")):
                _remove(entry.pw_name)
        subprocess.run(["useradd", "-m", "-s", "/bin/sh", name], check=True, capture_output=True)
        uid = pwd.getpwnam(name).pw_uid
        _grant(name, f"{name}:{first_id(uid)}:65536" if ranges else "")
    return name, uid


def first_id(uid: int) -> int:
    """Where the user's subordinate ids begin: beyond all that useradd hands out."""
    return 1_000_000_000 + uid % 10_000 * 65536


def _grant(name: str, line: str) -> None:
    """Give the user this line in /etc/subuid and /etc/subgid instead of those it has; "" for none."""
    for path in map(Path, ("/etc/subuid", "/etc/subgid")):
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [one for one in lines if not one.startswith(f"{name}:")]
        path.write_text("".join(f"{one}\n" for one in (*kept, *([line] if line else []))))


def remove_user(name: str) -> None:
    """Take the user away, with its home and its subordinate ids."""
    with _alone():
        _remove(name)


def _remove(name: str) -> None:
    subprocess.run(["userdel", "-r", "-f", name], check=False, capture_output=True)
    _grant(name, "")


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
