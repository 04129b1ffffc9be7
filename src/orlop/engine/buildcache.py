"""The build cache as something that takes space: what is in it, what of it can go, and how it is kept small.

A step's entry is its result (in cache.db), and the pin that keeps its layer; a cache mount's is its folder. What an
image uses as well is not the cache's alone, and dropping the entry frees none of it.
"""

from __future__ import annotations

import os
import time

from orlop.engine.requests import Prune, Removed
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.engine.core import Engine
    from orlop.engine.filters import Maker
    from orlop.engine.requests import Filter

_OWNER = "build:"  # how the pins of steps begin
_DAY = 86400.0
_UNUSED = 60 * _DAY  # BuildKit's default policy: what was not used for 60 days goes,
_SHARE = 10  # and what is more than a tenth of the disk
_LEAST = 2 << 30  # bytes that are kept however small the disk is
_TRIMS = "build.trims"  # cache.db's bucket that remembers when the cache was trimmed
_SHOWN = 25  # digits of a key: what people see


class Entry(Value):
    """One thing in the cache. `held` are the keys of what it pins; `size` is a mount's own bytes."""

    key: str
    kind: str  # docker's words: "regular" is a step, "exec.cachemount" a folder
    used: float  # Unix seconds, to the hour
    held: frozenset[str] = frozenset()
    size: int = 0


class Contents:
    """All entries, least recently used first, and what each thing that only they keep weighs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.entries = sorted([*self._steps(), *self._mounts()], key=lambda entry: entry.used)
        self._weights = self._weigh()

    def _steps(self) -> Iterable[Entry]:
        from orlop.build import keys

        root = self._engine.root
        used = {key: moment for key, _, moment in root.cache.items(keys.STEPS)}
        held: dict[str, set[str]] = {key: set() for key in used}
        for pin in root.state.pins.all(self._engine.settings.namespace):
            if pin.owner.startswith(_OWNER):
                key = pin.owner.removeprefix(_OWNER)
                held.setdefault(key, set()).add(pin.key)
                used[key] = max(used.get(key, 0.0), pin.used)
        return (Entry(key=key, kind="regular", used=used[key], held=frozenset(held[key])) for key in held)

    def _mounts(self) -> Iterable[Entry]:
        from orlop.build.caches import CacheMounts

        mounts = CacheMounts(root=self._engine.root)
        sizes = mounts.sizes()
        return (
            Entry(key=name, kind="exec.cachemount", used=used, size=sizes.get(name, 0))
            for name, used in mounts.used().items()
        )

    def _weigh(self) -> dict[str, int]:
        root = self._engine.root
        used = {
            key
            for record in root.state.images.all(self._engine.settings.namespace)
            for layer in record.layers
            for key in (layer.diff_id, layer.digest)
        }
        layers = {layer.key: layer.size for layer in root.state.layers.all()}
        only = {key for entry in self.entries for key in entry.held} - used
        return {key: layers.get(key, 0) or (root.content.size(key) if key in root.content else 0) for key in only}

    def size(self, entries: Iterable[Entry]) -> int:
        """The bytes that nothing but these entries keeps. Shared things count once."""
        held = {key for entry in entries for key in entry.held}
        return sum(self._weights.get(key, 0) for key in held) + sum(entry.size for entry in entries)

    def surplus(self, keep: int) -> list[Entry]:
        """The least recently used entries, as many as must go for the rest to take at most `keep` bytes."""
        left = self.size(self.entries)
        holders: dict[str, int] = {}
        for entry in self.entries:
            for key in entry.held:
                holders[key] = holders.get(key, 0) + 1
        gone: list[Entry] = []
        for entry in self.entries:
            if left <= keep:
                break
            for key in entry.held:
                holders[key] -= 1
            left -= entry.size + sum(self._weights.get(key, 0) for key in entry.held if not holders[key])
            gone.append(entry)
        return gone


def size(engine: Engine) -> tuple[int, int]:
    """Entries of the build cache that take space, and the bytes that only it keeps (what a prune of it would free)."""
    contents = Contents(engine)
    entries = [entry for entry in contents.entries if entry.held or entry.size]
    return len(entries), contents.size(entries)


def prune(engine: Engine, request: Prune) -> Removed:
    """Forget what `request` says of the build cache, and free what nothing else needs.

    Layers and cache mounts go. With `all` the results of steps are forgotten as well; else those stay known whose layer
    an image still has. `keep_storage` (bytes, unless 0) leaves that much of what was used last.
    """
    fits = _prune_test(request.filters)
    contents = Contents(engine)
    candidates = contents.surplus(request.keep_storage) if request.keep_storage else contents.entries
    return _drop(engine, [entry for entry in candidates if fits(entry)], results=request.all)


def _prune_test(filters: Iterable[Filter]) -> Callable[[Entry], bool]:
    from orlop.engine.filters import equal, judge, labels, starting, until

    none: dict[str, str] = {}
    age: dict[str, Maker[Entry]] = until(lambda entry: entry.used)
    known: dict[str, Maker[Entry]] = {
        **age,
        "unused-for": age["until"],
        **starting("id", lambda entry: entry.key),
        **equal("type", lambda entry: entry.kind, words=("regular", "exec.cachemount")),
        **labels(lambda _: none),  # no step has any: label= fits nothing here, and label!= everything
    }
    return judge(filters, known, what="prunes of the build cache")


def _drop(engine: Engine, entries: Iterable[Entry], *, results: bool) -> Removed:
    from orlop.build import keys
    from orlop.build.caches import CacheMounts
    from orlop.store.collect import collect

    root, namespace = engine.root, engine.settings.namespace
    mounts = CacheMounts(root=root)
    gone: list[str] = []
    freed = 0
    for entry in entries:
        if entry.kind == "exec.cachemount":
            space = mounts.remove(entry.key)
            if space < 0:
                continue  # a build uses it
            freed += space
        else:
            forgotten = results and root.cache.delete(keys.STEPS, entry.key)
            if not root.state.pins.drop(namespace, f"{_OWNER}{entry.key}") and not forgotten:
                continue
        gone.append(entry.key[:_SHOWN])
    return Removed(
        actions=tuple(("deleted build cache", key) for key in gone),
        reclaimed=freed + (collect(root).bytes if gone else 0),
    )


def trim(engine: Engine) -> Removed:
    """What keeps the cache small without being asked, after a build and at most once a day: BuildKit's default policy.

    What was not used for 60 days goes, then the least recently used of what is more than a tenth of the disk (but 2 GiB
    are always kept).
    """
    root = engine.root
    now = time.time()
    last = next((moment for key, _, moment in root.cache.items(_TRIMS) if key == "last"), 0.0)
    if now - last < _DAY:
        return Removed(actions=())
    root.cache.put(_TRIMS, "last", b"")
    if not last:  # a cache that is younger than a day
        return Removed(actions=())
    from orlop.build import context, keys

    for bucket in (keys.PLACES, keys.LISTS, keys.IMAGES, context.BUCKET):
        root.cache.drop_older(bucket, now - _UNUSED)
    old = [entry for entry in Contents(engine).entries if entry.used < now - _UNUSED]
    parts = [_drop(engine, old, results=True)]
    about = os.statvfs(root.path)
    keep = max(about.f_blocks * about.f_frsize // _SHARE, _LEAST)
    parts.append(_drop(engine, Contents(engine).surplus(keep), results=False))
    return Removed(
        actions=tuple(action for part in parts for action in part.actions),
        reclaimed=sum(part.reclaimed for part in parts),
    )
