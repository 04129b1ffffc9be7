"""nf_tables by hand: what the kernel keeps is what `nft` prints."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.linux import netlink, nftables, sockets
from orlop.linux import nft_expressions as x
from orlop.linux.nftables import INET, IPV4, Batch, Element, Nftables

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def netns() -> Iterator[int]:
    """A fresh network namespace, without any rules."""
    fd = sockets.new_network_namespace()
    yield fd
    os.close(fd)


def commit(netns: int, batch: Batch) -> None:
    def work() -> None:
        with Nftables() as nft:
            nft.commit(batch)

    sockets.inside(netns, work)


def listed(netns: int) -> str:
    """What `nft` prints, spaces made one."""
    done = sockets.inside(
        netns, lambda: subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    )
    return " ".join(done.stdout.split())


RULES = {
    "ct state established,related accept": (x.ct_established(), x.verdict(x.ACCEPT)),
    "ct status dnat counter packets 0 bytes 0 drop": (x.ct_dnat(), x.counter(), x.verdict(x.DROP)),
    'iifname "eth0" return': (x.meta(x.META_IIFNAME), x.equal(x.interface_name("eth0")), x.verdict(x.RETURN)),
    'oifname != "eth0" drop': (x.meta(x.META_OIFNAME), x.unequal(x.interface_name("eth0")), x.verdict(x.DROP)),
    'iifname "br-*" drop': (x.meta(x.META_IIFNAME), x.equal(b"br-"), x.verdict(x.DROP)),
    "ip daddr 127.0.0.0/8 drop": (x.family_is(IPV4), x.destination4(size=1), x.equal(b"\x7f"), x.verdict(x.DROP)),
    "ip saddr 10.0.0.1 drop": (x.family_is(IPV4), x.source4(), x.equal(bytes((10, 0, 0, 1))), x.verdict(x.DROP)),
    "ip6 daddr ::1 drop": (
        x.family_is(nftables.IPV6),
        x.destination6(),
        x.equal(bytes(15) + b"\1"),
        x.verdict(x.DROP),
    ),
    "ip6 saddr ::1 drop": (x.family_is(nftables.IPV6), x.source6(), x.equal(bytes(15) + b"\1"), x.verdict(x.DROP)),
    "iifname @names accept": (x.meta(x.META_IIFNAME), x.lookup("names"), x.verdict(x.ACCEPT)),
    "ip saddr != @nets drop": (x.family_is(IPV4), x.source4(), x.lookup("nets", invert=True), x.verdict(x.DROP)),
    "jump other": (x.verdict(x.JUMP, "other"),),
    "fib daddr type local accept": (x.to_this_host(), x.verdict(x.ACCEPT)),
}


def _base(chain: str = "c") -> Batch:
    batch = Batch(INET)
    batch.add_table("t", comment="a comment")
    batch.add_set("t", "names", [nftables.TYPE_IFNAME])
    batch.add_set("t", "nets", [nftables.TYPE_IPV4], interval=True)
    batch.add_set(
        "t",
        "ports",
        [nftables.TYPE_PROTOCOL, nftables.TYPE_PORT],
        data=[nftables.TYPE_IPV4, nftables.TYPE_PORT],
    )
    batch.add_chain("t", "other")
    batch.add_chain("t", chain, kind="filter", hook=nftables.INPUT, priority=5, policy=x.DROP)
    return batch


@pytest.mark.parametrize("text", RULES)
def test_rules_are_printed_as_they_are_meant(netns: int, text: str) -> None:
    """Each expression that we write is the one that nft shows."""
    batch = _base()
    batch.add_rule("t", "c", *RULES[text], comment="why")
    commit(netns, batch)
    assert f'policy drop; {text} comment "why" }}' in listed(netns)


def test_nat_rules(netns: int) -> None:
    """Masquerading, and rewriting by a map of protocol and port to address and port."""
    batch = _base()
    batch.add_chain("t", "pre", kind="nat", hook=nftables.PREROUTING, priority=-100)
    batch.add_chain("t", "post", kind="nat", hook=nftables.POSTROUTING, priority=100)
    find = x.meta(x.META_L4PROTO) + x.destination_port(1) + x.lookup("ports", into=0)
    batch.add_rule("t", "pre", x.family_is(IPV4), find, x.dnat(IPV4, address=0, port=1))
    batch.add_rule("t", "post", x.masquerade())
    commit(netns, batch)
    shown = listed(netns)
    assert "priority dstnat; policy accept; meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports" in shown
    assert "type nat hook postrouting priority srcnat; policy accept; masquerade }" in shown


def test_sets_are_printed_as_they_are_meant(netns: int) -> None:
    """Types, intervals, maps and comments are what nft shows, and what we read back."""
    batch = _base()
    key = x.concatenated(b"\x06", (80).to_bytes(2, "big"))
    data = x.concatenated(bytes((10, 0, 0, 2)), (8080).to_bytes(2, "big"))
    batch.add_elements("t", "names", [Element(key=x.interface_name("eth0")), Element(key=x.interface_name("orlop0"))])
    batch.add_elements("t", "nets", [Element(key=bytes((10, 0, 0, 0))), Element(key=bytes((10, 1, 0, 0)), end=True)])
    batch.add_elements("t", "ports", [Element(key=key, data=data, comment="who")])
    commit(netns, batch)

    shown = listed(netns)
    assert 'comment "a comment"' in shown
    assert 'set names { type ifname elements = { "eth0", "orlop0" } }' in shown
    assert "set nets { type ipv4_addr flags interval elements = { 10.0.0.0/16 } }" in shown
    assert (
        "map ports { type inet_proto . inet_service : ipv4_addr . inet_service "
        'elements = { tcp . 80 comment "who" : 10.0.0.2 . 8080 } }' in shown
    )

    def read() -> tuple[list[Element], list[Element]]:
        with Nftables() as nft:
            return nft.elements(INET, "t", "ports"), nft.elements(INET, "t", "nowhere")

    assert sockets.inside(netns, read) == ([Element(key=key, data=data, comment="who")], [])


def test_elements_are_added_and_deleted(netns: int) -> None:
    """Adding again is harmless unless it is to be exclusive; deleting what is not there is refused."""
    element = Element(key=x.interface_name("eth0"))
    commit(netns, _base())
    add = Batch(INET)
    add.add_elements("t", "names", [element])
    commit(netns, add)
    commit(netns, add)
    alone = Batch(INET)
    alone.add_elements("t", "names", [element], exclusive=True)
    with pytest.raises(netlink.NetlinkError, match="add elements to the set names in the table t") as caught:
        commit(netns, alone)
    assert caught.value.errno == errno.EEXIST
    delete = Batch(INET)
    delete.delete_elements("t", "names", [element])
    commit(netns, delete)
    with pytest.raises(netlink.NetlinkError) as caught:
        commit(netns, delete)
    assert caught.value.errno == errno.ENOENT


def test_a_batch_takes_effect_as_a_whole_or_not_at_all(netns: int) -> None:
    """One refused change undoes all others of its batch, and the first refusal is the one that is told."""
    batch = _base()
    batch.add_rule("t", "nowhere", x.verdict(x.DROP))
    batch.add_rule("nowhere", "c", x.verdict(x.DROP))
    with pytest.raises(netlink.NetlinkError, match="add a rule to nowhere in the table t"):
        commit(netns, batch)
    assert listed(netns) == ""
    commit(netns, Batch(INET))


def test_large_batches(netns: int) -> None:
    """Thousands of elements, more than an attribute can hold, are added in one batch and listed whole."""
    elements = [Element(key=x.interface_name(f"eth{number}")) for number in range(3000)]
    batch = _base()
    batch.add_elements("t", "names", elements)
    for number in range(100):
        batch.add_chain("t", f"chain{number}")
    commit(netns, batch)

    def read() -> set[bytes]:
        with Nftables() as nft:
            return {one.key for one in nft.elements(INET, "t", "names")}

    assert sockets.inside(netns, read) == {one.key for one in elements}


def test_chains_tables_and_rules_are_listed(netns: int) -> None:
    """What nft makes is read: hooks, priorities, policies, rules; rules are deleted by handle or all at once."""
    sockets.inside(
        netns,
        lambda: subprocess.run(
            [
                "nft",
                (
                    "add table ip a; add chain ip a f { type filter hook forward priority -3; policy drop; }; "
                    'add chain ip a plain; add rule ip a f counter accept comment "one"; add rule ip a f drop'
                ),
            ],
            check=True,
        ),
    )

    def work() -> None:
        with Nftables() as nft:
            assert nft.tables() == [(IPV4, "a")]
            base, plain = nft.chains()
            assert (base.name, base.kind, base.hook, base.priority, base.policy) == (
                *("f", "filter", nftables.FORWARD, -3),
                x.DROP,
            )
            assert (plain.name, plain.hook) == ("plain", -1)
            first, second = nft.rules(IPV4, "a")
            assert ([name for name, _ in first.expressions], first.comment) == (["counter", "immediate"], "one")
            assert nft.rules(IPV4, "a", "nowhere") == []
            assert nft.rules(IPV4, "nowhere") == []
            batch = Batch(IPV4)
            batch.delete_rules("a", "f", handle=second.handle)
            batch.add_rule("a", "f", x.verdict(x.RETURN), first=True)
            nft.commit(batch)
            assert [len(rule.expressions) for rule in nft.rules(IPV4, "a")] == [1, 2]
            batch = Batch(IPV4)
            batch.delete_rules("a")
            nft.commit(batch)
            assert nft.rules(IPV4, "a") == []
            batch = Batch(IPV4)
            batch.delete_table("a")
            nft.commit(batch)
            assert nft.tables() == []

    sockets.inside(netns, work)


@given(st.binary(min_size=4, max_size=100))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    """Any bytes in place of a chain, a rule or elements are read, or refused with EBADMSG."""
    for read in (nftables.parse_chain, nftables.parse_rule, nftables.parse_elements):
        try:
            read(data)
        except OSError as error:
            refused = error.errno
        else:
            continue
        assert refused == errno.EBADMSG


@given(
    st.lists(
        st.builds(
            Element,
            key=st.binary(min_size=1, max_size=32),
            data=st.binary(max_size=32),
            comment=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
            end=st.booleans(),
        ),
        max_size=10,
    )
)
def test_elements_are_read_as_they_are_written(elements: list[Element]) -> None:
    """What we send is, byte for byte, what we would understand."""
    batch = Batch(INET)
    batch.add_elements("t", "s", elements)
    assert [one for request in batch.requests for one in nftables.parse_elements(request.payload)] == elements


@given(st.binary(min_size=1, max_size=16), st.binary(min_size=1, max_size=16))
def test_concatenations_fill_registers(first: bytes, second: bytes) -> None:
    """Each field of a concatenation starts at a register, which are 4 bytes wide."""
    joined = x.concatenated(first, second)
    start = -(-len(first) // 4) * 4
    assert joined[: len(first)] == first
    assert joined[start : start + len(second)] == second
    assert len(joined) % 4 == 0
