"""The functions that templates call: Go's own, and docker's. Pure."""

from __future__ import annotations

from orlop.cli import golang
from orlop.cli.golang import Map, Nil, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class TemplateFailure(Exception):
    """Something that a template cannot mean. `at` is an offset where that is known; the parser adds the picture."""

    def __init__(self, what: str, at: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.at = at


def _json(value: Any) -> str:
    from orlop.oci.jsontext import dumps

    return dumps(golang.plain(value)).decode()


def _index(item: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(item, Map):
            item = item.get(key, item.zero)
        elif isinstance(item, dict):
            if key not in item:
                raise TemplateFailure(f"there is no {show(key)!r}")
            item = item[key]
        elif isinstance(item, list | tuple | str):
            if not isinstance(key, int) or isinstance(key, bool):
                raise TemplateFailure(f"{show(key)!r} is not a position")
            if not 0 <= key < len(item):
                raise TemplateFailure(f"position {key} is outside of {len(item)}")
            item = item[key] if not isinstance(item, str) else item.encode()[key]
        elif isinstance(item, Nil) and isinstance(key, str):
            item = None
        else:
            raise TemplateFailure("there is nothing to index")
    return item


def _slice(item: Any, *bounds: Any) -> Any:
    if not isinstance(item, str | list | tuple) or len(bounds) > 2:
        raise TemplateFailure(f"cannot take a slice of {show(item)!r}")
    start = bounds[0] if bounds else 0
    end = bounds[1] if len(bounds) > 1 else len(item)
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start <= end <= len(item)):
        raise TemplateFailure(f"{show(start)} to {show(end)} is outside of {len(item)}")
    return item[start:end]


def _len(item: Any) -> int:
    if not isinstance(item, str | list | tuple | dict | Nil):
        raise TemplateFailure(f"{show(item)!r} has no length")
    return len(item.encode()) if isinstance(item, str) else len(item)


def _comparable(one: Any, other: Any) -> None:
    kinds = [_kind(one), _kind(other)]
    if "" in kinds or kinds[0] != kinds[1]:
        raise TemplateFailure(f"{show(one)!r} and {show(other)!r} cannot be compared")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else ""


def _eq(one: Any, *others: Any) -> bool:
    if not others:
        raise TemplateFailure("it needs something to compare with")
    for other in others:
        if one is None or other is None:
            if one is other:
                return True
            continue
        _comparable(one, other)
        if one == other:
            return True
    return False


def _less(one: Any, other: Any) -> bool:
    _comparable(one, other)
    if isinstance(one, bool):
        raise TemplateFailure("true and false have no order")
    return bool(one < other)


def _joined(items: Any, separator: Any) -> str:
    if isinstance(items, Nil):
        return ""
    if not isinstance(items, list | tuple) or not isinstance(separator, str):
        raise TemplateFailure(f"cannot join {show(items)!r}")
    return separator.join(map(show, items))


def _text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose first argument must be a string."""

    def checked(text: Any, *more: Any) -> Any:
        if not isinstance(text, str):
            raise TemplateFailure(f"{show(text)!r} is not a string")
        return function(text, *more)

    return checked


def _title(text: str) -> str:
    """Go's strings.Title: the first letter of every word, nothing else."""
    found, inside = [], False
    for mark in text:
        found.append(mark if inside else mark.upper())
        inside = mark.isalnum() or mark in "_'"
    return "".join(found)


def _pad(text: str, before: int, after: int) -> str:
    """Blanks around what is not empty."""
    return " " * before + text + " " * after if text else text


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _print(*values: Any) -> str:
    """fmt.Sprint: a blank between two neighbours neither of which is a string."""
    found = ""
    for at, value in enumerate(values):
        if at and not isinstance(value, str) and not isinstance(values[at - 1], str):
            found += " "
        found += show(value)
    return found


def _printf(template: Any, *values: Any) -> str:
    if not isinstance(template, str):
        raise TemplateFailure(f"{show(template)!r} is not a format")
    return golang.formatted(template, list(values))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "split": _text(lambda text, separator: text.split(separator) if separator else list(text)),
    "join": _joined,
    "title": _text(_title),
    "lower": _text(str.lower),
    "upper": _text(str.upper),
    "pad": _text(_pad),
    "truncate": _text(_truncate),
    "println": lambda *values: " ".join(map(show, values)) + "\n",
    "print": _print,
    "printf": _printf,
    "index": _index,
    "slice": _slice,
    "len": _len,
    "not": lambda value: not golang.truth(value),
    "eq": _eq,
    "ne": lambda one, other: not _eq(one, other),
    "lt": _less,
    "le": lambda one, other: _less(one, other) or one == other,
    "gt": lambda one, other: not _less(one, other) and one != other,
    "ge": lambda one, other: not _less(one, other),
}

# In a table's header the fields are their titles, and what works on values leaves these alone.
HEADER_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: (lambda text, *_: text) for name in ("json", "title", "lower", "upper", "truncate", "split")
} | {"join": lambda text, *_: text}
