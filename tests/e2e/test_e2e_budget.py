"""What the hot paths load: counted, not timed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command import Orlop

# Each of these costs milliseconds, and none is needed to start a container.
HEAVY = {
    "argparse", "asyncio", "concurrent.futures", "dataclasses", "enum", "hashlib", "http.client", "inspect", "ipaddress",
    "json", "logging", "pathlib", "pickle", "re", "rich", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile",
    "threading", "typing", "urllib.parse", "urllib3", "uuid",
}  # fmt: skip
if sys.version_info >= (3, 14):
    HEAVY -= {"threading"}  # this Python's own ctypes imports it


def loaded(orlop: Orlop, *arguments: str) -> list[str]:
    """The modules that one command imports beyond those of a bare interpreter, in order."""
    program = "import sys; before = set(sys.modules); sys.argv[0] = 'orlop'; import os; leave = os._exit\n"
    program += (
        "def told(code):\n    print(*[m for m in sys.modules if m not in before], file=sys.stderr); leave(code)\n"
    )
    program += "os._exit = told\nfrom orlop.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=orlop.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize("network", ["none", "bridge"])
def test_run_stays_within_its_budget(orlop: Orlop, busybox: str, network: str) -> None:
    """`run` loads at most 100 modules (128 on a bridge), and none of the heavy ones; without a network, no ctypes."""
    orlop("run", "--rm", "--network", network, busybox, "true")
    modules = loaded(orlop, "run", "--rm", "--network", network, busybox, "true")

    assert not (HEAVY | ({"ctypes", "struct"} if network == "none" else set())) & set(modules)
    assert len(modules) <= {"none": 100, "bridge": 128}[network], len(modules)


def test_exec_stays_within_its_budget(orlop: Orlop, busybox: str) -> None:
    """`exec` loads at most 105 modules, and none of the heavy ones."""
    orlop("run", "-d", "--name", "still", "--network", "none", busybox, "sleep", "1000")
    modules = loaded(orlop, "exec", "still", "true")

    assert not HEAVY & set(modules)
    assert len(modules) <= 105 + 5 * (sys.version_info >= (3, 14)), len(modules)  # its ctypes brings more


@pytest.mark.parametrize("command", [["images"], ["ps", "-a"]])
def test_lists_stay_within_their_budget(orlop: Orlop, busybox: str, command: list[str]) -> None:
    """Lists load at most 60 modules, and none of the heavy ones."""
    modules = loaded(orlop, *command)

    assert not HEAVY & set(modules)
    assert len(modules) <= 60, len(modules)
