"""The table of our own: that its name tells its version, and what its elements mean."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.linux import sockets
from orlop.linux.nftables import INET, Batch, Nftables
from orlop.network import firewall, ruleset
from orlop.network.ruleset import Way

PORT = st.integers(1, 65535)
V4 = st.binary(min_size=4, max_size=4).filter(any).map(sockets.address_text)
V6 = st.binary(min_size=16, max_size=16).filter(any).map(sockets.address_text)


def test_the_version_chain_is_named_after_the_rules() -> None:
    """Whoever changes a rule must rename the chain, or running hosts would keep the old rules."""
    assert ruleset.fingerprint() == ruleset.VERSION_CHAIN


@given(st.sampled_from(["tcp", "udp", "sctp"]), st.sampled_from([V4, V6]), st.data(), PORT, PORT)
def test_a_published_port_is_read_as_it_is_written(
    protocol: str, addresses: st.SearchStrategy[str], data: st.DataObject, host_port: int, port: int
) -> None:
    """A port's element in its map is the port, for both families, everywhere or at one address."""
    host_ip = data.draw(st.one_of(st.just(""), addresses))
    way = Way(protocol=protocol, host_ip=host_ip, host_port=host_port, ip=data.draw(addresses), port=port)
    name, element = ruleset.way_element(way, "who")
    assert name in ruleset.PORT_MAPS
    assert element.comment == "who"
    assert ruleset.way_of(name, element) == way


def test_installing_twice_is_installing_once() -> None:
    """`install` says whether it had to; a second time rules are as before, and elements stay."""
    netns = sockets.new_network_namespace()

    def rules() -> str:
        return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout

    def work() -> None:
        with Nftables() as nft:
            assert firewall.install(nft)
            assert not firewall.install(nft)
            before = rules()
            nft.commit(ruleset.ruleset())
            assert rules() == before
            way = Way(protocol="tcp", host_ip="", host_port=80, ip="10.91.0.2", port=80)
            firewall.open_way(nft, bridge="orlop0", subnets=(("10.91.0.0", 16),), ways=[way], owner="s:c")
            nft.commit(ruleset.ruleset())
            assert firewall.published(nft) == [("s:c", way)]
            subprocess.run(["nft", "flush", "table", "inet", "orlop"], check=True)
            assert firewall.install(nft), "a flushed table is noticed"
            assert firewall.published(nft) == [("s:c", way)]

    sockets.inside(netns, work)
    os.close(netns)


@pytest.mark.parametrize(("prefix", "last"), [(0, True), (8, False), (32, True)])
def test_subnets_up_to_the_end_of_the_address_space(prefix: int, last: bool) -> None:
    """A subnet that ends with the last address there is can be kept and listed like any other."""
    netns = sockets.new_network_namespace()
    address = {0: "0.0.0.0", 8: "10.0.0.0", 32: "255.255.255.255"}[prefix]

    def work() -> str:
        with Nftables() as nft:
            firewall.install(nft)
            batch = Batch(INET)
            found = ruleset.network_elements("b", ((address, prefix),), internal=False, talk=True)
            for name, elements in found.items():
                batch.add_elements(ruleset.TABLE, name, elements)
            nft.commit(batch)
        return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout

    shown = sockets.inside(netns, work)
    os.close(netns)
    assert ("255.255.255.255" in shown or "0.0.0.0/0" in shown) == last
