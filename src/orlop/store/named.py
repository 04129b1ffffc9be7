"""Records that are one JSON object under a name in a namespace."""

from __future__ import annotations

from orlop.oci import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.store.database import Database


class NamedRecords:
    """A table of (namespace, name, record). A subclass says which."""

    _table = ""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, namespace: str, name: str, record: dict[str, Any]) -> None:
        """Record it, in place of what had the name."""
        self._database.execute(
            f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?, ?)",  # noqa: S608  # the table is a constant
            (namespace, name, jsontext.dumps(record).decode()),
        )

    def add(self, namespace: str, name: str, record: dict[str, Any]) -> bool:
        """Record it unless the name is taken; whether it was free."""
        return (
            self._database.execute(
                f"INSERT OR IGNORE INTO {self._table} VALUES (?, ?, ?)",  # noqa: S608  # same
                (namespace, name, jsontext.dumps(record).decode()),
            )
            > 0
        )

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The record, or None."""
        row = self._database.one(
            f"SELECT record FROM {self._table} WHERE namespace = ? AND name = ?",  # noqa: S608  # same
            (namespace, name),
        )
        return None if row is None else _value(row[0])

    def all(self, namespace: str) -> list[dict[str, Any]]:
        """All records of a namespace, by name."""
        rows = self._database.query(
            f"SELECT record FROM {self._table} WHERE namespace = ? ORDER BY name",  # noqa: S608  # same
            (namespace,),
        )
        return [_value(text) for (text,) in rows]

    def update(
        self, namespace: str, name: str, change: Callable[[dict[str, Any] | None], dict[str, Any]]
    ) -> dict[str, Any]:
        """Replace a record (None: there is none) by what `change` makes of it, with nobody else in between."""
        with self._database.writing():
            record = change(self.get(namespace, name))
            self.put(namespace, name, record)
        return record

    def delete(self, namespace: str, name: str) -> bool:
        """Forget it; whether it was known."""
        return (
            self._database.execute(
                f"DELETE FROM {self._table} WHERE namespace = ? AND name = ?",  # noqa: S608  # same
                (namespace, name),
            )
            > 0
        )


def _value(text: str) -> dict[str, Any]:
    return jsontext.load_object(text, what="a record", limit=1 << 30)
