"""The userland port proxy: takes connections and datagrams at the host's ports and carries them to a container.

For what the kernel's address translation cannot do: ports at ::1, ports of IPv4 containers at IPv6 addresses, and hosts
whose firewall belongs to another tool that drops forwarded packets. One small process serves all such ports of one
container; it is started with listening sockets already open (so that nobody waits for it), and ends when the
container's link disappears or its process ends.

Runs in a bare interpreter (`-I -S`): built-in modules only, here and in `flows`.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import struct
import sys
import time

from orlop.network.flows import PIPE_LIMIT, Pipe, Sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_MOST_CONNECTIONS = 4096
_MOST_SESSIONS = 4096
_UDP_TIMEOUT = 90.0  # seconds, as docker's proxy has it
_BATCH = 64  # datagrams or connections taken in one go, so that one busy port cannot starve the others
_LATER = frozenset({errno.EAGAIN, errno.EINTR, errno.EINPROGRESS})
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
_RTMGRP_LINK = 1
_RTM_DELLINK = 17
_LINGER_ABORT = struct.pack("=ii", 1, 0)
_Socket = _socket.socket


class Loop:
    """epoll: descriptors to what must happen when they are ready."""

    __slots__ = ("_full", "_handlers", "_poll", "connections", "running", "sessions")

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._full: list[TcpPort] = []
        self.running = True
        self.connections = 0
        self.sessions = Sessions(_MOST_SESSIONS, _UDP_TIMEOUT)

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler` whenever one of `events` holds."""
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Other events from now on."""
        self._poll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """No more events; before the descriptor is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def pause(self, port: TcpPort) -> None:
        """Leave the port's clients in the kernel's queue until a connection ends."""
        self._full.append(port)
        self.forget(port.fileno())

    def ended(self) -> None:
        """A connection ended: there is room for another."""
        self.connections -= 1
        for port in self._full:
            self.watch(port.fileno(), select.EPOLLIN, port.ready)
        self._full.clear()

    def stop(self, _: int = 0) -> None:
        """Leave `run` after this round."""
        self.running = False

    def run(self) -> None:
        """Serve until `stop`."""
        while self.running:
            for fd, events in self._poll.poll(self.sessions.next_expiry(time.monotonic())):
                handler = self._handlers.get(fd)  # an earlier event of this round may have ended it
                if handler is not None:
                    handler(events)
            for session in self.sessions.expire(time.monotonic()):
                session.close()


class TcpPort:
    """A listening socket and where its connections go."""

    __slots__ = ("_listener", "_loop", "_paused", "_target")

    def __init__(self, loop: Loop, listener: _Socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self._listener = listener
        self._target = target
        listener.setblocking(False)
        loop.watch(listener.fileno(), select.EPOLLIN, self.ready)

    def ready(self, _: int) -> None:
        """Take waiting connections; when there are too many, leave them in the kernel's queue until one ends."""
        for _ in range(_BATCH):
            if self._loop.connections >= _MOST_CONNECTIONS:
                self._loop.pause(self)
                return
            try:
                fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  # public only in `socket`
            except OSError as error:
                if error.errno in _FULL and self._loop.connections:
                    self._loop.pause(self)
                return  # none left, or one that was reset while it waited
            client = _Socket(self._listener.family, _socket.SOCK_STREAM, 0, fileno=fd)
            Connection(self._loop, client, self._target)

    def fileno(self) -> int:
        """The listening descriptor."""
        return self._listener.fileno()


class Connection:
    """A client, the container's side of it, and a pipe each way."""

    __slots__ = ("_client", "_closed", "_down", "_established", "_interest", "_loop", "_server", "_up")

    def __init__(self, loop: Loop, client: _Socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self._client = client
        family = _socket.AF_INET6 if ":" in target[0] else _socket.AF_INET
        self._up, self._down = Pipe(), Pipe()
        self._established = False
        self._closed = False
        self._interest = [0, 0]
        try:
            self._server = _Socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        except OSError:
            client.close()
            return
        loop.connections += 1
        client.setblocking(False)
        for sock in (client, self._server):
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
            loop.watch(sock.fileno(), 0, self.ready)
        failure = self._server.connect_ex(target)
        if failure and failure not in _LATER:
            self._abort()
            return
        self._established = not failure
        self._rearm()

    def ready(self, _: int) -> None:
        """Move what can be moved. Which side became ready does not matter: both are tried, non-blocking."""
        if self._closed:
            return
        if not self._established and not self._finish_connect():
            return
        try:
            self._move(self._client, self._server, self._up)
            self._move(self._server, self._client, self._down)
        except OSError:
            self._abort()
            return
        if self._up.shut and self._down.shut:
            self._close()
        else:
            self._rearm()

    def _finish_connect(self) -> bool:
        failure = self._server.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if failure:
            self._abort()
            return False
        try:
            self._server.getpeername()
        except OSError:
            return False  # still under way
        self._established = True
        return True

    @staticmethod
    def _move(source: _Socket, sink: _Socket, pipe: Pipe) -> None:
        if pipe.wants_input:
            try:
                pipe.feed(source.recv(PIPE_LIMIT))
            except OSError as error:
                if error.errno not in _LATER:
                    raise
        if pipe.pending:
            try:
                pipe.took(sink.send(pipe.pending, _socket.MSG_NOSIGNAL))
            except OSError as error:
                if error.errno not in _LATER:
                    raise
        if pipe.must_shut:
            try:
                sink.shutdown(_socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise
            pipe.finish()

    def _rearm(self) -> None:
        if self._established:
            client = self._events(self._up, self._down)
            server = self._events(self._down, self._up)
        else:
            client, server = 0, select.EPOLLOUT
        for side, (sock, events) in enumerate(((self._client, client), (self._server, server))):
            # A side that wants nothing is taken out: epoll reports hang-ups of whatever it watches, again and again.
            if events != self._interest[side] or not self._interest[side]:
                self._interest[side] = events
                self._loop.forget(sock.fileno())
                if events:
                    self._loop.watch(sock.fileno(), events, self.ready)

    @staticmethod
    def _events(outgoing: Pipe, incoming: Pipe) -> int:
        return (select.EPOLLIN if outgoing.wants_input else 0) | (select.EPOLLOUT if incoming.pending else 0)

    def _abort(self) -> None:
        # Either side's failure reaches the other as a reset, not as an ordinary end.
        for sock in (self._client, self._server):
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _LINGER_ABORT)
        self._close()

    def _close(self) -> None:
        self._closed = True
        for sock in (self._client, self._server):
            self._loop.forget(sock.fileno())
            sock.close()
        self._loop.ended()


class UdpPort:
    """A bound socket; each client gets a socket of its own towards the container."""

    __slots__ = ("_loop", "_target", "sock")

    def __init__(self, loop: Loop, sock: _Socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self.sock = sock
        self._target = target
        sock.setblocking(False)
        # The answer must come from the address that the client wrote to, whichever of the host's that is.
        if sock.family == _socket.AF_INET:
            sock.setsockopt(_socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            sock.setsockopt(_socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        loop.watch(sock.fileno(), select.EPOLLIN, self.ready)

    def ready(self, _: int) -> None:
        """Carry waiting datagrams to the container."""
        for _ in range(_BATCH):
            try:
                data, extra, _, client = self.sock.recvmsg(65535, 64)
            except OSError as error:
                if error.errno in _LATER:
                    return
                continue  # the report of an earlier answer that did not arrive
            now = time.monotonic()
            key = (self.sock.fileno(), client)
            session = self._loop.sessions.use(key, now)
            if session is None:
                try:
                    session = Session(self._loop, self, client, reply_from(extra), self._target)
                except OSError:
                    continue  # no descriptors left: UDP may lose datagrams
                evicted = self._loop.sessions.add(key, session, now)
                if evicted is not None:
                    evicted.close()
            session.forward(data)


def reply_from(extra: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The control message that makes an answer leave from the address its question came to (ip(7), ipv6(7))."""
    for level, kind, data in extra:
        if level == _socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= 12:
            return [(level, kind, bytes(4) + data[8:12] + bytes(4))]
        if level == _socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO and len(data) >= 20:
            return [(level, kind, data[:20])]
    return []


class Session:
    """One UDP client's way to the container and back."""

    __slots__ = ("_client", "_extra", "_loop", "_port", "_sock")

    def __init__(
        self, loop: Loop, port: UdpPort, client: Any, extra: list[tuple[int, int, bytes]], target: tuple[str, int]
    ) -> None:
        family = _socket.AF_INET6 if ":" in target[0] else _socket.AF_INET
        self._loop = loop
        self._port = port
        self._client = client
        self._extra = extra
        self._sock = _Socket(family, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            self._sock.connect(target)
        except OSError:
            self._sock.close()
            raise
        loop.watch(self._sock.fileno(), select.EPOLLIN, self.ready)

    def forward(self, data: bytes) -> None:
        """To the container; what cannot be sent is lost, as UDP may."""
        try:
            self._sock.send(data)
        except OSError:
            return

    def ready(self, _: int) -> None:
        """From the container back to the client."""
        for _ in range(_BATCH):
            try:
                data = self._sock.recv(65535)
            except OSError as error:
                if error.errno in _LATER:
                    return
                continue  # "connection refused" of an earlier datagram
            self._loop.sessions.use((self._port.sock.fileno(), self._client), time.monotonic())
            try:
                self._port.sock.sendmsg([data], self._extra, 0, self._client)
            except OSError:
                continue

    def close(self) -> None:
        """End it."""
        self._loop.forget(self._sock.fileno())
        self._sock.close()


def link_is_gone(datagram: bytes, index: int) -> bool:
    """Whether an rtnetlink datagram says that the link `index` was deleted."""
    position = 0
    while position + 24 <= len(datagram):
        size, kind = struct.unpack_from("=IH", datagram, position)
        if kind == _RTM_DELLINK and struct.unpack_from("=i", datagram, position + 20)[0] == index:
            return True
        if size < 16:
            break
        position += size + (-size % 4)
    return False


def _watch_link(loop: Loop, index: int) -> None:
    links = _Socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, 0)
    links.bind((0, _RTMGRP_LINK))

    def look() -> bool:
        try:
            _socket.if_indextoname(index)
        except OSError:
            return True
        return False

    def ready(_: int) -> None:
        try:
            gone = link_is_gone(links.recv(1 << 16), index)
        except OSError:
            gone = False  # the kernel dropped news (ENOBUFS): look
        # (A link that moved to another namespace is gone from here as well, and says so with the same message.)
        if gone or look():
            loop.stop()

    loop.watch(links.fileno(), select.EPOLLIN, ready)
    if look():  # after subscribing, so that its end cannot fall between
        loop.stop()


def serve(arguments: Sequence[str]) -> None:
    """Serve until the container is gone.

    `arguments`: "link=INDEX" or "pid=PID", and any number of "PROTOCOL,DESCRIPTOR,ADDRESS,PORT".
    """
    loop = Loop()
    for argument in arguments:
        if argument.startswith("link="):
            _watch_link(loop, int(argument[5:]))
        elif argument.startswith("pid="):
            try:
                loop.watch(os.pidfd_open(int(argument[4:])), select.EPOLLIN, loop.stop)
            except ProcessLookupError:
                return
        else:
            protocol, fd, ip, port = argument.split(",")
            sock = _Socket(fileno=int(fd))
            if protocol == "tcp":
                TcpPort(loop, sock, (ip, int(port)))
            else:
                UdpPort(loop, sock, (ip, int(port)))
    loop.run()


def main() -> None:
    """The process: `python -I -S -c CODE FOLDER ARGUMENTS...`."""
    serve(sys.argv[2:])
