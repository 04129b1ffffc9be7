"""The documents say what is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from orlop.cli import commands
from orlop.cli.options import parse
from orlop.cli.program import GLOBAL_OPTIONS

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted([TOP / "README.md", *(TOP / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(TOP)) for page in PAGES]
_SHELL = {"|", "||", "&&", ";", "&", "<", ">", ">>", "2>", "#"}


def test_every_variable_of_ours_is_in_the_table() -> None:
    """What the code reads of the environment under our name is in docs/environment.md, and nothing else is."""
    read = set()
    for module in (TOP / "src").rglob("*.py"):
        read |= set(re.findall(r"""["'](ORLOP_[A-Z_]+)["']""", module.read_text()))
    rows = (TOP / "docs/environment.md").read_text().splitlines()
    told = {name for row in rows if row.startswith("|") for name in re.findall(r"^\| `(ORLOP_[A-Z_]+)`", row)}
    assert told == read


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page: str) -> None:
    """A relative link in a page leads to a file that is there."""
    text = (TOP / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert ((TOP / page).parent / target).exists(), target


def command_lines(text: str) -> list[list[str]]:
    """The orlop commands in a page's indented blocks and in its code spans, as words, up to what the shell takes."""
    found = []
    blocks = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    spans = [span for span in re.findall(r"`([^`\n]+)`", text) if " -" in span]
    for line in blocks + spans:
        starts = re.sub(r"\$\([^()]*\)", "value", line.removeprefix("$ ").removeprefix("sudo "))
        if starts.startswith("orlop ") and "..." not in starts and "[" not in starts:
            lexer = shlex.shlex(starts, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = list(lexer)
            end = next((at for at, word in enumerate(words) if word in _SHELL), len(words))
            found.append(words[1:end])
    return found


@pytest.mark.parametrize("page", NAMES)
def test_commands_are_commands(page: str) -> None:
    """Every `orlop ...` line of a page is a command that there is, with options and arguments that it takes."""
    for words in command_lines((TOP / page).read_text()):
        given = parse(GLOBAL_OPTIONS, words, interspersed=False)
        path, rest = commands.resolve(given.arguments)
        if "help" in given.named or "help" in rest[:1]:
            continue
        assert path in commands.TABLE, words
        command = commands.load(path)
        taken = parse(command.options, rest, interspersed=command.interspersed, refused=command.refused)
        if "help" not in taken.named and taken.arguments:
            command.check(path, taken)
