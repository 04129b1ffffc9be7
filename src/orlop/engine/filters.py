"""The language of `--filter KEY=VALUE`: one for all verbs that list, prune or follow.

A verb says which keys it knows, and what each makes out of a value: a test of one row. `judge` makes one test out of
all that was asked: rows must pass every key; of several values of one key one is enough, but labels and moments narrow,
so each of those must hold (docker's rules).
"""

from __future__ import annotations

from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeAlias, TypeVar

    from orlop.engine.requests import Filter

    Row = TypeVar("Row")
    Test: TypeAlias = Callable[[Row], bool]
    Maker: TypeAlias = Callable[[str], Callable[[Row], bool]]

_NARROWING = ("label", "label!", "until")
_YES, _NO = ("true", "1"), ("false", "0")


def judge(filters: Iterable[Filter], known: Mapping[str, Maker[Row]], *, what: str) -> Test[Row]:
    """One test out of all `filters`; `what` says whose they are ("images"). InvalidArgument for a key not `known`."""
    groups: dict[str, list[Test[Row]]] = {}
    for number, one in enumerate(filters):
        make = known.get(one.key)
        if make is None:
            words = sorted(known)
            listed = ", ".join(words[:-1]) + " or " + words[-1] if words[1:] else words[0]
            raise InvalidArgument(f"{what} know no filter {one.key!r}", hint=f"use {listed}")
        group = f"{one.key} {number}" if one.key in _NARROWING else one.key
        groups.setdefault(group, []).append(make(one.value))
    tests = list(groups.values())
    return lambda row: all(any(test(row) for test in group) for group in tests)


def labels(of: Callable[[Row], Mapping[str, str] | None]) -> dict[str, Maker[Row]]:
    """`label` and `label!` with KEY or KEY=VALUE, for rows whose labels are `of(row)`."""

    def has(text: str) -> Test[Row]:
        return lambda row: has_label(of(row) or {}, text)

    def lacks(text: str) -> Test[Row]:
        return lambda row: not has_label(of(row) or {}, text)

    return {"label": has, "label!": lacks}


def has_label(labels: Mapping[str, str], text: str) -> bool:
    """Whether a mapping of labels has KEY, or KEY=VALUE."""
    key, has_value, value = text.partition("=")
    return key in labels and (not has_value or labels[key] == value)


def until(of: Callable[[Row], float]) -> dict[str, Maker[Row]]:
    """`until`: rows whose moment `of(row)` (Unix seconds) lies before that time, or longer ago than that duration."""
    from orlop.engine.moments import moment

    def older(text: str) -> Test[Row]:
        limit = moment(text, what="--filter until")
        return lambda row: of(row) < limit

    return {"until": older}


def yes_or_no(key: str, of: Callable[[Row], bool]) -> dict[str, Maker[Row]]:
    """A key that is true or false of a row."""

    def is_so(text: str) -> Test[Row]:
        wanted = boolean(key, text)
        return lambda row: of(row) is wanted

    return {key: is_so}


def boolean(key: str, text: str) -> bool:
    """true, 1, false or 0; InvalidArgument for anything else."""
    if text.lower() not in _YES + _NO:
        raise InvalidArgument(f"--filter {key}={text} is neither true nor false")
    return text.lower() in _YES


def equal(key: str, of: Callable[[Row], str], *, words: tuple[str, ...] = ()) -> dict[str, Maker[Row]]:
    """A key whose value `of(row)` must be the text, which is one of `words` where these are all there are."""

    def is_it(text: str) -> Test[Row]:
        if words and text not in words:
            raise InvalidArgument(f"--filter {key}={text} is no {key}", hint=f"use {', '.join(words)}")
        return lambda row: of(row) == text

    return {key: is_it}


def starting(key: str, of: Callable[[Row], str]) -> dict[str, Maker[Row]]:
    """A key (`id`) that must begin with the text; "sha256:" may be left out."""

    def begins(text: str) -> Test[Row]:
        return lambda row: of(row).removeprefix("sha256:").startswith(text.removeprefix("sha256:"))

    return {key: begins}


def matching(key: str, of: Callable[[Row], str]) -> dict[str, Maker[Row]]:
    """A key (`name`) in which the text, a regular expression, is found."""

    def is_found(text: str) -> Test[Row]:
        import re  # for those who filter only

        try:
            pattern = re.compile(text)
        except re.error as error:
            raise InvalidArgument(f"--filter {key}={text} is no regular expression: {error}") from error
        return lambda row: pattern.search(of(row)) is not None

    return {key: is_found}


def ordered(of: Callable[[Row], float], find: Callable[[str, str], float]) -> dict[str, Maker[Row]]:
    """`before` and `since`: rows made earlier or later than another, whose moment `find(key, text)` knows."""

    def earlier(text: str) -> Test[Row]:
        limit = find("before", text)
        return lambda row: of(row) < limit

    def later(text: str) -> Test[Row]:
        limit = find("since", text)
        return lambda row: of(row) > limit

    return {"before": earlier, "since": later}
