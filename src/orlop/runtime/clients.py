"""One connection to a monitor: buffers and frames around a socket that never blocks.

Runs in the monitor's bare interpreter: nothing but built-in modules may be imported here.
"""

from __future__ import annotations

import os

from orlop.runtime import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HIGH_WATER = 1 << 20
"""Bytes waiting for a client beyond which the container's output is no longer read (as docker does)."""

_READ_SIZE = 1 << 16


class Client:
    """A connected client. `gone` is set when the socket ended or failed, or spoke another protocol."""

    __slots__ = ("fd", "flags", "gone", "greeted", "reader", "settled", "waiting")

    def __init__(
        self, fd: int, *, flags: int = 0, greeted: bool = False, unread: bytes = b"", waiting: bytes = b""
    ) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.flags = flags
        self.greeted = greeted
        self.reader = frames.FrameReader(unread)
        self.waiting = bytearray(waiting)
        self.gone = False
        self.settled = False

    def send(self, frame: bytes) -> None:
        """Queue a frame and write what the socket takes now."""
        if not self.gone:
            self.waiting += frame
            self.push()

    def push(self) -> None:
        """Write what waits, as far as the socket takes it."""
        try:
            while self.waiting:
                del self.waiting[: os.write(self.fd, self.waiting[:_READ_SIZE])]
        except BlockingIOError:
            return
        except OSError:
            self.gone = True
            self.waiting.clear()

    def receive(self) -> list[tuple[int, bytes]]:
        """The frames that have arrived. An error or a foreign protocol makes the client `gone`."""
        try:
            data = os.read(self.fd, _READ_SIZE)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.gone = True
            return []
        taken: list[tuple[int, bytes]] = []
        try:
            taken.extend(self.reader.feed(data))
            return [one for one in taken if self._greet(*one)]
        except frames.FrameError:
            self.gone = True
            return []

    def _greet(self, kind: int, payload: bytes) -> bool:
        """Whether a frame is for the monitor: the first must be HELLO, which is for us."""
        if kind == frames.HELLO and not self.greeted:
            version, self.flags = frames.decode_hello(payload)
            if version != frames.VERSION:
                self.send(
                    frames.encode(frames.ERROR, b"this container's shim speaks protocol version %d" % frames.VERSION)
                )
                self.gone = True
            self.greeted = True
            return False
        if not self.greeted:
            raise frames.FrameError("the first frame must be HELLO")
        return True

    @property
    def wants_output(self) -> bool:
        """Whether it asked for the container's output."""
        return self.greeted and bool(self.flags & frames.WANT_OUTPUT)

    @property
    def will_settle(self) -> bool:
        """Whether it promised to clean up after the exit."""
        return self.greeted and bool(self.flags & frames.WILL_SETTLE)

    def state(self) -> dict[str, Any]:
        """What `restore` needs in another interpreter, where the descriptor is still open."""
        return {
            "fd": self.fd,
            "flags": self.flags,
            "greeted": self.greeted,
            "unread": self.reader.rest,
            "waiting": bytes(self.waiting),
        }

    def close(self) -> None:
        """Close the connection."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def restore(state: dict[str, Any]) -> Client:
    """The Client whose `state()` this is."""
    return Client(
        state["fd"], flags=state["flags"], greeted=state["greeted"], unread=state["unread"], waiting=state["waiting"]
    )
