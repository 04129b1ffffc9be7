"""Path patterns and .dockerignore."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.build import ignore
from orlop.build.patterns import compile_glob, compile_rule, has_wildcards, unescaped
from orlop.build.tree import Tree
from orlop.errors import InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("rules", "hidden", "visible"),
    [
        ("*.md", ["a.md"], ["d/a.md", "a.txt"]),
        ("**/*.md", ["a.md", "d/a.md", "d/e/a.md"], ["a.txt"]),
        ("**", ["a", "d/b"], []),
        ("*", ["a", "d/b"], []),
        ("d", ["d", "d/b", "d/e/f"], ["dd", "e/d"]),
        ("d/", ["d", "d/b"], ["e/d"]),
        ("/d", ["d", "d/b"], ["e/d"]),
        ("./d", ["d/b"], ["e"]),
        ("**/d", ["d", "e/d", "e/d/f"], ["dd"]),
        ("**d", ["d", "xd", "e/d"], ["dx"]),
        ("d/**", ["d/b", "d/e/f"], ["d", "dd/x"]),
        ("d/**/f", ["d/f", "d/e/f", "d/e/g/f"], ["d/e", "f"]),
        ("d/*", ["d/b", "d/e/f"], ["d"]),
        ("a?c", ["abc"], ["ac", "a/c", "abbc"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "x"]),
        ("[^a]x", ["bx"], ["ax", "/x"]),
        ("a\\*b", ["a*b"], ["axb"]),
        ("*\n!keep", ["a"], ["keep", "keep/x"]),
        ("*\n!d/keep", ["a", "d/x"], ["d/keep"]),
        ("d\n!d/keep\nd/keep/not", ["d/x", "d/keep/not"], ["d/keep", "d/keep/yes"]),
        ("!a\na", ["a"], []),
        ("a\n!a", [], ["a"]),
        ("# comment\n\n  a  \n #b", ["a", "#b"], ["# comment"]),
        ("\ufeffa", ["a"], []),
        (".", [], ["a"]),
        ("/", [], ["a"]),
        ("a/../b", ["b"], ["a"]),
        ("! a", [], ["a"]),
        ("a.c", ["a.c"], ["abc"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
    ],
)
def test_rules_hide_what_docker_hides(rules: str, hidden: list[str], visible: list[str]) -> None:
    """The last matching line decides; a line that matches a folder matches what is below it."""
    matcher = ignore.parse(rules)

    assert [path for path in hidden if matcher.ignores(path) is None] == []
    assert [path for path in visible if matcher.ignores(path) is not None] == []


def test_the_deciding_line_is_known() -> None:
    """What hides a file is named by file, line and text."""
    matcher = ignore.parse("*.log\n!keep.log\n\nbuild/\n", "docker/app.dockerignore")

    assert str(matcher.ignores("x.log")) == "docker/app.dockerignore:1 (*.log)"
    assert str(matcher.ignores("build/x/y")) == "docker/app.dockerignore:4 (build/)"
    assert matcher.ignores("keep.log") is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("ok\n[a", r":2: .*open bracket"),
        ("!", ":1: a lone !"),
        ("a\\", "backslash"),
        ("[]a]", "malformed"),
        ("[z-a]", "backwards"),
    ],
)
def test_malformed_lines_are_named(text: str, match: str) -> None:
    """A pattern that cannot be meant is an error with file and line."""
    with pytest.raises(InvalidArgument, match=match):
        ignore.parse(text)


def test_the_file_beside_the_dockerfile_wins(tmp_path: Path) -> None:
    """`<name>.dockerignore` replaces `.dockerignore`; without either nothing is hidden."""
    assert not ignore.load(str(tmp_path), str(tmp_path / "Dockerfile")).rules
    (tmp_path / ".dockerignore").write_text("general")
    assert ignore.load(str(tmp_path), str(tmp_path / "Dockerfile")).ignores("general")
    (tmp_path / "Dockerfile.dockerignore").write_text("special")
    matcher = ignore.load(str(tmp_path), str(tmp_path / "Dockerfile"))
    assert matcher.ignores("special")
    assert not matcher.ignores("general")


segment = st.sampled_from(["a", "b", "ab", "*", "**", "a*", "?", "[ab]", "c"])
rule = st.tuples(st.booleans(), st.lists(segment, min_size=1, max_size=3)).map(
    lambda found: ("!" if found[0] else "") + "/".join(found[1])
)
path = st.lists(st.sampled_from(["a", "b", "ab", "c", "ba"]), min_size=1, max_size=4).map("/".join)


def slow(pattern: str, name: str) -> bool:
    """What a pattern without `!` means, said recursively."""

    def match(parts: list[str], names: list[str]) -> bool:
        if not parts:
            return not names
        if parts[0] == "**":
            if len(parts) == 1:
                return bool(names) or False
            return any(match(parts[1:], names[skip:]) for skip in range(len(names) + 1))
        return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and match(parts[1:], names[1:])

    return match(pattern.split("/"), name.split("/"))


@given(st.lists(segment, min_size=1, max_size=4).map("/".join), path)
def test_compiled_patterns_agree_with_their_definition(pattern: str, name: str) -> None:
    """A compiled pattern matches what a plain recursive reading of it matches."""
    assert compile_rule(pattern)(name) is slow(pattern, name)


@given(st.lists(rule, max_size=5), path)
def test_a_path_is_hidden_by_the_last_line_that_matches_it_or_a_folder_above(rules: list[str], name: str) -> None:
    """The whole matcher agrees with going through all lines and all folders."""
    parts = name.split("/")
    prefixes = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    hidden = False
    for line in rules:
        if any(slow(line.removeprefix("!"), prefix) for prefix in prefixes):
            hidden = not line.startswith("!")

    assert (ignore.parse("\n".join(rules)).ignores(name) is not None) is hidden


@given(st.lists(rule, max_size=4), st.lists(path, min_size=1, max_size=8, unique=True))
def test_a_pruned_walk_sees_what_asking_for_each_file_sees(rules: list[str], names: list[str]) -> None:
    """Folders are skipped only when nothing in them can come back."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            target = Path(folder) / name
            if any((Path(folder) / parent).is_file() for parent in _parents(name)) or target.is_dir():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("x")
        matcher = ignore.parse("\n".join(rules))
        with Tree(folder, matcher=matcher) as tree:
            seen = {full for full, node in tree.walk("") if node.is_file}
        files = {str(found.relative_to(folder)) for found in Path(folder).rglob("*") if found.is_file()}

    assert seen == {name for name in files if matcher.ignores(name) is None}


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*.py", "a.py", True),
        ("*.py", "d/a.py", False),
        ("a[b-d]e", "ace", True),
        ("a[^b]e", "abe", False),
        ("a[^b]e", "a/e", False),
        ("\\*", "*", True),
        ("a?", "ab", True),
        ("[\\]]", "]", True),
        ("*", "", True),
    ],
)
def test_globs_are_those_of_go(pattern: str, name: str, *, matches: bool) -> None:
    """COPY's wildcards are filepath.Match's."""
    assert bool(compile_glob(pattern).match(name)) is matches


def test_wildcards_are_told_from_escaped_ones() -> None:
    """A backslash takes a wildcard's meaning."""
    assert has_wildcards("a*")
    assert not has_wildcards("a\\*")
    assert unescaped("a\\*b\\[") == "a*b["


@given(st.text(alphabet="ab*?[]^-\\!/.", max_size=12))
def test_every_pattern_compiles_or_is_refused(text: str) -> None:
    """No line makes anything else than a rule or an InvalidArgument."""
    try:
        ignore.parse(text).ignores("a/b")
        compile_glob(text)
    except InvalidArgument:
        return
