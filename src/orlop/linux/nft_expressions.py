"""The expressions that nf_tables rules are made of: small machine instructions over sixteen 4-byte registers.

Each function returns one (or a few that belong together) as bytes; a rule is their concatenation, run from left to
right until one of them says no. Layouts: include/uapi/linux/netfilter/nf_tables.h, enum nft_*_attributes. Registers
are numbered in words, 0 to 15 (NFT_REG32_00 and up).
"""

from __future__ import annotations

import struct

from orlop.linux.netlink import attribute, be32, be64, nest, text

_LIST_ELEMENT = 1
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_DATA_VALUE, _DATA_VERDICT = 1, 2

DROP, ACCEPT = 0, 1
JUMP, RETURN = -3, -5


def _expression(name: str, *data: bytes) -> bytes:
    return nest(_LIST_ELEMENT, text(_EXPRESSION_NAME, name), nest(_EXPRESSION_DATA, *data))


def _register(kind: int, register: int) -> bytes:
    return be32(kind, 8 + register)


META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO = 6, 7, 15, 16


def meta(key: int, register: int = 0) -> bytes:
    """Load something about the packet: META_*."""
    return _expression("meta", be32(2, key), _register(1, register))


NETWORK_HEADER, TRANSPORT_HEADER = 1, 2


def payload(base: int, offset: int, size: int, register: int = 0) -> bytes:
    """Load `size` bytes of a header."""
    return _expression("payload", _register(1, register), be32(2, base), be32(3, offset), be32(4, size))


def source4(register: int = 0, size: int = 4) -> bytes:
    """Load the IPv4 source address, or its first `size` bytes."""
    return payload(NETWORK_HEADER, 12, size, register)


def destination4(register: int = 0, size: int = 4) -> bytes:
    """Load the IPv4 destination address, or its first `size` bytes."""
    return payload(NETWORK_HEADER, 16, size, register)


def source6(register: int = 0) -> bytes:
    """Load the IPv6 source address."""
    return payload(NETWORK_HEADER, 8, 16, register)


def destination6(register: int = 0) -> bytes:
    """Load the IPv6 destination address."""
    return payload(NETWORK_HEADER, 24, 16, register)


def destination_port(register: int = 0) -> bytes:
    """Load the destination port, at the same place in TCP, UDP, SCTP and DCCP."""
    return payload(TRANSPORT_HEADER, 2, 2, register)


def equal(data: bytes, register: int = 0) -> bytes:
    """Go on only if the register holds `data`."""
    return _expression("cmp", _register(1, register), be32(2, 0), nest(3, attribute(_DATA_VALUE, data)))


def unequal(data: bytes, register: int = 0) -> bytes:
    """Go on only if the register does not hold `data`."""
    return _expression("cmp", _register(1, register), be32(2, 1), nest(3, attribute(_DATA_VALUE, data)))


def any_bit(mask: bytes, register: int = 0) -> bytes:
    """Go on only if the register has one of the bits in `mask`."""
    zero = bytes(len(mask))
    masked = _expression(
        "bitwise",
        _register(1, register),
        _register(2, register),
        be32(3, len(mask)),
        nest(4, attribute(_DATA_VALUE, mask)),
        nest(5, attribute(_DATA_VALUE, zero)),
    )
    return masked + unequal(zero, register)


_CT_STATE, _CT_STATUS = 0, 2
_STATE_ESTABLISHED, _STATE_RELATED = 0x2, 0x4
_STATUS_DST_NAT = 0x20
_native = struct.Struct("=I")


def ct_established() -> bytes:
    """Go on only for packets of known connections, and those related to one."""
    return _expression("ct", be32(2, _CT_STATE), _register(1, 0)) + any_bit(
        _native.pack(_STATE_ESTABLISHED | _STATE_RELATED)
    )


def ct_dnat() -> bytes:
    """Go on only for connections whose destination was rewritten."""
    return _expression("ct", be32(2, _CT_STATUS), _register(1, 0)) + any_bit(_native.pack(_STATUS_DST_NAT))


_FIB_RESULT_ADDRTYPE = 3
_FIB_F_DADDR = 2
_ADDRTYPE_LOCAL = 2


def to_this_host() -> bytes:
    """Go on only for packets to one of the host's own addresses."""
    load = _expression("fib", be32(3, _FIB_F_DADDR), be32(2, _FIB_RESULT_ADDRTYPE), _register(1, 0))
    return load + equal(_native.pack(_ADDRTYPE_LOCAL))


def lookup(name: str, register: int = 0, *, into: int | None = None, invert: bool = False) -> bytes:
    """Go on only if the set has the value (`invert`: has not); a map's data is loaded into register `into`."""
    data = [text(1, name), _register(2, register)]
    if into is not None:
        data.append(_register(3, into))
    if invert:
        data.append(be32(5, 1))
    return _expression("lookup", *data)


def dnat(family: int, *, address: int, port: int) -> bytes:
    """Rewrite the destination to the address and port in these registers; ends the chain."""
    return _expression("nat", be32(1, 1), be32(2, family), _register(3, address), _register(5, port))


def masquerade() -> bytes:
    """Rewrite the source to the address of the link that the packet leaves by; ends the chain."""
    return _expression("masq")


def counter() -> bytes:
    """Count packets and bytes."""
    return _expression("counter", be64(1, 0), be64(2, 0))


def verdict(code: int, chain: str = "") -> bytes:
    """DROP, ACCEPT, RETURN, or JUMP to `chain`."""
    data = [be32(1, code)]
    if chain:
        data.append(text(2, chain))
    return _expression("immediate", be32(1, 0), nest(2, nest(_DATA_VERDICT, *data)))


def family_is(family: int) -> bytes:
    """Go on only for IPV4 or IPV6 packets (in inet tables)."""
    return meta(META_NFPROTO) + equal(bytes((family,)))


def interface_name(name: str) -> bytes:
    """An interface's name as a set's key or a register holds it."""
    return name.encode().ljust(16, b"\0")


def concatenated(*parts: bytes) -> bytes:
    """Key or data of several fields: each padded to a register's 4 bytes."""
    return b"".join(part + b"\0" * (-len(part) % 4) for part in parts)
