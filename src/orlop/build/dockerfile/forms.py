"""The shapes that arguments come in: flags, quoted words, JSON arrays, durations. Offsets are into the logical line."""

from __future__ import annotations

import re

from orlop.errors import InvalidArgument
from orlop.oci import jsontext
from orlop.values import Value

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


class Piece(Value):
    """Text and the half-open range of offsets it was read from."""

    text: str
    start: int
    end: int


def keyword(text: str) -> Piece:
    """The first word of an instruction."""
    start = len(text) - len(text.lstrip())
    blank = _BLANKS.search(text, start)
    end = blank.start() if blank else len(text)
    return Piece(text=text[start:end], start=start, end=end)


def flags(text: str, start: int, escape: str) -> tuple[list[Piece], int]:
    """Leading `--name[=value]` words from `start`, quotes and escapes removed; then the offset of what follows.

    A bare `--` ends them and is skipped.
    """
    found: list[Piece] = []
    at = start
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("--", at):
            return found, at
        begin = at
        word, at = _flag(text, at, escape)
        if word == "--":
            while at < len(text) and text[at].isspace():
                at += 1
            return found, at
        found.append(Piece(text=word, start=begin, end=at))


def _flag(text: str, at: int, escape: str) -> tuple[str, int]:
    out: list[str] = []
    quote = ""
    while at < len(text):
        letter = text[at]
        if not quote and letter.isspace():
            break
        at += 1
        if quote and letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
        elif letter == escape:
            out.append(text[at : at + 1])
            at += 1
        else:
            out.append(letter)
    return "".join(out), min(at, len(text))


def blank_words(text: str, start: int) -> list[Piece]:
    """Words separated by blanks; quotes mean nothing here."""
    found = []
    end = len(text.rstrip())
    at = start
    while at < end:
        blank = _BLANKS.search(text, at, end)
        stop = blank.start() if blank else end
        if stop > at:
            found.append(Piece(text=text[at:stop], start=at, end=stop))
        at = blank.end() if blank else end
    return found


def quoted_words(text: str, start: int, escape: str) -> list[Piece]:
    """Words separated by blanks outside quotes; quotes and escapes are kept for the expansion that comes later."""
    found: list[Piece] = []
    at = start
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        begin = at
        quote = ""
        out: list[str] = []
        while at < len(text) and (quote or not text[at].isspace()):
            letter = text[at]
            if letter == escape and quote != "'":
                if at + 1 >= len(text):
                    at += 1
                    break  # an escape at the very end escapes nothing
                out.append(text[at : at + 2])
                at += 2
                continue
            if quote:
                quote = "" if letter == quote else quote
            elif letter in "'\"":
                quote = letter
            out.append(letter)
            at += 1
        if out:
            found.append(Piece(text="".join(out), start=begin, end=at))
    return found


def json_words(text: str) -> list[str] | None:
    """`text` as a JSON array of strings; None when it is no JSON array.

    Raises ValueError when it is one, but holds something else than strings.
    """
    text = text.strip()
    if not text.startswith("["):
        return None
    try:
        value = jsontext.loads(text, what="the JSON form")
    except InvalidArgument:
        return None
    if not isinstance(value, list):
        return None
    if not all(isinstance(word, str) for word in value):
        raise ValueError("only strings may stand in the JSON form")
    return value


def duration(text: str) -> int:
    """Go's duration notation ("1m30s", "500ms", "0") in nanoseconds. Raises ValueError."""
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in "+-" and text else text
    if body == "0":
        return 0
    at, total = 0, 0.0
    while at < len(body):
        found = _DURATION.match(body, at)
        if found is None:
            raise ValueError(f"{text!r} is not a duration")
        total += float(found[1]) * _UNITS[found[2]]
        at = found.end()
    if not body:
        raise ValueError("a duration is missing")
    return sign * round(total)
