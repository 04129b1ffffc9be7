"""Dockerfile text -> typed instructions, and errors that show their place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.build.dockerfile import instructions as typed
from orlop.build.dockerfile.instructions import Dockerfile, Instruction
from orlop.build.dockerfile.parser import parse
from orlop.build.dockerfile.source import DockerfileError, DockerfileUnimplemented, Span, near


def one(text: str) -> Instruction:
    return parse(text).instructions[-1]


def test_continuations_comments_and_blank_lines() -> None:
    """Continued lines are joined; comments inside vanish; an empty line inside is a warning."""
    dockerfile = parse("# top\nFROM a\n\nRUN one \\\n  # inside\n  two \\\n\n  three\nRUN last \\")

    first, second = dockerfile.instructions[1:]
    assert isinstance(first, typed.Run)
    assert first.argv == ("one   two   three",)
    assert isinstance(second, typed.Run)
    assert second.argv == ("last",)
    assert [(finding.rule, finding.span.line) for finding in dockerfile.findings] == [("NoEmptyContinuation", 7)]


def test_two_backslashes_do_not_continue() -> None:
    """An escaped escape character at the end of a line is no continuation."""
    assert len(parse("FROM a\nRUN x \\\\\nRUN y").instructions) == 3


def test_escape_directive_changes_continuation() -> None:
    """With escape=` the backtick continues lines and the backslash is a letter."""
    dockerfile = parse("# escape=`\nFROM a\nCOPY x `\n  C:\\\nRUN y")

    copy = dockerfile.instructions[1]
    assert isinstance(copy, typed.Copy)
    assert copy.destination.text == "C:\\"
    assert dockerfile.escape == "`"


@pytest.mark.parametrize(
    ("text", "directives"),
    [
        ("# syntax=docker/dockerfile:1\n# escape=\\\nFROM a", ["syntax", "escape"]),
        ("#syntax = x\nFROM a", ["syntax"]),
        ("# a comment\n# escape=`\nFROM a", []),
        ("\n# escape=`\nFROM a", []),
        ("# unknown=1\n# escape=`\nFROM a", []),
        ("\ufeff# ESCAPE=\\\r\nFROM a\r\n", ["escape"]),
    ],
)
def test_directives_stand_above_everything(text: str, directives: list[str]) -> None:
    """Parser directives count only before comments, blank lines and instructions."""
    assert [directive.name for directive in parse(text).directives] == directives


def test_every_word_knows_its_place() -> None:
    """Spans count lines and columns from 1, also across continuations."""
    copy = one("FROM a\nCOPY --from=x \\\n   one \\\n # c\n two /dst/")

    assert isinstance(copy, typed.Copy)
    assert copy.origin is not None
    assert copy.origin.span == Span(line=2, column=6, end_line=2, end_column=14)
    assert copy.sources[0].span == Span(line=3, column=4, end_line=3, end_column=7)
    assert copy.sources[1].span == Span(line=5, column=2, end_line=5, end_column=5)
    assert copy.destination.span == Span(line=5, column=6, end_line=5, end_column=11)
    assert (copy.span.line, copy.span.end_line) == (2, 5)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("ENV A=1", [("A", "1", False)]),
        ("ENV A=1 B=2", [("A", "1", False), ("B", "2", False)]),
        ("ENV A=\"x y\" B=x\\ y C='q'", [("A", '"x y"', False), ("B", "x\\ y", False), ("C", "'q'", False)]),
        ("ENV A one two=three", [("A", "one two=three", True)]),
        ("ENV A=", [("A", "", False)]),
        ("ENV A==b", [("A", "=b", False)]),
        ('LABEL "com.example"="a b"', [('"com.example"', '"a b"', False)]),
        ("LABEL key value here", [("key", "value here", True)]),
        ("ARG A", [("A", None, False)]),
        ("ARG A=1 B", [("A", "1", False), ("B", None, False)]),
    ],
)
def test_pairs(text: str, pairs: list[tuple[str, str | None, bool]]) -> None:
    """ENV, LABEL and ARG in their new and old forms."""
    found = one(f"FROM a\n{text}")

    assert isinstance(found, (typed.Env, typed.Label, typed.Arg))
    assert [(pair.key, pair.value, pair.legacy) for pair in found.pairs] == pairs


@pytest.mark.parametrize(
    ("text", "shell_form", "argv"),
    [
        ("RUN echo hi", True, ("echo hi",)),
        ('RUN ["echo", "hi"]', False, ("echo", "hi")),
        ('RUN ["echo", "hi"] more', True, ('["echo", "hi"] more',)),
        ("RUN [ -f x ]", True, ("[ -f x ]",)),
        ("CMD ['a']", True, ("['a']",)),
        ("CMD", True, ()),
        ("CMD []", False, ()),
        ('ENTRYPOINT ["/a\\tb"]', False, ("/a\tb",)),
    ],
)
def test_shell_and_json_forms(text: str, argv: tuple[str, ...], *, shell_form: bool) -> None:
    """A JSON array of strings is the exec form, everything else the shell form."""
    found = one(f"FROM a\n{text}")

    assert isinstance(found, typed.Command)
    assert (found.shell_form, found.argv) == (shell_form, argv)


def test_what_looks_like_json_but_is_not_warns() -> None:
    """Single quotes in the JSON form are a common slip: it runs as shell text, and the warning says so."""
    (finding,) = parse("FROM a\nCMD ['a', 'b']").findings

    assert finding.rule == "JSONForm"
    assert "use double quotes" in finding.text
    assert not parse("FROM a\nRUN [ -f x ] && y").findings


def test_here_documents() -> None:
    """Bodies up to the terminator; quoted ones are not expanded; <<- drops leading tabs; several in a row."""
    dockerfile = parse(
        "FROM a\nRUN <<EOF\necho $A\n  EOF\nEOF\nCOPY <<'one' <<-two /dst/\nfirst\none\n\tsecond\n\ttwo\nCMD x\n"
    )

    run, copy, cmd = dockerfile.instructions[1:]
    assert isinstance(run, typed.Run)
    assert run.heredocs[0].text == "echo $A\n  EOF\n"
    assert run.heredocs[0].expand
    assert isinstance(copy, typed.Copy)
    assert [(body.name, body.text, body.expand) for body in copy.documents] == [
        ("one", "first\n", False),
        ("two", "second\n", True),
    ]
    assert not copy.sources
    assert isinstance(cmd, typed.Cmd)
    assert (run.span.line, run.span.end_line) == (2, 5)


def test_only_some_instructions_take_here_documents() -> None:
    """<< elsewhere, and in the JSON form, is plain text."""
    dockerfile = parse('FROM a\nENV A=<<EOF\nRUN ["x", "<<EOF"]\nRUN echo $((1<<2))\nRUN x "<<EOF"\nCMD y')

    assert len(dockerfile.instructions) == 6


def test_onbuild_holds_an_instruction_and_its_text() -> None:
    """ONBUILD parses what it holds, here-documents included, and keeps its text."""
    found = one("FROM a\nONBUILD RUN <<EOF\nhi\nEOF\n")

    assert isinstance(found, typed.Onbuild)
    assert found.trigger == "RUN <<EOF\nhi\nEOF"
    assert isinstance(found.instruction, typed.Run)
    assert found.instruction.heredocs[0].text == "hi\n"


def test_run_flags() -> None:
    """--mount may be repeated, is split into options, and keeps order; quoted fields may hold commas."""
    run = one(
        "FROM a\nRUN --mount=type=cache,target=/c,sharing=locked --mount=target=/x,ro --mount='type=secret,\"id=a,b\"'"
        " --network=none cmd"
    )

    assert isinstance(run, typed.Run)
    assert run.argv == ("cmd",)
    assert run.network == "none"
    assert run.mounts[0].get("type") == "cache"
    assert run.mounts[0].get("sharing") == "locked"
    assert [option.key for option in run.mounts[1].options] == ["target", "ro"]
    assert run.mounts[2].get("id") == "a,b"


def test_healthcheck() -> None:
    """Durations in Go's notation become nanoseconds."""
    found = one("FROM a\nHEALTHCHECK --interval=1m30s --timeout=500ms --start-period=2h --retries=3 CMD curl x")

    assert isinstance(found, typed.Healthcheck)
    assert found.test == ("CMD-SHELL", "curl x")
    assert (found.interval, found.timeout, found.start_period) == (90_000_000_000, 500_000_000, 7_200_000_000_000)
    assert found.retries == 3
    none = one("FROM a\nHEALTHCHECK NONE")
    assert isinstance(none, typed.Healthcheck)
    assert none.test == ("NONE",)


GOLDENS = [
    ("RUNN echo hi", "unknown instruction RUNN (did you mean RUN?)", "RUNN echo hi\n       ^^^^"),
    ("  && echo x", "unknown instruction &&", "  && echo x\n         ^^"),
    ("COPY a", "COPY needs at least one source and a destination, only 'a' is given", "COPY a\n       ^^^^^^"),
    (
        "COPY --chwon=1 a b",
        "COPY has no flag --chwon (did you mean --chown?)",
        "COPY --chwon=1 a b\n            ^^^^^^^^^",
    ),
    ("CMD --x y", "CMD has no flag --x", "CMD --x y\n           ^^^"),
    ("COPY --chown a b", "--chown needs a value", "COPY --chown a b\n            ^^^^^^^"),
    ("COPY --link=maybe a b", "--link is true or false, not 'maybe'", None),
    (
        "COPY --from=a --from=b c d",
        "--from is given twice",
        "COPY --from=a --from=b c d\n                     ^^^^^^^^",
    ),
    ("COPY a <<EOF\nx\nEOF", "the destination of COPY cannot be a here-document", None),
    ("RUN", "RUN needs a command", None),
    ("RUN --network=nome x", "--network is default, none or host, not 'nome' (did you mean none?)", None),
    ("RUN --mount=typ=bind x", "--mount has no option 'typ' (did you mean type?)", None),
    ("RUN --mount=type x", "--mount option type needs a value", None),
    ("RUN --mount=from=$X,target=/a x", "variables are not expanded in from", None),
    ("RUN <<EOF\nx\nEOFF", "here-document EOF has no end (did you mean EOFF?)", "RUN <<EOF\n       ^^^^^^^^^"),
    ("CMD [1, 2]", "only strings may stand in the JSON form", "CMD [1, 2]\n           ^^^^^^"),
    ("ENV", "ENV needs a name and a value", None),
    ("ENV A", "ENV needs a name and a value", None),
    ("ENV A=1 B", "'B' has no = in ENV", "ENV A=1 B\n               ^"),
    ("ENV =1", "ENV needs a name before =", None),
    ("ARG", "ARG needs a name", None),
    ("WORKDIR", "WORKDIR needs an argument", None),
    ("EXPOSE", "EXPOSE needs a port", None),
    ("VOLUME []", "VOLUME needs a path", None),
    ("SHELL /bin/bash", "SHELL needs the JSON form", None),
    ("FROM", "FROM needs an image or a stage", None),
    ("FROM a b", "FROM takes an image, or an image AS a name, not 'b'", "FROM a b\n              ^"),
    ("FROM a sa b", "FROM takes an image, or an image AS a name, not 'sa' (did you mean AS?)", None),
    ("FROM a AS 1x", "'1x' cannot name a stage", "FROM a AS 1x\n                 ^^"),
    ("HEALTHCHECK", "HEALTHCHECK needs CMD and a command, or NONE", None),
    ("HEALTHCHECK CMD", "HEALTHCHECK CMD needs a command", None),
    ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments", None),
    ("HEALTHCHECK CND x", "HEALTHCHECK takes CMD or NONE, not CND (did you mean CMD?)", None),
    ("HEALTHCHECK --interval=5 CMD x", "--interval is no duration: '5'", None),
    ("HEALTHCHECK --interval=1us CMD x", "--interval must be at least 1ms, not 1us", None),
    ("HEALTHCHECK --retries=-1 CMD x", "--retries is a whole number from 0, not '-1'", None),
    ("ONBUILD", "ONBUILD needs an instruction", None),
    ("ONBUILD FROM x", "ONBUILD FROM is not allowed", "ONBUILD FROM x\n               ^^^^"),
    ("ONBUILD ONBUILD RUN x", "ONBUILD ONBUILD is not allowed", None),
]


@pytest.mark.parametrize(("text", "headline", "shown"), GOLDENS)
def test_errors_name_the_place(text: str, headline: str, shown: str | None) -> None:
    """Every error has the file, the line, a sentence, the line's text and carets under the culprit."""
    with pytest.raises(DockerfileError) as caught:
        parse(f"FROM scratch\n{text}", "docker/Dockerfile.prod")

    error = caught.value
    assert error.headline == headline
    assert error.message.startswith(f"docker/Dockerfile.prod:2: {headline}\n   2 | ")
    assert error.file == "docker/Dockerfile.prod"
    if shown is not None:
        assert error.excerpt == f"   2 | {shown}"


def test_an_error_of_many_lines_shows_the_first_ones() -> None:
    """A long instruction is cut; control letters cannot reach the terminal."""
    with pytest.raises(DockerfileError) as caught:
        parse("FROM a\nRUN --nope=1 \x1b[31m \\\n" + " x \\\n" * 20 + " y")
    assert "\x1b" not in caught.value.message

    with pytest.raises(DockerfileError) as caught:
        parse("FROM a\nCOPY \\\n" + "\\\n" * 20 + " y")
    assert caught.value.excerpt.count("\n") == 6
    assert caught.value.excerpt.endswith("| ...")


def test_a_nul_is_refused_where_it_stands() -> None:
    """No program can be given a NUL: it is an error before anything runs."""
    with pytest.raises(DockerfileError, match="NUL") as caught:
        parse("FROM a\nRUN x\0y")

    assert (caught.value.span.line, caught.value.span.column) == (2, 6)


def test_devices_are_understood_but_not_supported() -> None:
    """What BuildKit has and orlop has not is said, with the place."""
    with pytest.raises(DockerfileUnimplemented, match=r"Dockerfile:2: devices"):
        parse("FROM a\nRUN --device=nvidia.com/gpu=all x")


@pytest.mark.parametrize(
    ("text", "match"), [("# escape=x\nFROM a", "escape must be"), ("# escape=`\n# escape=`\n", "only one")]
)
def test_bad_directives(text: str, match: str) -> None:
    """A directive that cannot be meant is an error."""
    with pytest.raises(DockerfileError, match=match):
        parse(text)


@pytest.mark.parametrize(
    ("word", "found"),
    [("biulder", "builder"), ("BULIDER", "builder"), ("b", ""), ("unrelated", ""), ("buidler2", "builder")],
)
def test_near_finds_slips_and_nothing_else(word: str, found: str) -> None:
    """A suggestion is made for a few edits, not for any word."""
    assert near(word, ["builder", "final"]) == found


keywords = st.sampled_from(
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER VOLUME"
    " WORKDIR".split()
)
rest = st.text(alphabet="ab$=<E\"'[],-\\` \t#{}\r\n/:@&1\u00e9\x00", max_size=40)
lines = st.lists(st.tuples(keywords, rest).map(" ".join), max_size=5).map("\n".join)


@given(lines | st.text(max_size=200))
def test_every_text_parses_or_is_refused_with_a_place(text: str) -> None:
    """No text makes the parser fail otherwise; places lie in the text; the excerpt can always be shown."""
    try:
        dockerfile = parse(text)
    except (DockerfileError, DockerfileUnimplemented) as error:
        _check_error(error, text)
        return
    _check_places(dockerfile)


def _check_error(error: DockerfileError | DockerfileUnimplemented, text: str) -> None:
    assert 1 <= error.span.line <= text.count("\n") + 1
    assert error.excerpt


def _check_places(dockerfile: Dockerfile) -> None:
    count = len(dockerfile.source.lines)
    for instruction in dockerfile.instructions:
        assert 1 <= instruction.span.line <= instruction.span.end_line <= count
        line = dockerfile.source.lines[instruction.keyword.line - 1]
        start, end = instruction.keyword.column - 1, instruction.keyword.end_column - 1
        if instruction.keyword.line == instruction.keyword.end_line:
            assert line[start:end] == instruction.written


simple = st.text(alphabet="abcXYZ019./_-", min_size=1, max_size=8).filter(lambda word: not word.startswith("-"))


@given(st.lists(st.tuples(simple, st.text(alphabet="abc \"'$\\", max_size=8)), min_size=1, max_size=4))
def test_quoted_values_come_back(pairs: list[tuple[str, str]]) -> None:
    """Any value, double-quoted with the language's escapes, is read back as it was."""
    from orlop.build.dockerfile.words import Lexer

    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'

    env = one("FROM a\nENV " + " ".join(f"{key}={quoted(value)}" for key, value in pairs))

    assert isinstance(env, typed.Env)
    assert [(pair.key, Lexer().word(pair.value or "", {})) for pair in env.pairs] == pairs


@given(
    st.lists(simple, min_size=2, max_size=5),
    st.lists(st.sampled_from([" ", " \\\n ", " \\\n# note\n"]), min_size=5, max_size=5),
)
def test_continuations_never_change_the_words(words: list[str], joints: list[str]) -> None:
    """However the words are spread over lines, they are the same words at places that can be found again."""
    text = "FROM a\nCOPY" + "".join(joint + word for joint, word in zip(joints, words, strict=False))
    found = parse(text)

    copy = found.instructions[1]
    assert isinstance(copy, typed.Copy)
    placed = [*copy.sources, copy.destination]
    assert [word.text for word in placed] == words
    for word in placed:
        line = found.source.lines[word.span.line - 1]
        assert line[word.span.column - 1 : word.span.end_column - 1] == word.text
