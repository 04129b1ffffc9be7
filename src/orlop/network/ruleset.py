"""The one nf_tables table of ours, `inet orlop`: what is in it, as requests to the kernel. Pure.

It is installed once; after that a container only adds and removes elements of its sets and maps:

- `bridges` and `internal`: names of our bridges (internal: without a way out); `same`: (bridge, bridge) pairs that may
  talk, each with itself; `subnets4`, `subnets6`: what is masqueraded on its way out.
- `ports4`, `ports6`: (protocol, port) of the host, at any of its addresses -> (address, port) of a container;
  `ports4_at`, `ports6_at`: the same for (address, protocol, port). An element's comment is its owner.

An accept in our chains ends only our chains: it cannot overrule a drop in another table (see `firewall.cut_off`).
"""

from __future__ import annotations

import zlib

from orlop.linux import nft_expressions as x
from orlop.linux.nftables import (
    FORWARD,
    INET,
    IPV4,
    IPV6,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    TYPE_IFNAME,
    TYPE_IPV4,
    TYPE_IPV6,
    TYPE_PORT,
    TYPE_PROTOCOL,
    Batch,
    Element,
)
from orlop.linux.sockets import address_text, host_bits, packed_address
from orlop.values import Value

TABLE = "orlop"
VERSION_CHAIN = "version_ace5773f"
"""An unused chain whose name tells these rules from other versions' (a test holds it to `fingerprint`)."""
PORT_MAPS = ("ports4", "ports4_at", "ports6", "ports6_at")
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_LOOPBACK4 = b"\x7f"
_LOOPBACK6 = bytes(15) + b"\x01"
_ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  # compared with, not bound to

_RAW, _DSTNAT, _FILTER, _SRCNAT = -300, -100, 0, 100


class Way(Value):
    """One published port: packets for `host_port` at `host_ip` ("": anywhere) go to `port` of a container's `ip`."""

    protocol: str
    host_ip: str
    host_port: int
    ip: str
    port: int


def ruleset() -> Batch:
    """The whole table but its elements. Committing it again renews the rules and leaves the elements."""
    batch = Batch(INET)
    batch.add_table(TABLE, comment="container networks of orlop")
    _add_sets(batch)
    for chain, kind, hook, priority in (
        ("guard", "filter", PREROUTING, _RAW),
        ("prerouting", "nat", PREROUTING, _DSTNAT),
        ("output", "nat", OUTPUT, _DSTNAT),
        ("forward", "filter", FORWARD, _FILTER),
        ("postrouting", "nat", POSTROUTING, _SRCNAT),
    ):
        batch.add_chain(TABLE, chain, kind=kind, hook=hook, priority=priority)
    batch.add_chain(TABLE, "publish")
    batch.delete_rules(TABLE)
    _add_nat_rules(batch)
    _add_forward_rules(batch)
    batch.add_chain(TABLE, VERSION_CHAIN)
    batch.add_rule(TABLE, VERSION_CHAIN, x.counter(), comment="says which rules are installed; nothing comes here")
    return batch


def fingerprint() -> str:
    """What VERSION_CHAIN must be called: a checksum over all that comes before that chain."""
    batch = ruleset()
    return f"version_{zlib.crc32(b''.join(request.payload for request in batch.requests[:-2])):08x}"


def _add_sets(batch: Batch) -> None:
    batch.add_set(TABLE, "bridges", [TYPE_IFNAME])
    batch.add_set(TABLE, "internal", [TYPE_IFNAME])
    batch.add_set(TABLE, "same", [TYPE_IFNAME, TYPE_IFNAME])
    for number, kind in ((4, TYPE_IPV4), (6, TYPE_IPV6)):
        batch.add_set(TABLE, f"subnets{number}", [kind], interval=True)
        batch.add_set(TABLE, f"ports{number}", [TYPE_PROTOCOL, TYPE_PORT], data=[kind, TYPE_PORT])
        batch.add_set(TABLE, f"ports{number}_at", [kind, TYPE_PROTOCOL, TYPE_PORT], data=[kind, TYPE_PORT])


def _add_nat_rules(batch: Batch) -> None:
    # With route_localnet on our bridges a container could reach the host's own 127.0.0.0/8 by forging frames.
    # (Answers to published ports are still addressed to the bridge here: this comes before their translation.)
    loopback = x.family_is(IPV4) + x.destination4(size=1) + x.equal(_LOOPBACK4)
    from_bridge = x.meta(x.META_IIFNAME) + x.lookup("bridges")
    batch.add_rule(TABLE, "guard", from_bridge, loopback, x.verdict(x.DROP))

    # A port published at 127.0.0.1 is for this host alone, whatever a neighbour writes into its packets.
    not_lo = x.meta(x.META_IIFNAME) + x.unequal(x.interface_name("lo"))
    batch.add_rule(TABLE, "prerouting", not_lo, loopback, x.verdict(x.RETURN))
    batch.add_rule(TABLE, "prerouting", x.verdict(x.JUMP, "publish"))
    # IPv6 has no route_localnet: ::1 cannot be a source outside of `lo`, so that the proxy serves it.
    to_loopback6 = x.family_is(IPV6) + x.destination6() + x.equal(_LOOPBACK6)
    batch.add_rule(TABLE, "output", to_loopback6, x.verdict(x.RETURN))
    batch.add_rule(TABLE, "output", x.verdict(x.JUMP, "publish"))

    for number, family, address, words in ((4, IPV4, x.destination4, 1), (6, IPV6, x.destination6, 4)):
        rewrite = x.dnat(family, address=0, port=words)
        at = address(0) + x.meta(x.META_L4PROTO, words) + x.destination_port(words + 1)
        batch.add_rule(TABLE, "publish", x.family_is(family), at, x.lookup(f"ports{number}_at", into=0), rewrite)
        anywhere = x.meta(x.META_L4PROTO) + x.destination_port(1)
        local = x.family_is(family) + x.to_this_host()
        batch.add_rule(TABLE, "publish", local, anywhere, x.lookup(f"ports{number}", into=0), rewrite)

    to_bridge = x.meta(x.META_OIFNAME) + x.lookup("bridges")
    from_loopback = x.family_is(IPV4) + x.source4(size=1) + x.equal(_LOOPBACK4)
    batch.add_rule(TABLE, "postrouting", x.ct_dnat(), from_loopback, to_bridge, x.masquerade())
    for number, family, source, target in (
        (4, IPV4, x.source4, x.destination4),
        (6, IPV6, x.source6, x.destination6),
    ):
        ours = x.family_is(family) + source() + x.lookup(f"subnets{number}")
        # A container that calls a published port of its neighbour (or its own) through the host: without this the
        # answer would go to it directly, from an address that it never called.
        batch.add_rule(TABLE, "postrouting", x.ct_dnat(), ours, target(), x.lookup(f"subnets{number}"), x.masquerade())
        leaving = x.meta(x.META_OIFNAME) + x.lookup("bridges", invert=True)
        batch.add_rule(TABLE, "postrouting", ours, leaving, x.masquerade())


def _add_forward_rules(batch: Batch) -> None:
    into = x.meta(x.META_OIFNAME) + x.lookup("bridges")
    same = x.meta(x.META_IIFNAME) + x.meta(x.META_OIFNAME, 4) + x.lookup("same")
    for rule in (
        x.ct_established() + x.verdict(x.ACCEPT),
        same + x.verdict(x.ACCEPT),
        x.meta(x.META_IIFNAME) + x.lookup("internal") + x.verdict(x.DROP),
        x.meta(x.META_OIFNAME) + x.lookup("internal") + x.verdict(x.DROP),
        into + x.ct_dnat() + x.verdict(x.ACCEPT),
        # From elsewhere, another network of ours included, only published ports are reached.
        into + x.counter() + x.verdict(x.DROP),
    ):
        batch.add_rule(TABLE, "forward", rule)


def network_elements(
    bridge: str, subnets: tuple[tuple[str, int], ...], *, internal: bool, talk: bool
) -> dict[str, list[Element]]:
    """The elements that a network needs, by set. `talk`: its containers may reach each other."""
    name = x.interface_name(bridge)
    found = {"bridges": [Element(key=name)]}
    if talk:
        found["same"] = [Element(key=name + name)]
    if internal:
        found["internal"] = [Element(key=name)]
        return found
    for address, prefix in subnets:
        start, bits = host_bits(address, prefix)
        after = (start + (1 << (bits - prefix))) % (1 << bits)
        size = bits // 8
        found[f"subnets{4 if bits == 32 else 6}"] = [
            Element(key=start.to_bytes(size, "big")),
            Element(key=after.to_bytes(size, "big"), end=True),
        ]
    return found


def way_element(way: Way, owner: str = "") -> tuple[str, Element]:
    """(map, element) of one published port."""
    address = packed_address(way.ip)
    port = concatenated_port(way.protocol, way.host_port)
    name = "ports4" if len(address) == 4 else "ports6"
    data = x.concatenated(address, way.port.to_bytes(2, "big"))
    if way.host_ip in _ANYWHERE:
        return name, Element(key=port, data=data, comment=owner)
    return f"{name}_at", Element(key=packed_address(way.host_ip) + port, data=data, comment=owner)


def concatenated_port(protocol: str, port: int) -> bytes:
    """A (protocol, port) key."""
    return x.concatenated(bytes((PROTOCOLS[protocol],)), port.to_bytes(2, "big"))


def way_of(name: str, element: Element) -> Way:
    """The published port that an element of the map `name` stands for: `way_element`, read backwards."""
    key = element.key
    host_ip = address_text(key[:-8]) if name.endswith("_at") else ""
    return Way(
        protocol=_PROTOCOL_NAMES.get(key[-8], str(key[-8])),
        host_ip=host_ip,
        host_port=int.from_bytes(key[-4:-2], "big"),
        ip=address_text(element.data[:-4]),
        port=int.from_bytes(element.data[-4:-2], "big"),
    )
