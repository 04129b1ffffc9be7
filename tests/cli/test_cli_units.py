"""Sizes and times for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli import units
from orlop.cli.suggestions import did_you_mean, distance
from orlop.errors import InvalidArgument


@pytest.mark.parametrize(
    ("size", "precision", "shown"),
    [
        (0, 4, "0B"),
        (999, 4, "999B"),
        (1000, 4, "1kB"),
        (1024, 4, "1.024kB"),
        (1_240_000, 3, "1.24MB"),
        (999_960, 3, "1MB"),
        (999_999, 4, "1MB"),
        (123_456_789, 4, "123.5MB"),
        (1_200_000_000, 4, "1.2GB"),
        (10**18, 4, "1EB"),
        (10**21, 4, "1000EB"),
    ],
)
def test_sizes_are_dockers(size: int, precision: int, shown: str) -> None:
    """Powers of 1000, so many significant digits; rounding up to the next unit names that unit."""
    assert units.human_size(size, precision) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (3 << 19, "1.5MiB"), (1000 << 20, "1000MiB"), ((1 << 30) - 1, "1GiB")],
)
def test_memory_is_in_powers_of_1024(size: int, shown: str) -> None:
    """Memory is shown as docker stats shows it."""
    assert units.human_memory(size) == shown


@given(st.integers(0, 1 << 62))
def test_no_size_is_unreadable(size: int) -> None:
    """No size ever shows an exponent, and what is shown is near what it is."""
    shown = units.human_size(size, 3)
    number = shown.rstrip("BkMGTPE")
    factor = 1000 ** ["B", "kB", "MB", "GB", "TB", "PB", "EB"].index(shown[len(number) :])
    assert "e" not in shown
    assert abs(float(number) * factor - size) <= max(size / 150, 0)


@given(st.integers(0, 1 << 50), st.sampled_from(["", "b", "B"]))
def test_plain_sizes_are_bytes(size: int, suffix: str) -> None:
    """A number is so many bytes."""
    assert units.parse_size(f"{size}{suffix}") == size


@pytest.mark.parametrize("unit", ["k", "K", "kb", "KB", "KiB", "kib", " k"])
def test_typed_sizes_are_powers_of_1024(unit: str) -> None:
    """`200k` is 204800 bytes however the unit is written, as docker takes it."""
    assert units.parse_size(f"200{unit}") == 204_800


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3", "-5m", "1e9", "inf", "nan", "5i", "1x", "m", ".", "1.", "٣", "9" * 40]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """Nothing that is not a size is taken for one."""
    with pytest.raises(InvalidArgument, match="is not a size"):
        units.parse_size(text)


@given(st.text(max_size=10))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    """Parsing sizes and CPUs never fails in another way."""
    for parse in (units.parse_size, units.parse_cpus):
        try:
            assert isinstance(parse(text), int)
        except InvalidArgument:
            pass


@given(st.integers(0, 10**12))
def test_cpus_are_exact(nano: int) -> None:
    """A number of CPUs with nine decimals is read without rounding."""
    assert units.parse_cpus(f"{nano // 10**9}.{nano % 10**9:09d}") == nano


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "Less than a second ago"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (60, "About a minute ago"),
        (150, "2 minutes ago"),
        (3600, "About an hour ago"),
        (7200, "2 hours ago"),
        (3 * 86400, "3 days ago"),
        (14 * 86400, "2 weeks ago"),
        (70 * 86400, "2 months ago"),
        (800 * 86400, "2 years ago"),
    ],
)
def test_durations_are_dockers(seconds: float, shown: str) -> None:
    """How long ago, in docker's words."""
    assert units.since(1_000_000_000, 1_000_000_000 + seconds) == shown


def test_no_time_is_not_long_ago() -> None:
    """An image without a date was made at no known time, not in 1970."""
    assert units.since(0.0, 1e9) == "N/A"


@given(st.text(max_size=30), st.integers(1, 30))
def test_ellipsis_keeps_within_the_width(text: str, width: int) -> None:
    """A cut text is as wide as was asked, and says that it was cut."""
    cut = units.ellipsis(text, width)
    assert len(cut) <= max(width, 1)
    assert cut == text or cut.endswith("…")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("rnu", "run"), ("imges", "images"), ("stpo", "stop"), ("pul", "pull"), ("hist", "history"), ("zebra", "")],
)
def test_typing_errors_are_understood(word: str, meant: str) -> None:
    """The nearest command is offered, and none where none is near."""
    assert did_you_mean(word, ["run", "images", "stop", "pull", "history", "ps", "rm"]) == meant


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_distance_is_symmetric_and_zero_for_the_same(one: str, other: str) -> None:
    """The laws of a distance."""
    assert distance(one, other) == distance(other, one)
    assert (distance(one, other) == 0) is (one == other)
