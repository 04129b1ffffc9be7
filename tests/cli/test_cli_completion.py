"""Shell completion: what is offered, and scripts that their shells accept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from enginetwin import Twin, container
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli import commands
from orlop.cli.completion import SCRIPTS, candidates
from orlop.cli.session import Session
from orlop.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path


def _session(twin: Twin) -> Session:
    make: Any = lambda _: twin  # noqa: E731  # the twin has the engine's shape, not its type
    return Session({}, engine=make)


def _offered(*words: str, twin: Twin | None = None) -> list[str]:
    return [value for value, _ in candidates(_session(twin or Twin()), list(words))]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ru"], ["run"]),
        (["volume", ""], ["create", "inspect", "ls", "prune", "rm", "list", "remove"]),
        (["container", "pr"], ["prune"]),
        (["regis"], ["registry"]),
        (["registry", "user", ""], ["add", "rm"]),
        (["run", "--memory-sw"], ["--memory-swap", "--memory-swappiness"]),
        (["run", "--pull", ""], ["always", "missing", "never"]),
        (["run", "--pull=ne"], ["--pull=never"]),
        (["run", "--rm", "-it", "ngi"], ["nginx:1.25"]),
        (["run", "nginx", ""], [":file"]),
        (["run", "--name", ""], []),
        (["run", "-v", "da"], ["data"]),
        (["run", "-v", "/et"], [":file"]),
        (["run", "--network", "br"], ["bridge"]),
        (["stop", ""], ["web"]),
        (["start", ""], ["web", "old"]),
        (["stop", "-t", "3", "w"], ["web"]),
        (["build", "-f", ""], [":file"]),
        (["build", ""], [":dir"]),
        (["tag", "nginx:1.25", "web"], ["web:latest"]),
        (["tag", "a", "b", ""], []),
        (["completion", "z"], ["zsh"]),
        (["--root", ""], [":dir"]),
        (["--root=/r"], [":dir"]),
        (["--nonsense=x"], []),
        (["--root", "/x", "imag"], ["images", "image"]),
        (["--ro"], ["--root"]),
        (["nonsense", ""], []),
        (["container", "nonsense", ""], []),
    ],
)
def test_what_is_offered(words: list[str], wanted: list[str]) -> None:
    """Commands, options, choices, and names from the engine, whatever stands before."""
    twin = Twin()
    twin.rows.append(container("old", id="f" * 64, state="exited"))

    assert sorted(_offered(*words, twin=twin)) == sorted(wanted)


def test_internal_commands_are_not_offered() -> None:
    """What orlop calls itself with is nobody's to type."""
    assert "internal" not in _offered("")
    assert {"run", "volume", "ps"} <= set(_offered(""))


def test_an_engine_that_fails_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion never prints an error into the line that is typed."""
    twin = Twin()

    def fail(*_: object) -> None:
        raise Unavailable("the root is locked")

    monkeypatch.setattr(twin.containers, "list", fail)

    assert _offered("stop", "", twin=twin) == []


_WORDS = st.sampled_from([*commands.TABLE, "--", "-", "-it", "--root", "--format", "-f", "x", "--pull=", ""])


@given(st.lists(_WORDS.map(lambda words: words.split(" ")[0]) | st.text(max_size=5), min_size=1, max_size=6))
def test_any_line_can_be_completed(words: list[str]) -> None:
    """Whatever was typed, completion answers with values that begin with it."""
    for value in _offered(*words):
        assert value.startswith((words[-1], ":"))


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_shells_accept_their_scripts(shell: str, tmp_path: Path) -> None:
    """A script is valid in its shell; where the shell is not here, it is at least about orlop."""
    script = tmp_path / "script"
    script.write_text(SCRIPTS[shell])
    assert "orlop internal complete --" in SCRIPTS[shell]
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", str(script)], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_bash_completes(tmp_path: Path) -> None:
    """In a real bash, words with colons and files complete to what should stand there."""
    binary = tmp_path / "orlop"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m orlop "$@"\n')
    binary.chmod(0o755)
    (tmp_path / "a file.txt").write_text("")
    script = tmp_path / "script"
    script.write_text(
        SCRIPTS["bash"]
        + 'try() { COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=(); compopt() { :; }; _orlop; printf "%s|" "${COMPREPLY[@]}"; echo; }\n'
        + 'try "orlop volume l"\ntry "orlop run --pull=al"\ntry "orlop run --pull "\ntry "orlop load -i a"\n'
    )

    done = subprocess.run(
        ["bash", str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ORLOP_ROOT": str(tmp_path / "root")},
        check=True,
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == ["list|ls|", "always|", "always|missing|never|", "a file.txt|"] or (
        done.stdout.splitlines() == ["ls|list|", "always|", "always|missing|never|", "a file.txt|"]
    )
