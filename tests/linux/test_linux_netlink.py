"""Netlink by hand: the wire as laws, and the kernel's links, addresses and routes as `ip` sees them."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import pickle
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.linux import conntrack, netlink, route, sockets, xtables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KIND = st.integers(0, 0x3FFF)
ATTRIBUTES = st.lists(st.tuples(KIND, st.binary(max_size=40)), max_size=8)


@pytest.fixture
def netns() -> Iterator[int]:
    """A fresh network namespace."""
    fd = sockets.new_network_namespace()
    yield fd
    os.close(fd)


def ip(netns: int, *arguments: str) -> Any:
    """What `ip -json` prints in the namespace."""
    done = sockets.inside(
        netns, lambda: subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=True)
    )
    return json.loads(done.stdout)


@given(ATTRIBUTES)
def test_attributes_are_read_as_they_are_written(pairs: list[tuple[int, bytes]]) -> None:
    """Any attributes, concatenated, come back in order and whole; each starts at a multiple of 4."""
    data = b"".join(netlink.attribute(kind, value) for kind, value in pairs)
    assert len(data) % 4 == 0
    assert netlink.attribute_list(data) == pairs
    assert netlink.attributes(data) == dict(pairs)
    assert netlink.attribute_list(netlink.nest(7, data)) == [(7, data)]


@given(st.binary(max_size=80))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    """Any bytes are read, or refused with EBADMSG; the readers always end."""
    readers: list[Callable[[bytes], object]] = [
        netlink.attribute_list,
        netlink.answers,
        lambda raw: netlink.verdict(netlink.Answer(2, 0x300, 1, raw)),
        route.parse_link,
        route.parse_address,
        route.parse_route,
        lambda raw: conntrack.is_to(raw, 17, 53),
        lambda raw: xtables.policy_drops(raw.ljust(84), raw),
    ]
    for read in readers:
        try:
            read(data)
        except OSError as error:
            refused = error.errno
        else:
            continue
        assert refused == errno.EBADMSG


@given(
    st.lists(
        st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.binary(max_size=30))
    )
)
def test_messages_are_read_as_they_are_written(messages: list[tuple[int, int, int, bytes]]) -> None:
    """Any messages in one datagram come back in order."""
    data = b"".join(netlink.message(*one) for one in messages)
    found = [(one.kind, one.flags, one.sequence, one.payload) for one in netlink.answers(data)]
    assert found == messages


@given(st.integers(1, 130), st.text(alphabet="abc de", max_size=30), st.binary(max_size=30), st.booleans())
def test_the_kernels_words_are_found(code: int, words: str, echoed: bytes, capped: bool) -> None:
    """The explanation in an acknowledgement is found, whether the kernel echoes the request or only its header."""
    header = struct.pack("=IHHII", 16 + len(echoed), 16, 5, 9, 0)
    body = header if capped else header + echoed + b"\0" * (-len(echoed) % 4)
    payload = struct.pack("=i", -code) + body + netlink.text(1, words)
    answer = netlink.Answer(netlink.ERROR, 0x200 | (0x100 if capped else 0), 9, payload)
    assert netlink.verdict(answer) == (code, words)


def test_errors_say_what_was_asked_and_survive_pickling() -> None:
    """A refused request is an OSError of the right kind whose text names the deed and the kernel's reason."""
    error = netlink.NetlinkError(errno.EEXIST, "create the bridge b", "it is there")
    assert str(error) == "[Errno 17] create the bridge b: File exists (it is there)"
    again = pickle.loads(pickle.dumps(error))
    assert (again.errno, again.doing, again.explanation) == (error.errno, error.doing, error.explanation)


def test_many_requests_in_one_go(netns: int) -> None:
    """All requests of a call are done although one in the middle is refused; that one is reported, by name."""

    def work() -> None:
        with route.Route() as sock:
            with pytest.raises(netlink.NetlinkError, match=r"change the link nothing: .*No such device") as caught:
                sock.request(
                    [route.link_add_bridge("b0"), route.link_set("nothing", up=True), route.link_add_bridge("b1")]
                )
            assert caught.value.errno == errno.ENODEV
            assert {link.name for link in sock.links()} == {"lo", "b0", "b1"}
            sock.request([route.link_delete("b0"), route.link_delete("nothing", missing_ok=True)])
            assert {link.name for link in sock.links()} == {"lo", "b1"}

    sockets.inside(netns, work)


def test_a_veth_pair_as_ip_sees_it(netns: int) -> None:
    """A pair into another namespace, in one go: bridge port, MAC, MTU, alias and state are as asked for."""
    other = sockets.new_network_namespace()

    def work() -> None:
        with route.Route() as sock:
            sock.request(
                [route.link_add_bridge("br", mac="02:42:0a:00:00:01", mtu=1400), route.link_set("br", up=True)]
            )
            master = sock.link("br").index
            sock.request(
                [
                    route.link_add_veth(
                        "v0", peer="eth7", peer_netns=other, peer_mac="02:42:0a:00:00:02", mtu=1400, master=master
                    ),
                    route.link_set("v0", alias="who", link_local=False),
                    route.link_set_port("v0", hairpin=True, isolated=True),
                    route.link_set("v0", up=True),
                ]
            )
            found = sock.link("v0")
            assert (found.kind, found.master, found.mtu, found.alias) == ("veth", master, 1400, "who")

    sockets.inside(netns, work)
    (port,) = ip(netns, "-details", "link", "show", "v0")
    assert (port["master"], port["mtu"], port["ifalias"], "UP" in port["flags"]) == ("br", 1400, "who", True)
    data = port["linkinfo"]["info_slave_data"]
    assert (data["hairpin"], data["isolated"], data["state"]) == (True, True, "disabled")
    (bridge,) = ip(netns, "-details", "link", "show", "br")
    assert (bridge["address"], bridge["linkinfo"]["info_data"]["forward_delay"]) == ("02:42:0a:00:00:01", 0)
    (peer,) = ip(other, "link", "show", "eth7")
    assert (peer["address"], peer["mtu"], peer["operstate"]) == ("02:42:0a:00:00:02", 1400, "DOWN")
    os.close(other)


def test_moving_and_renaming_links(netns: int) -> None:
    """A link is renamed, taken out of its bridge and moved into another namespace."""
    other = sockets.new_network_namespace()

    def work() -> None:
        with route.Route() as sock:
            sock.request([route.link_add_bridge("br"), route.link_add_veth("a", peer="b", peer_netns=netns)])
            sock.request(
                [route.link_set("a", master=sock.link("br").index), route.link_set("a", mac="02:00:00:00:00:09")]
            )
            sock.request(
                [route.link_set("a", master=0, mtu=1300), route.link_set("b", index=route.index_of("b"), rename="c")]
            )
            assert (sock.link("a").master, sock.link("a").mac, sock.link("a").mtu) == (0, "02:00:00:00:00:09", 1300)
            sock.request([route.link_set("c", netns=other)])
            assert {link.name for link in sock.links()} == {"lo", "br", "a"}

    sockets.inside(netns, work)
    assert {link["ifname"] for link in ip(other, "link")} == {"lo", "c"}
    os.close(other)


def test_addresses_and_routes_as_ip_sees_them(netns: int) -> None:
    """Addresses (with broadcast), routes, default routes and neighbours of both families are what was asked for."""

    def work() -> None:
        with route.Route() as sock:
            sock.request([route.link_add_veth("a", peer="b", peer_netns=netns)])
            index = route.index_of("a")
            sock.request([route.link_set("b", up=True), route.link_set("a", up=True, link_local=False)])
            wanted = [
                route.address_add(index, "10.1.0.2", 24, link="a"),
                route.address_add(index, "fd00::2", 64, link="a"),
                route.route_add(index, link="a", gateway="10.1.0.1"),
                route.route_add(index, link="a", gateway="fd00::1"),
                route.route_add(index, link="a", destination="10.2.0.0", prefix=16),
                route.route_add(index, link="a", destination="10.3.0.0", prefix=16, gateway="10.1.0.9", metric=7),
            ]
            sock.request(wanted)
            sock.request(wanted)  # a second time changes nothing
            found = {(one.destination, one.gateway) for one in sock.routes() if one.index == index}
            assert found >= {("", "10.1.0.1"), ("", "fd00::1"), ("10.2.0.0", ""), ("10.3.0.0", "10.1.0.9")}
            assert {one.ip for one in sock.addresses() if one.index == index} >= {"10.1.0.2", "fd00::2"}

    sockets.inside(netns, work)
    (link,) = ip(netns, "address", "show", "a")
    found = {one["local"]: one for one in link["addr_info"]}
    assert (found["10.1.0.2"]["prefixlen"], found["10.1.0.2"]["broadcast"]) == (24, "10.1.0.255")
    assert found["fd00::2"].get("nodad")
    routes = {(one["dst"], one.get("gateway"), one.get("metric")) for one in ip(netns, "-4", "route")}
    assert routes >= {("default", "10.1.0.1", None), ("10.3.0.0/16", "10.1.0.9", 7), ("10.2.0.0/16", None, None)}

    def undo() -> None:
        index = route.index_of("a")
        route.changes([route.address_delete(index, "10.1.0.2", 24, link="a")])
        with pytest.raises(netlink.NetlinkError, match=r"take the address 10\.1\.0\.2/24 from a"):
            route.changes([route.address_delete(index, "10.1.0.2", 24, link="a")])

    sockets.inside(netns, undo)


def test_long_listings_come_whole(netns: int) -> None:
    """A listing of many links, more than one datagram holds, is complete."""

    def work() -> set[str]:
        with route.Route() as sock:
            for start in range(0, 120, 30):
                sock.request([route.link_add_bridge(f"b{number}") for number in range(start, start + 30)])
            return {link.name for link in sock.links()}

    assert sockets.inside(netns, work) == {"lo", *(f"b{number}" for number in range(120))}


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", " "])
def test_names_that_no_link_can_have(name: str) -> None:
    """A link's name is checked before the kernel sees it."""
    with pytest.raises(OSError, match="cannot be a link's name"):
        route.link_delete(name)


@given(st.binary(min_size=6, max_size=6))
def test_mac_addresses(raw: bytes) -> None:
    """A MAC address is read as it is written."""
    assert route.mac_bytes(route.mac_text(raw)) == raw


@pytest.mark.parametrize("text", ["", "02:42", "zz:zz:zz:zz:zz:zz", "02:42:0a:00:00:02:03"])
def test_malformed_mac_addresses(text: str) -> None:
    """Anything else is refused by name."""
    with pytest.raises(OSError, match="not a MAC address"):
        route.mac_bytes(text)


def test_sysctls_are_written_in_the_threads_namespace(netns: int) -> None:
    """A network sysctl is changed in the namespace that the thread is in, and only there."""
    with open("/proc/sys/net/ipv4/ip_default_ttl", encoding="ascii") as file:
        before = file.read()
    sockets.inside(netns, lambda: route.set_sysctl("net/ipv4/ip_default_ttl", "77"))
    sockets.inside(netns, lambda: route.set_sysctl("net/ipv4/ip_default_ttl", "77"))

    def read() -> str:
        with open("/proc/sys/net/ipv4/ip_default_ttl", encoding="ascii") as file:
            return file.read().strip()

    assert sockets.inside(netns, read) == "77"
    with open("/proc/sys/net/ipv4/ip_default_ttl", encoding="ascii") as file:
        assert file.read() == before


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.data())
def test_addresses_are_those_of_the_standard_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, data: st.DataObject
) -> None:
    """Packing, printing and masking agree with `ipaddress`, which costs a command 5 ms."""
    packed = sockets.packed_address(str(address))
    assert packed == address.packed
    assert ipaddress.ip_address(sockets.address_text(packed)) == address
    prefix = data.draw(st.integers(0, address.max_prefixlen))
    network = ipaddress.ip_network((address, prefix), strict=False)
    assert sockets.host_bits(str(address), prefix) == (int(network.network_address), address.max_prefixlen)
    with pytest.raises(OSError, match="prefix"):
        sockets.host_bits(str(address), address.max_prefixlen + 1)


def test_a_visit_to_a_namespace_ends_also_when_it_fails(netns: int) -> None:
    """`inside` brings the thread back after an exception, and hands the exception on."""
    home = os.stat("/proc/thread-self/ns/net").st_ino

    def fail() -> None:
        assert os.stat("/proc/thread-self/ns/net").st_ino != home
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        sockets.inside(netns, fail)
    assert os.stat("/proc/thread-self/ns/net").st_ino == home


def test_descriptors_travel(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Descriptors sent over a Unix socket arrive open and close-on-exec, also at a path too long for an address."""
    folder = tmp_path_factory.mktemp("x" * 120)
    listener = sockets.unix_listen(str(folder / "socket"))
    sender = sockets.unix_connect(str(folder / "socket"))
    receiver, _ = sockets.accept(listener)
    reader, writer = os.pipe()
    sockets.send_with_descriptors(sender, b"x", [reader, writer])
    data, (got_reader, got_writer) = sockets.receive_with_descriptors(receiver, 10)
    assert data == b"x"
    assert not os.get_inheritable(got_reader)
    os.write(got_writer, b"through")
    assert os.read(reader, 10) == b"through"
    sockets.send_with_descriptors(sender, b"x", [reader, writer])
    with pytest.raises(OSError, match="more descriptors"):
        sockets.receive_with_descriptors(receiver, 10, most=0)
    with pytest.raises(OSError, match="at least one byte"):
        sockets.send_with_descriptors(sender, b"", [reader])
    sender.close()
    assert sockets.receive_with_descriptors(receiver, 10) == (b"", [])
    for fd in (reader, writer, got_reader, got_writer):
        os.close(fd)
    listener.close()
    receiver.close()


def test_a_socket_that_cannot_be_made_leaves_nothing_open() -> None:
    """Errors of bind and connect pass through as they are."""
    with pytest.raises(FileNotFoundError):
        sockets.unix_connect("/nonexistent/socket")
    with pytest.raises(FileNotFoundError):
        sockets.unix_listen("/nonexistent/socket")


def test_connections_are_forgotten(netns: int) -> None:
    """Only connections of the protocol and port that were named are forgotten."""
    import socket

    def work() -> None:
        route.changes([route.link_set("lo", index=1, up=True)])
        subprocess.run(
            [
                "nft",
                "add table ip t; add chain ip t c { type filter hook input priority 0; }; add rule ip t c ct state new",
            ],
            check=True,
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in (53, 53, 54):
                sock.sendto(b"x", ("127.0.0.1", port))
        assert conntrack.forget(6, {53}) == 0
        assert conntrack.forget(17, {53}) == 1
        assert conntrack.forget(17, {53, 54}) == 1

    sockets.inside(netns, work)


def test_iptables_legacy_is_read(netns: int) -> None:
    """The old filter's FORWARD policy is found, with or without rules; where it is not loaded there is nothing."""

    def run(*arguments: str) -> None:
        sockets.inside(netns, lambda: subprocess.run(["iptables-legacy", *arguments], check=True))

    assert sockets.inside(netns, xtables.forward_rules) is None
    run("-P", "FORWARD", "DROP")
    found = sockets.inside(netns, xtables.forward_rules)
    assert found
    assert found[0]
    run("-A", "FORWARD", "-i", "orlop0", "-j", "ACCEPT")
    run("-P", "FORWARD", "ACCEPT")
    found = sockets.inside(netns, xtables.forward_rules)
    assert found
    assert not found[0]
    assert b"orlop0\0" in found[1]
