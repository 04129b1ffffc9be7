"""What a port proxy remembers: pure state, no sockets. `proxy` is the loop around it.

Imported by a bare interpreter (`-I -S`): built-in modules only.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from typing import Any

PIPE_LIMIT = 1 << 16
"""Bytes that one direction of a connection may hold back; the sender is not read from while more wait."""


class Pipe:
    """One direction of a connection: what was read from one side and must be written to the other.

    The end of the source (`feed(b"")`) reaches the sink once all before it is written: half-closed connections work.
    """

    __slots__ = ("_held", "ended", "shut")

    def __init__(self) -> None:
        self._held = b""
        self.ended = False  # the source will send no more
        self.shut = False  # the sink has been told so

    @property
    def wants_input(self) -> bool:
        """Whether the source should be read now. One piece at a time: that bounds memory and keeps order simple."""
        return not self._held and not self.ended

    @property
    def pending(self) -> bytes:
        """What the sink has not taken yet."""
        return self._held

    @property
    def must_shut(self) -> bool:
        """Whether it is time to tell the sink that no more comes."""
        return self.ended and not self._held and not self.shut

    def feed(self, data: bytes) -> None:
        """`data` was read from the source; empty: it has ended. Only when `wants_input`."""
        if not self.wants_input:
            raise ValueError("a pipe was fed although it wanted no input")
        if data:
            self._held = data
        else:
            self.ended = True

    def took(self, count: int) -> None:
        """The sink took `count` bytes of `pending`."""
        if not 0 <= count <= len(self._held):
            raise ValueError(f"a sink cannot take {count} of {len(self._held)} bytes")
        self._held = self._held[count:]

    def finish(self) -> None:
        """The sink was told that no more comes."""
        self.shut = True


class Sessions:
    """Who talks with whom over UDP, at most `limit` of them, each forgotten after `timeout` seconds of silence."""

    __slots__ = ("_limit", "_seen", "_timeout")

    def __init__(self, limit: int, timeout: float) -> None:
        self._limit = limit
        self._timeout = timeout
        # In order of last use: dicts keep order, and using an entry moves it to the end.
        self._seen: dict[Hashable, tuple[float, Any]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def use(self, key: Hashable, now: float) -> Any:
        """What is kept under `key`, which is from now on the most recently used; None for a stranger."""
        entry = self._seen.pop(key, None)
        if entry is None:
            return None
        self._seen[key] = (now, entry[1])
        return entry[1]

    def add(self, key: Hashable, kept: Any, now: float) -> Any:
        """Keep something under a new key; returns what had to make room for it: the one unused for longest."""
        evicted = None
        if len(self._seen) >= self._limit:
            _, evicted = self._seen.pop(next(iter(self._seen)))
        self._seen[key] = (now, kept)
        return evicted

    def drop(self, key: Hashable) -> Any:
        """Forget `key`."""
        entry = self._seen.pop(key, None)
        return None if entry is None else entry[1]

    def expire(self, now: float) -> Iterator[Any]:
        """Forget, and yield, all that were silent for the timeout."""
        while self._seen:
            key = next(iter(self._seen))
            used, kept = self._seen[key]
            if now - used < self._timeout:
                return
            del self._seen[key]
            yield kept

    def next_expiry(self, now: float) -> float:
        """Seconds until `expire` has something to do; -1 when nothing is kept (as epoll takes it)."""
        for used, _ in self._seen.values():
            return max(0.0, used + self._timeout - now)
        return -1
