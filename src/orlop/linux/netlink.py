"""Netlink by hand: messages, attributes, acknowledgements, and a socket that sends many requests in one go.

The wire (netlink(7), include/uapi/linux/netlink.h): a message is a 16-byte header (length, type, flags, sequence, port)
and a payload; attributes are (u16 length, u16 type, value) padded to 4 bytes. Everything here but `Netlink` is pure.
`orlop.linux.route` speaks rtnetlink over it, `orlop.linux.nftables` nfnetlink.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

from orlop.linux.sockets import AF_NETLINK, RAW, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

ROUTE = 0
NETFILTER = 12

F_REQUEST = 0x1
F_ACK = 0x4
F_ROOT = 0x100
F_MATCH = 0x200
F_DUMP = F_ROOT | F_MATCH
F_REPLACE = 0x100
F_EXCL = 0x200
F_CREATE = 0x400
F_APPEND = 0x800

ERROR = 2  # the type of acknowledgements, good and bad
_NOOP, _DONE, _OVERRUN = 1, 3, 4
_F_DUMP_INTR = 0x10
_F_CAPPED = 0x100
_F_ACK_TLVS = 0x200
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 10, 11
_EXTACK_MESSAGE = 1
_RECEIVE_SIZE = 1 << 17  # a dump's datagram is at most 32 KiB; nf_tables errors come many in one
_BUFFER_SIZE = 1 << 20
_SO_RCVBUFFORCE = 33
_ATTEMPTS = 8

_header = struct.Struct("=IHHII")
_attribute = struct.Struct("=HH")
_u16 = struct.Struct("=H")
_u32 = struct.Struct("=I")
_s32 = struct.Struct("=i")


class NetlinkError(OSError):
    """The kernel refused one request: `errno` is its reason, the text what was asked and the kernel's own words."""

    def __init__(self, code: int, doing: str, explanation: str = "") -> None:
        why = f" ({explanation})" if explanation else ""
        super().__init__(code, f"{doing}: {os.strerror(code)}{why}")
        self.doing = doing
        self.explanation = explanation

    def __reduce__(self) -> tuple[type[NetlinkError], tuple[int, str, str]]:
        return type(self), (self.errno or 0, self.doing, self.explanation)


class Request:
    """One message to be sent: its type, its flags (F_REQUEST is added), its payload, and in words what it is for."""

    __slots__ = ("doing", "flags", "kind", "payload", "tolerated")

    def __init__(
        self, kind: int, payload: bytes, doing: str, *, flags: int = 0, tolerated: tuple[int, ...] = ()
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.payload = payload
        self.doing = doing
        self.tolerated = tolerated  # error numbers that are as good as success


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    size = 4 + len(value)
    return _attribute.pack(size, kind) + value + b"\0" * (-size % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    """A one-byte attribute."""
    return attribute(kind, bytes((value,)))


def u32(kind: int, value: int) -> bytes:
    """A 32-bit attribute in the machine's byte order (rtnetlink)."""
    return attribute(kind, _u32.pack(value))


def be32(kind: int, value: int) -> bytes:
    """A 32-bit attribute in network byte order (nfnetlink); negative numbers as two's complement."""
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def be64(kind: int, value: int) -> bytes:
    """A 64-bit attribute in network byte order (nfnetlink)."""
    return attribute(kind, value.to_bytes(8, "big"))


def attribute_list(data: bytes) -> list[tuple[int, bytes]]:
    """The attributes in `data`, in order, flags removed from their types; OSError(EBADMSG) when they do not add up."""
    found: list[tuple[int, bytes]] = []
    position, end = 0, len(data)
    while position + 4 <= end:
        size, kind = _attribute.unpack_from(data, position)
        if size < 4 or position + size > end:
            raise OSError(errno.EBADMSG, f"a netlink attribute claims {size} bytes where {end - position} are left")
        found.append((kind & _TYPE_MASK, data[position + 4 : position + size]))
        position += size + (-size % 4)
    return found


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by type; of repeated ones the last."""
    return dict(attribute_list(data))


def string(value: bytes) -> str:
    """The text in a string attribute."""
    return value.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """A whole message, padded."""
    size = 16 + len(payload)
    return _header.pack(size, kind, flags, sequence, 0) + payload + b"\0" * (-size % 4)


class Answer:
    """One message from the kernel, taken apart."""

    __slots__ = ("flags", "kind", "payload", "sequence")

    def __init__(self, kind: int, flags: int, sequence: int, payload: bytes) -> None:
        self.kind = kind
        self.flags = flags
        self.sequence = sequence
        self.payload = payload


def answers(data: bytes) -> list[Answer]:
    """The messages in one datagram; OSError(EBADMSG) when their lengths do not add up."""
    found: list[Answer] = []
    position, end = 0, len(data)
    while position + 16 <= end:
        size, kind, flags, sequence, _ = _header.unpack_from(data, position)
        if size < 16 or position + size > end:
            raise OSError(errno.EBADMSG, f"a netlink message claims {size} bytes where {end - position} are left")
        found.append(Answer(kind, flags, sequence, data[position + 16 : position + size]))
        position += size + (-size % 4)
    return found


def verdict(answer: Answer) -> tuple[int, str]:
    """(error number, 0 for success; the kernel's explanation) of an acknowledgement (struct nlmsgerr, extack)."""
    if len(answer.payload) < 4:
        raise OSError(errno.EBADMSG, "a netlink acknowledgement is shorter than its error number")
    code = -_s32.unpack_from(answer.payload)[0]
    explanation = ""
    if answer.flags & _F_ACK_TLVS and answer.kind == ERROR and len(answer.payload) >= 20:
        echoed = _u32.unpack_from(answer.payload, 4)[0]
        skip = 20 if answer.flags & _F_CAPPED else 4 + max(echoed, 16) + (-echoed % 4)
        explanation = string(attributes(answer.payload[skip:]).get(_EXTACK_MESSAGE, b""))
    return code, explanation


class Netlink:
    """A netlink socket in the network namespace of the thread that makes it. Close it, or use it in a `with`."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, protocol: int) -> None:
        self._socket = Socket(AF_NETLINK, RAW, protocol)
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                self._try_option(_SOL_NETLINK, option, 1)
        except BaseException:
            self._socket.close()
            raise

    def _try_option(self, level: int, option: int, value: int) -> None:
        try:
            self._socket.setsockopt(level, option, value)
        except OSError as error:
            if error.errno not in {errno.ENOPROTOOPT, errno.EPERM}:
                raise

    def widen(self) -> None:
        """Make room for many acknowledgements (a large nf_tables batch)."""
        self._try_option(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_SIZE)

    def close(self) -> None:
        """Close the socket; a second time is harmless."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def number(self, count: int = 1) -> int:
        """Set aside `count` sequence numbers and return the first."""
        first = self._sequence + 1
        self._sequence += count
        return first

    def send(self, data: bytes) -> None:
        """Send whole messages in one datagram."""
        self._socket.send(data)

    def receive(self) -> list[Answer]:
        """The messages of the next datagram."""
        return answers(self._socket.recv(_RECEIVE_SIZE))

    def request(self, requests: Sequence[Request]) -> list[list[bytes]]:
        """Send all `requests` in one datagram, wait for every acknowledgement, return each one's answers (payloads).

        The kernel goes on after a refused request. The first one refused (and not tolerated) is raised as
        NetlinkError once all are answered; what the others did stays done. No dumps here: see `dump`.
        """
        first = self.number(len(requests))
        self.send(
            b"".join(
                message(one.kind, F_REQUEST | F_ACK | one.flags, first + index, one.payload)
                for index, one in enumerate(requests)
            )
        )
        replies: list[list[bytes]] = [[] for _ in requests]
        refused: dict[int, NetlinkError] = {}
        waiting = len(requests)
        while waiting:
            for answer in self.receive():
                index = answer.sequence - first
                if not 0 <= index < len(requests):
                    continue  # a late answer to a request that was given up
                if answer.kind != ERROR:
                    replies[index].append(answer.payload)
                    continue
                waiting -= 1
                code, explanation = verdict(answer)
                if code and code not in requests[index].tolerated:
                    refused[index] = NetlinkError(code, requests[index].doing, explanation)
        if refused:
            raise refused[min(refused)]
        return replies

    def dump(self, request: Request) -> list[bytes]:
        """The payloads of a listing. Taken again when it was changed meanwhile (NLM_F_DUMP_INTR), a few times."""
        for _ in range(_ATTEMPTS):
            found, torn = self._dump(request)
            if not torn:
                return found
        raise NetlinkError(errno.EBUSY, request.doing, "the listing changed each time it was read")

    def _dump(self, request: Request) -> tuple[list[bytes], bool]:
        sequence = self.number()
        self.send(message(request.kind, F_REQUEST | F_DUMP | request.flags, sequence, request.payload))
        found: list[bytes] = []
        torn = False
        while True:
            for answer in self.receive():
                if answer.sequence != sequence:
                    continue
                torn = torn or bool(answer.flags & _F_DUMP_INTR)
                if answer.kind in {_DONE, ERROR}:
                    code, explanation = verdict(answer) if answer.payload else (0, "")
                    if code == errno.EINTR:
                        return found, True
                    if code and code not in request.tolerated:
                        raise NetlinkError(code, request.doing, explanation)
                    return found, torn
                if answer.kind not in {_NOOP, _OVERRUN}:
                    found.append(answer.payload)
