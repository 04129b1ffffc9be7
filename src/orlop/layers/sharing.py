"""Files made by two threads: whoever reads the archive, and one beside, who takes over what is waiting.

Making a file is a few calls into the kernel, which take longer than all that is done about them here, and which two
threads can make at the same time. The reader never waits: what the other has no time for it does itself.
"""

from __future__ import annotations

import os
import threading
from collections import deque

from orlop.layers import faults
from orlop.linux import owners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from orlop.layers.tarentry import Buffer

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BATCH = 16  # files handed over at once: each handing over costs as much as a call
_BATCH_BYTES = 1 << 20
_WAITING = 2  # batches
_MANY = 4096  # names that are remembered as not known to be there yet


class File:
    """A regular file to be made: in the directory `parent` (a descriptor that stays open), called `name`.

    `path` is where that is in the tree, `shown` its name for errors. Inner-loop object.
    """

    __slots__ = ("amend", "mode", "mtime", "name", "owner", "parent", "path", "pieces", "shown")

    def __init__(
        self,
        parent: int,
        name: str,
        path: str,
        *,
        shown: str,
        mode: int,
        mtime: int,
        owner: tuple[int, int] | None,
        amend: bool,
        pieces: Sequence[Buffer],
    ) -> None:
        self.parent = parent
        self.name = name
        self.path = path
        self.shown = shown
        self.mode = mode
        self.mtime = mtime  # nanoseconds since the epoch
        self.owner = owner  # None: ours
        self.amend = amend  # creating it does not give it its mode
        self.pieces = pieces

    def make(self) -> None:
        """Make it. FileExistsError when something has its name; OSErrors are told with the name."""
        try:
            fd = os.open(self.name, CREATE, self.mode & 0o777, dir_fd=self.parent)
        except FileExistsError:
            raise
        except OSError as error:
            raise faults.from_os(error, f"unpack {self.shown!r}") from error
        try:
            self._fill(fd)
        except OSError as error:
            raise faults.from_os(error, f"unpack {self.shown!r}") from error
        finally:
            os.close(fd)

    def _fill(self, fd: int) -> None:
        for piece in self.pieces:
            wrote = os.write(fd, piece)
            while wrote < len(piece):
                wrote += os.write(fd, memoryview(piece)[wrote:])
        if self.owner is not None:
            owners.give(fd, *self.owner)
        # After the owner, because a change of owner clears set-ID bits.
        if self.amend:
            os.fchmod(fd, self.mode)
        os.utime(fd, ns=(self.mtime, self.mtime))


class Sharing:
    """Makes files, some of them later. `with` it; one thread calls its methods.

    Of one path, and of what is below it, nothing else may be done while it is `pending`: call `settle` first.
    """

    def __init__(self) -> None:
        self.pending: set[str] = set()  # paths that may not be there yet
        self._batch: list[File] = []
        self._bytes = 0
        self._waiting: deque[list[File]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._ended = False
        self._error: BaseException | None = None
        self._taken: list[File] = []  # their names were taken
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop: what was not made by now is not made. Afterwards no descriptor is in use."""
        with self._changed:
            self._waiting.clear()
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def add(self, file: File) -> bool:
        """Make the file, now or by the next `settle`; whether it is time for that."""
        self._batch.append(file)
        self._bytes += sum(map(len, file.pieces))
        self.pending.add(file.path)
        if len(self._batch) >= _BATCH or self._bytes >= _BATCH_BYTES:
            self._hand_over()
        return len(self.pending) >= _MANY

    def settle(self) -> list[File]:
        """Wait until all are made. Returns those whose names are taken by something else: they are not made yet."""
        if not self.pending:
            return []
        batch, self._batch, self._bytes = self._batch, [], 0
        self._make(batch)
        with self._changed:
            while (self._waiting or self._busy) and self._error is None:
                self._changed.wait()
            self._check()
            taken, self._taken = self._taken, []
        self.pending.clear()
        return taken

    def _hand_over(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="orlop-files", daemon=True)
            self._thread.start()
        with self._changed:
            self._check()
            if len(self._waiting) < _WAITING:
                self._waiting.append(batch)
                self._changed.notify_all()
                return
        self._make(batch)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _make(self, batch: list[File]) -> None:
        for file in batch:
            try:
                file.make()
            except FileExistsError:
                with self._changed:
                    self._taken.append(file)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = self._waiting.popleft()
                self._busy = True
            try:
                self._make(batch)
            except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
                with self._changed:
                    self._error = error
                    self._busy = False
                    self._waiting.clear()
                    self._changed.notify_all()
                return
