"""Sockets without the `socket` module, whose import builds a dozen enums (7 ms of every start).

`_socket.socket` is the class underneath it: the same calls, but no `accept` that returns a socket, no `makefile`, no
`sendall` surprises. Descriptors travel over Unix sockets as SCM_RIGHTS (unix(7)).
"""

from __future__ import annotations

import _socket
import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    Made = TypeVar("Made")

Socket = _socket.socket

AF_UNIX = _socket.AF_UNIX
AF_INET = _socket.AF_INET
AF_INET6 = _socket.AF_INET6
AF_NETLINK = 16
STREAM = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC
DATAGRAM = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC
RAW = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC

_LONGEST_UNIX_PATH = 107  # sun_path without its NUL (unix(7))
_MOST_DESCRIPTORS = 253  # SCM_MAX_FD
_INT = 4  # bytes of a descriptor in a message


def accept(listener: Socket) -> tuple[Socket, object]:
    """The next connection (close-on-exec, blocking) and its peer's address."""
    fd, address = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  # the public one is in `socket`
    return Socket(listener.family, listener.type, listener.proto, fileno=fd), address


def send_with_descriptors(sock: Socket, data: bytes, descriptors: Sequence[int]) -> int:
    """Send `data` (at least one byte) with open descriptors attached; the bytes sent."""
    if not data:
        raise OSError(errno.EINVAL, "descriptors travel only with at least one byte")
    extra = (
        [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in descriptors))]
        if descriptors
        else []
    )
    return sock.sendmsg([data], extra)


def receive_with_descriptors(sock: Socket, size: int, most: int = _MOST_DESCRIPTORS) -> tuple[bytes, list[int]]:
    """Up to `size` bytes and the descriptors that came along (close-on-exec, now ours); b"" at the end of the stream.

    A message that lost descriptors (more than `most`, or our table is full) is refused with EMFILE: all are closed.
    """
    data, extra, flags, _ = sock.recvmsg(size, _socket.CMSG_SPACE(most * _INT), _socket.MSG_CMSG_CLOEXEC)
    found: list[int] = []
    for level, kind, payload in extra:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            ends = range(_INT, len(payload) + 1, _INT)
            found += (int.from_bytes(payload[end - _INT : end], sys.byteorder) for end in ends)
    if flags & _socket.MSG_CTRUNC:
        for fd in found:
            os.close(fd)
        raise OSError(errno.EMFILE, f"a message carried more descriptors than the {most} expected, or than can be open")
    return data, found


def unix_listen(path: str, kind: int = STREAM, backlog: int = 64) -> Socket:
    """A listening Unix socket at `path`, which may be longer than the 107 bytes an address holds."""
    listener = Socket(AF_UNIX, kind)
    try:
        _through_short_path(path, listener.bind)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def unix_connect(path: str, kind: int = STREAM) -> Socket:
    """Connect to the Unix socket at `path`; OSError as connect(2) gives it."""
    sock = Socket(AF_UNIX, kind)
    try:
        _through_short_path(path, sock.connect)
    except BaseException:
        sock.close()
        raise
    return sock


def _through_short_path(path: str, use: Callable[[str], None]) -> None:
    if len(os.fsencode(path)) <= _LONGEST_UNIX_PATH:
        use(path)
        return
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


def inside(netns: int, make: Callable[[], Made]) -> Made:
    """What `make` returns when it runs in the network namespace behind descriptor `netns`; the thread comes back.

    A socket belongs for ever to the namespace it was made in, so opening one there is all that it takes to work there.
    Only the calling thread moves. Should the way back be barred the process cannot go on truthfully: OSError is raised
    and the caller must not use the network again.
    """
    from orlop.linux import namespaces  # ctypes: those who only read addresses need none

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(netns, namespaces.CLONE_NEWNET)
        try:
            return make()
        finally:
            namespaces.setns(home, namespaces.CLONE_NEWNET)
    finally:
        os.close(home)


def new_network_namespace() -> int:
    """A descriptor of a fresh network namespace (only a downed `lo` inside); it lives while somebody holds it."""
    from orlop.linux import namespaces  # as above

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        try:
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            namespaces.setns(home, namespaces.CLONE_NEWNET)
    finally:
        os.close(home)


def packed_address(text: str) -> bytes:
    """The 4 or 16 bytes of an IP address; OSError for anything else (also for host names: nothing is looked up)."""
    return _socket.inet_pton(AF_INET6 if ":" in text else AF_INET, text)


def address_text(packed: bytes) -> str:
    """The address of 4 or 16 bytes as text, IPv6 in its shortest form; OSError(EBADMSG) for another length."""
    if len(packed) not in {4, 16}:
        raise OSError(errno.EBADMSG, f"an IP address has 4 or 16 bytes, not {len(packed)}")
    return _socket.inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def host_bits(address: str, prefix: int) -> tuple[int, int]:
    """(network as a number, size of the address in bits) of `address`/`prefix`."""
    packed = packed_address(address)
    bits = len(packed) * 8
    if not 0 <= prefix <= bits:
        raise OSError(errno.EINVAL, f"a prefix of {address} has 0 to {bits} bits, got {prefix}")
    return int.from_bytes(packed, "big") >> (bits - prefix) << (bits - prefix), bits


def addresses_of(network: str, prefix: int) -> Iterator[str]:
    """Every address of a subnet, lowest first, lazily."""
    start, bits = host_bits(network, prefix)
    for number in range(start, start + (1 << (bits - prefix))):
        yield address_text(number.to_bytes(bits // 8, "big"))
