"""The root: one folder that holds everything orlop keeps, and one that dies at boot.

root/VERSION, content/, layers/, snapshots/, containers/, volumes/, state.db, cache.db
root/leases/, trash/, collect.lock
run/locks/
"""

from __future__ import annotations

import fcntl
import os
import time
from _thread import allocate_lock

from orlop.errors import Conflict, FailedPrecondition, PermissionDenied
from orlop.linux import wholefile
from orlop.store import faults
from orlop.store.content import LAYOUT, ContentStore
from orlop.store.locks import FileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from orlop.store.cache import Cache
    from orlop.store.leases import Lease
    from orlop.store.state import State

VERSION = 1
"""The layout of the folder that this orlop writes."""

MIGRATIONS: dict[int, Callable[[str], None]] = {}
"""By layout version: what brings a root of that version (its path) to the next one. Run under the exclusive lock."""

UNSAFE = {"nfs": "NFS", "smb": "SMB", "9p": "9p", "afs": "AFS"}
"""File systems on which flock or SQLite's shared memory do not hold between clients."""

_PATIENCE = 20.0
"""Seconds for which a migration waits for others to be done with the root."""

_FOLDERS = (
    # What is in a container's tree or volume belongs to whoever is root inside: with a setuid program there and a way
    # to it, any user of the host would be root. Containers get descriptors and need no way.
    ("snapshots", 0o700),
    ("containers", 0o700),
    ("volumes", 0o700),
    ("layers", 0o700),
    ("content", 0o700),
    ("content/blobs", 0o700),
    ("content/blobs/sha256", 0o700),
    ("content/ingest", 0o700),
    ("leases", 0o700),
    ("trash", 0o700),
)


class Root:
    """An open root. Every one holds the root's lock shared, so that a migration waits for all to be closed."""

    def __init__(self, path: str, run_path: str, descriptor: int) -> None:
        self.path = path
        self.run_path = run_path
        self.content = ContentStore(f"{path}/content")
        self._descriptor = descriptor
        self._state: State | None = None
        self._cache: Cache | None = None
        self._boot_id = ""
        self._opening = allocate_lock()

    @classmethod
    def open(cls, path: str, run_path: str) -> Root:
        """Open the root at `path`, made if it is missing; a layout of an older version is migrated.

        FailedPrecondition for a newer layout, and for file systems that cannot hold a store; PermissionDenied for
        somebody else's folders.
        """
        path, run_path = os.path.abspath(path), os.path.abspath(run_path)
        try:
            os.makedirs(path, mode=0o711, exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise faults.explained(error, "open the store", path) from error
        try:
            _check_owner(path, os.fstat(descriptor))
            _check_filesystem(path, os.fstat(descriptor).st_dev)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            while _version(path) != VERSION:
                _bring_up(path, descriptor)
            _prepare_run(run_path)
        except OSError as error:
            os.close(descriptor)
            raise faults.explained(error, "open the store", path) from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, run_path, descriptor)

    @property
    def state(self) -> State:
        """state.db."""
        if self._state is None:
            from orlop.store.state import State  # SQLite costs 4 ms, and not every command asks it

            with self._opening:
                if self._state is None:
                    self._state = State(f"{self.path}/state.db")
        return self._state

    @property
    def cache(self) -> Cache:
        """cache.db."""
        if self._cache is None:
            from orlop.store.cache import Cache  # only builds use it

            with self._opening:
                if self._cache is None:
                    self._cache = Cache(f"{self.path}/cache.db")
        return self._cache

    @property
    def boot_id(self) -> str:
        """The kernel's name for this boot."""
        if not self._boot_id:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                self._boot_id = file.read().strip()
        return self._boot_id

    def lock(self, name: str, *, exclusive: bool = True, wait: bool = True) -> FileLock:
        """A lock by name among all processes of this root: `with root.lock("container-..."): ...`.

        If not `wait`, entering raises Conflict when it is held. Not reentrant.
        """
        path = f"{self.run_path}/locks/{name.replace('/', '%')}"
        return FileLock(path, exclusive=exclusive, wait=wait, fleeting=True, what=name)

    def lease(self) -> Lease:
        """A new lease, to be entered with `with`."""
        from orlop.store.leases import Lease  # listings need none

        return Lease(f"{self.path}/leases", self.collect_lock)

    @property
    def collect_lock(self) -> str:
        """The file that is locked shared to hold something, exclusively to collect."""
        return f"{self.path}/collect.lock"

    def fresh_folder(self, room: str, lease: Lease) -> str:
        """Make an empty folder in "layers" or "snapshots", held by the lease under its name, which is returned."""
        short = os.urandom(8).hex()
        lease.hold(room.removesuffix("s"), short)
        os.mkdir(f"{self.path}/{room}/{short}", 0o700)
        return short

    def write_index(self) -> None:
        """Write content/index.json anew from the names, so that other tools can read the layout by name.

        Called after names change. Not durable: it is derived, and every collection writes it again.
        """
        from orlop.store.index import write_index  # only who changes names needs it

        write_index(self)

    def disconnect(self) -> None:
        """Close the databases; they reopen when used. Called before every fork."""
        if self._state is not None:
            self._state.database.close()
        if self._cache is not None:
            self._cache.close()

    def close(self, *, ending: bool = False) -> None:
        """Let go of everything; the root cannot be used any more. `ending`: so does the process, which is quicker."""
        if ending and self._state is not None:
            self._state.database.leave()
        self.disconnect()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_owner(path: str, about: os.stat_result) -> None:
    if os.geteuid() and about.st_uid != os.geteuid():
        raise PermissionDenied(
            f"{path} belongs to user {about.st_uid}, and you are {os.geteuid()}",
            hint="choose folders of your own with --root and --run-root",
        )


def _check_filesystem(path: str, device: int) -> None:
    if os.major(device):
        return  # a disk: network file systems have no device
    from orlop.linux.files import filesystem_of  # reads the mount table; most roots are on a disk

    kind = filesystem_of(path)
    if kind in UNSAFE:
        raise FailedPrecondition(
            f"{path} is on {UNSAFE[kind]}, where locks do not hold: several commands at once would damage the store",
            hint="keep the store on a local disk, with --root or ORLOP_ROOT",
        )


def _version(path: str) -> int | None:
    try:
        with open(f"{path}/VERSION", "rb") as file:
            text = file.read(64).strip()
    except FileNotFoundError:
        return None
    if not text.isdigit():
        raise FailedPrecondition(
            f"{path}/VERSION is {text[:20]!r}, not a layout's number", hint="this folder is no store: choose --root"
        )
    found = int(text)
    if found > VERSION:
        raise FailedPrecondition(
            f"the store at {path} was written by a newer orlop (layout {found}, this one knows {VERSION})",
            hint="use that orlop again, or another store with --root",
        )
    return found


def _bring_up(path: str, descriptor: int) -> None:
    """Make or migrate, alone; or find that somebody else did. The shared lock is held before and after, not between.

    Not by waiting for the exclusive lock: who made the root meanwhile may hold it shared for days.
    """
    deadline = time.monotonic() + _PATIENCE
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    try:
        while _version(path) != VERSION:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise Conflict(
                        f"the store at {path} must be brought to layout {VERSION}, but other processes use it",
                        hint=f"end them first (fuser {path} shows them), or choose another store with --root",
                    ) from error
                time.sleep(0.005)
                continue
            _make_or_migrate(path)
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def _make_or_migrate(path: str) -> None:
    found = _version(path)
    if found is None:
        _make(path)
        return
    for version in range(found, VERSION):
        migrate = MIGRATIONS.get(version)
        if migrate is None:
            raise FailedPrecondition(
                f"the store at {path} has layout {version}, which is too old to be brought to {VERSION}",
                hint="start a new one with --root, and pull or load the images again",
            )
        migrate(path)
        _write_durably(f"{path}/VERSION", f"{version + 1}\n".encode())


def _make(path: str) -> None:
    strangers = [name for name in os.listdir(path) if name not in ("lost+found", *(name for name, _ in _FOLDERS))]
    if strangers and not os.path.exists(f"{path}/content/oci-layout"):
        raise FailedPrecondition(
            f"{path} is not empty and is no store of orlop's (it has {strangers[0]!r})", hint="choose an empty --root"
        )
    for name, mode in _FOLDERS:
        try:
            os.mkdir(f"{path}/{name}", mode)
        except FileExistsError:
            continue
        os.chmod(f"{path}/{name}", mode)  # the umask may have taken too much
    os.close(os.open(f"{path}/collect.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _write_durably(f"{path}/content/oci-layout", LAYOUT)
    _write_durably(f"{path}/content/index.json", b'{"schemaVersion":2,"manifests":[]}')
    _write_durably(f"{path}/VERSION", f"{VERSION}\n".encode())


def _prepare_run(path: str) -> None:
    locks = f"{path}/locks"
    try:
        about = os.stat(locks)
    except FileNotFoundError:
        os.makedirs(path, mode=0o711, exist_ok=True)
        _check_owner(path, os.stat(path))
        os.makedirs(locks, mode=0o700, exist_ok=True)
        return
    _check_owner(locks, about)


def _write_durably(path: str, data: bytes) -> None:
    wholefile.write(path, data, mode=0o644, durable=True)
