"""Keeps the table of `network.ruleset` in the kernel, and finds out whether somebody else's rules undo it.

All functions work in the network namespace of the calling thread. They are idempotent, so that any number of commands
may run them at once: the kernel serializes batches, and each takes effect as a whole or not at all.
"""

from __future__ import annotations

import errno

from orlop.errors import Conflict, FailedPrecondition, PermissionDenied
from orlop.linux import nft_expressions as x
from orlop.linux import xtables
from orlop.linux.nftables import FORWARD, INET, IPV4, IPV6, Batch, Element, Nftables, Rule
from orlop.network.ruleset import (
    PORT_MAPS,
    TABLE,
    VERSION_CHAIN,
    Way,
    network_elements,
    ruleset,
    way_element,
    way_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orlop.linux.nftables import Chain

_DOCKER_USER = "DOCKER-USER"
_DOCKER_BRIDGES = (b"docker0\0", b"br-")
_ATTEMPTS = 3
DEFAULT_BRIDGE = "orlop0"
_NEEDS = (
    "bridge networks need root and Linux 5.2 with nf_tables (inet, nat, masq, fib); use --network pasta, host or none"
)


def install(nft: Nftables) -> bool:
    """See to it that our rules are there; True if they were not (then elements of running containers are lost too)."""
    try:
        if nft.rules(INET, TABLE, VERSION_CHAIN):
            return False
        nft.commit(ruleset())
    except OSError as error:
        if error.errno in {errno.EPERM, errno.EACCES}:
            raise PermissionDenied(f"the firewall is not ours to change: {error.strerror}", hint=_NEEDS) from error
        raise FailedPrecondition(
            f"this kernel does not take orlop's firewall rules: {error.strerror}", hint=_NEEDS
        ) from error
    return True


def open_way(
    nft: Nftables,
    *,
    bridge: str,
    subnets: tuple[tuple[str, int], ...],
    internal: bool = False,
    talk: bool = True,
    ways: Sequence[Way] = (),
    owner: str = "",
    alive: Callable[[str], bool] = lambda _: True,
) -> bool:
    """Let a network's traffic through and its container's published ports in, in one batch.

    Returns whether the table itself had to be made: then what other running containers had in it is lost, too.

    Conflict when one of `ways` is already somebody else's; then nothing is changed. Somebody of whom `alive` (given an
    owner) says no was killed before it could tidy up, as was an earlier life of `owner`: its ports are taken over.
    """
    anew = False
    for _ in range(_ATTEMPTS):
        anew = install(nft) or anew
        batch = Batch(INET)
        for name, elements in network_elements(bridge, subnets, internal=internal, talk=talk).items():
            batch.add_elements(TABLE, name, elements)
        for way in ways:
            name, element = way_element(way, owner)
            batch.add_elements(TABLE, name, [element], exclusive=True)
        try:
            nft.commit(batch)
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue  # somebody flushed the table between our look and our change
            if error.errno != errno.EEXIST:
                raise
            if taken := _taken(nft, ways, lambda holder: holder != owner and alive(holder)):
                raise taken from error
            continue
        return anew
    raise Conflict(
        "the firewall table inet orlop keeps changing", hint="something flushes all nf_tables rules: see nft monitor"
    )


def _taken(nft: Nftables, ways: Sequence[Way], alive: Callable[[str], bool]) -> Conflict | None:
    """Who alive has one of `ways`; entries of the dead are deleted."""
    wanted = {(name, element.key): way for way in ways for name, element in [way_element(way)]}
    dead: set[tuple[bytes, str]] = set()
    for name in PORT_MAPS:
        for found in nft.elements(INET, TABLE, name):
            way = wanted.get((name, found.key))
            if way is None:
                continue
            if alive(found.comment):
                where = f"{way.host_ip}:{way.host_port}" if way.host_ip else str(way.host_port)
                return Conflict(
                    f"port {where}/{way.protocol} is already published by container "
                    f"{found.comment.rpartition(':')[2][:12]}",
                    hint="publish another port, or stop that container",
                )
            dead.add((found.key, found.comment))
    _delete(nft, lambda found: (found.key, found.comment) in dead)
    return None


def close_way(nft: Nftables, ways: Sequence[Way], owner: str) -> None:
    """Take published ports of `owner` back. What is gone already, or taken over by somebody else, is as good."""
    wanted: dict[str, set[bytes]] = {}
    for way in ways:
        name, element = way_element(way)
        wanted.setdefault(name, set()).add(element.key)
    batch, count = Batch(INET), 0
    for name, keys in wanted.items():
        own = [
            Element(key=found.key)
            for found in nft.elements(INET, TABLE, name)
            if found.key in keys and found.comment == owner
        ]
        if own:
            batch.delete_elements(TABLE, name, own)
            count += len(own)
    if not count:
        return
    try:
        nft.commit(batch)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        every = set().union(*wanted.values())
        _delete(nft, lambda found: found.key in every and found.comment == owner)


def remove_network(nft: Nftables, *, bridge: str, subnets: tuple[tuple[str, int], ...]) -> None:
    """Forget a network's bridge and subnets; what is not there is as good."""
    for internal in (False, True):
        for name, elements in network_elements(bridge, subnets, internal=internal, talk=True).items():
            batch = Batch(INET)
            batch.delete_elements(TABLE, name, elements)
            try:
                nft.commit(batch)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise


def forget(nft: Nftables, owners: Collection[str]) -> int:
    """Delete the published ports of these owners; how many there were."""
    return _delete(nft, lambda found: found.comment in owners) if owners else 0


def published(nft: Nftables) -> list[tuple[str, Way]]:
    """(owner, way) of every published port."""
    return [(one.comment, way_of(name, one)) for name in PORT_MAPS for one in nft.elements(INET, TABLE, name)]


def _delete(nft: Nftables, unwanted: Callable[[Element], bool]) -> int:
    count = 0
    for name in PORT_MAPS:
        for found in nft.elements(INET, TABLE, name):
            if unwanted(found):
                batch = Batch(INET)
                batch.delete_elements(TABLE, name, [Element(key=found.key)])
                try:
                    nft.commit(batch)
                except OSError as error:
                    if error.errno != errno.ENOENT:  # somebody else was quicker
                        raise
                count += 1
    return count


# --- other tools' rules -----------------------------------------------------------------------------------------------


def cut_off(bridge: str = DEFAULT_BRIDGE, nft: Nftables | None = None, *, ipv6: bool = False) -> str:
    """Why others' firewall rules stop packets of `bridge`; "" when nothing is known to stop them.

    Looked for: base chains at the forward hook that drop by default (dockerd and ufw do that to iptables' FORWARD),
    firewalld, and iptables-legacy's FORWARD. Rules of theirs that name the bridge are taken to let it pass.
    """
    if nft is None:
        with Nftables() as own:
            return cut_off(bridge, own, ipv6=ipv6)
    named = x.interface_name(bridge)[: len(bridge) + 1]
    families = {INET, IPV4, IPV6} if ipv6 else {INET, IPV4}
    for chain in nft.chains():
        if chain.hook != FORWARD or chain.table == TABLE or chain.family not in families or chain.kind != "filter":
            continue
        if chain.policy != x.DROP and chain.table != "firewalld":
            continue
        rules = nft.rules(chain.family, chain.table)
        if not any(named in data for rule in rules for _, data in rule.expressions):
            return _reason(chain, {rule.chain for rule in rules}, bridge)
    legacy = xtables.forward_rules()
    if legacy and legacy[0] and named not in legacy[1]:
        return (
            "the FORWARD chain of iptables-legacy drops what it does not know, so packets of containers do not pass; "
            f"let them: iptables-legacy -I FORWARD -i {bridge} -j ACCEPT; iptables-legacy -I FORWARD -o {bridge} "
            "-j ACCEPT"
        )
    return ""


def _reason(chain: Chain, chains: set[str], bridge: str) -> str:
    table = chain.table
    if table == "firewalld":
        return (
            "firewalld rejects what it does not know, so packets of containers do not pass; let them: "
            f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
        )
    if table == "filter" and any(name.startswith("ufw") for name in chains):
        return (
            "ufw drops what is to be forwarded, so packets of containers do not pass; let them: "
            f"ufw route allow in on {bridge} && ufw route allow out on {bridge}"
        )
    if table == "filter":
        program = "ip6tables" if chain.family == IPV6 else "iptables"
        return (
            f"the FORWARD chain of {program} drops what it does not know, so packets of containers do not pass; let "
            f"them: {program} -I FORWARD -i {bridge} -j ACCEPT; {program} -I FORWARD -o {bridge} -j ACCEPT"
        )
    return (
        f"the chain {chain.name} of the nftables table {table} drops what it does not know, so packets of containers "
        f'do not pass; let them: accept iifname "{bridge}" and oifname "{bridge}" there'
    )


def pass_docker(nft: Nftables, bridge: str, *, ipv6: bool = False) -> bool:
    """Let `bridge` pass Docker's rules, in the chain that Docker keeps for others' rules; False where there is none.

    dockerd makes FORWARD drop by default and calls DOCKER-USER first, which it never changes itself. An accept there
    would also lead into Docker's own networks, so traffic towards its bridges goes on to Docker's rules. Written as
    iptables-nft writes rules, so that `iptables -S` shows them.
    """
    passed = [_pass_docker(nft, bridge, family) for family in ((IPV4, IPV6) if ipv6 else (IPV4,))]
    return any(passed)


def _pass_docker(nft: Nftables, bridge: str, family: int) -> bool:
    rules = nft.rules(family, "filter")
    if not any(_jumps_to(rule, _DOCKER_USER) for rule in rules if rule.chain == "FORWARD"):
        return False
    name = bridge.encode() + b"\0"
    if any(name in data for rule in rules if rule.chain == _DOCKER_USER for _, data in rule.expressions):
        return True
    out_of = x.meta(x.META_IIFNAME) + x.equal(name)
    batch = Batch(family)
    # Each goes before the ones already put: read upwards.
    batch.add_rule("filter", _DOCKER_USER, x.meta(x.META_OIFNAME) + x.equal(name), x.counter(), _accept(), first=True)
    batch.add_rule("filter", _DOCKER_USER, out_of, x.counter(), _accept(), first=True)
    for start in _DOCKER_BRIDGES:
        towards = x.meta(x.META_OIFNAME) + x.equal(start)
        batch.add_rule("filter", _DOCKER_USER, out_of, towards, x.counter(), x.verdict(x.RETURN), first=True)
    nft.commit(batch)
    return True


def _accept() -> bytes:
    return x.verdict(x.ACCEPT)


def _jumps_to(rule: Rule, chain: str) -> bool:
    return any(name == "immediate" and chain.encode() + b"\0" in data for name, data in rule.expressions)


def unpass_docker(nft: Nftables, bridge: str) -> None:
    """Take back what `pass_docker` put, when the bridge is no more."""
    name = bridge.encode() + b"\0"
    for family in (IPV4, IPV6):
        batch = Batch(family)
        for rule in nft.rules(family, "filter", _DOCKER_USER):
            if any(name in data for _, data in rule.expressions):
                batch.delete_rules("filter", _DOCKER_USER, handle=rule.handle)
        nft.commit(batch)
