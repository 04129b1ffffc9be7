"""Pins: content, layers and snapshots that a cache wants kept though no image or container needs them."""

from __future__ import annotations

import time

from orlop.errors import InvalidArgument
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.store.database import Database

KINDS = ("blob", "layer", "snapshot")


class Pin(Value):
    """One thing that `owner` (a cache's entry) keeps: a "blob" by digest, a "layer" or "snapshot" by key."""

    namespace: str
    owner: str
    kind: str
    key: str
    used: float  # Unix seconds


class Pins:
    """The table of pins. They last until dropped, over reboots; a lease is for the length of an operation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, namespace: str, owner: str, things: Iterable[tuple[str, str]]) -> None:
        """Keep `things` (kind, key) for `owner`, used now."""
        rows = [(namespace, owner, kind, key, time.time()) for kind, key in things]
        for _, _, kind, _, _ in rows:
            if kind not in KINDS:
                raise InvalidArgument(f"a {kind} cannot be pinned, only {', '.join(KINDS)}")
        with self._database.writing() as transaction:
            transaction.execute_all("INSERT OR REPLACE INTO pins VALUES (?, ?, ?, ?, ?)", rows)

    def all(self, namespace: str, owner: str = "") -> list[Pin]:
        """All pins of a namespace, least recently used first; with `owner` only its own."""
        rows = self._database.query(
            "SELECT namespace, owner, kind, key, used FROM pins WHERE namespace = ? AND ? IN ('', owner)"
            " ORDER BY used, owner",
            (namespace, owner),
        )
        return [Pin(namespace=row[0], owner=row[1], kind=row[2], key=row[3], used=row[4]) for row in rows]

    def drop(self, namespace: str, owner: str) -> bool:
        """Let go of all that `owner` keeps; whether there was something."""
        return self._database.execute("DELETE FROM pins WHERE namespace = ? AND owner = ?", (namespace, owner)) > 0
