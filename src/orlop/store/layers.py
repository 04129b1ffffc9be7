"""Unpacked layers: `root/layers/<short>/`, each recorded when it is whole."""

from __future__ import annotations

from orlop.oci.digest import Digest
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.store.database import Database, Row

_COLUMNS = "key, short, diff_id, chained, size, boot_id, settled"


class LayerRecord(Value):
    """One unpacked layer.

    `key` is its diffID, or the chainID of the stack up to it where it needs what is below it (`chained`). `short` names
    its folder. Unpacked trees are not fsynced: until `settled`, the tree is only trusted in the boot that wrote it.
    """

    key: str
    short: str
    diff_id: Digest
    chained: bool
    size: int  # bytes of all its files
    boot_id: str
    settled: bool

    def usable(self, boot_id: str) -> bool:
        """Whether the tree is surely whole: settled on the disk, or written since this boot."""
        return self.settled or self.boot_id == boot_id


class Layers:
    """The table of unpacked layers. Hold a layer with a lease before you look for it, or it may go meanwhile."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, record: LayerRecord) -> None:
        """Record a layer, in place of what was known under its key."""
        self._database.execute(
            f"INSERT OR REPLACE INTO layers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # constants only
            _row(record),
        )

    def add(self, record: LayerRecord) -> LayerRecord:
        """Record a layer unless one that is usable in `record`'s boot is known; returns the one that counts now.

        Of two processes that unpack the same layer, the second gets the first one's record, and discards its own tree.
        """
        with self._database.writing():
            known = self.get(record.key)
            if known is not None and known.usable(record.boot_id):
                return known
            self.put(record)
        return record

    def get(self, key: str) -> LayerRecord | None:
        """The layer with this key, or None."""
        row = self._database.one(f"SELECT {_COLUMNS} FROM layers WHERE key = ?", (key,))  # noqa: S608  # constants only
        return None if row is None else _record(row)

    def all(self) -> list[LayerRecord]:
        """All layers."""
        return [_record(row) for row in self._database.query(f"SELECT {_COLUMNS} FROM layers")]  # noqa: S608  # same

    def settle(self, keys: Iterable[str]) -> None:
        """Note that the trees of these layers are on the disk (after a syncfs)."""
        with self._database.writing() as transaction:
            transaction.execute_all("UPDATE layers SET settled = 1 WHERE key = ?", [(key,) for key in keys])

    def delete(self, key: str) -> bool:
        """Forget a layer; whether it was known. Its folder goes with the next collection."""
        return self._database.execute("DELETE FROM layers WHERE key = ?", (key,)) > 0


def _row(record: LayerRecord) -> tuple[object, ...]:
    return (
        record.key,
        record.short,
        record.diff_id,
        int(record.chained),
        record.size,
        record.boot_id,
        int(record.settled),
    )


def _record(row: Row) -> LayerRecord:
    return LayerRecord(
        key=row[0],
        short=row[1],
        diff_id=Digest.parse(row[2]),
        chained=bool(row[3]),
        size=row[4],
        boot_id=row[5],
        settled=bool(row[6]),
    )
