"""Snapshots: the writable parts of containers and build steps, `root/snapshots/<short>/`."""

from __future__ import annotations

from orlop.errors import AlreadyExists
from orlop.oci import jsontext
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.store.database import Database, Row


class SnapshotRecord(Value):
    """One writable tree on top of layers (their keys, lowest first).

    It lives as long as its `owner` is a container, or a lease holds its key or its owner, or a pin its key.
    """

    key: str
    short: str
    layers: tuple[str, ...]
    owner: str


class Snapshots:
    """The table of snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, record: SnapshotRecord) -> None:
        """Record a snapshot, in place of what was known under its key."""
        self._database.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", _row(record))

    def add(self, record: SnapshotRecord) -> None:
        """Record a snapshot; AlreadyExists if its key is taken."""
        with self._database.writing() as transaction:
            if transaction.one("SELECT 1 FROM snapshots WHERE key = ?", (record.key,)) is not None:
                raise AlreadyExists(f"there is a snapshot {record.key} already")
            transaction.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", _row(record))

    def get(self, key: str) -> SnapshotRecord | None:
        """The snapshot with this key, or None."""
        row = self._database.one("SELECT key, short, layers, owner FROM snapshots WHERE key = ?", (key,))
        return None if row is None else _record(row)

    def all(self) -> list[SnapshotRecord]:
        """All snapshots."""
        return [_record(row) for row in self._database.query("SELECT key, short, layers, owner FROM snapshots")]

    def delete(self, key: str) -> bool:
        """Forget a snapshot; whether it was known. Its folder goes with the next collection."""
        return self._database.execute("DELETE FROM snapshots WHERE key = ?", (key,)) > 0


def _row(record: SnapshotRecord) -> tuple[str, ...]:
    return (record.key, record.short, jsontext.dumps(list(record.layers)).decode(), record.owner)


def _record(row: Row) -> SnapshotRecord:
    layers = jsontext.loads(row[2], what="a snapshot's record")
    return SnapshotRecord(key=row[0], short=row[1], layers=tuple(layers), owner=row[3])
