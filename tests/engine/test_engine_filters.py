"""The language of --filter: one for all verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import orlop
from orlop.engine import filters
from orlop.engine.requests import Filter, Prune
from orlop.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orlop.engine.core import Engine

ROWS: list[dict[str, Any]] = [
    {"id": "sha256:aa1", "name": "one", "labels": {"a": "1", "b": "2"}, "made": 100.0, "free": True},
    {"id": "sha256:aa2", "name": "two", "labels": {"a": "2"}, "made": 200.0, "free": False},
    {"id": "bb3", "name": "three", "labels": {}, "made": 300.0, "free": False},
]


def _when(_: str, name: str) -> float:
    return float(next(row["made"] for row in ROWS if row["name"] == name))


KNOWN: dict[str, filters.Maker[dict[str, Any]]] = {
    **filters.starting("id", lambda row: row["id"]),
    **filters.matching("name", lambda row: row["name"]),
    **filters.labels(lambda row: row["labels"]),
    **filters.until(lambda row: row["made"]),
    **filters.yes_or_no("dangling", lambda row: row["free"]),
    **filters.equal("driver", lambda row: row["name"], words=("one", "two", "three")),
    **filters.ordered(lambda row: row["made"], _when),
}


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ([], "one two three"),
        (["id=aa"], "one two"),
        (["id=sha256:aa1"], "one"),
        (["name=^t"], "two three"),
        (["name=one", "name=two"], "one two"),
        (["name=o", "id=aa2"], "two"),
        (["label=a"], "one two"),
        (["label=a", "label=b=2"], "one"),
        (["label!=a=1"], "two three"),
        (["label!=a", "label!=b"], "three"),
        (["until=300"], "one two"),
        (["until=300", "until=150"], "one"),
        (["dangling=true"], "one"),
        (["dangling=0"], "two three"),
        (["driver=two"], "two"),
        (["before=two"], "one"),
        (["since=one", "before=three"], "two"),
    ],
)
def test_filters_choose_rows(asked: list[str], names: str) -> None:
    """Every key must hold; of equal keys one is enough, but labels and moments narrow."""
    given = [Filter(key=text.partition("=")[0], value=text.partition("=")[2]) for text in asked]
    fits = filters.judge(given, KNOWN, what="rows")
    assert " ".join(row["name"] for row in ROWS if fits(row)) == names


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("colour", "red", "rows know no filter 'colour'"),
        ("name", "(", "is no regular expression"),
        ("dangling", "maybe", "neither true nor false"),
        ("until", "soon", "neither a time nor a duration"),
        ("driver", "four", "is no driver"),
    ],
)
def test_what_cannot_be_meant_is_refused(key: str, value: str, said: str) -> None:
    """An unknown key, or a value that its key cannot have, is an error that says what there is."""
    with pytest.raises(InvalidArgument, match=said):
        filters.judge([Filter(key=key, value=value)], KNOWN, what="rows")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine on an empty root."""
    with orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run")) as opened:
        yield opened


VERBS: dict[str, Callable[[Engine, tuple[Filter, ...]], object]] = {
    "images": lambda engine, asked: engine.images.list(orlop.ListImages(filters=asked)),
    "containers": lambda engine, asked: engine.containers.list(orlop.ListContainers(filters=asked)),
    "volumes": lambda engine, asked: engine.volumes.list(asked),
    "networks": lambda engine, asked: engine.networks.list(asked),
    "events": lambda engine, asked: engine.system.events(filters=asked, follow=False),
    "prunes of images": lambda engine, asked: engine.images.prune(Prune(filters=asked)),
    "prunes of containers": lambda engine, asked: engine.containers.prune(Prune(filters=asked)),
    "prunes of volumes": lambda engine, asked: engine.volumes.prune(Prune(filters=asked)),
    "prunes of networks": lambda engine, asked: engine.networks.prune(Prune(filters=asked)),
    "prunes of the build cache": lambda engine, asked: engine.builds.prune(Prune(filters=asked)),
    "prunes of everything": lambda engine, asked: engine.system.prune(Prune(filters=asked)),
}


@pytest.mark.parametrize("what", VERBS)
def test_all_verbs_speak_it(engine: Engine, what: str) -> None:
    """Every verb that filters knows labels, and refuses an unknown key in the same words."""
    VERBS[what](engine, (Filter(key="label", value="a=b"),))
    with pytest.raises(InvalidArgument, match=f"{what} know no filter 'colour'") as caught:
        VERBS[what](engine, (Filter(key="colour", value="red"),))
    assert "label" in caught.value.hint


def test_a_prune_of_everything_is_refused_before_anything_is_gone(engine: Engine) -> None:
    """Volumes have no age, so `until` cannot be asked of them; and then nothing at all was removed."""
    engine.volumes.create("kept")
    asked = Prune(volumes=True, filters=(Filter(key="until", value="1h"),))
    with pytest.raises(InvalidArgument, match="volumes have no age"):
        engine.system.prune(asked)
    assert [row["Name"] for row in engine.volumes.list()] == ["kept"]
