"""Locks between processes (flock): they end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import os

from orlop.errors import Conflict
from orlop.store import faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class FileLock:
    """A lock on a file, made if missing and never removed. `with` it, or `acquire` and `release`.

    Two FileLocks on one file exclude each other within a process as well as between processes.
    """

    def __init__(self, path: str, *, exclusive: bool = True, wait: bool = True, what: str = "") -> None:
        self._path = path
        self._how = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        self._what = what or path
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock; Conflict if it is held and the lock was made not to wait."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise faults.explained(error, f"lock {self._what}", self._path) from error
        try:
            fcntl.flock(descriptor, self._how)
        except BlockingIOError as error:
            os.close(descriptor)
            raise Conflict(f"{self._what} is in use by another process", hint="try again when it is done") from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
