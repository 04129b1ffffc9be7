"""What is kept of a container between commands: a folder of its own with config.json, state.json and the start barrier.

The folder is made first and removed last, and is locked by whoever changes the container's life. A folder without a
process and without a lock belongs to a creator that was killed: `create` takes it over, `delete` removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os

from orlop.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound
from orlop.linux import process
from orlop.oci import jsontext
from orlop.runtime import barrier
from orlop.runtime import exit as exits
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any, Self

VERSION = 1
_STATE = "state.json"
_CONFIG = "config.json"
_ID_LIMIT = 255
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"


def check_id(container_id: str) -> str:
    """The id itself, when it is one: letters, digits and "_+-.", not "." or "..", at most 255 characters."""
    if (
        not container_id
        or len(container_id) > _ID_LIMIT
        or container_id in (".", "..")
        or not _ID_CHARACTERS.issuperset(container_id)
    ):
        raise InvalidArgument(
            f"{container_id[:300]!r} is not a container id", hint="letters, digits and _ + - . are allowed"
        )
    return container_id


class Container(Value):
    """A container as its state.json has it. (pid, ticks) identify its init; pid 0 while it is being created."""

    id: str
    bundle: str
    pid: int = 0
    ticks: int = 0
    created: int = 0  # nanoseconds since the epoch
    rootfs: str = ""
    oci_version: str = ""
    cgroup: str = ""  # as linux.cgroups.Cgroup takes it; "" for none
    mounted: str = ""  # where its root is mounted on the host, without a mount namespace of its own
    mount_id: int = 0  # of that mount, from before it is mounted there: so what a killed maker left is known, too
    own_mounts: bool = True  # a mount namespace of its own: its root is that of the namespace
    own_pids: bool = True  # a PID namespace of its own: init's end is everybody's
    annotations: Mapping[str, str] = jsontext.EMPTY

    @property
    def alive(self) -> bool:
        """Whether init runs."""
        return self.pid > 0 and process.alive(self.pid, self.ticks)


class StateDirectory:
    """The folder of one container, open and (unless only read) locked. A context manager that unlocks."""

    __slots__ = ("_lock", "path")

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unlock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def read(self) -> Container:
        """The recorded container; NotFound when there is none yet."""
        return read(self.path)

    def write(self, container: Container) -> None:
        """Record `container`, at once and whole."""
        fields = {field: getattr(container, field) for field in container._fields}
        exits.write(self.path, _STATE, jsontext.dumps({"version": VERSION} | fields))

    def keep_config(self, data: bytes) -> None:
        """Keep the config.json that the container was made from: the bundle may be changed or removed later."""
        exits.write(self.path, _CONFIG, data)

    def remove(self) -> None:
        """Remove the folder; the container is no more."""
        for name in os.listdir(self.path):
            os.unlink(f"{self.path}/{name}")
        os.rmdir(self.path)
        self.close()


def directory_of(state_root: str, container_id: str) -> str:
    """Where the state of a container is."""
    return f"{state_root}/{check_id(container_id)}"


def claim(state_root: str, container_id: str) -> tuple[StateDirectory, Container | None]:
    """Make and lock the folder of a new container.

    AlreadyExists when there is one, unless its creator was killed before it was done: then the folder is taken
    over, and what was recorded is returned, for its remains to be removed.
    """
    path = directory_of(state_root, container_id)
    os.makedirs(state_root, mode=0o711, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        taken = AlreadyExists(
            f"container {container_id} exists already in {state_root}", hint="delete it first, or use another id"
        )
        try:
            found = lock(state_root, container_id)
        except (Conflict, NotFound) as error:
            raise taken from error
        old = _read_or_none(path)
        if old is not None and old.pid:
            found.close()
            raise taken from None
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
        return found, old
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return StateDirectory(path, fd), None


def lock(state_root: str, container_id: str, *, wait: bool = False) -> StateDirectory:
    """Open and lock the folder of an existing container: NotFound, or Conflict while another command changes it."""
    path = directory_of(state_root, container_id)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _no_container(state_root, container_id) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.fstat(fd).st_nlink == 0:
            raise _no_container(state_root, container_id)
    except OSError as error:
        os.close(fd)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise Conflict(
            f"container {container_id} is being changed by another command", hint="try again when it is done"
        ) from error
    except NotFound:
        os.close(fd)
        raise
    return StateDirectory(path, fd)


def _no_container(state_root: str, container_id: str) -> NotFound:
    return NotFound(f"container {container_id} does not exist in {state_root}")


def load(state_root: str, container_id: str) -> tuple[Container, str]:
    """A container and its folder, without locking; NotFound."""
    path = directory_of(state_root, container_id)
    found = _read_or_none(path)
    if found is None:
        if os.path.isdir(path):
            return Container(id=container_id, bundle=""), path
        raise _no_container(state_root, container_id)
    return found, path


def take_down(container: Container) -> None:
    """Unmount the container's root where the host sees it, unless somebody has done so. Nothing else is touched."""
    if not container.mounted:
        return
    from orlop.linux import mounts  # few containers have no mount namespace

    if any(entry.id == container.mount_id and entry.target == container.mounted for entry in mounts.mountinfo()):
        mounts.unmount(container.mounted, mounts.MNT_DETACH)


def read(path: str) -> Container:
    """The container recorded in the folder `path`; NotFound without a record."""
    found = _read_or_none(path)
    if found is None:
        raise NotFound(f"there is no container's state in {path}")
    return found


def _read_or_none(path: str) -> Container | None:
    try:
        with open(f"{path}/{_STATE}", "rb") as file:
            data = file.read(jsontext.DEFAULT_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    fields = jsontext.load_object(data, what=f"{path}/{_STATE}")
    if fields.pop("version", None) != VERSION:
        raise FailedPrecondition(
            f"{path} was written by another version of orlop", hint="use that version to delete the container"
        )
    known = {name: value for name, value in fields.items() if name in Container._fields}
    try:
        return Container(**known)
    except TypeError as error:
        raise FailedPrecondition(f"{path}/{_STATE} is damaged: {error}", hint="delete the folder") from error


def config(path: str) -> dict[str, Any]:
    """The config.json that the container was made from."""
    with open(f"{path}/{_CONFIG}", "rb") as file:
        return jsontext.load_object(file.read(), what=f"{path}/{_CONFIG}", limit=8 << 20)


def status(container: Container, path: str, *, frozen: bool = False) -> str:
    """The container's status word (runtime-spec, "State"), by evidence: is init alive, was it let go, is it frozen."""
    if not container.pid:
        return CREATING if _locked(path) else STOPPED
    if not container.alive:
        return STOPPED
    if barrier.waiting(path):
        return CREATED
    return PAUSED if frozen else RUNNING


def _locked(path: str) -> bool:
    """Whether somebody holds the folder's lock: its creator is at work."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def oci_state(container: Container, word: str) -> dict[str, Any]:
    """The state as the runtime-spec has it, for hooks and the `state` command."""
    found: dict[str, Any] = {
        "ociVersion": container.oci_version,
        "id": container.id,
        "status": word,
        "pid": 0 if word == STOPPED else container.pid,
        "bundle": container.bundle,
    }
    if container.annotations:
        found["annotations"] = dict(container.annotations)
    return found
