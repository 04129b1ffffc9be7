"""The laws of orlop.oci.jsontext: as json, only stricter."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop.oci import jsontext

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(anything)
def test_writing_is_what_json_writes(value: Any) -> None:
    """Compact, in insertion order, and not escaped where UTF-8 can say it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        expected = text.encode()
    except UnicodeEncodeError:
        expected = json.dumps(value, separators=(",", ":")).encode()
    assert jsontext.dumps(value) == expected


@given(anything)
def test_reading_undoes_writing(value: Any) -> None:
    """What was written reads back equal, with and without escapes and indentation."""
    assert jsontext.loads(jsontext.dumps(value), what="it") == value
    assert jsontext.loads(json.dumps(value, indent=3), what="it") == value
    assert json.loads(jsontext.pretty(value)) == value


@given(st.text(st.sampled_from('{}[]",:0123456789.eE+-truefalsn \\u\n\t\x01'), max_size=12) | st.text(max_size=8))
def test_reading_agrees_with_json_about_what_is_json(text: str) -> None:
    """A text is accepted exactly when json accepts it (NaN, Infinity and too large numbers aside), with equal value."""
    try:
        wanted = json.loads(text, parse_constant=lambda _: 1 / 0)
        assert json.dumps(wanted, allow_nan=False)
    except (ValueError, ZeroDivisionError):
        with pytest.raises(InvalidArgument):
            jsontext.loads(text, what="it")
    else:
        assert jsontext.loads(text, what="it") == wanted


@given(st.binary(max_size=20))
def test_no_bytes_make_reading_fail_otherwise(data: bytes) -> None:
    """Whatever comes in: a value, or InvalidArgument that says what it was."""
    try:
        value = jsontext.loads(data, what="the thing")
    except InvalidArgument:
        return
    assert jsontext.loads(jsontext.dumps(value), what="it") == value


@pytest.mark.parametrize(
    "text",
    [
        *["NaN", "Infinity", "-Infinity", "1e999", "[1,NaN]", "", "{", '{"a":1,}', "[1] 2", "'a'", '"\n"', "9" * 5000],
        *["[" * 1_000_000, '{"a":' * 100_000, "[" * 129 + "]" * 129, "\ufeff{}"],
    ],
)
def test_bad_texts_are_refused(text: str) -> None:
    """Not-numbers, cut or trailing text, depth bombs and digit bombs are InvalidArgument."""
    with pytest.raises(InvalidArgument, match="the thing"):
        jsontext.loads(text, what="the thing")


def test_depth_is_allowed_up_to_the_limit() -> None:
    """Exactly MAX_DEPTH levels pass; breadth does not count as depth."""
    deep = "[" * jsontext.MAX_DEPTH + "]" * jsontext.MAX_DEPTH
    assert jsontext.loads(deep, what="it")
    assert len(jsontext.loads("[" + "[]," * 1000 + "[]]", what="it")) == 1001


def test_size_is_limited() -> None:
    """One byte more than the limit is refused before it is read."""
    assert jsontext.loads(b'"ab"', what="it", limit=4) == "ab"
    with pytest.raises(InvalidArgument, match="5 bytes"):
        jsontext.loads(b'"abc"', what="it", limit=4)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_only_utf8_is_read(encoding: str) -> None:
    """Other encodings, which json guesses, are refused."""
    with pytest.raises(InvalidArgument):
        jsontext.loads('{"ä":1}'.encode(encoding), what="it")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", {"a": object()}])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    """Unknown types and not-numbers are InvalidArgument when written."""
    with pytest.raises(InvalidArgument):
        jsontext.dumps(value)


def test_a_value_inside_itself_is_refused() -> None:
    """A circular value ends in InvalidArgument, not in a crash."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidArgument):
        jsontext.dumps(circle)


@given(anything)
def test_the_plain_half_is_equal_to_the_driven_one(value: Any) -> None:
    """Where _json is missing, json does the same."""
    scan, encode = jsontext._plain_scanner(), jsontext._plain_encoder(ascii_only=False)
    text = "".join(encode(value, 0))
    assert text == "".join(jsontext._encode(value, 0))
    assert scan(text, 0) == jsontext._scan(text, 0)


def test_json_is_not_imported() -> None:
    """Neither json nor re is loaded by reading and writing."""
    code = (
        "import sys; from orlop.oci import jsontext as j; j.dumps(j.loads(b'{\"a\":[1.5]}', what='it'));"
        "print(j._driven, [m for m in ('json', 're', 'enum', 'typing') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True, env=_env())
    assert done.stdout.strip() == "True []"


def test_the_shared_empty_object_stays_empty() -> None:
    """It cannot be changed, and reads and writes as {}."""
    with pytest.raises(TypeError):
        jsontext.EMPTY["a"] = 1
    with pytest.raises(TypeError):
        jsontext.EMPTY.update(a=1)
    assert jsontext.EMPTY == {}
    assert jsontext.dumps(jsontext.EMPTY) == b"{}"


def _env() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}
