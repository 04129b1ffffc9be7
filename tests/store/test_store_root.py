"""The laws of roots, locks and databases."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from orlop.errors import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    NotFound,
    OrlopError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from orlop.store import database as database_module
from orlop.store import root as root_module
from orlop.store.database import Database
from orlop.store.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.store.conftest import Spawn

ONE = (("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT NOT NULL)",),)


@pytest.fixture
def root(root_dir: Path, run_dir: Path) -> Iterator[Root]:
    with Root.open(str(root_dir), str(run_dir)) as opened:
        yield opened


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(str(tmp_path / "x.db"), ONE, durable=True)
    yield opened
    opened.close()


def test_a_root_is_made_once_and_opened_by_many(root_dir: Path, run_dir: Path) -> None:
    """The folder appears with its version; opening again changes nothing, and many hold it at once."""
    with Root.open(str(root_dir), str(run_dir)) as first, Root.open(str(root_dir), str(run_dir)) as second:
        assert (root_dir / "VERSION").read_text() == "1\n"
        assert first.path == second.path == str(root_dir)
        assert first.boot_id == second.boot_id
        assert len(first.boot_id) == 36


def test_others_may_not_look_into_a_root(root: Root, root_dir: Path) -> None:
    """Nothing of a root is open to other users, least of all trees whose setuid programs they could run."""
    os.umask(os.umask(0o077))
    modes = {name: stat.S_IMODE((root_dir / name).stat().st_mode) for name in os.listdir(root_dir)}
    rooms = ("layers", "content", "leases", "trash", "snapshots", "containers", "volumes")
    assert {modes[name] for name in rooms} == {0o700}
    assert root.state.images.all("default") == []
    assert stat.S_IMODE((root_dir / "state.db").stat().st_mode) == 0o600


def test_a_newer_layout_is_refused(root_dir: Path, run_dir: Path) -> None:
    """The error names both versions and a way out, and nothing is touched."""
    Root.open(str(root_dir), str(run_dir)).close()
    (root_dir / "VERSION").write_text("7\n")
    with pytest.raises(FailedPrecondition, match=r"layout 7, this one knows 1") as caught:
        Root.open(str(root_dir), str(run_dir))
    assert "--root" in caught.value.hint
    assert (root_dir / "VERSION").read_text() == "7\n"


def test_an_older_layout_is_migrated_alone(root_dir: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step runs once, in order, while nobody else has the root open; the version follows every step."""
    steps: list[str] = []
    Root.open(str(root_dir), str(run_dir)).close()
    monkeypatch.setattr(root_module, "VERSION", 3)
    monkeypatch.setattr(root_module, "MIGRATIONS", {})
    with pytest.raises(FailedPrecondition, match="too old"):
        Root.open(str(root_dir), str(run_dir))

    def step(path: str) -> None:
        steps.append((root_dir / "VERSION").read_text().strip() + path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)

    monkeypatch.setattr(root_module, "MIGRATIONS", {1: step, 2: step})
    with Root.open(str(root_dir), str(run_dir)):
        assert steps == [f"1{root_dir}", f"2{root_dir}"]
        assert (root_dir / "VERSION").read_text() == "3\n"


def test_making_does_not_wait_for_those_who_use(root_dir: Path, run_dir: Path, spawn: Spawn) -> None:
    """Of many that open a new root at once and keep it open, none waits for another to close it."""
    code = (
        "import sys; from orlop.store.root import Root; root = Root.open(sys.argv[1], sys.argv[2]);"
        "print('open', flush=True); sys.stdin.readline()"
    )
    openers = [spawn(code, root_dir, run_dir) for _ in range(6)]
    assert [opener.stdout.readline() for opener in openers if opener.stdout] == ["open\n"] * 6


def test_a_migration_that_others_prevent_says_so(
    root_dir: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process has an older root open, migrating it is Conflict with a hint, and nothing changes."""
    with Root.open(str(root_dir), str(run_dir)):
        monkeypatch.setattr(root_module, "VERSION", 2)
        monkeypatch.setattr(root_module, "MIGRATIONS", {1: lambda _: None})
        monkeypatch.setattr(root_module, "_PATIENCE", 0.02)
        with pytest.raises(Conflict, match="other processes") as caught:
            Root.open(str(root_dir), str(run_dir))
        assert str(root_dir) in caught.value.hint
        assert (root_dir / "VERSION").read_text() == "1\n"


def test_a_folder_of_somebody_elses_is_left_alone(root_dir: Path, run_dir: Path) -> None:
    """A folder with other things in it does not become a store."""
    root_dir.mkdir()
    (root_dir / "thesis.tex").touch()
    with pytest.raises(FailedPrecondition, match="not empty"):
        Root.open(str(root_dir), str(run_dir))
    assert os.listdir(root_dir) == ["thesis.tex"]


def test_a_half_made_root_is_finished(root_dir: Path, run_dir: Path) -> None:
    """Killed while making it (no VERSION yet), the next opening goes on."""
    Root.open(str(root_dir), str(run_dir)).close()
    (root_dir / "VERSION").unlink()
    (root_dir / "trash").rmdir()
    with Root.open(str(root_dir), str(run_dir)) as root:
        root.content.put(b"x", "y")
        assert (root_dir / "trash").is_dir()


@pytest.mark.root
def test_another_users_folder_is_refused(root_dir: Path, run_dir: Path, tmp_path: Path) -> None:
    """A user who finds somebody else's folder at the path is told so (a run folder in /tmp may be a trap)."""
    tmp_path.chmod(0o777)
    for path in (*tmp_path.parents,):
        if path.stat().st_uid == os.getuid() and path.name.startswith("pytest"):
            path.chmod(0o755)
    run_dir.mkdir(mode=0o777)
    run_dir.chmod(0o777)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(12345)
            try:
                Root.open(str(root_dir), str(run_dir))
            except PermissionDenied as error:
                code = 0 if "belongs to user 0" in error.message else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(("kind", "name"), [("nfs", "NFS"), ("smb", "SMB"), ("9p", "9p")])
def test_network_file_systems_are_refused_by_name(
    root_dir: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    """Where locks do not hold, no store is opened; the hint is --root. No such mount is here: the answer is set."""
    from orlop.linux import files

    monkeypatch.setattr(files, "filesystem_of", lambda _: kind)
    monkeypatch.setattr(os, "major", lambda _: 0)
    with pytest.raises(FailedPrecondition, match=f"on {name}") as caught:
        Root.open(str(root_dir), str(run_dir))
    assert "--root" in caught.value.hint


def test_locks_exclude_each_other_and_may_be_shared(root: Root) -> None:
    """An exclusive lock excludes all; shared ones go together; names with slashes are names."""
    with root.lock("a/b"):
        with pytest.raises(Conflict, match="a/b"), root.lock("a/b", wait=False):
            pass
        with root.lock("c", wait=False):
            pass
    with (
        root.lock("a/b", exclusive=False),
        root.lock("a/b", exclusive=False, wait=False),
        pytest.raises(Conflict),
        root.lock("a/b", wait=False),
    ):
        pass


def test_a_lock_is_real_although_its_file_may_be_removed(root: Root) -> None:
    """Threads that increment a counter under a lock while its file is removed again and again lose no increment."""
    counter = [0]

    def work() -> None:
        for _ in range(200):
            with root.lock("counter") as lock:
                before = counter[0]
                os.sched_yield()
                counter[0] = before + 1
                if before % 3 == 0:
                    lock.remove()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter == [800]


def test_a_killed_holder_frees_its_lock(root: Root, spawn: Spawn) -> None:
    """A lock ends with its process."""
    code = (
        "import sys, time; from orlop.store.root import Root; root = Root.open(sys.argv[1], sys.argv[2]);"
        "lock = root.lock('x'); lock.acquire(); print('held', flush=True); time.sleep(600)"
    )
    holder = spawn(code, root.path, root.run_path)
    assert holder.stdout
    holder.stdout.readline()
    with pytest.raises(Conflict), root.lock("x", wait=False):
        pass
    holder.kill()
    holder.communicate()
    with root.lock("x", wait=False):
        pass


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    """An exception undoes everything, also what inner transactions did; without one everything is there."""

    def fail() -> None:
        with database.writing() as outer:
            outer.execute("INSERT INTO t VALUES (1, 'a')")
            with database.writing() as inner:
                inner.execute("INSERT INTO t VALUES (2, 'b')")
            assert len(outer.query("SELECT * FROM t")) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert database.query("SELECT * FROM t") == []
    with database.writing() as outer, database.writing() as inner:
        inner.execute_all("INSERT INTO t VALUES (?, ?)", [(1, "a"), (2, "b")])
        assert outer.one("SELECT count(*) FROM t") == (2,)
    assert database.execute("DELETE FROM t") == 2


def test_a_reader_sees_one_state(database: Database, tmp_path: Path) -> None:
    """Inside `reading`, what others commit is not seen, and nothing can be changed."""
    other = Database(str(tmp_path / "x.db"), ONE, durable=False)
    with database.reading() as reader:
        assert reader.query("SELECT * FROM t") == []
        other.execute("INSERT INTO t VALUES (1, 'a')")
        assert reader.query("SELECT * FROM t") == []
        with pytest.raises(FailedPrecondition):
            database.execute("DELETE FROM t")
    assert len(database.query("SELECT * FROM t")) == 1
    other.close()


def test_threads_share_a_database(database: Database) -> None:
    """Increments by many threads, each in a transaction, are all there."""
    database.execute("INSERT INTO t VALUES (1, '0')")

    def work() -> None:
        for _ in range(50):
            with database.writing() as transaction:
                row = transaction.one("SELECT v FROM t WHERE k = 1")
                assert row
                transaction.execute("UPDATE t SET v = ? WHERE k = 1", (str(int(row[0]) + 1),))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.one("SELECT v FROM t") == ("200",)


COUNT = """
import sys
from orlop.store.database import Database
database = Database(sys.argv[1], (("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT NOT NULL)",),), durable=True)
for _ in range(25):
    with database.writing() as t:
        row = t.one("SELECT v FROM t WHERE k = 1")
        t.execute("INSERT OR REPLACE INTO t VALUES (1, ?)", (str(int(row[0]) + 1 if row else 1),))
    database.close()
"""


def test_processes_share_a_database(tmp_path: Path, spawn: Spawn) -> None:
    """Six processes that make, open, change and close the same new database lose nothing and never see it locked."""
    workers = [spawn(COUNT, tmp_path / "x.db") for _ in range(6)]
    assert [worker.communicate(timeout=240) for worker in workers] == [("", "")] * 6
    database = Database(str(tmp_path / "x.db"), ONE, durable=True)
    assert database.one("SELECT v FROM t") == (str(6 * 25),)
    database.close()


def test_a_database_survives_a_fork(database: Database) -> None:
    """A child that uses the inherited object gets a connection of its own, even if a thread held the lock then."""
    database.execute("INSERT INTO t VALUES (1, 'parent')")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with database.reading():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(240)
        code = 1
        try:
            assert database.query("SELECT v FROM t") == [("parent",)]
            database.execute("INSERT INTO t VALUES (2, 'child')")
            database.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    done.set()
    thread.join()
    assert database.query("SELECT v FROM t ORDER BY k") == [("parent",), ("child",)]


def test_a_closed_database_opens_again(root: Root, root_dir: Path) -> None:
    """After `disconnect` no descriptor of it is open; the next use opens it; inside a transaction it is refused."""
    root.state.volumes.put("default", "v", {"a": 1})
    root.cache.put("b", "k", b"v")
    root.disconnect()
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert not [path for path in open_files if path.startswith(str(root_dir)) and ".db" in path]
    assert root.state.volumes.get("default", "v") == {"a": 1}
    with root.state.writing(), pytest.raises(FailedPrecondition, match="inside a transaction"):
        root.disconnect()


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_opening_costs_three_statements(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is to be migrated, a command pays for three pragmas."""
    database.query("SELECT 1")
    database.close()
    statements: list[str] = []

    class Counting(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            statements.append(sql)
            return super().execute(sql, *rest)

    monkeypatch.setattr(
        "orlop.store.database.engine.connect", lambda path, **how: sqlite3.connect(path, factory=Counting, **how)
    )
    database.query("SELECT 1")
    assert len(statements) == 4, statements


def test_schemas_are_migrated_in_order_and_newer_ones_refused(tmp_path: Path) -> None:
    """An older file gains the missing steps and keeps its rows; a failing step changes nothing; newer is refused."""
    path = str(tmp_path / "x.db")
    first = Database(path, ONE, durable=True)
    first.execute("INSERT INTO t VALUES (1, 'a')")
    first.close()
    broken = Database(path, (*ONE, ("ALTER TABLE t ADD COLUMN w", "nonsense")), durable=True)
    with pytest.raises(OrlopError):
        broken.query("SELECT 1")
    second = Database(path, (*ONE, ("ALTER TABLE t ADD COLUMN w",)), durable=True)
    assert second.query("SELECT k, v, w FROM t") == [(1, "a", None)]
    second.close()
    with pytest.raises(FailedPrecondition, match="schema 2, this one knows 1"):
        first.query("SELECT 1")


def test_a_stopped_writer_is_named_as_the_cause(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits too long for the write lock gets Unavailable with a hint."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.05)
    other = Database(str(tmp_path / "x.db"), ONE, durable=True)
    with database.writing(), pytest.raises(Unavailable, match="locked by another process"):
        other.execute("DELETE FROM t")
    other.execute("DELETE FROM t")
    other.close()


def test_a_damaged_database_is_said_so(tmp_path: Path) -> None:
    """What is no database is DataLoss with a hint; a damaged cache is simply begun again."""
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    with pytest.raises(DataLoss, match="damaged") as caught:
        Database(str(tmp_path / "x.db"), ONE, durable=True).query("SELECT 1")
    assert caught.value.hint


def test_a_damaged_cache_is_begun_again(root: Root, root_dir: Path) -> None:
    """Losing the cache costs time and nothing else."""
    (root_dir / "cache.db").write_bytes(b"not a database" * 100)
    assert root.cache.get("bucket", "key") is None
    root.cache.put("bucket", "key", b"value")
    assert root.cache.get("bucket", "key") == b"value"


@pytest.mark.root
def test_a_full_disk_is_said_so_by_the_database(tmp_path: Path) -> None:
    """SQLITE_FULL is ResourceExhausted, nothing of the transaction stays, and afterwards the database works."""
    from orlop.linux import mounts

    place = tmp_path / "small"
    place.mkdir()
    mounts.mount("tmpfs", str(place), "tmpfs", 0, "size=1m")
    try:
        database = Database(str(place / "x.db"), ONE, durable=True)
        database.execute("INSERT INTO t VALUES (1, 'a')")
        rows = [(number, "x" * 10_000) for number in range(2, 1000)]
        with pytest.raises(ResourceExhausted, match="full"), database.writing() as transaction:
            transaction.execute_all("INSERT INTO t VALUES (?, ?)", rows)
        assert database.query("SELECT v FROM t") == [("a",)]
        database.close()
    finally:
        mounts.unmount(str(place))


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    """A database in a folder that is not there is NotFound with the path."""
    with pytest.raises(NotFound, match=r"nowhere/x\.db"):
        Database(str(tmp_path / "nowhere/x.db"), ONE, durable=True).query("SELECT 1")


def test_a_short_command_imports_little() -> None:
    """Opening a root and finding an image needs none of the modules that cost milliseconds."""
    code = (
        "import sys, tempfile; before = set(sys.modules); from orlop.store.root import Root\n"
        "with tempfile.TemporaryDirectory() as t, Root.open(t + '/root', t + '/run') as root:\n"
        "    root.state.images.names('default'); root.state.containers.all(); root.lease().__enter__().close()\n"
        "heavy = 'typing re json dataclasses enum pathlib subprocess logging socket argparse urllib datetime hashlib'\n"
        "heavy += ' sqlite3 threading ipaddress contextlib shutil tempfile ctypes asyncio'\n"
        "print([name for name in heavy.split() if name in set(sys.modules) - before])\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True, env={"PYTHONPATH": path}
    )
    assert done.stdout.strip() == "[]"


def test_relaxed_commits_do_not_wait_and_others_do(database: Database) -> None:
    """Inside `relaxed` this thread's commits are whole but not waited for; outside they are; a reader never changes it."""
    database.execute("INSERT INTO t VALUES (1, 'a')")
    assert database.one("PRAGMA synchronous") == (2,)  # FULL
    with database.relaxed():
        with database.relaxed():
            database.execute("INSERT INTO t VALUES (2, 'b')")
        database.execute("INSERT INTO t VALUES (3, 'c')")
        assert database.one("PRAGMA synchronous") == (1,)  # NORMAL
    with database.relaxed(on=False):
        database.execute("INSERT INTO t VALUES (4, 'd')")
    assert database.one("PRAGMA synchronous") == (2,)
    assert database.query("SELECT k FROM t ORDER BY k") == [(1,), (2,), (3,), (4,)]


def test_a_database_that_was_left_is_whole(tmp_path: Path) -> None:
    """A process that leaves without closing loses nothing: its log is there, and the next one reads it."""
    path = str(tmp_path / "x.db")
    program = (
        "import os, sys; from orlop.store.database import Database\n"
        "d = Database(sys.argv[1], (('CREATE TABLE t (k)',),), durable=True)\n"
        "d.execute('INSERT INTO t VALUES (7)'); d.leave(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)
    assert os.path.getsize(f"{path}-wal") > 0
    after = Database(path, (("CREATE TABLE t (k)",),), durable=True)
    assert after.query("SELECT k FROM t") == [(7,)]
    after.close()


def test_sqlite_loads_alone_and_leaves_no_stand_in() -> None:
    """The database brings neither functools nor collections along, and functools is the real one afterwards."""
    program = (
        "import sys, orlop.store.database\n"
        "assert not {'functools', 'collections'} & sys.modules.keys(), sys.modules.keys()\n"
        "import functools; functools.partial(int)"
    )
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}"], check=True
    )
