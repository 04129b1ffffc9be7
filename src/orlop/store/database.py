"""SQLite as the rooms use it: one connection a process, short transactions, errors with a way out."""

from __future__ import annotations

import os
import stat
import time
from _thread import RLock, get_ident

from orlop.errors import DataLoss, FailedPrecondition, Internal, PermissionDenied, ResourceExhausted, Unavailable
from orlop.store import faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3 as engine
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Any, Self, TypeAlias

    from orlop.errors import OrlopError

    Row: TypeAlias = tuple[Any, ...]
    Values: TypeAlias = Sequence[object] | dict[str, object]
    # for `?` in order, or `:name`; numbered ones (?1) are an error from Python 3.14 on
else:
    from orlop.store import sqlite

    engine = sqlite.load()

BUSY_SECONDS = 60.0
"""How long a writer waits for its turn. Transactions take milliseconds: this long one waits for a stopped process."""

# sqlite3.h: primary result codes
_BUSY, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 8, 10, 11, 13, 14, 26

_SHORT_LOG = 400_000
"""Bytes of log that a process may leave behind. Who opens the file after it reads all of them: 0.1 ms."""

_abandoned: list[engine.Connection] = []
"""Connections that are never used again, and never closed: inherited through a fork (closing would touch the parent's
files), or left as they are by a process that ends."""


class Database:
    """One SQLite file with a versioned schema. Safe to share between threads, and to inherit through a fork.

    `migrations[n]` holds the statements that bring version n to n + 1; the file's version is their number. `durable`
    decides whether a commit waits for the disk.
    """

    def __init__(self, path: str, migrations: Sequence[Sequence[str]], *, durable: bool) -> None:
        self.path = path
        self._migrations = migrations
        self._durable = durable
        self._lock = RLock()
        self._connection: engine.Connection | None = None
        self._pid = os.getpid()
        self._depth = 0
        self._reads = False
        self._relaxed: set[int] = set()  # threads whose commits need not wait
        self._synchronous = ""

    def query(self, statement: str, values: Values = ()) -> list[Row]:
        """All rows of a SELECT."""
        with self._own_lock():
            try:
                return self._connected().execute(statement, values).fetchall()
            except engine.Error as error:
                raise self._explained(error) from error

    def one(self, statement: str, values: Values = ()) -> Row | None:
        """The first row of a SELECT, or None."""
        with self._own_lock():
            try:
                row: Row | None = self._connected().execute(statement, values).fetchone()
            except engine.Error as error:
                raise self._explained(error) from error
            return row

    def writing(self) -> Transaction:
        """A context in which this thread alone may change the database; committed at its end, undone by an exception.

        Inside another one it joins that: everything is committed, or nothing.
        """
        return Transaction(self, "BEGIN IMMEDIATE")

    def reading(self) -> Transaction:
        """A context in which all queries see one and the same state."""
        return Transaction(self, "BEGIN")

    def execute(self, statement: str, values: Values = ()) -> int:
        """Change something, in a transaction of its own unless one is open; returns the number of rows changed."""
        with self.writing() as transaction:
            return transaction.execute(statement, values)

    def relaxed(self, on: bool = True) -> Relaxed:  # a switch, so that the caller needs no two ways
        """A context in which this thread's commits do not wait for the disk.

        A crash of the machine (not of the process) may undo the last of them, as if it had come a moment earlier: they
        go in order, none in part, and whoever commits durably takes those before it along. Nothing if not `on`.
        """
        return Relaxed(self._relaxed, on)

    def leave(self) -> None:
        """As `close`, for a process that ends now: a short log stays for the next one, and nobody waits for the disk.

        The last one to close brings the log into the file and removes it, for which the disk is waited for four times,
        the making of a new one included. That alone keeps logs short, as before: it is done when nobody else has the
        file open. More checkpoints beside writers are no way: before SQLite 3.51.3 they can lose commits.
        """
        with self._own_lock():
            if self._connection is None or self._depth:
                return
            try:
                short = os.stat(f"{self.path}-wal").st_size <= _SHORT_LOG
            except FileNotFoundError:
                short = False
            if short:
                _abandoned.append(self._connection)
                self._connection = None
        self.close()

    def seal(self) -> None:
        """Commit once, though nothing changes: after this, no change that a killed process left half made comes back.

        Who is killed in the middle of a commit may have written all of it to the log, but announced it to nobody. It
        is not there for those who have the file open, and there again when the last of them is gone and the next one
        recovers the log. Whoever acts on what is not there must overwrite it first.
        """
        self.execute(f"PRAGMA user_version = {len(self._migrations)}")

    def close(self) -> None:
        """Let go of the file; the next use opens it again. FailedPrecondition inside a transaction."""
        with self._own_lock():
            connection = self._connection
            if connection is None:
                return
            if self._depth:
                raise FailedPrecondition(f"{self.path} cannot be closed inside a transaction")
            self._connection = None
            try:
                connection.close()
            except engine.Error as error:
                raise self._explained(error) from error

    def _own_lock(self) -> RLock:
        """The lock; in a forked child a new one (a thread that is not there may hold the old one) and no connection."""
        if self._pid != os.getpid():
            if self._connection is not None:
                _abandoned.append(self._connection)
            self._connection = None
            self._depth = 0
            self._lock = RLock()
            self._pid = os.getpid()
        return self._lock

    def _connected(self) -> engine.Connection:
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> engine.Connection:
        """Two statements where nothing is to be done: what is not stored in the file, and its version."""
        try:
            # SQLite would create it with the umask's mode. It must not be opened here: closing any descriptor of a file
            # gives back all the POSIX locks that this process has on it, those of other connections too.
            os.mknod(self.path, 0o600 | stat.S_IFREG)
        except FileExistsError:
            pass
        except OSError as error:
            raise faults.explained(error, "open the database", self.path) from error
        connection = engine.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            self._synchronous = "FULL" if self._durable else "OFF"
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            version = _patiently(connection, "PRAGMA user_version").fetchone()[0]
            if version != len(self._migrations):
                self._migrate(connection)
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: engine.Connection) -> None:
        """Bring the schema up to date. Several processes may try at once: the first one does it."""
        _patiently(connection, "PRAGMA journal_mode = WAL")
        _patiently(connection, "BEGIN IMMEDIATE")
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(self._migrations):
                raise self._too_new(version)  # everything below BEGIN ends in ROLLBACK when it fails
            for step in self._migrations[version:]:
                for statement in step:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(self._migrations)}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _too_new(self, version: int) -> OrlopError:
        return FailedPrecondition(
            f"{self.path} was written by a newer orlop (schema {version}, this one knows {len(self._migrations)})",
            hint="use that orlop again, or another --root",
        )

    def _reading_only(self) -> OrlopError:
        return FailedPrecondition(f"{self.path} cannot be changed inside a reading transaction")

    def _begin(self, how: str) -> engine.Connection:
        lock = self._own_lock()
        lock.acquire()
        try:
            connection = self._connected()
            if self._depth == 0:
                if how != "BEGIN":
                    self._pace(connection)
                _patiently(connection, how)
                self._reads = how == "BEGIN"
            elif self._reads and how != "BEGIN":
                raise self._reading_only()  # the lock is given back below, whatever fails
        except engine.Error as error:
            lock.release()
            raise self._explained(error) from error
        except BaseException:
            lock.release()
            raise
        self._depth += 1
        return connection

    def _pace(self, connection: engine.Connection) -> None:
        """Have the commit of the transaction that begins now wait for the disk, or not."""
        if self._durable:
            wanted = "NORMAL" if get_ident() in self._relaxed else "FULL"
            if wanted != self._synchronous:
                connection.execute(f"PRAGMA synchronous = {wanted}")
                self._synchronous = wanted

    def _end(self, *, commit: bool) -> None:
        try:
            self._depth -= 1
            if self._depth or self._connection is None:
                return
            try:
                # SQLite itself rolls back when the disk is full; then there is nothing to undo.
                if commit:
                    self._connection.execute("COMMIT")
                elif self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            except engine.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise self._explained(error) from error
        finally:
            self._lock.release()

    def _explained(self, error: engine.Error) -> OrlopError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == _FULL or (code == _IOERR and faults.is_full(self.path)):  # no room for its log is an I/O error
            return ResourceExhausted(
                f"cannot write {self.path}: the disk is full ({faults.free_space(self.path)} free)",
                hint="free some space there: a few hundred kilobytes are enough for `orlop system prune` to free more",
            )
        if code == _BUSY:
            return Unavailable(
                f"{self.path} has been locked by another process for {BUSY_SECONDS:.0f} s",
                hint="another orlop is stopped in the middle of its work: see `ps`, let it go on or end it",
            )
        if code in (_CORRUPT, _NOTADB):
            return DataLoss(
                f"{self.path} is damaged: {error}",
                hint="move it away to start with an empty one; blobs stay in content/, so pulling again is quick",
            )
        if code in (_READONLY, _CANTOPEN):
            return PermissionDenied(
                f"cannot open {self.path} for writing: {error}",
                hint="this store belongs to another user, or is mounted read-only: choose one with --root",
            )
        if code == _IOERR:
            return Unavailable(
                f"the disk failed under {self.path}: {error}", hint="look at the kernel's log (dmesg) for the cause"
            )
        return Internal(f"{self.path}: {error}")


class Transaction:
    """What `Database.writing` and `reading` give."""

    __slots__ = ("_connection", "_database", "_how")

    def __init__(self, database: Database, how: str) -> None:
        self._database = database
        self._how = how
        self._connection: engine.Connection | None = None

    def __enter__(self) -> Self:
        self._connection = self._database._begin(self._how)  # noqa: SLF001  # two halves of one thing
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection = None
        self._database._end(commit=kind is None)  # noqa: SLF001  # two halves of one thing

    def execute(self, statement: str, values: Values = ()) -> int:
        """Change something; returns the number of rows changed."""
        assert self._connection is not None
        try:
            return self._connection.execute(statement, values).rowcount
        except engine.Error as error:
            raise self._database._explained(error) from error  # noqa: SLF001  # two halves of one thing

    def execute_all(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """The same change for many rows."""
        assert self._connection is not None
        try:
            self._connection.executemany(statement, rows)
        except engine.Error as error:
            raise self._database._explained(error) from error  # noqa: SLF001  # two halves of one thing

    def query(self, statement: str, values: Values = ()) -> list[Row]:
        """All rows of a SELECT, as this transaction sees them."""
        return self._database.query(statement, values)

    def one(self, statement: str, values: Values = ()) -> Row | None:
        """The first row of a SELECT, as this transaction sees it."""
        return self._database.one(statement, values)


class Relaxed:
    """What `Database.relaxed` gives."""

    __slots__ = ("_on", "_threads")

    def __init__(self, threads: set[int], on: bool) -> None:  # as `relaxed` has it
        self._threads = threads
        self._on = on and get_ident() not in threads  # inside another one there is nothing to do

    def __enter__(self) -> None:
        if self._on:
            self._threads.add(get_ident())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on:
            self._threads.discard(get_ident())


def _patiently(connection: engine.Connection, statement: str) -> engine.Cursor:
    """Execute, waiting also where SQLite answers "busy" without waiting itself (recovery and closing of the log)."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return connection.execute(statement)
        except engine.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != _BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.002)
