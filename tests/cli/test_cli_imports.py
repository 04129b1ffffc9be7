"""What a start costs: the modules that `run` and `exec` bring in before the engine is asked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_PROBE = """
import os, sys  # site has loaded os in every ordinary start
before = set(sys.modules)
import orlop.cli.program as program

class Stop(BaseException):
    pass

def engine(settings):
    raise Stop

try:
    program.run(sys.argv[1:], {"HOME": "/root"}, engine=engine)
except Stop:
    pass
loaded = sorted(set(sys.modules) - before)
import json
print(json.dumps(loaded))
"""

# each of these costs more than reading the whole command line does
_HEAVY = (
    "argparse asyncio ctypes dataclasses email enum getpass http importlib.metadata inspect json logging pathlib pickle "
    "platform random re rich select shutil signal socket sqlite3 ssl string subprocess tempfile textwrap threading "
    "traceback typing urllib uuid"
).split()

_LINES = {
    "run": [
        "run",
        "--rm",
        "-it=false",
        "-e",
        "A=b",
        "-p",
        "80:80",
        "-v",
        "a:/b",
        "-m",
        "200m",
        "--cpus",
        "1.5",
        "image",
        "sh",
    ],
    "run -d": ["run", "-d", "--name", "web", "image"],
    "exec": ["exec", "-e", "A=b", "-u", "0", "web", "sh", "-c", "exit 3"],
    "ps": ["ps", "-a"],
    "images": ["images", "-q"],
    "settle": ["internal", "settle", "default", "abc"],
}


def _loaded(*words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {_source()!r})\n{_PROBE}", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return [str(name) for name in json.loads(done.stdout)]


def _source() -> str:
    import orlop

    return orlop.__path__[0].removesuffix("/orlop")


@pytest.mark.parametrize("name", _LINES)
def test_a_start_is_light(name: str) -> None:
    """Reading a command line imports a handful of our own modules, and nothing heavy of Python's."""
    loaded = _loaded(*_LINES[name])
    own = [module for module in loaded if module.startswith("orlop")]
    others = [module for module in loaded if not module.startswith("orlop")]

    assert not set(loaded) & set(_HEAVY), others
    assert len(own) <= 17, own
    assert len(others) <= 3, others


def test_only_the_command_that_runs_is_loaded() -> None:
    """A command does not bring its neighbours in."""
    loaded = set(_loaded(*_LINES["exec"]))

    for module in (
        "listing",
        "images",
        "building",
        "templates",
        "progress",
        "tables",
        "completion",
        "help",
    ):
        assert f"orlop.cli.{module}" not in loaded, module
