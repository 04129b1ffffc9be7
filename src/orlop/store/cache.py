"""cache.db: what can be computed again. Losing it, or finding it damaged, costs time and nothing else."""

from __future__ import annotations

import os
import time

from orlop.errors import DataLoss
from orlop.store.database import Database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    T = TypeVar("T")

_MIGRATIONS = (
    (
        """CREATE TABLE cache (
            bucket TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, used REAL NOT NULL,
            PRIMARY KEY (bucket, key)) WITHOUT ROWID""",
    ),
)
_TOUCH_SECONDS = 3600.0  # `used` is kept to the hour: a read should not cost a write each time
_AT_ONCE = 500  # keys in one query; SQLite's oldest limit of variables is 999


class Cache:
    """Bytes by bucket and key. Not durable, on purpose."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.database = Database(path, _MIGRATIONS, durable=False)

    def get(self, bucket: str, key: str) -> bytes | None:
        """The value, or None."""
        return self.get_many(bucket, (key,)).get(key)

    def get_many(self, bucket: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The values that are there, by key."""
        return self._mended(lambda: self._get_many(bucket, keys))

    def put(self, bucket: str, key: str, value: bytes) -> None:
        """Remember a value."""
        self.put_many(bucket, ((key, value),))

    def put_many(self, bucket: str, items: Iterable[tuple[str, bytes]]) -> None:
        """Remember many values, as one."""
        now = time.time()
        rows = [(bucket, key, value, now) for key, value in items]

        def write() -> None:
            with self.database.writing() as transaction:
                transaction.execute_all("INSERT OR REPLACE INTO cache VALUES (?, ?, ?, ?)", rows)

        self._mended(write)

    def items(self, bucket: str) -> list[tuple[str, bytes, float]]:
        """Everything in a bucket as (key, value, last used in Unix seconds to the hour), least recently used first."""
        rows = self._mended(
            lambda: self.database.query(
                "SELECT key, value, used FROM cache WHERE bucket = ? ORDER BY used, key", (bucket,)
            )
        )
        return [(key, value, used) for key, value, used in rows]

    def delete(self, bucket: str, key: str) -> bool:
        """Forget one value; whether it was known."""
        return (
            self._mended(lambda: self.database.execute("DELETE FROM cache WHERE bucket = ? AND key = ?", (bucket, key)))
            > 0
        )

    def delete_bucket(self, bucket: str) -> int:
        """Forget a whole bucket; returns the number of values."""
        return self._mended(lambda: self.database.execute("DELETE FROM cache WHERE bucket = ?", (bucket,)))

    def drop_older(self, bucket: str, before: float) -> int:
        """Forget what was last used before `before` (Unix seconds); returns the number of values."""
        return self._mended(
            lambda: self.database.execute("DELETE FROM cache WHERE bucket = ? AND used < ?", (bucket, before))
        )

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        self.database.close()

    def _get_many(self, bucket: str, keys: Sequence[str]) -> dict[str, bytes]:
        now = time.time()
        found: dict[str, bytes] = {}
        stale: list[tuple[float, str, str]] = []
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            for key, value, used in self.database.query(
                f"SELECT key, value, used FROM cache WHERE bucket = ? AND key IN ({marks})",  # noqa: S608  # marks only
                (bucket, *part),
            ):
                found[key] = value
                if used < now - _TOUCH_SECONDS:
                    stale.append((now, bucket, key))
        if stale:
            with self.database.writing() as transaction:
                transaction.execute_all("UPDATE cache SET used = ? WHERE bucket = ? AND key = ?", stale)
        return found

    def _mended(self, action: Callable[[], T]) -> T:
        """Do it; on a damaged file, start with an empty one and do it again."""
        try:
            return action()
        except DataLoss:
            self.database.close()
            for suffix in ("", "-wal", "-shm"):
                try:
                    os.unlink(self._path + suffix)
                except FileNotFoundError:
                    continue
            return action()
