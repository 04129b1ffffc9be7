"""The laws of orlop.values."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orlop
from orlop.build.solve import BuildRequest
from orlop.registry.credentials import Credential
from orlop.values import Value


class Point(Value):
    x: int
    y: int = 0


class Named(Point):
    name: str = "?"
    y: int = 7


class Words(Value):
    _secret = ("key",)

    words: tuple[str, ...] = ()
    rest: tuple[str, ...] | None = None
    key: str = ""


class MoreWords(Words):
    more: tuple[str, ...] = ()


ints = st.integers()


@given(ints, ints)
def test_values_are_equal_exactly_when_their_fields_are(x: int, y: int) -> None:
    """Equality and hash follow the fields; another type is never equal."""
    assert Point(x=x, y=y) == Point(x=x, y=y)
    assert hash(Point(x=x, y=y)) == hash(Point(x=x, y=y))
    assert (Point(x=x) == Point(x=y)) is (x == y)
    assert Point(x=x) != Named(x=x, y=0)
    assert Point(x=x) != (x, 0)


@given(ints, ints)
def test_a_changed_value_is_a_new_one(x: int, y: int) -> None:
    """`replace` leaves the original alone and keeps the other fields and the type."""
    one = Named(x=x, name="n")
    other = one.replace(x=y)
    assert (one.x, other.x, other.name, type(other)) == (x, y, "n", Named)


def test_values_are_frozen() -> None:
    """No field can be set, deleted or added."""
    point = Point(x=1)
    with pytest.raises(AttributeError, match="frozen"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="frozen"):
        del point.x
    with pytest.raises(AttributeError):
        setattr(point, "z", 2)  # noqa: B010  # mypy would object
    assert not hasattr(point, "__dict__")


def test_fields_are_keyword_only_and_checked_by_name() -> None:
    """A missing, an unknown and a positional field are TypeErrors that name it."""
    with pytest.raises(TypeError, match="'x'"):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="q"):
        Point(x=1, q=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1)  # type: ignore[call-arg]


def test_inherited_fields_come_first_and_defaults_can_be_overridden() -> None:
    """A subclass has its base's fields, then its own; its defaults win."""
    assert repr(Named(x=1)) == "Named(x=1, y=7, name='?')"
    assert vars(Named)["__match_args__"] == ("x", "y", "name")


@given(ints, ints, st.text())
def test_values_survive_copying_and_pickling(x: int, y: int, name: str) -> None:
    """A copy, a deep copy and a pickled value are equal to the original."""
    value = Named(x=x, y=y, name=name)
    assert copy.copy(value) == copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize("field", ["words", "rest", "more"])
def test_a_text_is_never_taken_for_its_letters(field: str) -> None:
    """Where a tuple is meant, one text alone is a TypeError that names the field and the way out; so is a mapping."""
    wrongs: tuple[Any, ...] = ("ls /", b"ls", {"a": "b"}, 3)
    for wrong in wrongs:
        with pytest.raises(TypeError, match=rf"MoreWords\.{field} .*{field}=\("):
            MoreWords(**{field: wrong})
        with pytest.raises(TypeError, match=field):
            MoreWords().replace(**{field: wrong})


@given(st.lists(st.text()))
def test_lists_become_tuples(words: list[str]) -> None:
    """A value made from a list is the one made from the tuple: it can be hashed, and the list changed after it."""
    value = MoreWords(words=words, rest=words, more=iter(words))  # type: ignore[arg-type]  # what is not typed does it
    assert value == MoreWords(words=tuple(words), rest=tuple(words), more=tuple(words))
    assert hash(value) == hash(value.replace())
    words.append("later")
    assert len(value.words) == len(words) - 1


def test_none_stays_where_it_is_allowed() -> None:
    """None is a value of its own where the field is declared so, and refused elsewhere."""
    assert Words(rest=None).rest is None
    with pytest.raises(TypeError, match="words"):
        Words(words=None)  # type: ignore[arg-type]


def test_secret_fields_are_not_shown() -> None:
    """`repr` says that there is a secret and not which; copies and comparisons still know it."""
    value = MoreWords(key="s3cr3t", words=("a",))
    assert repr(value) == "MoreWords(words=('a',), rest=None, key=***, more=())"
    assert value != value.replace(key="other")
    assert pickle.loads(pickle.dumps(value)) == value
    assert "key=''" in repr(Words())
    assert "s3cr3t" not in repr(orlop.Login(registry="r", username="u", password="s3cr3t"))
    assert "s3cr3t" not in repr(BuildRequest(context="", secrets={"id": b"s3cr3t"}))
    assert "s3cr3t" not in repr(Credential(username="u", password="s3cr3t", identity="s3cr3t", bearer="s3cr3t"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:s3cr3t@host/x", "https://***@host/x"),
        ("https://s3cr3t@host/x", "https://***@host/x"),
        ("https://s3cr3t:x-oauth-basic@host", "https://***@host"),
        ("'git+https://s3cr3t@a,https://u:s3cr3t@b'", "'git+https://***@a,https://***@b'"),
        ("user:s3cr3t@host:5000", "user:***@host:5000"),
        ("app:tag@sha256:00", "app:tag@sha256:00"),
        ("http://host/a@b", "http://host/a@b"),
        ("git@host:path", "git@host:path"),
    ],
)
def test_errors_keep_no_passwords(text: str, shown: str) -> None:
    """Neither the message nor the hint of an error says what an address says of its user."""
    error = orlop.OrlopError(f"cannot read {text}, sorry", hint=f"try {text} again")
    assert (error.message, error.hint) == (f"cannot read {shown}, sorry", f"try {shown} again")


def test_every_public_name_is_there() -> None:
    """What `orlop` lists can be used right after `import orlop`, errors included."""
    script = "import orlop; orlop.errors.Conflict; assert all(hasattr(orlop, name) for name in orlop.__all__)"
    subprocess.run([sys.executable, "-P", "-c", script], check=True)
    assert issubclass(orlop.Cancelled, orlop.OrlopError)
    assert orlop.NotFound is orlop.errors.NotFound
