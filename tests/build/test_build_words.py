"""Shell-like words: variables, quotes, escapes."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.build.dockerfile.words import ExpansionError, Lexer

ENV = {"A": "one", "EMPTY": "", "PATHY": "/usr/local/lib/python", "TWO": "two words", "V": "v1.2.3", "STAR": "a*b"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("$A", "one"),
        ("${A}", "one"),
        ("x${A}y$A.z", "xoney" + "one.z"),
        ("$NOPE", ""),
        ("${NOPE}", ""),
        ("$", "$"),
        ("a$", "a$"),
        ("$A_", ""),
        ("$1x", "x"),
        ("${NOPE:-d}", "d"),
        ("${NOPE-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${A:-d}", "one"),
        ("${NOPE:-$A}", "one"),
        ("${NOPE:-${NOPE:-deep}}", "deep"),
        ("${A:+alt}", "alt"),
        ("${EMPTY:+alt}", ""),
        ("${EMPTY+alt}", "alt"),
        ("${NOPE+alt}", ""),
        ("${A:?no}", "one"),
        ("${EMPTY?no}", ""),
        ("${PATHY#*/}", "usr/local/lib/python"),
        ("${PATHY##*/}", "python"),
        ("${PATHY%/*}", "/usr/local/lib"),
        ("${PATHY%%/*}", ""),
        ("${PATHY#x}", "/usr/local/lib/python"),
        ("${V#v}", "1.2.3"),
        ("${V%.*}", "v1.2"),
        ("${V%%.*}", "v1"),
        ("${V%.?}", "v1.2"),
        ("${STAR#a\\*}", "b"),
        ("${V/./-}", "v1-2.3"),
        ("${V//./-}", "v1-2-3"),
        ("${PATHY/\\/usr/X}", "X/local/lib/python"),
        ("${V/*/}", ""),
        ("${NOPE/a/b}", ""),
        ("'$A'", "$A"),
        ('"$A"', "one"),
        ('"\\$A"', "$A"),
        ("\\$A", "$A"),
        ('"a \\"b\\" c"', 'a "b" c'),
        ('"\\n"', "\\n"),
        ("'it\\'", "it\\"),
        ("a\\ b", "a b"),
        ("a b  c", "a b  c"),
        ("<<EOF", "<<EOF"),
        ("한국어$A", "한국어one"),
    ],
)
def test_words_expand_as_buildkit_does(text: str, expanded: str) -> None:
    """Each form of substitution, quoting and escaping has Docker's meaning."""
    assert Lexer().word(text, ENV) == expanded


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("a b", ["a", "b"]),
        ("  a   b ", ["a", "b"]),
        ("$TWO", ["two", "words"]),
        ("'$TWO'", ["$TWO"]),
        ('"$TWO"', ["two words"]),
        ("x$TWO", ["xtwo", "words"]),
        ("a\\ b c", ["a b", "c"]),
        ("$NOPE", []),
        ("''", []),
        ("<< EOF x", ["<< EOF", "x"]),
    ],
)
def test_words_split_at_unquoted_blanks(text: str, split: list[str]) -> None:
    """Blanks from variables split too, unless they are quoted."""
    assert Lexer().words(text, ENV) == split


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("'open", "single quote"),
        ('"open', "double quote"),
        ("${A", "no closing }"),
        ("${", "no closing }"),
        ("${}", "bad substitution"),
        ("${{A}}", "bad substitution"),
        ("${:-x}", "bad substitution"),
        ("${A:x}", "not a substitution"),
        ("${A:#x}", "not a substitution"),
        ("${A^}", "not a substitution"),
        ("${NOPE:?must be given}", "NOPE: must be given"),
        ("${EMPTY:?}", "EMPTY: must not be empty"),
        ("${NOPE?}", "NOPE: must not be unset"),
        ("${A/x}", "ends before"),
        ("${A#\\z}", "invalid escape"),
    ],
)
def test_what_cannot_be_expanded_says_why(text: str, match: str) -> None:
    """Malformed substitutions are errors, never guesses."""
    with pytest.raises(ExpansionError, match=match):
        Lexer().word(text, ENV)


def test_another_escape_character() -> None:
    """With the escape directive ` takes the part of the backslash, which is then a plain letter."""
    assert Lexer("`").word("C:\\dir`$A`` $A", ENV) == "C:\\dir$A` one"


def test_raw_forms_keep_what_they_are_told_to() -> None:
    """Raw quotes, raw escapes and unset variables stay as they were written."""
    lexer = Lexer(raw_quotes=True, raw_escapes=True, skip_unset=True)

    assert lexer.word("'a' \"b\" c\\ d $NOPE ${NOPE:-x} $A", ENV) == "'a' \"b\" c\\ d $NOPE ${NOPE:-x} one"


def test_looked_up_names_are_noted() -> None:
    """Which variables were used, and which were missing, is known afterwards."""
    lexer = Lexer()
    lexer.word("$A ${NOPE:-$V} '$QUOTED'", ENV)

    assert lexer.used == {"A", "V"}
    assert lexer.unset == {"NOPE"}


plain = st.text(alphabet=string.ascii_letters + string.digits + " ./-_=:,@한é", max_size=30)
anything = st.text(alphabet="ab${}:-+?#%/\\'\"`< \t*1A_", max_size=40)


@given(plain)
def test_text_without_special_letters_is_itself(text: str) -> None:
    """Expansion changes nothing where there is nothing to expand; splitting is at blanks."""
    assert Lexer().word(text, ENV) == text
    assert Lexer().words(text, ENV) == text.split()


@given(st.text(alphabet=string.printable, max_size=30))
def test_single_quotes_protect_everything(text: str) -> None:
    """Anything without a single quote survives between single quotes."""
    text = text.replace("'", "")

    assert Lexer().word(f"'{text}'", ENV) == text


@given(anything, st.dictionaries(st.sampled_from(["A", "a", "b", "A1"]), st.text(alphabet="x $'\"*", max_size=5)))
def test_every_text_expands_or_is_refused(text: str, env: dict[str, str]) -> None:
    """No input makes anything else than a result or an ExpansionError, and values are never expanded again."""
    for lexer in (Lexer(), Lexer("`"), Lexer(raw_quotes=True, raw_escapes=True, skip_unset=True)):
        try:
            lexer.word(text, env)
            lexer.words(text, env)
        except ExpansionError:
            continue


@given(
    st.text(alphabet="ab*?/.", max_size=12),
    st.text(alphabet="ab/.", max_size=8),
    st.sampled_from(["#", "##", "%", "%%"]),
)
def test_trimming_agrees_with_trying_all_cuts(value: str, pattern: str, sign: str) -> None:
    """Trimming a literal pattern cuts it off the end it stands at, and leaves everything else alone."""
    trimmed = Lexer().word("${X" + sign + pattern.replace("/", "\\/") + "}", {"X": value})

    expected = value.removeprefix(pattern) if "#" in sign else value.removesuffix(pattern)
    assert trimmed == expected
