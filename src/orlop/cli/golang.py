"""How Go prints and compares values: what a template's output looks like depends on it. Pure.

Data is JSON-shaped: None, bool, int, float, str, list and dict. A plain dict is a Go struct: asking it for a field it
does not have is an error. A `Map` is a Go map, whose keys are data: what it does not have is no value.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Map(dict[str, "Any"]):
    """A mapping whose keys are data (labels, networks). `zero` is what `index` finds for an absent key."""

    def __init__(self, items: Mapping[str, Any], zero: Any = None) -> None:
        super().__init__(items)
        self.zero = zero


class Struct(dict[str, "Any"]):
    """A Go struct some of whose fields docker leaves out of the JSON when they are empty: `omitted` has their zeros."""

    def __init__(self, items: Mapping[str, Any], omitted: Mapping[str, Any]) -> None:
        super().__init__(items)
        self.omitted = omitted


class Nil:
    """A nil slice, map or pointer: prints as `[]`, `map[]` or `<nil>`, is null in JSON, and is empty."""

    __slots__ = ("shown",)

    def __init__(self, shown: str) -> None:
        self.shown = shown

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        return iter(())


NIL_SLICE = Nil("[]")
NIL_MAP = Nil("map[]")
NIL_POINTER = Nil("<nil>")

_STRING_MAPS = frozenset({"Labels", "Annotations", "Sysctls", "Options", "DriverOpts", "Tmpfs", "Attributes"})
_MAPS = frozenset({"Networks", "Ports", "PortBindings", "ExposedPorts", "Volumes", "Containers"})
_SLICES = frozenset(
    "Args Binds CapAdd CapDrop Cmd Devices Dns DnsOptions DnsSearch Entrypoint Env ExtraHosts GroupAdd Layers Mounts "
    "OnBuild RepoDigests RepoTags SecurityOpt Shell Ulimits VolumesFrom".split()
)

# the fields of docker's structs that its JSON has only where they say something (`omitempty`)
_OMITTED: dict[str, dict[str, Any]] = {
    "State": {"Health": NIL_POINTER},
    "Config": {
        "ArgsEscaped": False,
        "ExposedPorts": NIL_MAP,
        "Healthcheck": NIL_POINTER,
        "Labels": NIL_MAP,
        "MacAddress": "",
        "NetworkDisabled": False,
        "OnBuild": NIL_SLICE,
        "Shell": NIL_SLICE,
        "StopSignal": "",
        "StopTimeout": NIL_POINTER,
        "Volumes": NIL_MAP,
    },
    "HostConfig": {
        "Annotations": NIL_MAP,
        "Init": NIL_POINTER,
        "Mounts": NIL_SLICE,
        "StorageOpt": NIL_MAP,
        "Sysctls": NIL_MAP,
        "Tmpfs": NIL_MAP,
    },
    "Mounts": {"Driver": "", "Name": "", "Source": ""},
}


def typed(data: Any, name: str = "") -> Any:
    """JSON data with the Go types that docker's own structs give to fields of these names."""
    if isinstance(data, dict):
        items = {key: typed(value, key) for key, value in data.items()}
        if name in _STRING_MAPS:
            return Map(items, "")
        if name in _MAPS:
            return Map(items)
        return Struct(items, _OMITTED[name]) if name in _OMITTED else items
    if isinstance(data, list):
        return [typed(one, name if name in _OMITTED else "") for one in data]
    if data is None:
        if name in _SLICES:
            return NIL_SLICE
        return NIL_MAP if name in _MAPS or name in _STRING_MAPS else None
    return data


def plain(data: Any) -> Any:
    """Data as JSON has it: nils are null, maps have sorted keys as Go's encoder writes them."""
    if isinstance(data, Map):
        return {key: plain(data[key]) for key in sorted(data)}
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items() if not callable(value)}
    if isinstance(data, list | tuple):
        return [plain(one) for one in data]
    return None if isinstance(data, Nil) else data


def show(value: Any) -> str:
    """`fmt.Sprint(value)`: `[a b]`, `map[k:v]`, `<nil>`, `true`, `1e+06`."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    if isinstance(value, Nil):
        return value.shown
    if isinstance(value, float):
        return show_float(value)
    if isinstance(value, dict):
        shown = " ".join(f"{key}:{show(value[key])}" for key in sorted(value) if not callable(value[key]))
        return f"map[{shown}]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(show, value)) + "]"
    return str(value)


def show_float(value: float) -> str:
    """A float as `%v` prints it: the shortest digits, with an exponent below -4 or from 6 on (1e+06, 999999.5)."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124  # how to ask for NaN
        return {"inf": "+Inf", "-inf": "-Inf"}.get(repr(value), "NaN")
    text = repr(value).removeprefix("-")
    sign = "-" if repr(value).startswith("-") else ""
    mantissa, _, power = text.partition("e")
    whole, _, part = mantissa.partition(".")
    digits = (whole + part).lstrip("0")
    exponent = len(whole) + int(power or 0) - (len(whole + part) - len(digits)) - 1
    digits = digits.rstrip("0")
    if not digits:
        return f"{sign}0"
    if not -4 <= exponent < 6:
        tail = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    padded = digits.ljust(exponent + 1, "0")
    tail = padded[exponent + 1 :]
    return f"{sign}{padded[: exponent + 1]}{f'.{tail}' if tail else ''}"


def truth(value: Any) -> bool:
    """Whether `if` takes it: not false, zero, nil or empty."""
    return bool(value)


def quoted(text: str) -> str:
    """`strconv.Quote`: a Go string literal."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b"}
    escapes |= {"\f": "\\f", "\v": "\\v"}
    found = []
    for mark in text:
        code = ord(mark)
        if mark in escapes:
            found.append(escapes[mark])
        elif mark.isprintable():
            found.append(mark)
        elif code < 0x80:
            found.append(f"\\x{code:02x}")
        else:
            found.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(found) + '"'


def formatted(template: str, arguments: list[Any]) -> str:
    """`fmt.Sprintf` with the verbs that templates use: %v %s %q %d %f %e %g %t %x %X %c %%, flags, width, precision."""
    found: list[str] = []
    at, taken = 0, 0
    while True:
        start = template.find("%", at)
        if start < 0:
            found.append(template[at:])
            break
        found.append(template[at:start])
        end = start + 1
        while end < len(template) and (template[end] in "-+ #0123456789."):
            end += 1
        if end == len(template):
            found.append("%!(NOVERB)")
            break
        verb, flags = template[end], template[start + 1 : end]
        at = end + 1
        if verb == "%":
            found.append("%")
        elif taken == len(arguments):
            found.append(f"%!{verb}(MISSING)")
        else:
            found.append(_verb(verb, flags, arguments[taken]))
            taken += 1
    if taken < len(arguments):
        extra = ", ".join(f"{_type(one)}={show(one)}" for one in arguments[taken:])
        found.append(f"%!(EXTRA {extra})")
    return "".join(found)


def _verb(verb: str, flags: str, value: Any) -> str:
    shape = flags.lstrip("-+ #0")
    signs = flags[: len(flags) - len(shape)]
    width, point, digits = shape.partition(".")
    precision = int(digits or 0) if point else -1
    text = _converted(verb, value, precision, signs)
    if text is None:
        return f"%!{verb}({_type(value)}={show(value)})"
    missing = int(width or 0) - len(text)
    if missing <= 0:
        return text
    if "-" in signs:
        return text + " " * missing
    if "0" in signs and verb in "dfegxX":
        sign = text[0] if text[0] in "+-" else ""
        return sign + "0" * missing + text[len(sign) :]
    return " " * missing + text


def _converted(verb: str, value: Any, precision: int, signs: str) -> str | None:
    """The value as the verb wants it, None where the two do not go together."""
    plus = "+" if "+" in signs else ""
    if verb == "v":
        return show(value)
    if isinstance(value, bool):
        return show(value) if verb == "t" else None
    if isinstance(value, int):
        return {"d": f"{value:{plus}d}", "x": f"{value:x}", "X": f"{value:X}"}.get(verb) or _letter(verb, value)
    if isinstance(value, float):
        return _float(verb, value, precision, plus)
    if verb == "s":
        return show(value) if precision < 0 else show(value)[:precision]
    if isinstance(value, str) and verb in "qxX":
        return quoted(value) if verb == "q" else value.encode().hex() if verb == "x" else value.encode().hex().upper()
    return None


def _letter(verb: str, value: int) -> str | None:
    return chr(value) if verb == "c" and 0 <= value < 0x110000 else None


def _float(verb: str, value: float, precision: int, plus: str) -> str | None:
    if verb == "g" and precision < 0:
        return show_float(value)
    return f"{value:{plus}.{6 if precision < 0 else precision}{verb}}" if verb in "feg" else None


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    names = ((str, "string"), (int, "int"), (float, "float64"), (dict, "map[string]interface {}"))
    return next((name for kind, name in names if isinstance(value, kind)), "[]interface {}" if value else "<nil>")
