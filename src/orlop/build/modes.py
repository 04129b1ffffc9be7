"""chmod's notation: octal, or symbolic ("u=rwX,go-w"), as a function from mode to mode."""

from __future__ import annotations

from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007}
_PERMISSIONS = {"r": 0o444, "w": 0o222, "x": 0o111}


def parse(text: str) -> Callable[[int, bool], int]:
    """What `--chmod=text` makes of a mode: a function of (permission bits, whether a directory). Or InvalidArgument."""
    if text and all(digit in "01234567" for digit in text):
        value = int(text, 8)
        if value > 0o7777:
            raise _wrong(text)
        return lambda _mode, _directory: value
    clauses = [_clause(clause, text) for clause in text.split(",")]

    def change(mode: int, directory: bool) -> int:
        for who, actions in clauses:
            for sign, letters in actions:
                mode = _apply(mode, who, sign, letters, directory=directory)
        return mode

    return change


def _wrong(text: str) -> InvalidArgument:
    return InvalidArgument(
        f"{text!r} is no mode", hint="for example 755, 0644, u=rwX,go=rX or +x; octal goes from 0 to 7777"
    )


def _clause(clause: str, text: str) -> tuple[str, list[tuple[str, str]]]:
    at = 0
    while at < len(clause) and clause[at] in "ugoa":
        at += 1
    who = clause[:at]
    actions: list[tuple[str, str]] = []
    while at < len(clause):
        sign = clause[at]
        if sign not in "+-=":
            raise _wrong(text)
        start = at = at + 1
        while at < len(clause) and clause[at] in "rwxXstugo":
            at += 1
        letters = clause[start:at]
        if len(letters) > 1 and set(letters) & set("ugo"):
            raise _wrong(text)
        actions.append((sign, letters))
    if not actions:
        raise _wrong(text)
    return ("ugo" if not who or "a" in who else who), actions


def _apply(mode: int, who: str, sign: str, letters: str, *, directory: bool) -> int:
    reach = 0
    for one in who:
        reach |= _WHO[one]
    bits = 0
    for letter in letters:
        if letter in _PERMISSIONS:
            bits |= _PERMISSIONS[letter]
        elif letter == "X":
            bits |= 0o111 if directory or mode & 0o111 else 0
        elif letter == "s":
            bits |= 0o6000
        elif letter == "t":
            bits |= 0o1000
        else:
            shift = {"u": 6, "g": 3, "o": 0}[letter]
            bits |= ((mode >> shift) & 0o7) * 0o111
    bits &= reach
    if sign == "+":
        return mode | bits
    if sign == "-":
        return mode & ~bits
    kept = 0o6000 if directory and "s" not in letters else 0  # chmod leaves a directory's set-id bits alone
    return (mode & ~(reach & ~kept)) | bits
