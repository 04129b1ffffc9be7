"""Subnets: chosen apart from each other and from what the host knows."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument, ResourceExhausted
from orlop.network import subnets

NETWORK4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: ipaddress.ip_network((pair[0], pair[1]), strict=False)
)
NETWORK6 = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(
    lambda pair: ipaddress.ip_network((pair[0], pair[1]), strict=False)
)
NETWORK = st.one_of(NETWORK4, NETWORK6)


@given(NETWORK, NETWORK)
def test_overlap_is_what_the_standard_library_says(
    one: ipaddress.IPv4Network | ipaddress.IPv6Network, other: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> None:
    """Two subnets overlap exactly when `ipaddress` says so."""
    expected = one.version == other.version and one.overlaps(other)
    assert subnets.overlap(str(one), str(other)) == expected


@given(st.lists(NETWORK4.filter(lambda network: network.prefixlen > 11).map(str), max_size=8), st.booleans())
def test_a_chosen_subnet_is_private_and_free(taken: list[str], small: bool) -> None:
    """What is chosen overlaps nothing that is taken, and is private."""
    chosen = subnets.choose(taken, small=small)
    assert not any(subnets.overlap(chosen, one) for one in taken)
    assert ipaddress.ip_network(chosen).is_private


def test_when_nothing_is_free() -> None:
    """With all of private space taken the error says how to go on; default routes do not count as taken."""
    with pytest.raises(ResourceExhausted) as caught:
        subnets.choose(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])
    assert "--subnet" in caught.value.hint
    assert subnets.choose(["0.0.0.0/0", "::/0"]) == subnets.DEFAULT_POOL[0]


@given(st.text(max_size=30))
def test_any_text_is_a_subnet_or_refused(text: str) -> None:
    """No text breaks the parser; what is accepted is what `ipaddress` accepts too."""
    try:
        address, prefix = subnets.parse(text)
    except InvalidArgument:
        return
    assert str(ipaddress.ip_network(text)) == str(ipaddress.ip_network(f"{address}/{prefix}"))


def test_bits_beyond_the_prefix_are_pointed_out() -> None:
    """An address within a subnet is not the subnet; the hint says which it would be."""
    with pytest.raises(InvalidArgument) as caught:
        subnets.parse("10.1.2.3/16")
    assert "10.1.0.0/16" in caught.value.hint


def test_gateways_and_macs() -> None:
    """The gateway is the first host; a MAC is unicast, local, and made of the address."""
    assert subnets.gateway_of("10.91.0.0/16") == "10.91.0.1"
    assert subnets.gateway_of("fd00::/64") == "fd00::1"
    with pytest.raises(InvalidArgument):
        subnets.gateway_of("10.0.0.0/31")
    assert subnets.mac_of("10.91.1.2") == "02:42:0a:5b:01:02"
