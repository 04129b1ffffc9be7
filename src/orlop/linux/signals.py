"""Signals by name and number, as every 64-bit Linux we run on numbers them (signal(7)).

Real-time signals count from 34 to 64, as glibc's SIGRTMIN and docker do: 32 and 33 belong to the threads library.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument

RTMIN = 34
RTMAX = 64

_PLAIN = (
    "HUP",
    "INT",
    "QUIT",
    "ILL",
    "TRAP",
    "ABRT",
    "BUS",
    "FPE",
    "KILL",
    "USR1",
    "SEGV",
    "USR2",
    "PIPE",
    "ALRM",
    "TERM",
    "STKFLT",
    "CHLD",
    "CONT",
    "STOP",
    "TSTP",
    "TTIN",
    "TTOU",
    "URG",
    "XCPU",
    "XFSZ",
    "VTALRM",
    "PROF",
    "WINCH",
    "IO",
    "PWR",
    "SYS",
)
_SYNONYMS = {"IOT": 6, "CLD": 17, "POLL": 29, "UNUSED": 31}


def _table() -> dict[str, int]:
    named = {name: number for number, name in enumerate(_PLAIN, 1)} | _SYNONYMS
    named |= {"RTMIN": RTMIN, "RTMAX": RTMAX}
    named |= {f"RTMIN+{number - RTMIN}": number for number in range(RTMIN + 1, RTMAX + 1)}
    named |= {f"RTMAX-{RTMAX - number}": number for number in range(RTMIN, RTMAX)}
    numbers = {str(number): number for number in range(1, RTMAX + 1)}
    return named | {f"SIG{name}": number for name, number in named.items()} | numbers


# "TERM", "SIGTERM", "15", "RTMIN+3", "SIGRTMAX-1"... in capitals
NUMBERS = _table()


def number_of(text: str) -> int:
    """The signal that `text` means, in any case; InvalidArgument when there is none."""
    number = NUMBERS.get(text.strip().upper())
    if number is None:
        raise InvalidArgument(
            f"there is no signal {text!r}", hint="e.g. TERM, KILL, HUP, USR1, RTMIN+3, or a number from 1 to 64"
        )
    return number


def name_of(number: int) -> str:
    """Its name, "SIGTERM" or "SIGRTMIN+3"; "SIG32" and "SIG33" have no other. InvalidArgument when there is none."""
    if 1 <= number <= len(_PLAIN):
        return f"SIG{_PLAIN[number - 1]}"
    if number in (32, 33):
        return f"SIG{number}"
    if not RTMIN <= number <= RTMAX:
        raise InvalidArgument(f"there is no signal {number}", hint="signals go from 1 to 64")
    if number == RTMAX:
        return "SIGRTMAX"
    return "SIGRTMIN" if number == RTMIN else f"SIGRTMIN+{number - RTMIN}"
