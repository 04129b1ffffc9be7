"""The build cache as something that takes space."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

import orlop
from orlop.engine import buildcache
from orlop.engine.requests import Filter, Prune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orlop.engine.core import Engine

DAY = 86400.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine on an empty root."""
    with orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run")) as opened:
        yield opened


def build(engine: Engine, folder: Path, name: str) -> str:
    """An image of one layer, 1 MB of noise; its name is all that keeps it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(os.urandom(1_000_000))
    built = engine.builds.build(
        orlop.Build(context=str(folder), dockerfile_text=f"FROM scratch\nCOPY {name} /\n", tags=("made",))
    )
    return str(built.id)


def age(engine: Engine, days: float) -> None:
    """Let all that the cache knows now have been used that long ago."""
    engine.root.cache.database.execute("UPDATE cache SET used = used - ?", (days * DAY,))
    engine.root.state.database.execute("UPDATE pins SET used = used - ?", (days * DAY,))


def forget_images(engine: Engine) -> None:
    """Leave the layers to the cache alone."""
    engine.images.remove(orlop.RemoveImage(image="made", force=True))
    engine.images.prune()


def test_what_an_image_needs_is_not_the_caches(engine: Engine, tmp_path: Path) -> None:
    """A layer that an image has too takes no space of the cache's; when the image goes, it does."""
    build(engine, tmp_path / "context", "a")
    assert buildcache.size(engine) == (1, 0)
    forget_images(engine)
    entries, size = buildcache.size(engine)
    assert entries == 1
    assert size > 1_000_000


def test_a_prune_frees_what_the_cache_says_it_keeps(engine: Engine, tmp_path: Path) -> None:
    """After a prune nothing is left, and as many bytes came free as `size` promised (or the disk's blocks, more)."""
    build(engine, tmp_path / "context", "a")
    forget_images(engine)
    _, size = buildcache.size(engine)
    removed = engine.builds.prune(Prune(all=True))
    assert [action for action, _ in removed.actions] == ["deleted build cache"]
    assert removed.reclaimed >= size
    assert buildcache.size(engine) == (0, 0)


def test_until_keeps_what_was_used_since(engine: Engine, tmp_path: Path) -> None:
    """`until` and `unused-for` name the age that entries must have to go."""
    build(engine, tmp_path / "context", "old")
    age(engine, 3)
    build(engine, tmp_path / "context", "new")
    assert buildcache.size(engine)[0] == 2
    assert not engine.builds.prune(Prune(all=True, filters=(Filter(key="unused-for", value="96h"),))).actions
    removed = engine.builds.prune(Prune(all=True, filters=(Filter(key="until", value="48h"),)))
    assert len(removed.actions) == 1
    assert buildcache.size(engine)[0] == 1


def test_keep_storage_leaves_what_was_used_last(engine: Engine, tmp_path: Path) -> None:
    """Of what is too much the least recently used goes first."""
    for name in ("a", "b", "c"):
        build(engine, tmp_path / "context", name)
        age(engine, 1)
    forget_images(engine)
    newest = buildcache.Contents(engine).entries[-1]
    size = buildcache.size(engine)[1]
    removed = engine.builds.prune(Prune(keep_storage=size // 3 + 100))
    assert len(removed.actions) == 2
    kept = [entry for entry in buildcache.Contents(engine).entries if entry.held]
    assert [entry.key for entry in kept] == [newest.key]
    assert buildcache.size(engine)[1] <= size // 3 + 100


def test_cache_mounts_go_with_the_cache(engine: Engine, tmp_path: Path) -> None:
    """A folder of RUN --mount=type=cache is an entry: counted, filtered by kind, pruned; but not while a build uses it."""
    folder = tmp_path / "root" / "build" / "cache" / "0123456789abcdef"
    engine.root.cache.get("make", "the root")
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * 10_000)
    assert buildcache.size(engine)[0] == 1
    assert not engine.builds.prune(Prune(filters=(Filter(key="type", value="regular"),))).actions
    with engine.root.lock("build-cache-0123456789abcdef", exclusive=False):
        assert not engine.builds.prune().actions
    removed = engine.builds.prune()
    assert removed.reclaimed >= 10_000
    assert not folder.exists()


def test_the_cache_trims_itself(engine: Engine, tmp_path: Path) -> None:
    """Once a day at most, what nobody used for 60 days goes, results and explanations too; the rest stays."""
    build(engine, tmp_path / "context", "old")
    age(engine, 61)
    forget_images(engine)
    build(engine, tmp_path / "context", "new")  # trims: the last time was 61 days ago
    assert buildcache.size(engine)[0] == 1
    limit = time.time() - 30 * DAY
    stale = "SELECT COUNT(*) FROM cache WHERE used < ?"
    assert list(engine.root.cache.database.query(stale, (limit,))) == [(0,)]

    age(engine, 0.5)
    engine.root.state.database.execute("UPDATE pins SET used = 0", ())
    engine.root.cache.database.execute("UPDATE cache SET used = 0 WHERE bucket = 'build.steps'", ())
    assert not buildcache.trim(engine).actions, "half a day has passed"
    age(engine, 1)
    assert len(buildcache.trim(engine).actions) == 1
