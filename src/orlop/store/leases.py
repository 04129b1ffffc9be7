"""Leases: what an operation needs is not collected while it runs.

A lease is a file that its process keeps locked (flock): it ends with the process, however that ends. Every hold is a
line in it. Holding takes the collection lock shared for an instant, collecting takes it exclusively while it decides
and renames away: so after `hold` returned, a thing that is there stays there. Therefore: hold first, then look.
"""

from __future__ import annotations

import fcntl
import os

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.store import faults
from orlop.store.locks import FileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

KINDS = ("blob", "layer", "snapshot", "container")


class Lease:
    """Made by `Root.lease()`. `with` it; `hold` things; thread-safe.

    A layer or a snapshot may be held by its key, and by the name of its folder before there is a record of it.
    """

    def __init__(self, folder: str, gate: str) -> None:
        self.id = os.urandom(12).hex()
        self._path = f"{folder}/{self.id}"
        self._gate = gate
        self._held: set[tuple[str, str]] = set()
        self._descriptor = -1

    def __enter__(self) -> Self:
        # A collection that sees the file before it is locked would take it for a dead process'.
        with FileLock(self._gate, exclusive=False, what="the store for a lease"):
            try:
                self._descriptor = os.open(
                    self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
                )
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            except OSError as error:
                raise faults.explained(error, "take a lease", self._path) from error
        return self

    def hold(self, kind: str, key: str) -> None:
        """Keep the blob (by digest), layer, snapshot (by key or folder) or container (by id) until the lease ends.

        Nothing needs to be there yet.
        """
        self.hold_all(((kind, key),))

    def hold_all(self, things: Iterable[tuple[str, str]]) -> None:
        """Keep many things, as one."""
        if self._descriptor < 0:
            raise FailedPrecondition("this lease has ended")
        new = [thing for thing in things if thing not in self._held]
        if not new:
            return
        for kind, key in new:
            if kind not in KINDS or not key or not key.isprintable() or " " in key:
                raise InvalidArgument(f"a {kind} named {key!r} cannot be held", hint=f"kinds: {', '.join(KINDS)}")
        lines = "".join(f"{kind} {key}\n" for kind, key in new).encode()
        with FileLock(self._gate, exclusive=False, what="the store for a lease"):
            try:
                os.write(self._descriptor, lines)
            except OSError as error:
                raise faults.explained(error, "note a lease", self._path) from error
        self._held.update(new)

    def close(self) -> None:
        """End the lease: what only it kept goes with the next collection."""
        if self._descriptor >= 0:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def live(folder: str, *, reap: bool = True) -> set[tuple[str, str]]:
    """All that live leases hold; dead ones are removed if `reap`, for which the caller holds the collection lock."""
    held: set[tuple[str, str]] = set()
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            held.update(_read(descriptor))
        else:
            if reap:
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    continue
        finally:
            os.close(descriptor)
    return held


def _read(descriptor: int) -> Iterable[tuple[str, str]]:
    with open(descriptor, "rb", closefd=False) as file:
        for line in file.read().decode().splitlines():
            kind, _, key = line.partition(" ")
            yield kind, key
