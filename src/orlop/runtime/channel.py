"""Talk between the process that makes a container and the one that becomes it: datagrams of JSON on a socket pair.

A peer that dies closes its end, so both sides notice at their next word.
"""

from __future__ import annotations

import _socket
import os
import sys

from orlop.errors import Internal
from orlop.oci import jsontext
from orlop.runtime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIZE = 1 << 16
MAX_FDS = 16
"""Descriptors that one message may carry."""


class Channel:
    """One end. `fd` is its descriptor. Messages are JSON objects, each at most 64 KiB, with up to 16 descriptors."""

    __slots__ = ("_socket", "fd")

    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self.fd = socket.fileno()

    def send(self, fds: tuple[int, ...] = (), /, **message: Any) -> None:
        """Send one message; BrokenPipeError or ConnectionError when the peer is gone."""
        data = jsontext.dumps(message)
        if len(data) > _SIZE:
            raise Internal(f"a message of {len(data)} bytes does not fit the channel")
        if fds:
            rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
            self._socket.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)], _socket.MSG_NOSIGNAL)
        else:
            self._socket.send(data, _socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The next message and its descriptors (close-on-exec). EOFError when the peer is gone."""
        space = _socket.CMSG_SPACE(4 * MAX_FDS)
        try:
            data, extra, flags, _ = self._socket.recvmsg(_SIZE, space, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise EOFError from error
        fds: list[int] = []
        for level, kind, content in extra:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fds += [int.from_bytes(content[at : at + 4], sys.byteorder) for at in range(0, len(content) - 3, 4)]
        if not data:
            raise EOFError
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            for fd in fds:
                os.close(fd)
            raise Internal("a message on the channel was cut")
        return jsontext.load_object(data, what="a message"), fds

    def expect(self, word: str) -> dict[str, Any]:
        """The next message, which must have the key `word`; a reported error is raised here."""
        message, fds = self.receive()
        for fd in fds:
            os.close(fd)
        if "error" in message:
            raise errors.of_fields(message)
        if word not in message:
            raise Internal(f"expected {word!r} on the channel, got {sorted(message)}")
        return message

    def finish(self, patience: float = 30.0) -> None:
        """Say that nothing more will come, and wait (seconds) until the peer has ended too; what it says is dropped."""
        try:
            self._socket.shutdown(_socket.SHUT_WR)
            self._socket.settimeout(patience)
            while self._socket.recv(_SIZE):
                continue
        except OSError:
            return  # it is gone, or does not hear: either way we have done our part

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
        self.fd = -1

    def detach(self) -> int:
        """Give the descriptor away; this object is closed."""
        return self._socket.detach()


def pair() -> tuple[Channel, Channel]:
    """Two connected ends, close-on-exec."""
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return Channel(one), Channel(other)


def of_fd(fd: int) -> Channel:
    """The channel whose end is descriptor `fd`, which it now owns."""
    return Channel(_socket.socket(fileno=fd))
