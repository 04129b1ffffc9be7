"""Links, addresses, routes and neighbours, over rtnetlink (rtnetlink(7), include/uapi/linux/{rtnetlink,if_link}.h).

Functions named after a thing and a verb (`link_add_veth`) only build requests; `Route.request` sends any number of them
in one system call. Links are named by name wherever the kernel allows it, so that no request waits for an index.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

from orlop.linux import netlink
from orlop.linux.netlink import F_CREATE, F_EXCL, F_REPLACE, Netlink, Request, attribute, nest, text, u8, u32
from orlop.linux.sockets import address_text, packed_address
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH = 28

IFF_UP = 0x1

_AF_INET, _AF_INET6 = 2, 10

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_NET_NS_PID, _IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 19, 20, 26, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_INET6_ADDR_GEN_MODE = 8
_ADDR_GEN_NONE = 1
_BR_FORWARD_DELAY, _BR_STP_STATE, _BR_VLAN_FILTERING = 1, 5, 7
_BRPORT_MODE, _BRPORT_ISOLATED = 4, 33  # hairpin; see IFLA_BRPORT_* in if_link.h
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x02
_IFA_F_NOPREFIXROUTE = 0x200
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_RT_TABLE_MAIN = 254
_RTPROT_BOOT = 3
_RTN_UNICAST = 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
LONGEST_NAME = 15  # IFNAMSIZ without its NUL

_ifinfomsg = struct.Struct("=BxHiII")
_ifaddrmsg = struct.Struct("=BBBBi")
_rtmsg = struct.Struct("=BBBBBBBBI")
_ndmsg = struct.Struct("=BxxxiHBB")


class Link(Value):
    """A network interface. `master` is the index of the bridge it is a port of (0: none), `kind` "veth", "bridge"..."""

    index: int
    name: str
    kind: str
    flags: int
    mac: str
    mtu: int
    master: int
    alias: str


class Address(Value):
    """An address of the link with this index."""

    index: int
    ip: str
    prefix: int


class RouteEntry(Value):
    """A route of the main table; `destination` and `gateway` are "" where there is none (the default route)."""

    destination: str
    prefix: int
    gateway: str
    index: int
    family: int


def mac_bytes(mac: str) -> bytes:
    """The 6 bytes of "02:42:0a:58:00:02"; OSError(EINVAL) for anything else."""
    try:
        raw = bytes.fromhex(mac.replace(":", "").replace("-", ""))
    except ValueError as error:
        raise OSError(errno.EINVAL, f"{mac!r} is not a MAC address") from error
    if len(raw) != 6:
        raise OSError(errno.EINVAL, f"{mac!r} is not a MAC address: it has {len(raw)} bytes, not 6")
    return raw


def mac_text(raw: bytes) -> str:
    """The usual notation of a MAC address, "02:42:0a:58:00:02", from its bytes."""
    return raw.hex(":")


def _name(kind: int, name: str) -> bytes:
    if not name or len(name.encode()) > LONGEST_NAME or "/" in name or name.isspace():
        raise OSError(errno.EINVAL, f"{name!r} cannot be a link's name: 1 to {LONGEST_NAME} bytes without '/'")
    return text(kind, name)


def _link_attributes(name: str, mac: str, mtu: int) -> bytes:
    data = _name(_IFLA_IFNAME, name)
    if mac:
        data += attribute(_IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        data += u32(_IFLA_MTU, mtu)
    return data


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _ifinfomsg.pack(0, 0, index, flags, change)


def link_add_veth(
    name: str, *, peer: str, peer_netns: int, mac: str = "", peer_mac: str = "", mtu: int = 0, master: int = 0
) -> Request:
    """A veth pair: `name` here, `peer` in the network namespace behind the descriptor `peer_netns`; both still down.

    `master` is the index of the bridge that `name` becomes a port of.
    """
    other = _ifinfo() + _link_attributes(peer, peer_mac, mtu) + u32(_IFLA_NET_NS_FD, peer_netns)
    info = nest(_IFLA_LINKINFO, text(_INFO_KIND, "veth"), nest(_INFO_DATA, attribute(_VETH_INFO_PEER | 0x8000, other)))
    payload = _ifinfo() + _link_attributes(name, mac, mtu) + info
    if master:
        payload += u32(_IFLA_MASTER, master)
    return Request(_NEWLINK, payload, f"create the veth pair {name} and {peer}", flags=F_CREATE | F_EXCL)


def link_add_bridge(name: str, *, mac: str = "", mtu: int = 0) -> Request:
    """A bridge without spanning tree whose ports forward at once; down."""
    data = nest(_INFO_DATA, u32(_BR_FORWARD_DELAY, 0), u32(_BR_STP_STATE, 0))
    info = nest(_IFLA_LINKINFO, text(_INFO_KIND, "bridge"), data)
    payload = _ifinfo() + _link_attributes(name, mac, mtu) + info
    return Request(_NEWLINK, payload, f"create the bridge {name}", flags=F_CREATE | F_EXCL)


def link_set(
    name: str,
    *,
    index: int = 0,
    up: bool | None = None,
    master: int | None = None,
    netns: int = -1,
    rename: str = "",
    mac: str = "",
    mtu: int = 0,
    alias: str = "",
    link_local: bool = True,
) -> Request:
    """Change the link `name` (or the one with `index`; `name` is then only for messages).

    `rename` needs `index`. `up` None leaves its state, `master` 0 takes it out of its bridge, `netns` is a descriptor,
    `link_local` False keeps IPv6 from making up an address of its own when it comes up (send that before the request
    that brings it up).
    """
    if rename and not index:
        raise OSError(errno.EINVAL, f"renaming the link {name} needs its index: a request has room for one name")
    flags, change = (IFF_UP if up else 0), (0 if up is None else IFF_UP)
    payload = _ifinfo(index, flags, change)
    if not index:
        payload += _name(_IFLA_IFNAME, name)
    if rename:
        payload += _name(_IFLA_IFNAME, rename)
    if mac:
        payload += attribute(_IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        payload += u32(_IFLA_MTU, mtu)
    if master is not None:
        payload += u32(_IFLA_MASTER, master)
    if netns >= 0:
        payload += u32(_IFLA_NET_NS_FD, netns)
    if alias:
        payload += text(_IFLA_IFALIAS, alias)
    if not link_local:
        payload += nest(_IFLA_AF_SPEC, nest(_AF_INET6, u8(_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE)))
    return Request(_SETLINK, payload, f"change the link {name}")


def link_set_port(name: str, *, hairpin: bool = False, isolated: bool = False) -> Request:
    """Change a bridge's port: may frames leave where they came in, may they reach other isolated ports."""
    data = nest(_INFO_SLAVE_DATA, u8(_BRPORT_MODE, hairpin), u8(_BRPORT_ISOLATED, isolated))
    info = nest(_IFLA_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), data)
    return Request(_NEWLINK, _ifinfo() + _name(_IFLA_IFNAME, name) + info, f"change the bridge port {name}")


def link_delete(name: str, *, missing_ok: bool = False) -> Request:
    """Delete the link (of a veth: the pair)."""
    tolerated = (errno.ENODEV,) if missing_ok else ()
    return Request(_DELLINK, _ifinfo() + _name(_IFLA_IFNAME, name), f"delete the link {name}", tolerated=tolerated)


def address_add(index: int, ip: str, prefix: int, *, link: str, prefix_route: bool = True) -> Request:
    """Give the link with `index` an address (once). IPv6 skips duplicate detection: the address is ours."""
    packed = packed_address(ip)
    family = _AF_INET if len(packed) == 4 else _AF_INET6
    flags = (_IFA_F_NODAD if family == _AF_INET6 else 0) | (0 if prefix_route else _IFA_F_NOPREFIXROUTE)
    payload = _ifaddrmsg.pack(family, prefix, flags & 0xFF, _SCOPE_UNIVERSE, index)
    payload += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed) + u32(_IFA_FLAGS, flags)
    if family == _AF_INET and prefix < 31:
        broadcast = int.from_bytes(packed, "big") | ((1 << (32 - prefix)) - 1)
        payload += attribute(_IFA_BROADCAST, broadcast.to_bytes(4, "big"))
    return Request(_NEWADDR, payload, f"give {link} the address {ip}/{prefix}", flags=F_CREATE | F_REPLACE)


def address_delete(index: int, ip: str, prefix: int, *, link: str) -> Request:
    """Take an address away."""
    packed = packed_address(ip)
    family = _AF_INET if len(packed) == 4 else _AF_INET6
    payload = _ifaddrmsg.pack(family, prefix, 0, 0, index) + attribute(_IFA_LOCAL, packed)
    return Request(_DELADDR, payload, f"take the address {ip}/{prefix} from {link}")


def route_add(
    index: int, *, link: str, destination: str = "", prefix: int = 0, gateway: str = "", metric: int = 0
) -> Request:
    """A route out of the link with `index`; no destination: the default route of the gateway's family."""
    packed = packed_address(destination or gateway)
    family = _AF_INET if len(packed) == 4 else _AF_INET6
    scope = _SCOPE_UNIVERSE if gateway or family == _AF_INET6 else _SCOPE_LINK
    payload = _rtmsg.pack(family, prefix, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST, 0)
    if destination:
        payload += attribute(_RTA_DST, packed)
    if gateway:
        payload += attribute(_RTA_GATEWAY, packed_address(gateway))
    payload += u32(_RTA_OIF, index)
    if metric:
        payload += u32(_RTA_PRIORITY, metric)
    where = f"{destination}/{prefix}" if destination else "everywhere"
    return Request(_NEWROUTE, payload, f"route {where} through {gateway or link}", flags=F_CREATE | F_REPLACE)


def parse_link(payload: bytes) -> Link:
    """A link from an RTM_NEWLINK or RTM_DELLINK payload."""
    if len(payload) < _ifinfomsg.size:
        raise OSError(errno.EBADMSG, f"a link message has {len(payload)} bytes, fewer than its header")
    _, _, index, flags, _ = _ifinfomsg.unpack_from(payload)
    found = netlink.attributes(payload[_ifinfomsg.size :])
    info = netlink.attributes(found.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=netlink.string(found.get(_IFLA_IFNAME, b"")),
        kind=netlink.string(info.get(_INFO_KIND, b"")),
        flags=flags,
        mac=mac_text(found.get(_IFLA_ADDRESS, b"")),
        mtu=int.from_bytes(found.get(_IFLA_MTU, b""), "little" if _LITTLE else "big"),
        master=int.from_bytes(found.get(_IFLA_MASTER, b""), "little" if _LITTLE else "big"),
        alias=netlink.string(found.get(_IFLA_IFALIAS, b"")),
    )


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def parse_address(payload: bytes) -> Address:
    """An address from an RTM_NEWADDR payload."""
    if len(payload) < _ifaddrmsg.size:
        raise OSError(errno.EBADMSG, f"an address message has {len(payload)} bytes, fewer than its header")
    _, prefix, _, _, index = _ifaddrmsg.unpack_from(payload)
    found = netlink.attributes(payload[_ifaddrmsg.size :])
    # IFA_ADDRESS is the peer's on point-to-point links; IFA_LOCAL, where present, is ours (if_addr.h).
    return Address(index=index, ip=address_text(found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))), prefix=prefix)


def parse_route(payload: bytes) -> RouteEntry | None:
    """A route from an RTM_NEWROUTE payload; None for tables other than main and routes that are not to a place."""
    if len(payload) < _rtmsg.size:
        raise OSError(errno.EBADMSG, f"a route message has {len(payload)} bytes, fewer than its header")
    family, prefix, _, _, table, _, _, kind, _ = _rtmsg.unpack_from(payload)
    if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST or family not in {_AF_INET, _AF_INET6}:
        return None
    found = netlink.attributes(payload[_rtmsg.size :])
    return RouteEntry(
        destination=address_text(found[_RTA_DST]) if _RTA_DST in found else "",
        prefix=prefix,
        gateway=address_text(found[_RTA_GATEWAY]) if _RTA_GATEWAY in found else "",
        index=int.from_bytes(found.get(_RTA_OIF, b""), "little" if _LITTLE else "big"),
        family=family,
    )


class Route(Netlink):
    """rtnetlink in the network namespace of the thread that makes it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(netlink.ROUTE)

    def links(self) -> list[Link]:
        """Every link."""
        return [parse_link(payload) for payload in self.dump(Request(_GETLINK, _ifinfo(), "list the links"))]

    def link(self, name: str) -> Link:
        """The link called `name`; NetlinkError(ENODEV) where there is none."""
        request = Request(_GETLINK, _ifinfo() + _name(_IFLA_IFNAME, name), f"find the link {name}")
        return parse_link(self.request([request])[0][0])

    def addresses(self) -> list[Address]:
        """Every address of every link, v4 and v6."""
        asked = Request(_GETADDR, _ifaddrmsg.pack(0, 0, 0, 0, 0), "list the addresses")
        return [parse_address(payload) for payload in self.dump(asked)]

    def routes(self) -> list[RouteEntry]:
        """The unicast routes of the main tables, v4 and v6."""
        asked = Request(_GETROUTE, _rtmsg.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), "list the routes")
        return [route for payload in self.dump(asked) if (route := parse_route(payload))]


def index_of(name: str) -> int:
    """The index of a link in this thread's network namespace, 0 where there is none of that name."""
    try:
        return _socket.if_nametoindex(name)
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.ENXIO}:
            return 0
        raise


def set_sysctl(name: str, value: str) -> None:
    """Write /proc/sys/`name` (slashes, not dots) unless it already is `value`; OSError names the file."""
    path = f"/proc/sys/{name}"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.read(fd, 64).strip() == value.encode():
            return
    finally:
        os.close(fd)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def changes(requests: Sequence[Request]) -> None:
    """Send `requests` here and now, over a socket of their own."""
    with Route() as route:
        route.request(requests)
