"""Times as people and protocols write them. Kept apart from `datetime`, which the hot paths need not load."""

from __future__ import annotations

import time

from orlop.errors import InvalidArgument

_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def rfc3339(ns: int) -> str:
    """Unix nanoseconds as RFC 3339 with nanoseconds, in UTC; 0 is Go's zero time, as docker prints it."""
    if not ns:
        return "0001-01-01T00:00:00Z"
    whole, rest = divmod(ns, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + fraction + "Z"


def unix(text: str) -> float:
    """RFC 3339 text as Unix seconds; 0.0 for an absent or zero time."""
    if not text or text.startswith("0001-"):
        return 0.0
    from datetime import datetime

    try:
        # fromisoformat takes at most microseconds before Python 3.11 and cuts the rest since
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise InvalidArgument(f"{text!r} is not a time", hint="write it as 2026-01-31T12:00:00Z") from error


def moment(text: str, *, what: str) -> float:
    """`--since`-style text as Unix seconds: RFC 3339, Unix seconds, or a duration back from now ("10m", "1h30m")."""
    if text.replace(".", "", 1).isdigit():
        return float(text)
    if text[:4].isdigit() and text[4:5] == "-":
        return unix(text if len(text) > 10 else text + "T00:00:00+00:00")
    return time.time() - duration(text, what=what)


def duration(text: str, *, what: str) -> float:
    """Go's duration text ("1h30m", "500ms", "2d") in seconds."""
    rest, total = text, 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        letters = digits + len(rest[digits:]) - len(rest[digits:].lstrip("nusmhdw"))
        unit = rest[digits:letters]
        if not digits or unit not in _UNITS:
            raise InvalidArgument(
                f"{what} is {text!r}, which is neither a time nor a duration",
                hint="write it as 2026-01-31T12:00:00Z, as Unix seconds, or as 10m, 1h30m",
            )
        total += float(rest[:digits]) * _UNITS[unit]
        rest = rest[letters:]
    return total


def ago(seconds: float) -> str:
    """A duration in docker's words: "5 seconds", "About a minute", "2 weeks"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for limit, divisor, unit in ((24 * 14, 24, "days"), (24 * 60, 24 * 7, "weeks"), (24 * 365 * 2, 24 * 30, "months")):
        if hours < limit:
            return f"{hours // divisor} {unit}"
    return f"{int(seconds / 3600) // 24 // 365} years"
