"""Cache keys and what is kept under them.

A step's key is the sha256 of its ingredients, written as JSON: the state it starts from, what it does, and the contents
it takes. Ingredients are kept readable, so that a miss can be explained by comparing them with those of the last time.
What could be a secret (values of variables) is kept as a short hash only.
"""

from __future__ import annotations

import hashlib
import zlib

from orlop.errors import OrlopError
from orlop.oci import jsontext
from orlop.oci.digest import Digest
from orlop.store.images import LayerRef
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orlop.build.context import Cache

STEPS = "build.steps"  # key -> the result
PLACES = "build.places"  # a step's place in a Dockerfile -> the ingredients it had when it last ran
LISTS = "build.lists"  # digest of a selection -> its files, compressed
IMAGES = "build.images"  # key of a whole image -> when it was first built
VERSION = 1  # part of every key: raised when a step comes to mean something else
_SHOWN = 3  # names of files or variables in an explanation
_LIST_LIMIT = 64 << 20


class Result(Value):
    """What a step came to. `id` stands for the files after it; `layer` is None when it changed nothing."""

    id: str
    layer: LayerRef | None
    created: str  # RFC 3339


def key_of(ingredients: dict[str, Any]) -> str:
    """The key: 64 hexadecimal digits."""
    return hashlib.sha256(b"orlop-build-%d\n" % VERSION + jsontext.dumps(ingredients)).hexdigest()


def dump(result: Result) -> bytes:
    """A result as it is kept."""
    layer = result.layer
    packed = None if layer is None else [layer.diff_id, layer.digest, layer.size, layer.media_type]
    return jsontext.dumps({"id": result.id, "layer": packed, "created": result.created})


def load(data: bytes) -> Result | None:
    """The reverse of `dump`; None for what is no result (a cache may be damaged)."""
    try:
        value = jsontext.loads(data, what="a cached step")
        packed = value["layer"]
        layer = None
        if packed is not None:
            diff_id, digest, size, media_type = packed
            layer = LayerRef(
                diff_id=Digest.parse(str(diff_id)),
                digest=Digest.parse(str(digest)),
                size=int(size),
                media_type=str(media_type),
            )
        return Result(id=str(value["id"]), layer=layer, created=str(value["created"]))
    except (OrlopError, KeyError, TypeError, ValueError):
        return None


def hashed(entries: Sequence[str]) -> dict[str, str]:
    """`NAME=value` words as name -> short hash of the value: enough to say that a value changed, not what it is."""
    found = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        found[name] = hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return found


class Place:
    """Where a step stands, across builds: used only to explain misses."""

    def __init__(self, cache: Cache | None, *, build: str, stage: str, number: int) -> None:
        self._cache = cache
        self._key = hashlib.sha256(
            "\0".join((build, stage, str(number))).encode("utf-8", "surrogateescape")
        ).hexdigest()

    def remember(self, readable: dict[str, Any], files: Sequence[str]) -> None:
        """Keep what the step consists of now."""
        if self._cache is None:
            return
        self._cache.put(PLACES, self._key, jsontext.dumps(readable))
        digest = readable.get("files")
        if digest and files:
            text = "\n".join(files).encode("utf-8", "surrogateescape")
            self._cache.put(LISTS, digest, zlib.compress(text, 1))

    def explain(self, readable: dict[str, Any], files: Sequence[str]) -> str:
        """What is different from the last time, for people; "" when this place was never seen."""
        if self._cache is None:
            return ""
        data = self._cache.get(PLACES, self._key)
        if data is None:
            return ""
        try:
            before = jsontext.load_object(data, what="the ingredients of a step")
        except OrlopError:
            return ""
        reasons = _differences(before, readable)
        if before.get("files") != readable.get("files") and before.get("kind") == readable.get("kind"):
            reasons.append(self._changed(str(before.get("files") or ""), files))
        return "; ".join(reasons) or "its cached layer is gone"

    def _changed(self, digest: str, files: Sequence[str]) -> str:
        assert self._cache is not None
        packed = self._cache.get(LISTS, digest) if digest else None
        if packed is None:
            return "its files changed"
        try:
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(packed, _LIST_LIMIT).decode("utf-8", "surrogateescape")
        except zlib.error:
            return "its files changed"
        old = dict(line.partition("\0")[::2] for line in text.split("\n"))
        new = dict(line.partition("\0")[::2] for line in files)
        parts = []
        for word, names in (
            ("changed", [name for name in new if name in old and new[name] != old[name]]),
            ("new", [name for name in new if name not in old]),
            ("gone", [name for name in old if name not in new]),
        ):
            if names:
                parts.append(f"{_some(names)} {'is ' if word != 'changed' and len(names) == 1 else ''}{word}")
        return ", ".join(parts) or "its files changed"


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    if before.get("kind") != now.get("kind"):
        return ["the instruction changed"]
    reasons = []
    if before.get("parent") != now.get("parent"):
        reasons.append("a step before it changed" if not now.get("first") else "the base image changed")
    keys = [key for key in {**before, **now} if key not in {"parent", "kind", "files", "env", "first"}]
    changed = [key for key in keys if before.get(key) != now.get(key)]
    if changed:
        reasons.append("the instruction changed" if "text" in changed else f"its {' and '.join(changed)} changed")
    old, new = before.get("env"), now.get("env")
    if isinstance(old, dict) and isinstance(new, dict) and old != new:
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        reasons.append(
            f"the variable {names[0]} changed" if len(names) == 1 else f"the variables {_some(names)} changed"
        )
    return reasons


def _some(names: list[str]) -> str:
    shown = [name or "." for name in names[:_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
