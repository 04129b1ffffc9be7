"""Locks between processes (flock): they end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import os
import time

from orlop.errors import Conflict
from orlop.store import faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


_PATIENCE = 20
"""Milliseconds that `wait=False` waits all the same: who only looks whether a lock is held, holds it for an instant."""


class FileLock:
    """A lock on a file, made if missing. `with` it, or `acquire` and `release`.

    Two FileLocks on one file exclude each other within a process as well as between processes. The file stays, unless
    it is `removable`: then whoever holds it may remove or rename it, which gives the lock up; a lock won on a file that
    is gone counts for nothing. All users of one file must agree on that. A `fleeting` one is removable, and
    goes with the lock when it is exclusive: of all that was ever locked, no file is left.
    """

    def __init__(
        self,
        path: str,
        *,
        exclusive: bool = True,
        wait: bool = True,
        removable: bool = False,
        fleeting: bool = False,
        what: str = "",
    ) -> None:
        self._path = path
        self._how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        self._wait = wait
        self._removable = removable or fleeting
        self._fleeting = fleeting and exclusive
        self._owner = 0
        self._what = what or path
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock; Conflict if it is held and the lock was made not to wait."""
        while True:
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise faults.explained(error, f"lock {self._what}", self._path) from error
            try:
                self._flock(descriptor)
                if not self._removable or self._is_current(descriptor):
                    break
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        self._descriptor = descriptor
        self._owner = os.getpid()

    def _flock(self, descriptor: int) -> None:
        for left in range(_PATIENCE, -1, -1):
            try:
                fcntl.flock(descriptor, self._how if self._wait else self._how | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if not left:
                    raise Conflict(
                        f"{self._what} is in use by another process", hint="try again when it is done"
                    ) from error
                time.sleep(0.001)
            except OSError as error:
                raise faults.explained(error, f"lock {self._what}", self._path) from error
            else:
                return

    def _is_current(self, descriptor: int) -> bool:
        here = os.fstat(descriptor)
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def remove(self) -> None:
        """Remove the file of a removable lock that is held; from then on it excludes nobody."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return

    def detach(self) -> int:
        """Hand the locked descriptor to the caller, whose closing it gives the lock back."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._descriptor >= 0:
            # a fork only closes its copy, for the lock is its parent's; and who removed it already must not do it twice
            if self._fleeting and self._owner == os.getpid() and self._is_current(self._descriptor):
                self.remove()
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
