"""Times in the words of people and protocols."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.engine import moments
from orlop.errors import InvalidArgument


@given(st.integers(min_value=1, max_value=4_000_000_000_000_000_000))
def test_rfc3339_round_trip(ns: int) -> None:
    """A moment written as RFC 3339 reads back to the microsecond."""
    assert abs(moments.unix(moments.rfc3339(ns)) - ns / 1e9) < 2e-6 * max(1, ns / 1e18)


def test_zero_is_never() -> None:
    """0 is Go's zero time, as docker prints it, and reads back as 0."""
    assert moments.rfc3339(0) == "0001-01-01T00:00:00Z"
    assert moments.unix("0001-01-01T00:00:00Z") == 0.0


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("1h30m", 5400), ("500ms", 0.5), ("2d", 172800)])
def test_durations(text: str, seconds: float) -> None:
    """Go's duration texts, and days and weeks."""
    assert moments.duration(text, what="--since") == seconds


def test_moment_forms() -> None:
    """A moment is RFC 3339, a date, Unix seconds, or a duration back from now."""
    assert moments.moment("1700000000", what="x") == 1_700_000_000
    assert moments.moment("2023-11-14T22:13:20Z", what="x") == 1_700_000_000
    assert moments.moment("2023-11-14", what="x") == 1_699_920_000
    assert abs(moments.moment("1h", what="x") - (time.time() - 3600)) < 60


@given(st.text())
def test_nonsense_is_an_error(text: str) -> None:
    """Any text is a moment or an InvalidArgument, never another exception."""
    with contextlib.suppress(InvalidArgument):
        moments.moment(text, what="--since")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (86400 * 3, "3 days"),
        (86400 * 15, "2 weeks"),
        (86400 * 90, "3 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_ago(seconds: float, words: str) -> None:
    """Durations in docker's words."""
    assert moments.ago(seconds) == words
