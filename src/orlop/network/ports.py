"""Published ports: what `-p` means, which host ports are free, and who has those that are not.

`-p [[HOST-IP:][HOST-PORT]:]CONTAINER-PORT[/PROTOCOL]`, ports single or as ranges, as docker has it. No host port: the
kernel picks one. A host range with one container port: the first free one of the range.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys

from orlop.errors import Conflict, InvalidArgument, PermissionDenied
from orlop.linux.sockets import AF_INET, AF_INET6, DATAGRAM, STREAM, Socket, packed_address
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

PROTOCOLS = ("tcp", "udp", "sctp")
_SCTP = 132
_SYNTAX = "[HOST-IP:][HOST-PORT:]CONTAINER-PORT[/tcp|udp|sctp], for example 8080:80 or 127.0.0.1:5353:53/udp"
_LARGEST_RANGE = 65535
_IN_USE = (errno.EADDRINUSE,)
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  # compared with
_IPV6_V6ONLY = 26
_ITSELF = "itself: it is published twice"


class Binding(Value):
    """What was asked for: a container's port to be reached at one of the host's (`first_host` to `last_host`; 0: any).

    `host_ip` "" means every address of the host.
    """

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    first_host: int = 0
    last_host: int = 0


class Published(Value):
    """What was given: `container_port` is reached at `host_ip`:`host_port`."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int

    def to_json(self) -> dict[str, Any]:
        """As a container's record keeps it; `host_ip` is "0.0.0.0" where docker prints that."""
        return {
            "container_port": self.container_port,
            "protocol": self.protocol,
            "host_ip": self.host_ip or "0.0.0.0",  # noqa: S104  # docker's word for everywhere
            "host_port": self.host_port,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Published:
        """`to_json`, read back."""
        ip = data["host_ip"]
        return cls(
            container_port=data["container_port"],
            protocol=data["protocol"],
            host_ip="" if ip == _WILDCARDS[0] else ip,
            host_port=data["host_port"],
        )


def parse(text: str) -> tuple[Binding, ...]:
    """What one `-p` asks for; InvalidArgument says which part cannot be meant."""
    body, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise _malformed(text, f"the protocol {protocol!r} is not tcp, udp or sctp")
    host_ip, host, container = _split(text, body)
    first, last = _range(text, container, "container port")
    if not host or host == "0":  # docker's other way to say "any"
        return tuple(
            Binding(container_port=port, protocol=protocol, host_ip=host_ip) for port in range(first, last + 1)
        )
    first_host, last_host = _range(text, host, "host port")
    if first == last:
        return (
            Binding(
                container_port=first, protocol=protocol, host_ip=host_ip, first_host=first_host, last_host=last_host
            ),
        )
    if last - first != last_host - first_host:
        raise _malformed(
            text, f"{last_host - first_host + 1} host ports cannot stand for {last - first + 1} container ports"
        )
    return tuple(
        Binding(
            container_port=first + offset,
            protocol=protocol,
            host_ip=host_ip,
            first_host=first_host + offset,
            last_host=first_host + offset,
        )
        for offset in range(last - first + 1)
    )


def _split(text: str, body: str) -> tuple[str, str, str]:
    """(host address, host port, container port), "" for what is not given."""
    host_ip = ""
    if body.startswith("["):
        host_ip, closed, body = body[1:].partition("]")
        if not closed or not body.startswith(":"):
            raise _malformed(text, "an IPv6 address is written as [::1]:")
        body = body[1:]
        parts = body.split(":")
        if len(parts) > 2:
            raise _malformed(text, "there are too many colons")
        host, container = parts if len(parts) == 2 else ("", parts[0])
    else:
        parts = body.split(":")
        if len(parts) > 3:
            raise _malformed(text, "there are too many colons; an IPv6 address is written as [::1]:")
        container = parts.pop()
        host = parts.pop() if parts else ""
        host_ip = parts.pop() if parts else ""
    if host_ip:
        try:
            packed_address(host_ip)
        except OSError as error:
            raise _malformed(text, f"{host_ip!r} is not an IP address") from error
    return "" if host_ip == _WILDCARDS[0] else host_ip, host, container


def _range(text: str, ports: str, what: str) -> tuple[int, int]:
    first_text, dash, last_text = ports.partition("-")
    first = _port(text, first_text, what)
    last = _port(text, last_text, what) if dash else first
    if last < first:
        raise _malformed(text, f"the range {ports} of the {what} runs backwards")
    return first, last


def _port(text: str, digits: str, what: str) -> int:
    if not digits.isascii() or not digits.isdigit() or len(digits) > 5 or not 0 < int(digits) <= _LARGEST_RANGE:
        raise _malformed(text, f"the {what} is {digits!r}, not a number from 1 to 65535")
    return int(digits)


def _malformed(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"the published port {text!r} is malformed: {why}", hint=_SYNTAX)


def parse_exposed(text: str) -> tuple[tuple[int, str], ...]:
    """What `--expose` or EXPOSE names: (port, protocol), ranges unrolled."""
    body, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise _malformed(text, f"the protocol {protocol!r} is not tcp, udp or sctp")
    first, last = _range(text, body, "port")
    return tuple((port, protocol) for port in range(first, last + 1))


def overlap(one: Published, other: Published) -> bool:
    """Whether the two cannot be published at once."""
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    return one.host_ip == other.host_ip or any(not ip or ip in _WILDCARDS for ip in (one.host_ip, other.host_ip))


class Reserved:
    """Host ports chosen and held by bound sockets, so that nobody else gets them meanwhile.

    Close it when the firewall or a proxy serves the ports, or keep the descriptors open (in the container's monitor)
    so that a later program that binds the port is told that it is in use instead of never hearing from anybody.
    """

    __slots__ = ("held", "published")

    def __init__(self) -> None:
        self.published: list[Published] = []
        self.held: dict[Published, Socket] = {}

    def close(self) -> None:
        """Let go of the ports."""
        for sock in self.held.values():
            sock.close()
        self.held.clear()


def reserve(
    wanted: Iterable[Binding],
    *,
    taken: Sequence[tuple[str, Published]] = (),
    ephemeral: Callable[[], Iterator[int]] | None = None,
) -> Reserved:
    """Choose a host port for each binding and hold it by binding it, in this network namespace.

    `taken` are (container's name, port) of running containers. Conflict says who has a port: that container, or the
    process that listens there, where we may look. `ephemeral` yields candidates for ports left to us (default: the
    kernel's choice).
    """
    held = Reserved()
    try:
        for binding in wanted:
            _reserve_one(held, binding, taken, ephemeral)
    except BaseException:
        held.close()
        raise
    return held


def _reserve_one(
    held: Reserved,
    binding: Binding,
    taken: Sequence[tuple[str, Published]],
    ephemeral: Callable[[], Iterator[int]] | None,
) -> None:
    candidates: Iterable[int] = range(binding.first_host, binding.last_host + 1)
    if not binding.first_host:
        candidates = ephemeral() if ephemeral else iter([0] * 64)
    known = [*taken, *((_ITSELF, one) for one in held.published)]
    refusal: Conflict | None = None
    for candidate in candidates:
        sock: Socket | None = None
        try:
            sock = _bind(binding, candidate)
        except OSError as error:
            if error.errno not in _IN_USE:
                raise _unbindable(binding, candidate, error) from error
            refusal = _in_use(binding, candidate, known)
            continue
        port = sock.getsockname()[1] if sock else candidate
        given = Published(
            container_port=binding.container_port, protocol=binding.protocol, host_ip=binding.host_ip, host_port=port
        )
        owner = next((name for name, other in known if overlap(given, other)), "")
        if owner:
            if sock:
                sock.close()
            refusal = _taken(given, owner)
            continue
        held.published.append(given)
        if sock:
            held.held[given] = sock
        return
    raise refusal or Conflict(f"no host port is free for the container's port {binding.container_port}")


def take(protocol: str, host_ip: str, port: int) -> Socket:
    """Hold the port at `host_ip` ("": every IPv4 address) with a socket that does not listen; OSError as bind(2).

    Others cannot bind or listen there while it is open, whatever options they set.
    """
    family = AF_INET6 if ":" in host_ip else AF_INET
    kind, number = (DATAGRAM, 0) if protocol == "udp" else (STREAM, _SCTP if protocol == "sctp" else 0)
    sock = Socket(family, kind, number)
    try:
        if family == AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _IPV6_V6ONLY, 1)
        if protocol == "tcp":
            # Connections of an earlier listener in TIME_WAIT are no obstacle; a listener still is.
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sock.bind((host_ip or _WILDCARDS[0], port))
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 0)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(binding: Binding, port: int) -> Socket | None:
    try:
        return take(binding.protocol, binding.host_ip, port)
    except OSError as error:
        if binding.protocol == "sctp" and error.errno in {errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT} and port:
            return None  # the host itself has no SCTP: nobody can be using the port
        raise


def _where(host_ip: str, port: int, protocol: str) -> str:
    host = f"[{host_ip}]:" if ":" in host_ip else f"{host_ip}:" if host_ip else ""
    return f"port {host}{port}" + ("" if protocol == "tcp" else f"/{protocol}")


def _unbindable(binding: Binding, port: int, error: OSError) -> Exception:
    where = _where(binding.host_ip, port, binding.protocol)
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidArgument(
            f"{where} cannot be published: {binding.host_ip} is not an address of this host",
            hint="ip address lists them; leave the address out to publish at all of them",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return PermissionDenied(
            f"{where} cannot be published: ports below 1024 need root",
            hint="publish a higher port, or lower net.ipv4.ip_unprivileged_port_start",
        )
    return InvalidArgument(f"{where} cannot be published: {os.strerror(error.errno or 0)}")


def _taken(given: Published, owner: str) -> Conflict:
    return Conflict(
        f"{_where(given.host_ip, given.host_port, given.protocol)} is in use by container {owner}",
        hint="publish another port, or stop that container",
    )


def _in_use(binding: Binding, port: int, taken: Sequence[tuple[str, Published]]) -> Conflict:
    asked = Published(
        container_port=binding.container_port, protocol=binding.protocol, host_ip=binding.host_ip, host_port=port
    )
    for owner, other in taken:
        if overlap(asked, other):
            return _taken(asked, owner)
    who = listener(binding.protocol, binding.host_ip, port)
    by = f" by {who[0]} (pid {who[1]})" if who else ""
    return Conflict(
        f"{_where(binding.host_ip, port, binding.protocol)} is in use{by}",
        hint="publish another port, or stop that one",
    )


def listener(protocol: str, host_ip: str, port: int) -> tuple[str, int] | None:
    """(name, pid) of the process that has the port, found by its socket's inode; None where we may not look."""
    inodes: set[str] = set()
    for table in (f"/proc/thread-self/net/{protocol}", f"/proc/thread-self/net/{protocol}6"):
        try:
            with open(table, encoding="ascii") as file:
                inodes |= inodes_bound(file.read(), port, host_ip, protocol)
        except OSError:
            continue
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != own and _has(entry, wanted):
            try:
                with open(f"/proc/{entry}/comm", encoding="utf-8", errors="replace") as file:
                    return file.read().strip(), int(entry)
            except OSError:
                continue
    return None


def _has(pid: str, wanted: set[str]) -> bool:
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{fd}") in wanted:
                    return True
            except OSError:
                continue  # closed meanwhile
    except OSError:
        return False  # gone, or not ours to look at
    return False


_LISTEN, _UNCONNECTED = "0A", "07"


def inodes_bound(table: str, port: int, host_ip: str, protocol: str) -> set[str]:
    """The inodes of sockets in /proc/net/{tcp,udp}[6] (proc_net(5)) that keep `host_ip`:`port` from being bound."""
    state = _LISTEN if protocol == "tcp" else _UNCONNECTED
    wanted = packed_address(host_ip) if host_ip and host_ip not in _WILDCARDS else b""
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != state:
            continue
        address, _, number = fields[1].partition(":")
        if int(number, 16) != port:
            continue
        raw = _from_proc(address)
        if not wanted or not any(raw) or raw in {wanted, b"\0" * 10 + b"\xff\xff" + wanted}:
            found.add(fields[9])
    return found


def _from_proc(text: str) -> bytes:
    """An address as /proc/net prints it: words of 4 bytes, each as a number in the machine's byte order."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "big":
        return raw
    return b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))


def listen(sock: Socket, backlog: int = 128) -> None:
    """Let a taken TCP port be called. Connections of an earlier listener in TIME_WAIT are no obstacle."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    sock.listen(backlog)
