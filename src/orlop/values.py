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
    """Turns the annotations of a class into slots, in order; defaults stay on the class as `_defaults`."""

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]

    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> _ValueType:
        own = [field for field in space.get("__annotations__", ()) if not field.startswith("__")]
        fields: list[str] = []
        defaults: dict[str, Any] = {}
        for base in bases:
            fields += [field for field in getattr(base, "_fields", ()) if field not in fields]
            defaults.update(getattr(base, "_defaults", {}))
        inherited = set(fields)
        for field in own:
            if field not in inherited:
                fields.append(field)
            if field in space:
                defaults[field] = space.pop(field)
        space["__slots__"] = tuple(field for field in own if field not in inherited)
        space["_fields"] = tuple(fields)
        space["_defaults"] = defaults
        space["__match_args__"] = tuple(fields)
        return super().__new__(mcs, name, bases, space)


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=True)
class Value(metaclass=_ValueType):
    """Base of all frozen, keyword-only values. A subclass states its fields as annotations, defaults as values.

    A default is shared by all instances, so it must be immutable (use `()` and `None`, not `[]` and `{}`).
    """

    if TYPE_CHECKING:
        _fields: tuple[str, ...]
        _defaults: dict[str, Any]

    def __init__(self, **given: Any) -> None:
        defaults = self._defaults
        for field in self._fields:
            if field in given:
                _set(self, field, given.pop(field))
            elif field in defaults:
                _set(self, field, defaults[field])
            else:
                raise TypeError(f"{type(self).__name__} needs a value for {field!r}")
        if given:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(given))}")

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
        inner = ", ".join(f"{field}={getattr(self, field)!r}" for field in self._fields)
        return f"{type(self).__name__}({inner})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), {field: getattr(self, field) for field in self._fields})


def _rebuild(cls: type[Value], fields: dict[str, Any]) -> Value:
    return cls(**fields)
