"""Frames on a shim's socket: bytes in, frames out, no I/O (protocol version 1).

A frame is an eight-byte header, then its payload: one byte of kind, three zero bytes, the payload's length as a
big-endian 32-bit number. Kinds 0 to 2 are exactly the stream frames of the Docker Engine API's attach, so a face may
pass them on as they are; kinds from 16 are ours.

The monitor reads and writes these in a bare interpreter, so this module imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1

STDIN = 0
"""Client to shim: bytes for the container's standard input."""
STDOUT = 1
STDERR = 2
HELLO = 16
"""Both ways, first on every connection: a byte of version, and from a client a byte of WANT_* flags."""
CLOSE_STDIN = 17
"""Client to shim: nothing more will come on standard input."""
RESIZE = 18
"""Client to shim: rows and columns of the terminal, two big-endian 16-bit numbers."""
EXIT = 19
"""Shim to client: the exit record (JSON, `orlop.runtime.exit`); nothing but OK follows."""
SETTLED = 20
"""Client to shim, after EXIT: the client has cleaned up, the exit command need not run."""
EXEC = 21
"""Client to shim: start a program beside the container: NUL-separated name for the record, then argv."""
REOPEN_LOG = 22
"""Client to shim: the log was moved away, go on in a new file."""
OK = 23
"""Shim to client: the request was done; the payload is its answer (EXEC: the process id in decimal)."""
ERROR = 24
"""Shim to client: the request failed; the payload says why, in UTF-8."""
SIGNAL = 25
"""Client to shim: one byte, the number of a signal for the container's first process."""

WANT_OUTPUT = 1
"""HELLO flag: send STDOUT and STDERR."""
WANT_STDIN = 2
"""HELLO flag: this client's CLOSE_STDIN, or its leaving, ends a standard input that is meant for one client."""
WILL_SETTLE = 4
"""HELLO flag: this client cleans up after the exit and says SETTLED."""

KINDS = frozenset((*range(3), *range(16, 26)))
HEADER_SIZE = 8
MAX_PAYLOAD = 1 << 20
"""Bytes. More is a sign of a stream that is not ours."""


class FrameError(ValueError):
    """The peer sent what is no frame of this protocol; the connection must be closed."""


def encode(kind: int, payload: bytes = b"") -> bytes:
    """One frame as bytes; ValueError for a payload that is too long or a kind that is not known."""
    if kind not in KINDS or len(payload) > MAX_PAYLOAD:
        raise ValueError(f"no frame of kind {kind} with {len(payload)} bytes can be sent")
    return b"%c\0\0\0%b%b" % (kind, len(payload).to_bytes(4, "big"), payload)


def encode_stream(kind: int, data: bytes) -> bytes:
    """`data` of any length as as many frames as it takes (none for no data)."""
    if len(data) <= MAX_PAYLOAD:
        return encode(kind, data) if data else b""
    return b"".join(encode(kind, data[at : at + MAX_PAYLOAD]) for at in range(0, len(data), MAX_PAYLOAD))


def hello(wants: int = 0) -> bytes:
    """The first frame of a client (with its WANT_* flags), or of the shim (without)."""
    return encode(HELLO, bytes((VERSION, wants)))


def resize(rows: int, columns: int) -> bytes:
    """A RESIZE frame; numbers beyond 16 bits are clamped."""
    return encode(RESIZE, min(rows, 65535).to_bytes(2, "big") + min(columns, 65535).to_bytes(2, "big"))


class FrameReader:
    """Cuts a byte stream into frames. Feed it whatever arrives; it keeps what is not yet whole."""

    __slots__ = ("_rest",)

    def __init__(self, rest: bytes = b"") -> None:
        self._rest = rest

    @property
    def rest(self) -> bytes:
        """The bytes of a frame that has not fully arrived."""
        return self._rest

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that `data` completes, as (kind, payload). Raises FrameError for a stream that is not ours."""
        buffer = self._rest + data if self._rest else data
        at = 0
        try:
            while len(buffer) - at >= HEADER_SIZE:
                kind = buffer[at]
                length = int.from_bytes(buffer[at + 4 : at + 8], "big")
                if kind not in KINDS or buffer[at + 1 : at + 4] != b"\0\0\0" or length > MAX_PAYLOAD:
                    raise FrameError(f"not a frame: {buffer[at : at + HEADER_SIZE]!r}")
                if len(buffer) - at - HEADER_SIZE < length:
                    break
                at += HEADER_SIZE + length
                yield kind, buffer[at - length : at]
        finally:
            self._rest = buffer[at:]


def decode_hello(payload: bytes) -> tuple[int, int]:
    """(version, flags) of a HELLO; FrameError when it is empty. Bytes that a later version may add are ignored."""
    if not payload:
        raise FrameError("an empty HELLO")
    return payload[0], payload[1] if len(payload) > 1 else 0


def decode_resize(payload: bytes) -> tuple[int, int]:
    """(rows, columns) of a RESIZE; FrameError unless it is four bytes."""
    if len(payload) != 4:
        raise FrameError(f"a RESIZE of {len(payload)} bytes")
    return int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:], "big")
