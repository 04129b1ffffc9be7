"""Response headers as values: challenges (RFC 9110, 11.6.1), links (RFC 8288), ranges, Retry-After. Never raises."""

from __future__ import annotations

from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SPACE = " \t"
_TOKEN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~")


class Challenge(Value):
    """One way to authenticate that a registry offers. Scheme and parameter names are lower case."""

    scheme: str
    parameters: dict[str, str]


def challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges in WWW-Authenticate headers. What cannot be understood is left out."""
    found: list[Challenge] = []
    for header in headers:
        found += _challenges(header)
    return tuple(found)


def _challenges(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while at < len(text):
        at = _skip(text, at, _SPACE + ",")
        word, at = _token(text, at)
        if not word:
            at += 1
            continue
        after = _skip(text, at, _SPACE)
        if after < len(text) and text[after] == "=" and found:
            value, at = _value(text, _skip(text, after + 1, _SPACE))
            found[-1].parameters.setdefault(word.lower(), value)
        else:
            found.append(Challenge(scheme=word.lower(), parameters={}))
    return found


def _skip(text: str, at: int, letters: str) -> int:
    while at < len(text) and text[at] in letters:
        at += 1
    return at


def _token(text: str, at: int) -> tuple[str, int]:
    start = at
    while at < len(text) and text[at] in _TOKEN:
        at += 1
    return text[start:at], at


def _value(text: str, at: int) -> tuple[str, int]:
    """A parameter's value: a token or a quoted string."""
    if at >= len(text) or text[at] != '"':
        start = at
        while at < len(text) and text[at] not in " \t,":
            at += 1
        return text[start:at], at
    at += 1
    letters: list[str] = []
    while at < len(text) and text[at] != '"':
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        letters.append(text[at])
        at += 1
    return "".join(letters), at + 1


def next_link(text: str) -> str:
    """The target of the link with rel="next" in a Link header, as a path of the same registry; "" without one.

    A host in it is left out: no list goes on somewhere else, and a registry shall not choose what we connect to.
    """
    at = 0
    while (start := text.find("<", at)) >= 0 and (end := text.find(">", start)) >= 0:
        following = text.find("<", end)
        parameters = text[end + 1 : following if following >= 0 else len(text)]
        for parameter in parameters.rstrip(" \t,").split(";"):
            name, _, value = parameter.strip().partition("=")
            if name.strip().lower() == "rel" and "next" in value.strip().strip('"').lower().split():
                return _without_host(text[start + 1 : end].strip())
        at = end
    return ""


def _without_host(target: str) -> str:
    scheme, marks, rest = target.partition("//")
    if not marks or "/" in scheme or "?" in scheme:
        return target
    path = rest[rest.find("/") :] if "/" in rest else ""
    return "/" + path.lstrip("/")


def end_of_range(text: str) -> int | None:
    """How many bytes an upload has, from a Range header "0-<last>" ("bytes=0-<last>" is seen too); None if unclear.

    An empty upload and one of a single byte both say 0-0; it is taken as empty.
    """
    first, dash, last = text.strip().removeprefix("bytes").lstrip("= ").partition("-")
    if first.strip() != "0" or not dash or not (last.isascii() and last.isdigit()):
        return None
    return 0 if int(last) == 0 else int(last) + 1


def seconds(text: str, now: float) -> float | None:
    """The wait that a Retry-After header asks for, in seconds (at least 0); `now` is the time as seconds since 1970."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from email.utils import parsedate_to_datetime  # only where a registry says it with a date

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
