"""JSON text, in and out, for every room.

Importing `json` costs a command 7 ms, nearly all of it for `re`, which `json` needs only for white space and numbers.
The C halves of `json` (`_json`) do the work without it and import in a tenth of a millisecond, so they are driven
directly, exactly as `json` drives them; where they are missing (another Python), `json` itself is used. Tests hold the
two equal.

Stricter than `json`, because what comes in is hostile: UTF-8 only, a size limit, at most `MAX_DEPTH` levels, and no
NaN, Infinity or number too large for a float.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

MAX_DEPTH = 128
"""Levels of arrays and objects inside each other; the deepest of our formats has about ten."""

DEFAULT_LIMIT = 4 * 1024 * 1024
"""Bytes; the limit that distribution-spec recommends for manifests."""

_SPACE = " \t\n\r"
_INFINITY = float("inf")


class FrozenObject(dict):  # type: ignore[type-arg]  # as a default it stands for a dict of any kind
    """An empty JSON object that stays empty: the default of values' mapping fields."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this shared empty object is frozen; make a dict of your own")

    __setitem__ = update = setdefault = __ior__ = _refuse


EMPTY: dict[str, Any] = FrozenObject()


def loads(data: bytes | bytearray | memoryview | str, *, what: str, limit: int = DEFAULT_LIMIT) -> Any:
    """The value that `data` states; `what` names it in errors ("the manifest of x").

    `limit` is in bytes (characters for a `str`). Raises InvalidArgument for anything but one JSON value in UTF-8.
    """
    if len(data) > limit:
        raise InvalidArgument(f"{what} is {len(data)} bytes of JSON, more than the {limit} allowed")
    if not isinstance(data, str):
        try:
            data = str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{what} is not UTF-8 (byte {error.start})") from error
    text = data.strip(_SPACE)
    try:
        value, end = _scan(text, 0)
    except StopIteration as error:
        raise InvalidArgument(_not_json(what, text, error.value)) from error
    except RecursionError as error:
        raise InvalidArgument(f"{what} is nested too deeply") from error
    except ValueError as error:
        raise InvalidArgument(f"{what} is not JSON: {error}") from error
    if end != len(text):
        raise InvalidArgument(f"{what} is not JSON: something follows the value at character {end}")
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise InvalidArgument(f"{what} is nested more than {MAX_DEPTH} levels deep")
    return value


def load_object(data: bytes | bytearray | memoryview | str, *, what: str, limit: int = DEFAULT_LIMIT) -> dict[str, Any]:
    """As `loads`, for text that must be a JSON object."""
    value = loads(data, what=what, limit=limit)
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} is a JSON {kind_of(value)}, not an object")
    return value


def dumps(value: Any) -> bytes:
    """Compact JSON in insertion order, UTF-8.

    Text that UTF-8 cannot hold (lone surrogates: file names that are not UTF-8) is written with escapes instead, so
    that the result always reads back as the same value. Raises InvalidArgument for what JSON cannot say.
    """
    try:
        text = "".join(_encode(value, 0))
        return text.encode()
    except UnicodeEncodeError:
        return "".join(_encode_ascii(value, 0)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"a value cannot be written as JSON: {error}") from error


def pretty(value: Any) -> str:
    """JSON for people, as docker inspect prints it: four spaces a level, no escapes but the necessary ones."""
    import json  # only this wants indentation, which is the slow, pure half of json

    return json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False)


def kind_of(value: object) -> str:
    """The JSON word for the kind of `value`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return {dict: "object", list: "array", str: "string", int: "number", float: "number"}.get(type(value), "value")


def _not_json(what: str, text: str, at: int) -> str:
    if not text:
        return f"{what} is empty, not JSON"
    if at >= len(text):
        return f"{what} is not JSON: it ends in the middle of a value"
    return f"{what} is not JSON: no value starts with {text[at : at + 12]!r} (character {at})"


def _deeper_than(value: object, levels: int) -> bool:
    level: list[Any] = [value] if isinstance(value, (dict, list)) else []
    while level and levels > 0:
        levels -= 1
        below: list[Any] = []
        for node in level:
            children: Any = node.values() if isinstance(node, dict) else node
            below += [child for child in children if isinstance(child, (dict, list))]
        level = below
    return bool(level)


def _float(text: str) -> float:
    number = float(text)
    if number in (_INFINITY, -_INFINITY):
        raise ValueError(f"{text} is too large a number")
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


class _Scanning:
    """What the C scanner asks its decoder for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = staticmethod(_float)
    parse_int = int
    parse_constant = staticmethod(_constant)


def _unknown(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def _plain_scanner() -> Callable[[str, int], tuple[Any, int]]:
    import json  # only where _json is missing

    return json.JSONDecoder(parse_float=_float, parse_constant=_constant).raw_decode


def _plain_encoder(*, ascii_only: bool) -> Callable[[Any, int], Iterator[str]]:
    import json  # only where _json is missing

    encoder = json.JSONEncoder(ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"), default=_unknown)
    return lambda value, _: encoder.iterencode(value)


_SAMPLE = ({"a": [1.5, -2]}, '{"a":[1.5,-2]}')

_scan: Callable[[str, int], tuple[Any, int]]
_encode: Callable[[Any, int], Any]
_encode_ascii: Callable[[Any, int], Any]


def _works() -> bool:
    value, text = _SAMPLE
    return _scan(text, 0) == (value, len(text)) and "".join(_encode(value, 0)) == text


try:
    import _json

    if not TYPE_CHECKING:  # its stubs know only json's own decoder
        _scan = _json.make_scanner(_Scanning)
    # markers, default, string encoder, indent, key separator, item separator, sort_keys, skipkeys, allow_nan. Without
    # markers a circular value ends in RecursionError, which is translated.
    _encode = _json.make_encoder(None, _unknown, _json.encode_basestring, None, ":", ",", False, False, False)
    _encode_ascii = _json.make_encoder(
        None, _unknown, _json.encode_basestring_ascii, None, ":", ",", False, False, False
    )
    _driven = _works()
except (ImportError, AttributeError, TypeError):
    _driven = False
if not _driven:
    _scan = _plain_scanner()
    _encode = _plain_encoder(ascii_only=False)
    _encode_ascii = _plain_encoder(ascii_only=True)
