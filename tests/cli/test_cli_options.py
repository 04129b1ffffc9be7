"""The parser of options: docker's grammar, held for every way to write a thing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.options import Option, UsageError, parse

OPTIONS = (
    Option("all", "a", "flag", "", "everything"),
    Option("interactive", "i", "flag", "", "input"),
    Option("tty", "t", "flag", "", "terminal"),
    Option("proxy", "", "flag", "", "signals", default=True),
    Option("name", "n", "text", "NAME", "a name"),
    Option("env", "e", "list", "A=b", "variables"),
    Option("last", "", "int", "N", "how many", default=-1),
    Option("memory", "m", "size", "BYTES", "limit"),
    Option("cpus", "", "cpus", "N", "limit"),
    Option("pull", "", "text", "WHEN", "when", default="missing", choices=("always", "missing", "never")),
)

_TEXT = st.text(min_size=1, max_size=12)
_WAYS = st.sampled_from(["apart", "equals", "short", "glued"])


def _written(name: str, value: str, way: str) -> list[str]:
    option = next(one for one in OPTIONS if one.long == name)
    if way == "apart":
        return [f"--{name}", value]
    if way == "equals" or not option.short or (way == "glued" and value.startswith("=")):
        return [f"--{name}={value}"]
    return [f"-{option.short}", value] if way == "short" else [f"-{option.short}{value}"]


@given(
    wanted=st.lists(st.tuples(st.sampled_from(["env", "name"]), _TEXT, _WAYS), max_size=6),
    flags=st.lists(st.sampled_from("ait"), max_size=4),
    arguments=st.lists(_TEXT.filter(lambda text: not text.startswith("-")), max_size=4),
)
def test_every_spelling_means_the_same(
    wanted: list[tuple[str, str, str]], flags: list[str], arguments: list[str]
) -> None:
    """However an option is written, its value is the text that was given; lists keep their order, the last text wins."""
    words = [word for name, value, way in wanted for word in _written(name, value, way)]
    if flags:
        words.append("-" + "".join(flags))

    found = parse(OPTIONS, [*words, *arguments])

    assert found.list("env") == tuple(value for name, value, _ in wanted if name == "env")
    assert found.text("name") == ([value for name, value, _ in wanted if name == "name"] or [""])[-1]
    assert found.flag("all") is ("a" in flags)
    assert found.arguments == arguments


@given(st.lists(st.text(max_size=8), max_size=8))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    """No words at all make the parser do anything but answer or raise UsageError."""
    try:
        found = parse(OPTIONS, words)
    except UsageError as error:
        assert error.exit_code == 125
    else:
        assert len(found.arguments) <= len(words)


@given(st.lists(st.text(max_size=8), max_size=8))
def test_a_program_keeps_its_own_options(words: list[str]) -> None:
    """Where options end at the first argument, everything after it goes through untouched."""
    found = parse(OPTIONS, ["-it", "image", *words], interspersed=False)

    assert found.arguments == ["image", *words]
    assert found.flag("interactive")
    assert found.flag("tty")


@given(st.lists(st.text(max_size=8), max_size=8))
def test_two_dashes_end_the_options(words: list[str]) -> None:
    """After -- everything is an argument, also what looks like an option or is another --."""
    assert parse(OPTIONS, ["x", "--", *words]).arguments == ["x", *words]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--all=false"], "all", False),
        (["--all=T"], "all", True),
        (["-a=0"], "all", False),
        (["--no-all"], "all", False),
        (["--proxy=false"], "proxy", False),
        (["--no-proxy"], "proxy", False),
        ([], "proxy", True),
        (["-m", "1.5g"], "memory", 3 << 29),
        (["-m=512"], "memory", 512),
        (["-m200MB"], "memory", 200 << 20),
        (["--memory", "-1"], "memory", -1),
        (["--cpus", "1.5"], "cpus", 1_500_000_000),
        (["--cpus", ".25"], "cpus", 250_000_000),
        (["--last=-3"], "last", -3),
        ([], "last", -1),
        (["--pull", "never"], "pull", "never"),
        (["-n", "--all"], "name", "--all"),
        (["-n="], "name", ""),
        (["--name", ""], "name", ""),
        (["-ain", "x"], "name", "x"),
        (["-ainx"], "name", "x"),
    ],
)
def test_values(words: list[str], name: str, value: Any) -> None:
    """Each kind of option becomes the value that docker would make of it."""
    assert parse(OPTIONS, words).values[name] == value


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--memry", "1"], "unknown option --memry", "did you mean --memory?"),
        (["--zzzzzzz"], "unknown option --zzzzzzz", "see --help"),
        (["-iz"], "unknown option -z in -iz", ""),
        (["--name"], "-n, --name needs a value", "--name NAME"),
        (["-in"], "-n, --name needs a value", ""),
        (["--all=maybe"], "-a, --all is 'maybe'", ""),
        (["--last", "x"], "--last: 'x' is not a whole number", ""),
        (["-m", "12q"], "-m, --memory: '12q' is not a size", "200m"),
        (["--cpus", "many"], "--cpus: 'many' is not a number of CPUs", ""),
        (["--pull", "soon"], "--pull is 'soon'", "always, missing, never"),
        (["--gpus", "all"], "--gpus is not supported yet", ""),
        (["-o"], "-o is not supported yet", ""),
        (["--help=x"], "unknown option --help", ""),
    ],
)
def test_refusals(words: list[str], message: str, hint: str) -> None:
    """What cannot be meant is an error of code 125 that names the option, the value, and what to write."""
    with pytest.raises(UsageError) as caught:
        parse(OPTIONS, words, refused=("gpus", "-o"))

    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 125


def test_help_ends_the_reading() -> None:
    """--help is answered even where the rest of the line is wrong; -h is help unless the command has an -h."""
    assert "help" in parse(OPTIONS, ["--help", "--nonsense"]).named
    assert "help" in parse(OPTIONS, ["-h"]).named
    hostname = Option("hostname", "h", "text", "NAME", "name")
    assert parse((*OPTIONS, hostname), ["-h", "deck"]).text("hostname") == "deck"
    assert "help" not in parse(OPTIONS, ["image", "--help"], interspersed=False).named


def test_what_was_not_given_is_told_apart() -> None:
    """An empty text that was given is not the same as none: `--workdir ""` and no --workdir."""
    assert parse(OPTIONS, []).maybe("name") is None
    assert parse(OPTIONS, ["--name", ""]).maybe("name") == ""
