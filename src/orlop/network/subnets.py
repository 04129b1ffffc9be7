"""Choosing subnets that collide with nothing the host knows of, and what is computed from addresses. Pure."""

from __future__ import annotations

from orlop.errors import InvalidArgument, ResourceExhausted
from orlop.linux.sockets import address_text, host_bits, packed_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEFAULT_POOL = (*(f"10.{second}.0.0/16" for second in range(91, 100)), "172.29.0.0/16", "192.168.211.0/24")
"""For the default bridge, in this order: away from docker's (172.17 and up) and podman's (10.88, 10.89)."""
_SMALL_POOLS = ("10.100.0.0/14", "172.30.0.0/15", "192.168.192.0/19")
_SMALL_PREFIX = 24


def parse(cidr: str) -> tuple[str, int]:
    """(network address, prefix) of "10.91.0.0/16"; InvalidArgument for anything else, bits beyond the prefix too."""
    address, _, prefix = cidr.partition("/")
    try:
        start, bits = host_bits(address, int(prefix if prefix.isdecimal() and prefix.isascii() else "-1"))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{cidr!r} is not a subnet", hint="for example 10.91.0.0/16 or fd00:91::/64") from error
    if start.to_bytes(bits // 8, "big") != packed_address(address):
        first = address_text(start.to_bytes(bits // 8, "big"))
        raise InvalidArgument(
            f"{cidr!r} is an address within a subnet, not a subnet", hint=f"the subnet is {first}/{prefix}"
        )
    return address_text(packed_address(address)), int(prefix)


def overlap(one: str, other: str) -> bool:
    """Whether two subnets share an address."""
    one_address, one_prefix = parse(one)
    other_address, other_prefix = parse(other)
    if (":" in one_address) != (":" in other_address):
        return False
    prefix = min(one_prefix, other_prefix)
    return host_bits(one_address, prefix) == host_bits(other_address, prefix)


def choose(taken: Iterable[str], *, small: bool = False) -> str:
    """A private IPv4 subnet that overlaps none of `taken`: a /16 where possible, else or if `small` a /24.

    ResourceExhausted when every candidate is taken.
    """
    used = [cidr for cidr in taken if ":" not in cidr and not cidr.endswith("/0")]
    for candidates in (_small(),) if small else (DEFAULT_POOL, _small()):
        for candidate in candidates:
            if not any(overlap(candidate, other) for other in used):
                return candidate
    raise ResourceExhausted(
        f"none of the private subnets that are tried is free: the host knows {', '.join(sorted(used)[:8])}...",
        hint="name one with --subnet",
    )


def _small() -> Iterator[str]:
    for pool in _SMALL_POOLS:
        address, prefix = parse(pool)
        start, _ = host_bits(address, prefix)
        for offset in range(1 << (_SMALL_PREFIX - prefix)):
            yield f"{address_text((start + (offset << 8)).to_bytes(4, 'big'))}/{_SMALL_PREFIX}"


def gateway_of(cidr: str) -> str:
    """The first host of a subnet: by custom the bridge's own address."""
    address, prefix = parse(cidr)
    start, bits = host_bits(address, prefix)
    if bits - prefix < 2:
        raise InvalidArgument(f"{cidr} has no room for a gateway and a container", hint="take a larger subnet")
    return address_text((start + 1).to_bytes(bits // 8, "big"))


def mac_of(address: str) -> str:
    """A MAC address computed from an IPv4 (or IPv6) address, as docker does: who gets the address next gets it too.

    So no neighbour's ARP cache is ever wrong. 02: locally administered, unicast.
    """
    return (b"\x02\x42" + packed_address(address)[-4:]).hex(":")
