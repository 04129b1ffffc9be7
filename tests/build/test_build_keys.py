"""Keys, what is kept under them, explanations; folders of dead builds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.build import keys
from orlop.build.keys import Place, Result
from orlop.build.session import moment
from orlop.build.workspace import Workspace
from orlop.layers import snapshots
from orlop.oci.digest import Digest
from orlop.store.images import LayerRef
from orlop.store.root import Root

if TYPE_CHECKING:
    from pathlib import Path

LAYER = LayerRef(diff_id=Digest.of(b"a"), digest=Digest.of(b"b"), size=5, media_type="m")


class Remembered(dict[tuple[str, str], bytes]):
    """A cache in memory with the store's two verbs."""

    def get(self, bucket: str, key: str) -> bytes | None:  # type: ignore[override]  # the store's shape
        return super().get((bucket, key))

    def put(self, bucket: str, key: str, value: bytes) -> None:
        self[bucket, key] = value


@pytest.mark.parametrize("layer", [None, LAYER])
def test_results_come_back(layer: LayerRef | None) -> None:
    """What is dumped is loaded again."""
    result = Result(id="x", layer=layer, created="2001-01-01T00:00:00Z")

    assert keys.load(keys.dump(result)) == result


@given(
    st.binary(max_size=60)
    | st.sampled_from([b"{}", b"[]", b'{"id":1,"layer":[],"created":2}', b'{"id":"","layer":[1,2,3,4],"created":""}'])
)
def test_a_damaged_result_is_none(data: bytes) -> None:
    """Whatever a damaged cache holds is a miss."""
    assert keys.load(data) is None


json = st.recursive(st.text(max_size=4) | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=3))


@given(st.dictionaries(st.text(max_size=3), json, max_size=3), st.dictionaries(st.text(max_size=3), json, max_size=3))
def test_keys_are_equal_only_for_equal_ingredients(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal ingredients in the same order have one key, different ones two."""
    assert keys.key_of(one) == keys.key_of(dict(one))
    if list(one.items()) != list(other.items()) and repr(one) != repr(other):
        assert keys.key_of(one) != keys.key_of(other)


def test_values_of_variables_are_not_kept() -> None:
    """What explains a miss holds names, not values."""
    found = keys.hashed(["TOKEN=s3cr3t", "EMPTY=", "BARE"])

    assert list(found) == ["TOKEN", "EMPTY", "BARE"]
    assert "s3cr3t" not in repr(found)
    assert found["EMPTY"] == found["BARE"]


BEFORE = {"parent": "p", "kind": "run", "text": ["sh", "-c", "x"], "env": {"A": "1", "B": "2"}, "user": ""}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "its cached layer is gone"),
        ({"parent": "q"}, "a step before it changed"),
        ({"parent": "q", "first": True}, "the base image changed"),
        ({"text": ["y"]}, "the instruction changed"),
        ({"user": "1"}, "its user changed"),
        ({"env": {"A": "1", "B": "3"}}, "the variable B changed"),
        ({"env": {"B": "2"}}, "the variable A changed"),
        ({"env": dict.fromkeys("ABCDE", "x")}, "the variables A, B, C and 2 more changed"),
        ({"kind": "copy"}, "the instruction changed"),
    ],
)
def test_reasons(change: dict[str, Any], reason: str) -> None:
    """The explanation names what is different, and nothing else."""
    place = Place(Remembered(), build="b", stage="s", number=1)
    place.remember(BEFORE, [])

    assert place.explain(BEFORE | change, []) == reason


def test_a_place_that_was_never_seen_has_no_reason() -> None:
    """The first time there is nothing to compare with; nor without a cache."""
    assert Place(Remembered(), build="b", stage="s", number=1).explain(BEFORE, []) == ""
    assert Place(None, build="b", stage="s", number=1).explain(BEFORE, []) == ""


def test_files_are_named() -> None:
    """Changed, new and missing files are named, a few of many."""
    cache = Remembered()
    place = Place(cache, build="b", stage="s", number=1)
    before = {"kind": "copy", "files": "d1"}
    place.remember(before, ["a\0f 1", "b\0f 1", *(f"x{number}\0f 1" for number in range(9))])

    after = ["a\0f 2", "c\0f 1", *(f"x{number}\0f 2" for number in range(9))]
    assert place.explain({"kind": "copy", "files": "d2"}, after) == (
        "a, x0, x1 and 7 more changed, c is new, b is gone"
    )
    cache[keys.LISTS, "d1"] = b"damaged"
    assert place.explain({"kind": "copy", "files": "d2"}, after) == "its files changed"


@given(st.integers(0, 253402300799 * 10**9))
def test_moments_are_rfc_3339(nanoseconds: int) -> None:
    """Times are UTC, with as many digits as needed, and come back."""
    from datetime import datetime, timezone

    text = moment(nanoseconds)

    assert text.endswith("Z")
    head = text.removesuffix("Z").partition(".")[0]
    parsed = datetime.fromisoformat(head).replace(tzinfo=timezone.utc)  # noqa: UP017  # 3.11 has UTC, mypy's target too
    assert int(parsed.timestamp()) == nanoseconds // 10**9


def test_a_later_build_removes_what_a_killed_one_left(root_dir: Path, run_dir: Path) -> None:
    """Folders and mounts whose lock nobody holds go; those of a living build stay."""
    from orlop.linux import mounts

    dead = run_dir / "build/dead"
    with Root.open(str(root_dir), str(run_dir)) as root, root.lease() as lease, root.lease() as other:
        snapshotter = snapshots.choose(root)
        with Workspace(root, snapshotter, lease) as living, living.scratch() as kept:
            (dead / "1/view").mkdir(parents=True)
            (run_dir / "build/dead.lock").write_text("")
            mounts.mount("tmpfs", str(dead / "1/view"), "tmpfs")
            with Workspace(root, snapshotter, other) as later, later.scratch() as folder:
                assert os.path.isdir(folder)
                assert not dead.exists()
                assert not (run_dir / "build/dead.lock").exists()
                assert os.path.isdir(kept)
        assert not [path for path in (run_dir / "build").iterdir() if path.is_dir()]
