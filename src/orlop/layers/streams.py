"""Chunks passed between threads: bounded, so that memory stays small, and stopped promptly from either end.

hashlib, isal, zstandard, read and write release the interpreter lock, so stages of a flow run side by side although
this is one Python process.
"""

from __future__ import annotations

import threading
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Generic, Self, TypeVar

    Item = TypeVar("Item")
else:
    Item = None

    class Generic:  # noqa: D101  # stands in for typing's, which costs 9 ms to import
        def __class_getitem__(cls, _item: object) -> type:
            return cls


DEPTH = 8  # chunks between two stages; with 1 MiB chunks, at most this many MiB wait


class Stopped(Exception):  # not an error: the other side has gone
    """The reader of a pipe went away; the writer should end quietly."""


class Pipe(Generic[Item]):
    """A bounded queue with one writer and one reader, either of which may end it."""

    def __init__(self, depth: int = DEPTH) -> None:
        self._items: deque[Item] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._done = False  # the writer has finished
        self._closed = False  # the reader has gone
        self._error: BaseException | None = None

    def put(self, item: Item) -> None:
        """Hand `item` on, waiting while the pipe is full; Stopped when nobody reads any more."""
        with self._changed:
            while len(self._items) >= self._depth and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing more comes. The reader gets what is left, then the end, or `error`."""
        with self._changed:
            self._done = True
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """The reader wants no more: a waiting or later `put` raises Stopped."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Items until the writer finishes; raises its error in the reader's thread."""
        while True:
            with self._changed:
                while not self._items and not self._done and not self._closed:
                    self._changed.wait()
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class ReadAhead(Generic[Item]):
    """Runs an iterable in a thread of its own and iterates over what it makes; leaving the context stops the thread.

    An error of the iterable is raised where the items are read. The source must not block for ever: leaving waits until
    it hands over its next chunk.
    """

    def __init__(self, source: Iterable[Item], *, name: str, depth: int = DEPTH) -> None:
        self._source = source
        self._pipe: Pipe[Item] = Pipe(depth)
        self._thread = threading.Thread(target=self._run, name=f"orlop-{name}", daemon=True)

    def __enter__(self) -> Iterator[Item]:
        self._thread.start()
        return iter(self._pipe)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._thread.join()

    def _run(self) -> None:
        source = iter(self._source)
        try:
            for item in source:
                try:
                    self._pipe.put(item)
                except Stopped:
                    break
            self._pipe.finish()
        except BaseException as error:  # noqa: BLE001  # raised again by the reader, whatever it is
            self._pipe.finish(error)
        finally:
            # Generators hold files and sockets: close them in the thread that ran them, now, not when collected.
            close = getattr(source, "close", None)
            if close is not None:
                close()


class Aside(Generic[Item]):
    """Feeds items to `work` (a hash's update, a write) in a thread of its own while the caller goes on."""

    def __init__(self, work: Callable[[Item], object], *, name: str, depth: int = DEPTH) -> None:
        self._work = work
        self._pipe: Pipe[Item] = Pipe(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"orlop-{name}", daemon=True)

    def _run(self) -> None:
        try:
            for item in self._pipe:
                self._work(item)
        except BaseException as error:  # noqa: BLE001  # raised again by `put` or `finish`
            self._error = error
            self._pipe.close()

    def put(self, item: Item) -> None:
        """Queue `item`; raises what `work` raised on an earlier one."""
        try:
            self._pipe.put(item)
        except Stopped:
            self._thread.join()
            if self._error is not None:
                raise self._error from None
            raise

    def finish(self) -> None:
        """Wait until `work` has had every item; raises what it raised."""
        self._pipe.finish()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._pipe.close()
        self._pipe.finish()
        self._thread.join()
