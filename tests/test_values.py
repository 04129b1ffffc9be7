"""The laws of orlop.values."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.values import Value


class Point(Value):
    x: int
    y: int = 0


class Named(Point):
    name: str = "?"
    y: int = 7


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
