"""Completion as a person sees it: real shells on a terminal, a line typed, Tab pressed, and what then stands there."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from orlop.cli.completion import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60.0  # seconds
STARTS = {
    "bash": (["bash", "--noprofile", "-i"], ".bashrc", "PS1='%% '; bind 'set bell-style none'; . {script}\n"),
    "zsh": (
        ["zsh", "-i"],
        ".zshrc",
        "PS1='%%%% '; setopt NO_BEEP; fpath=({folder} $fpath); autoload -U compinit; compinit -u\n",
    ),
    "fish": (
        ["fish", "-i"],
        ".config/fish/config.fish",
        "function fish_prompt; echo -n '%% '; end; set -g fish_greeting; set -g fish_autosuggestion_enabled 0\n",
    ),
}
PLACES = {"bash": "script", "zsh": "functions/_orlop", "fish": ".config/fish/completions/orlop.fish"}


class Shell:
    """A shell on a terminal of its own."""

    def __init__(self, argv: list[str], environ: dict[str, str], folder: Path) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(folder)
                os.execvpe(argv[0], argv, environ)
            finally:
                os._exit(127)
        self.seen = ""

    def until(self, pattern: str) -> None:
        """Read until what is on the terminal matches."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.seen):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} does not come, but {self.seen!r}"
            if select.select([self.terminal], [], [], left)[0]:
                data = os.read(self.terminal, 65536)
                if b"\x1b[c" in data or b"\x1b[0c" in data:
                    os.write(self.terminal, b"\x1b[?62;c")  # fish asks what kind of terminal this is
                self.seen += re.sub(
                    r"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|[()].|[=>]|\][^\x07\x1b]*(\x07|\x1b\\))",
                    "",
                    data.decode(errors="replace"),
                )

    def type(self, text: str) -> None:
        """Press these keys."""
        self.seen = ""
        os.write(self.terminal, text.encode())

    def end(self) -> None:
        """Hang up."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A home with an `orlop` in PATH that knows an image, a volume and a stopped container; files in `work`."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "orlop").write_text(f'#!/bin/sh\nexec {sys.executable} -m orlop "$@"\n')
    (binaries / "orlop").chmod(0o755)
    work = tmp_path / "work"
    (work / "harbour").mkdir(parents=True)
    (work / "sea chart.txt").write_text("")
    environ = {
        "PATH": f"{binaries}:{os.environ['PATH']}", "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "xterm",
        "LANG": "C.UTF-8", "ORLOP_ROOT": str(tmp_path / "root"), "ORLOP_RUN_ROOT": str(tmp_path / "run"),
        "XDG_CONFIG_HOME": str(tmp_path / ".config"), "COLUMNS": "200",
        **{key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")},
    }  # fmt: skip

    def orlop(*words: str) -> None:
        subprocess.run(["orlop", *words], env=environ, check=True, capture_output=True)

    orlop("image", "from-host", "host/tools:v1", "busybox")
    orlop("create", "--name", "lantern", "host/tools:v1", "true")
    orlop("volume", "create", "ballast")
    yield environ
    orlop("internal", "teardown")


def _typed_and_completed(name: str, environ: dict[str, str], tmp_path: Path) -> None:
    argv, startup, text = STARTS[name]
    script = tmp_path / PLACES[name]
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(SCRIPTS[name])
    start = tmp_path / startup
    start.parent.mkdir(parents=True, exist_ok=True)
    start.write_text(text.replace("%%", "READY>", 1).format(script=script, folder=script.parent))
    shell = Shell(argv, environ, tmp_path / "work")
    try:
        shell.until("READY>")
        for typed, rest in (
            ("orlop volu", "me"),  # a command
            ("orlop run --memory-swapp", "iness"),  # an option
            ("orlop run --pull=al", "ways"),  # a choice
            ("orlop start lan", "tern"),  # a container
            ("orlop rmi host/to", "ols:v1"),  # an image
            ("orlop rmi host/tools:", "v1"),  # behind a colon
            ("orlop run -v bal", "last"),  # a volume
            ("orlop load -i sea", r"\\ chart\.txt"),  # a file
            ("orlop run --env-file=sea", r"\\ chart\.txt"),  # the same, joined
            ("orlop build har", "bour/"),  # a folder
        ):
            shell.type(f"{typed}\t")
            shell.until(re.escape(typed) + rest)
            shell.type("\x15")  # ^U: an empty line again
    finally:
        shell.end()


def test_bash_completes_on_a_terminal(environ: dict[str, str], tmp_path: Path) -> None:
    """Commands, options, choices, names, files: each is completed in bash."""
    _typed_and_completed("bash", environ, tmp_path)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_other_shells_complete_on_a_terminal(environ: dict[str, str], tmp_path: Path, name: str) -> None:
    """The same in zsh and fish."""
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed on this machine")
    _typed_and_completed(name, environ, tmp_path)
