"""Frozen values, cheap to define.

A command defines dozens of values at start and most commands live for a few milliseconds. `dataclasses` writes
and compiles source for each class (more than a millisecond a class), and importing it alone costs more than the
whole of `orlop run`'s argument parsing. Here a class is built by reading its annotations once: a few microseconds.

The price is a generic, slower constructor (about 2 us): values are for requests, records and descriptors, not for the
inner loop over a hundred thousand tar entries, which uses plain tuples and slots.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_: object):  # noqa: D103  # typing is not imported at run time: 9 ms
        return lambda cls: cls


_set = object.__setattr__


class _ValueType(type):
    """Turns the annotations of a class into slots, in order; defaults stay on the class as `_defaults`.

    `_sequences` are the fields that are declared as tuples, with whether None is allowed too.
    """

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]
    _sequences: dict[str, bool]

    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> _ValueType:
        own = [field for field in space.get("__annotations__", ()) if not field.startswith("__")]
        fields: list[str] = []
        defaults: dict[str, Any] = {}
        sequences: dict[str, bool] = {}
        for base in bases:
            fields += [field for field in getattr(base, "_fields", ()) if field not in fields]
            defaults.update(getattr(base, "_defaults", {}))
            sequences.update(getattr(base, "_sequences", {}))
        inherited = set(fields)
        for field in own:
            if field not in inherited:
                fields.append(field)
            declared = space["__annotations__"][field]
            if isinstance(declared, str) and declared.startswith("tuple["):
                sequences[field] = declared.endswith("| None")
            if field in space:
                defaults[field] = space.pop(field)
        space["__slots__"] = tuple(field for field in own if field not in inherited)
        space["_fields"] = tuple(fields)
        space["_defaults"] = defaults
        space["_sequences"] = sequences
        if not bases:
            space["_secret"] = ()
        space["__match_args__"] = tuple(fields)
        return super().__new__(mcs, name, bases, space)


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=True)
class Value(metaclass=_ValueType):
    """Base of all frozen, keyword-only values. A subclass states its fields as annotations, defaults as values.

    A default is shared by all instances, so it must be immutable (use `()` and `None`, not `[]` and `{}`).

    A field that is declared `tuple[...]` holds a tuple: lists and other iterables become one, and a text is a TypeError
    (its letters are never meant). `_secret` names the fields whose content `repr` hides.
    """

    if TYPE_CHECKING:
        _fields: tuple[str, ...]
        _defaults: dict[str, Any]
        _sequences: dict[str, bool]
        _secret: tuple[str, ...]

    def __init__(self, **given: Any) -> None:
        sequences = self._sequences
        if sequences:
            for field, value in given.items():
                if type(value) is not tuple and field in sequences:
                    given[field] = _sequence(f"{type(self).__name__}.{field}", value, sequences[field])
        values = self._defaults | given
        fields = self._fields
        for field in fields:
            if field not in values:
                raise TypeError(f"{type(self).__name__} needs a value for {field!r}")
            _set(self, field, values[field])
        if len(values) != len(fields):
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(set(values) - set(fields)))}")

    def replace(self, **changes: Any) -> Self:
        """The same value with `changes` made; the original is untouched."""
        return type(self)(**{field: getattr(self, field) for field in self._fields} | changes)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen; use .replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in self._fields)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, field) for field in self._fields)))

    def __repr__(self) -> str:
        inner = ", ".join(
            f"{field}=***" if field in self._secret and getattr(self, field) else f"{field}={getattr(self, field)!r}"
            for field in self._fields
        )
        return f"{type(self).__name__}({inner})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), {field: getattr(self, field) for field in self._fields})


def _sequence(name: str, value: Any, optional: bool) -> tuple[Any, ...] | None:
    """What the field `name`, which is declared as a tuple, keeps of a `value` that is none."""
    if value is None and optional:
        return None
    field = name.rpartition(".")[2]
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"{name} is a tuple of values, not {value!r}: for one alone, write {field}=({value!r},)")
    try:
        if isinstance(value, dict):
            raise TypeError("its keys alone are not meant")
        return tuple(value)
    except TypeError as error:
        raise TypeError(f"{name} is a tuple of values, not a {type(value).__name__}: write {field}=(...,)") from error


def _rebuild(cls: type[Value], fields: dict[str, Any]) -> Value:
    return cls(**fields)
