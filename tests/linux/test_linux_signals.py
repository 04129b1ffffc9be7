"""Signals by name and number."""

from __future__ import annotations

import signal

import pytest

from orlop.errors import InvalidArgument
from orlop.linux import signals


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_numbers_and_names_agree_with_the_c_library(number: int) -> None:
    """Every valid signal's name leads back to it, in all its spellings, and is the C library's where it has one."""
    name = signals.name_of(number)
    for text in (name, name.removeprefix("SIG"), str(number), name.lower(), f" {name} "):
        assert signals.number_of(text) == number
    if number < signal.SIGRTMIN:
        assert getattr(signal, name) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("RTMIN", 34), ("SIGRTMAX", 64), ("RTMIN+3", 37), ("RTMAX-1", 63), ("POLL", 29), ("CLD", 17), ("IOT", 6)],
)
def test_real_time_signals_and_synonyms(text: str, number: int) -> None:
    """Real-time signals count from both ends, and old names still work."""
    assert signals.NUMBERS[text] == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "SIG", "SIGSIGTERM", "RTMIN+31", "RTMIN-1", "NOPE", "1.5", "-9", "015"]
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    """Anything else is InvalidArgument with examples."""
    with pytest.raises(InvalidArgument, match="there is no signal") as caught:
        signals.number_of(text)
    assert "TERM" in caught.value.hint


@pytest.mark.parametrize("number", [0, 65, -1])
def test_what_is_no_number_has_no_name(number: int) -> None:
    """Numbers outside 1 to 64 have no name."""
    with pytest.raises(InvalidArgument, match="there is no signal"):
        signals.name_of(number)
    assert (signals.name_of(32), signals.name_of(33)) == ("SIG32", "SIG33")
