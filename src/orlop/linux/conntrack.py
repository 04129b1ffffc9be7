"""Connection tracking (ctnetlink, include/uapi/linux/netfilter/nfnetlink_conntrack.h): forgetting connections.

Translation is decided by a connection's first packet. A UDP client that keeps sending from one port is one connection
for ever: it would never notice that a port is published now, or that another container has it.
"""

from __future__ import annotations

import errno
import struct

from orlop.linux import netlink
from orlop.linux.netlink import Netlink, Request, attribute, nest, u8, u32

_SUBSYSTEM = 1 << 8
_GET, _DELETE = 1, 2
_TUPLE_ORIGINAL, _ID, _FILTER = 1, 12, 25
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_PROTOCOL_NUMBER, _PROTOCOL_TARGET = 1, 3
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_F_PROTOCOL_NUMBER, _F_TARGET_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_*, net/netfilter/nf_internals.h
_AF_INET, _AF_INET6 = 2, 10
_general = struct.Struct(">BBH")


def forget(protocol: int, ports: set[int], *, ipv6: bool = True) -> int:
    """Forget all connections that were made to one of `ports` (17: UDP) of any address; how many there were.

    The kernel walks its whole table for each port and family (3 ms each where it is sized for 262144 connections).
    """
    count = 0
    with Netlink(netlink.NETFILTER) as sock:
        for family in (_AF_INET, _AF_INET6) if ipv6 else (_AF_INET,):
            for port in ports:
                found = [one for one in sock.dump(_listing(family, protocol, port)) if is_to(one, protocol, port)]
                requests = [_deletion(family, one) for one in found]
                for start in range(0, len(requests), 64):
                    sock.request(requests[start : start + 64])
                count += len(requests)
    return count


def _listing(family: int, protocol: int, port: int) -> Request:
    # Kernels since 5.8 filter for us; older ones ignore that and list everything, so that we look again.
    wanted = nest(
        _TUPLE_ORIGINAL,
        nest(
            _TUPLE_PROTOCOL,
            u8(_PROTOCOL_NUMBER, protocol),
            attribute(_PROTOCOL_TARGET, port.to_bytes(2, "big")),
        ),
    )
    flags = nest(_FILTER, u32(_FILTER_ORIGINAL, _F_PROTOCOL_NUMBER | _F_TARGET_PORT), u32(_FILTER_REPLY, 0))
    return Request(_SUBSYSTEM | _GET, _general.pack(family, 0, 0) + wanted + flags, "list connections")


def is_to(payload: bytes, protocol: int, port: int) -> bool:
    """Whether a connection (an IPCTNL_MSG_CT_NEW payload) was made to `port` with `protocol`."""
    original = netlink.attributes(netlink.attributes(payload[4:]).get(_TUPLE_ORIGINAL, b""))
    made = netlink.attributes(original.get(_TUPLE_PROTOCOL, b""))
    return made.get(_PROTOCOL_NUMBER) == bytes((protocol,)) and made.get(_PROTOCOL_TARGET) == port.to_bytes(2, "big")


def _deletion(family: int, payload: bytes) -> Request:
    found = netlink.attributes(payload[4:])
    data = attribute(_TUPLE_ORIGINAL | 0x8000, found[_TUPLE_ORIGINAL])
    if _ID in found:
        data += attribute(_ID, found[_ID])
    return Request(
        _SUBSYSTEM | _DELETE, _general.pack(family, 0, 0) + data, "forget a connection", tolerated=(errno.ENOENT,)
    )
