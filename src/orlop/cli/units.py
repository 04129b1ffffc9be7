"""Sizes, durations and times as people write and read them in docker's commands. Pure.

Sizes read back in powers of 1000 ("1.2GB"), as docker prints images and volumes; memory in powers of 1024 ("1.5GiB");
sizes that are typed in (`--memory 200m`) are always powers of 1024, as docker takes them.
"""

from __future__ import annotations

import time

from orlop.errors import InvalidArgument

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SHIFTS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def human_size(size: float, precision: int = 4) -> str:
    """`size` bytes in powers of 1000 with `precision` significant digits: "1.24MB", "0B"."""
    return _human(size, 1000.0, _DECIMAL, precision)


def human_memory(size: float, precision: int = 4) -> str:
    """`size` bytes in powers of 1024: "1.5GiB"."""
    return _human(size, 1024.0, _BINARY, precision)


def _human(size: float, base: float, units: tuple[str, ...], precision: int) -> str:
    at = 0
    while size >= base and at < len(units) - 1:
        size /= base
        at += 1
    text = f"{size:.{precision}g}"
    if "e" in text or (float(text) >= base and at < len(units) - 1):
        # rounding reached the next unit (999.96 kB): docker prints 1e+03kB here, a person wants 1MB
        if at < len(units) - 1 and size >= base - 1:
            return f"1{units[at + 1]}"
        text = f"{size:.0f}"
    return text + units[at]


def parse_size(text: str) -> int:
    """`200m`, `1.5 GB`, `512` as bytes; -1 stays -1 (unlimited). InvalidArgument for anything else."""
    if text == "-1":
        return -1
    lowered = text.strip().lower()
    number = lowered.rstrip("kmgtpib ")
    suffix = lowered[len(number) :].strip()
    if suffix[1:] in {"b", "ib"}:
        suffix = suffix[0]
    whole, point, part = number.partition(".")
    if suffix not in _SHIFTS or not _digits(whole) or (point and not _digits(part)) or len(number) > 30:
        raise InvalidArgument(f"{text!r} is not a size", hint="write it as 512, 200m or 1.5g (powers of 1024)")
    shift = _SHIFTS[suffix]
    return (int(whole) << shift) + ((int(part) << shift) // 10 ** len(part) if part else 0)


def parse_cpus(text: str) -> int:
    """`--cpus 1.5` as billionths of a CPU, exactly."""
    whole, _, part = text.partition(".")
    if not _digits(whole or "0") or not (_digits(part) or not part) or not (whole or part) or len(part) > 9:
        raise InvalidArgument(f"{text!r} is not a number of CPUs", hint="write it as 2 or 0.5")
    return int(whole or 0) * 1_000_000_000 + int((part + "0" * 9)[:9])


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def since(moment: float, now: float) -> str:
    """How long ago `moment` (Unix seconds) was, in docker's words: "2 weeks ago"; "N/A" for no time at all."""
    from orlop.engine.moments import ago

    return f"{ago(max(0.0, now - moment))} ago" if moment else "N/A"


def local_time(moment: float) -> str:
    """Unix seconds in the machine's time zone, as Go prints a time: "2026-01-31 12:00:00 +0100 CET"."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(moment))


def iso_time(moment: float) -> str:
    """Unix seconds as RFC 3339 in the machine's time zone: "2026-01-31T12:00:00+01:00"."""
    zone = time.strftime("%z", time.localtime(moment))
    shown = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment)) + shown


def ellipsis(text: str, width: int) -> str:
    """`text`, cut to `width` characters with an ellipsis as the last one."""
    return text if len(text) <= width else text[: width - 1] + "…"


def short_id(digest: str) -> str:
    """The twelve hex digits by which people name an image or a container."""
    return digest.rpartition(":")[2][:12]
