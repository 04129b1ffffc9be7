"""Bridges, published ports and isolation, with real packets between real namespaces."""

from __future__ import annotations

import functools
import json
import os
import socket
from typing import TYPE_CHECKING

import pytest
from netlab import BRIEF, HOST, HOST6, NETWORK, OTHER, OUTSIDE, OUTSIDE6, PATIENCE
from patience import until

from orlop.errors import Conflict, InvalidArgument, PermissionDenied
from orlop.linux import route, sockets
from orlop.linux.nftables import Nftables
from orlop.network import bridge, firewall, ports, publishing
from orlop.network.values import Attachment, AttachRequest, Network

if TYPE_CHECKING:
    from netlab import Lab

UDP = socket.SOCK_DGRAM
DUAL = Network(name="dual", subnet="10.91.0.0/16", gateway="10.91.0.1", subnet6="fd00:91::/64", gateway6="fd00:91::1")


def test_a_container_gets_its_link_address_routes_and_loopback(lab: Lab) -> None:
    """After attach the container has lo and eth0 up, its address, the way out, and a MAC made of its address."""
    attachment = lab.attach(2)

    def look() -> tuple[list[route.Link], list[route.Address], list[route.RouteEntry]]:
        with route.Route() as sock:
            return sock.links(), sock.addresses(), sock.routes()

    links, addresses, routes = sockets.inside(lab.container(2)[1], look)
    assert [(link.name, bool(link.flags & route.IFF_UP)) for link in links] == [("lo", True), ("eth0", True)]
    assert links[1].mac == "02:42:0a:5b:00:02" == attachment.mac
    assert ("10.91.0.2", 16) in [(one.ip, one.prefix) for one in addresses]
    assert not [one for one in addresses if one.ip.startswith("fe80")]
    assert "10.91.0.1" in [one.gateway for one in routes if not one.destination]
    assert (attachment.ip, attachment.prefix, attachment.gateway) == ("10.91.0.2", 16, "10.91.0.1")

    def look_at_host() -> tuple[route.Link, list[str]]:
        with route.Route() as sock:
            own = {sock.link(name).index for name in ("orlop0", attachment.veth)}
            return sock.link("orlop0"), [one.ip for one in sock.addresses() if one.index in own]

    link, found = lab.on_host(look_at_host)
    assert link.mac == "02:42:0a:5b:00:01", "it does not change with the containers"
    assert found == ["10.91.0.1"]


def test_containers_of_one_network_reach_each_other_and_the_host(lab: Lab) -> None:
    """Neighbours talk directly (seen by their own addresses), and reach services of the host at the gateway."""
    lab.attach(2)
    lab.attach(3)
    lab.serve(lab.container(3)[1], 80)
    lab.serve(lab.host, 81, answer=b"host")

    assert lab.call(lab.container(2)[1], "10.91.0.3", 80) == b"10.91.0.2"
    assert lab.call(lab.container(2)[1], "10.91.0.1", 81) == b"host"


def test_a_container_goes_out_with_the_hosts_address(lab: Lab) -> None:
    """Another host, which knows nothing of the container's subnet, answers: it sees the host's address."""
    lab.attach(2)
    lab.serve(lab.outside, 80)

    assert lab.call(lab.container(2)[1], OUTSIDE, 80) == HOST.encode()


def test_a_published_port_is_reached_from_everywhere(lab: Lab) -> None:
    """From another host, from the host by its address and by loopback, from a neighbour, and from itself."""
    lab.attach(2, "8080:80")
    lab.attach(3)
    lab.serve(lab.container(2)[1], 80)

    assert lab.call(lab.outside, HOST, 8080) == OUTSIDE.encode()
    assert lab.call(lab.host, HOST, 8080) == HOST.encode()
    assert lab.call(lab.host, "127.0.0.1", 8080) == b"10.91.0.1"
    assert lab.call(lab.host, "10.91.0.1", 8080) == b"10.91.0.1"
    assert lab.call(lab.container(3)[1], HOST, 8080) == b"10.91.0.1"
    assert lab.call(lab.container(2)[1], "10.91.0.1", 8080) == b"10.91.0.1"


def test_published_udp_ports(lab: Lab) -> None:
    """UDP is published like TCP, and the same number stays free for the other protocol."""
    lab.attach(2, "5353:53/udp")
    lab.serve(lab.container(2)[1], 53, kind=UDP, answer=b"udp")

    assert lab.call(lab.outside, HOST, 5353, kind=UDP) == b"udp"
    assert lab.call(lab.host, "127.0.0.1", 5353, kind=UDP) == b"udp"
    with pytest.raises(ConnectionRefusedError):
        lab.call(lab.host, HOST, 5353)


def test_a_persistent_udp_client_follows_the_port(lab: Lab) -> None:
    """A client that sends from one socket all the time reaches whoever has the port now, first nobody, then each."""
    lab.attach(4)  # from now on the host tracks connections
    _, first = lab.container(2)
    _, second = lab.container(3)
    lab.serve(first, 53, kind=UDP, answer=b"first")
    lab.serve(second, 53, kind=UDP, answer=b"second")
    with sockets.inside(lab.outside, lambda: socket.socket(socket.AF_INET, UDP)) as client:
        client.connect((HOST, 53))
        client.settimeout(PATIENCE)  # the refusal comes, and must not come later: it would be the next send's error
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)

        attachment = lab.attach(2, "53:53/udp")
        client.settimeout(PATIENCE)
        client.send(b"one")
        assert client.recv(100) == b"first"

        lab.on_host(lambda: bridge.detach(attachment))
        lab.attach(3, "53:53/udp")
        client.send(b"two")
        assert client.recv(100) == b"second"


def test_a_port_at_one_address_is_only_there(lab: Lab) -> None:
    """127.0.0.1:8080 is for the host alone, even for a neighbour on the wire who sends packets to 127.0.0.1."""
    lab.attach(2, "127.0.0.1:8080:80", f"{HOST}:8081:80")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")

    assert lab.call(lab.host, "127.0.0.1", 8080) == b"yes"
    assert lab.call(lab.outside, HOST, 8081) == b"yes"
    with pytest.raises(ConnectionRefusedError):
        lab.call(lab.outside, HOST, 8080)
    with pytest.raises(ConnectionRefusedError):
        lab.call(lab.host, "127.0.0.1", 8081)
    _send_loopback_packets_through(lab, lab.outside, HOST)
    with pytest.raises(TimeoutError):
        lab.call(lab.outside, "127.0.0.1", 8080, wait=BRIEF, source=OUTSIDE)


def _send_loopback_packets_through(lab: Lab, netns: int, gateway: str) -> None:
    """Make `netns` send packets to 127.0.0.1 over its eth0, as a forger would."""
    del lab

    def forge() -> None:
        index = route.index_of("eth0")
        route.set_sysctl("net/ipv4/conf/eth0/route_localnet", "1")
        route.changes([route.address_delete(1, "127.0.0.1", 8, link="lo")])
        route.changes([route.route_add(index, link="eth0", destination="127.0.0.0", prefix=8, gateway=gateway)])

    sockets.inside(netns, forge)


def test_a_container_cannot_reach_the_hosts_loopback(lab: Lab) -> None:
    """Although loopback may be routed on the bridge, forged packets to 127.0.0.1 from a container are dropped."""
    lab.attach(2, "8080:80")
    lab.serve(lab.host, 82, answer=b"secret")
    _send_loopback_packets_through(lab, lab.container(2)[1], "10.91.0.1")

    with pytest.raises(TimeoutError):
        lab.call(lab.container(2)[1], "127.0.0.1", 82, wait=BRIEF, source="10.91.0.2")
    lab.run("nft", "flush chain inet orlop guard")
    assert lab.call(lab.container(2)[1], "127.0.0.1", 82, source="10.91.0.2") == b"secret", "the attack would work"


def test_unpublished_ports_are_closed_to_others(lab: Lab) -> None:
    """A host that sets a route to the container's subnet reaches nothing; published ports work as before."""
    lab.attach(2, "8080:80")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")
    sockets.inside(
        lab.outside,
        lambda: route.changes(
            [route.route_add(route.index_of("eth0"), link="eth0", destination="10.91.0.0", prefix=16, gateway=HOST)]
        ),
    )

    with pytest.raises(TimeoutError):
        lab.call(lab.outside, "10.91.0.2", 80, wait=BRIEF)
    assert lab.call(lab.outside, HOST, 8080) == b"yes"


def test_networks_are_isolated_from_each_other(lab: Lab) -> None:
    """Containers of two networks do not reach each other, but for published ports."""
    lab.attach(2)
    lab.attach(3, "8080:80", network=OTHER)
    lab.serve(lab.container(3)[1], 80, answer=b"yes")

    with pytest.raises(TimeoutError):
        lab.call(lab.container(2)[1], "10.92.0.3", 80, wait=BRIEF)
    assert lab.call(lab.container(2)[1], HOST, 8080) == b"yes"


def test_an_internal_network_has_no_way_out(lab: Lab) -> None:
    """Containers of an internal network reach each other and nothing else, and publish nothing."""
    inner = OTHER.replace(internal=True)
    attached = lab.attach(2, "8080:80", network=inner)
    lab.attach(3, network=inner)
    lab.serve(lab.container(3)[1], 80, answer=b"yes")
    lab.serve(lab.outside, 80)

    assert lab.call(lab.container(2)[1], "10.92.0.3", 80) == b"yes"
    assert (attached.gateway, attached.ports) == ("", ())
    with pytest.raises(OSError, match="unreachable"):
        lab.call(lab.container(2)[1], OUTSIDE, 80, wait=BRIEF)

    # Not even for who makes a route, or translates addresses by hand.
    def escape() -> None:
        route.changes([route.route_add(route.index_of("eth0"), link="eth0", gateway="10.92.0.1")])

    for number in (2, 3):
        sockets.inside(lab.container(number)[1], escape)
    sockets.inside(
        lab.outside,
        lambda: route.changes(
            [route.route_add(route.index_of("eth0"), link="eth0", destination="10.92.0.0", prefix=24, gateway=HOST)]
        ),
    )
    lab.on_host(lambda: route.set_sysctl("net/ipv4/ip_forward", "1"))
    with pytest.raises(TimeoutError):
        lab.call(lab.container(2)[1], OUTSIDE, 80, wait=BRIEF)
    lab.run(
        "nft",
        "add table ip x; add chain ip x p { type nat hook prerouting priority -150; }; "
        "add rule ip x p tcp dport 99 dnat to 10.92.0.3:80",
    )
    with pytest.raises(TimeoutError):
        lab.call(lab.outside, HOST, 99, wait=BRIEF)


def test_containers_that_must_not_talk(lab: Lab) -> None:
    """With `talk` off (docker's icc=false) neighbours do not reach each other, but the way out is open."""
    silent = OTHER.replace(talk=False)
    lab.attach(2, network=silent)
    lab.attach(3, network=silent)
    lab.serve(lab.container(3)[1], 80)
    lab.serve(lab.outside, 80)

    for bridged_packets_are_filtered in ("1", "0"):
        value = bridged_packets_are_filtered
        lab.on_host(lambda value=value: route.set_sysctl("net/bridge/bridge-nf-call-iptables", value))  # type: ignore[misc]
        with pytest.raises((TimeoutError, OSError)):
            lab.call(lab.container(2)[1], "10.92.0.3", 80, wait=BRIEF)
    assert lab.call(lab.container(2)[1], OUTSIDE, 80) == HOST.encode()


def test_ipv6(lab: Lab) -> None:
    """A network with IPv6 publishes at the host's IPv6 addresses, goes out masqueraded, and ::1 works by the proxy."""
    lab.attach(2, "8080:80", "[::1]:8081:80", network=DUAL)
    lab.serve(lab.container(2)[1], 80, v6=True)
    lab.serve(lab.outside, 80, v6=True)

    assert lab.call(lab.outside, HOST6, 8080) == OUTSIDE6.encode()
    assert lab.call(lab.outside, HOST, 8080) == f"::ffff:{OUTSIDE}".encode()
    assert lab.call(lab.host, HOST6, 8080)
    assert lab.call(lab.host, "::1", 8081) == b"fd00:91::1"
    assert lab.call(lab.container(2)[1], OUTSIDE6, 80) == HOST6.encode()


def test_ipv6_addresses_of_the_host_lead_to_ipv4_containers(lab: Lab) -> None:
    """A port at an IPv6 address of the host is proxied when the container has IPv4 only."""
    attachment = lab.attach(2, "[::]:8080:80")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")

    assert attachment.proxied == attachment.ports
    assert lab.call(lab.outside, HOST6, 8080) == b"yes"
    assert lab.call(lab.host, "::1", 8080) == b"yes"


def test_detach_leaves_nothing_but_the_bridge(lab: Lab) -> None:
    """After detach neither a link nor an element of the container is left; a second time is harmless."""
    attachment = lab.attach(2, "8080:80", "[::1]:8081:80", "53:53/udp")
    lab.on_host(lambda: bridge.detach(attachment))
    lab.on_host(lambda: bridge.detach(attachment))

    assert "10.91.0.2" not in lab.ruleset()
    assert attachment.veth not in lab.run("ip", "-br", "link")
    with pytest.raises(ConnectionRefusedError):
        lab.call(lab.host, "::1", 8081)
    lab.on_host(lambda: bridge.remove_network(NETWORK, "lab"))
    assert "orlop0" not in lab.run("ip", "-br", "link")
    assert "orlop0" not in lab.ruleset()
    lab.on_host(lambda: bridge.remove_network(NETWORK, "lab"))


def test_a_network_in_use_is_not_removed(lab: Lab) -> None:
    """Removing a network whose containers are attached names them and changes nothing."""
    lab.attach(2, "8080:80")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")

    with pytest.raises(Conflict, match=lab.container(2)[0][:12]):
        lab.on_host(lambda: bridge.remove_network(NETWORK, "lab"))
    assert lab.call(lab.outside, HOST, 8080) == b"yes"


def test_reconcile_takes_back_what_the_dead_left(lab: Lab) -> None:
    """Leftovers of containers that are not live go; those of live ones, and of other stores (scopes), stay."""
    dead, live = lab.attach(2, "8080:80"), lab.attach(3, "8081:80")
    name, netns = lab.container(4)
    stranger = AttachRequest(
        container=name, network=OTHER, ip="10.92.0.4", scope="elsewhere", bindings=ports.parse("8082:80")
    )
    lab.attachments.append(lab.on_host(lambda: bridge.attach(netns, stranger)))

    assert lab.on_host(lambda: bridge.reconcile("lab", lambda: {live.container})) == 2

    rules, links = lab.ruleset(), lab.run("ip", "-br", "link")
    assert dead.veth not in links
    assert "8080" not in rules
    assert live.veth in links
    assert "8081" in rules
    assert "8082" in rules
    assert lab.on_host(lambda: bridge.reconcile("lab", lambda: {live.container})) == 0


def test_a_flushed_firewall_heals(lab: Lab) -> None:
    """After somebody flushes all rules, the next attach and `restore` bring ports and masquerading back."""
    first = lab.attach(2, "8080:80")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")
    lab.run("nft", "flush", "ruleset")
    with pytest.raises(ConnectionRefusedError):
        lab.call(lab.outside, HOST, 8080)

    assert lab.on_host(lambda: publishing.restore([(NETWORK, first)])) == 1
    assert lab.call(lab.outside, HOST, 8080) == b"yes"
    assert lab.on_host(lambda: publishing.restore([(NETWORK, first)])) == 0, "nothing is missing now"

    lab.run("nft", "flush", "ruleset")
    lost: list[bool] = []
    name, netns = lab.container(3)
    request = AttachRequest(container=name, network=NETWORK, ip="10.91.0.3", scope="lab")
    lab.attachments.append(lab.on_host(lambda: bridge.attach(netns, request, flushed=lambda: lost.append(True))))
    assert lost == [True]
    lab.on_host(lambda: publishing.restore([(NETWORK, first)]))
    assert lab.call(lab.outside, HOST, 8080) == b"yes"


def test_a_half_attached_earlier_life_is_no_obstacle(lab: Lab) -> None:
    """A link that a killed command left under the same name, its namespace still held, is replaced."""
    first = lab.attach(2)
    _, netns = lab.container(2)
    name = lab.container(2)[0]
    lab.containers[name] = sockets.new_network_namespace()
    try:
        again = lab.attach(2)
    finally:
        lab.containers["earlier"] = netns

    assert again.veth == first.veth
    lab.serve(lab.container(2)[1], 80, answer=b"yes")
    assert lab.call(lab.host, "10.91.0.2", 80) == b"yes"


def test_a_port_of_another_container_is_refused_by_name(lab: Lab) -> None:
    """Whether the caller knows of the other container or only the kernel does: a Conflict, and nothing is left."""
    first = lab.attach(2, "8080:80")
    with pytest.raises(Conflict, match=r"port 8080 is in use by container web"):
        lab.attach(3, "8080:80", taken=(("web", first.ports[0]),))
    with pytest.raises(Conflict, match=r"8080/tcp is already published by container " + first.container[:12]):
        lab.attach(3, "8080:80")

    assert "10.91.0.3" not in lab.ruleset()
    assert bridge.veth_name(lab.container(3)[0]) not in lab.run("ip", "-br", "link")


def test_ports_of_the_dead_are_taken_over(lab: Lab) -> None:
    """A container that died with nobody to tidy up leaves its port in the firewall; the next one simply gets it."""
    lab.attach(2, "8080:80")
    name, netns = lab.container(2)
    os.close(netns)
    del lab.containers[name]
    until(lambda: bridge.veth_name(name) not in lab.run("ip", "-br", "link"), "the kernel to take the link away")
    assert "10.91.0.2" in lab.ruleset()

    lab.attach(3, "8080:80")
    lab.serve(lab.container(3)[1], 80, answer=b"new")
    assert lab.call(lab.outside, HOST, 8080) == b"new"

    lab.on_host(lambda: route.changes([route.link_delete(bridge.veth_name(lab.container(3)[0]))]))
    assert lab.attach(3, "8080:80").ports, "so does an earlier life of its own"


def test_a_port_of_a_process_is_refused_by_name(lab: Lab) -> None:
    """A port that a process of the host has is refused, and the process is named (the test itself is not looked at)."""
    lab.serve(lab.host, 8080)
    with pytest.raises(Conflict, match=r"port 8080 is in use"):
        lab.attach(2, "8080:80")


def test_random_host_ports(lab: Lab) -> None:
    """A port without a host port gets one that answers, each its own."""
    attachment = lab.attach(2, "80", "81")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")

    first, second = attachment.ports
    assert first.host_port != second.host_port
    assert lab.call(lab.outside, HOST, first.host_port) == b"yes"


def test_ports_can_stay_held(lab: Lab) -> None:
    """With `keep`, the host's ports stay taken for other programs while their descriptors are open."""
    name, netns = lab.container(2)
    request = AttachRequest(
        container=name, network=NETWORK, ip="10.91.0.2", scope="lab", bindings=ports.parse("8080:80")
    )
    held: list[sockets.Socket] = []
    lab.attachments.append(lab.on_host(lambda: bridge.attach(netns, request, keep=held)))
    lab.serve(netns, 80, answer=b"yes")

    with pytest.raises(OSError, match="in use"):
        lab.serve(lab.host, 8080)
    assert lab.call(lab.host, HOST, 8080) == b"yes"
    for sock in held:
        sock.close()


def test_a_bridge_of_somebody_else_is_left_alone(lab: Lab) -> None:
    """A link of the bridge's name that is no bridge, or another store's, is a Conflict."""
    lab.on_host(lambda: route.changes([route.link_add_veth("orlop0", peer="x", peer_netns=lab.outside)]))
    with pytest.raises(Conflict, match="orlop0"):
        lab.attach(2)
    lab.on_host(lambda: route.changes([route.link_delete("orlop0")]))
    lab.attach(2)
    name, netns = lab.container(3)
    with pytest.raises(Conflict, match="belongs to orlop:lab:lab"):
        lab.on_host(
            lambda: bridge.attach(
                netns, AttachRequest(container=name, network=NETWORK, ip="10.91.0.3", scope="elsewhere")
            )
        )


def test_a_new_network_collides_with_nothing(lab: Lab) -> None:
    """choose_network avoids the host's routes, the bridges that exist, and what it is told is taken."""
    lab.attach(2)
    found = lab.on_host(lambda: bridge.choose_network("more", taken=["10.92.0.0/16"]))

    assert (found.bridge, found.subnet, found.gateway) == ("orlop1", "10.93.0.0/16", "10.93.0.1")


def test_attachments_survive_json() -> None:
    """What is kept in a record comes back as it was."""
    attachment = Attachment(
        network="n",
        bridge="b",
        container="c",
        scope="s",
        interface="eth0",
        veth="v",
        ip="10.0.0.2",
        prefix=24,
        gateway="10.0.0.1",
        mac="02:42:0a:00:00:02",
        ports=(ports.Published(container_port=80, protocol="tcp", host_ip="", host_port=8080),),
    )
    assert Attachment.from_json(attachment.to_json()) == attachment
    assert Network.from_json(NETWORK.to_json()) == NETWORK


@pytest.mark.parametrize("name", ["", "short", "../../../../etc/passwd", "a" * 11])
def test_link_names_are_made_of_ids_only(name: str) -> None:
    """What is no container id never becomes a link's name."""
    with pytest.raises(InvalidArgument):
        bridge.veth_name(name)


def test_with_docker_our_packets_pass_by_its_own_chain(lab: Lab) -> None:
    """Beside dockerd's FORWARD policy, DOCKER-USER lets our bridge pass, towards all but Docker's bridges."""
    lab.run("iptables", "-P", "FORWARD", "DROP")
    lab.run("iptables", "-N", "DOCKER-USER")
    lab.run("iptables", "-A", "DOCKER-USER", "-j", "RETURN")
    lab.run("iptables", "-I", "FORWARD", "-j", "DOCKER-USER")
    attachment = lab.attach(2, "8080:80")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")
    lab.serve(lab.outside, 80)

    assert (attachment.warning, attachment.proxied) == ("", ())
    assert lab.call(lab.outside, HOST, 8080) == b"yes"
    assert lab.call(lab.container(2)[1], OUTSIDE, 80) == HOST.encode()
    shown = lab.run("iptables", "-S", "DOCKER-USER")
    assert shown.splitlines()[1:] == [
        "-A DOCKER-USER -i orlop0 -o br-+ -j RETURN",
        "-A DOCKER-USER -i orlop0 -o docker0 -j RETURN",
        "-A DOCKER-USER -i orlop0 -j ACCEPT",
        "-A DOCKER-USER -o orlop0 -j ACCEPT",
        "-A DOCKER-USER -j RETURN",
    ]
    lab.attach(3)
    assert lab.run("iptables", "-S", "DOCKER-USER") == shown, "once is enough"
    for one in lab.attachments:
        lab.on_host(functools.partial(bridge.detach, one))
    lab.on_host(lambda: bridge.remove_network(NETWORK, "lab"))
    assert lab.run("iptables", "-S", "DOCKER-USER").splitlines()[1:] == ["-A DOCKER-USER -j RETURN"]


def test_neighbours_are_found_at_once(lab: Lab) -> None:
    """The bridge asks for IPv6 neighbours from a link-local address that is not on trial first."""
    attachment = lab.attach(2, network=DUAL)
    shown = json.loads(lab.run("ip", "-6", "-j", "address", "show", attachment.bridge))
    found = {one["local"]: one for link in shown for one in link.get("addr_info", ())}
    assert found["fe80::1"]["scope"] == "link"
    assert not found["fe80::1"].get("tentative")
    assert not found[DUAL.gateway6].get("tentative")


def test_with_docker_ipv6_passes_too(lab: Lab) -> None:
    """Docker's ip6tables rules are passed in the same way when the network has IPv6."""
    for program in ("iptables", "ip6tables"):
        lab.run(program, "-P", "FORWARD", "DROP")
        lab.run(program, "-N", "DOCKER-USER")
        lab.run(program, "-I", "FORWARD", "-j", "DOCKER-USER")
    assert "ip6tables" in lab.on_host(lambda: firewall.cut_off(ipv6=True)) or lab.on_host(firewall.cut_off)

    attachment = lab.attach(2, "8080:80", network=DUAL)
    lab.serve(lab.container(2)[1], 80, v6=True, answer=b"yes")

    assert (attachment.warning, attachment.proxied) == ("", ())
    assert lab.call(lab.outside, HOST6, 8080) == b"yes"


def test_cut_off_for_ipv6_only(lab: Lab) -> None:
    """A drop in ip6tables matters to networks with IPv6, and to no other."""
    lab.run("ip6tables", "-P", "FORWARD", "DROP")
    assert lab.attach(2, "8080:80").warning == ""
    assert "ip6tables -I FORWARD" in lab.on_host(lambda: firewall.cut_off(ipv6=True))


def test_without_rights_the_error_says_so(lab: Lab) -> None:
    """An ordinary user gets PermissionDenied with the way out, wherever the first refusal comes from."""
    name, netns = lab.container(2)
    request = AttachRequest(container=name, network=NETWORK, ip="10.91.0.2")

    def attempt() -> None:
        os.seteuid(12345)
        try:
            bridge.attach(netns, request)
        finally:
            os.seteuid(0)

    with pytest.raises(PermissionDenied) as caught:
        lab.on_host(attempt)
    assert "--network pasta" in caught.value.hint


@pytest.mark.parametrize("program", ["iptables", "iptables-legacy"])
def test_cut_off_by_iptables_the_proxy_serves(lab: Lab, program: str) -> None:
    """With somebody's FORWARD policy DROP the ports still work, by the proxy, and the user is told what to do."""
    lab.run(program, "-P", "FORWARD", "DROP")
    attachment = lab.attach(2, "8080:80", "53:53/udp")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")
    lab.serve(lab.container(2)[1], 53, kind=UDP, answer=b"udp")

    assert attachment.proxied == attachment.ports
    assert f"{program} -I FORWARD -i orlop0 -j ACCEPT" in attachment.warning
    assert lab.call(lab.outside, HOST, 8080) == b"yes"
    assert lab.call(lab.host, "127.0.0.1", 8080) == b"yes"
    assert lab.call(lab.outside, HOST, 53, kind=UDP) == b"udp"
    lab.run(program, "-I", "FORWARD", "-i", "orlop0", "-j", "ACCEPT")
    assert lab.on_host(firewall.cut_off) == "", "following the advice ends the warning"


def test_cut_off_by_nftables(lab: Lab) -> None:
    """A dropping forward chain of any nftables table is noticed, ours and accepting ones are not."""
    lab.attach(2)
    assert lab.on_host(firewall.cut_off) == ""
    lab.run("nft", "add table inet mine; add chain inet mine f { type filter hook forward priority 0; policy drop; }")
    assert "nftables table mine" in lab.on_host(firewall.cut_off)
    lab.run("nft", "flush table inet mine; add rule inet mine f iifname orlop0 accept")
    assert lab.on_host(firewall.cut_off) == ""


def test_firewalld_is_noticed(lab: Lab) -> None:
    """It rejects at the end of an accepting chain: its table alone says so."""
    lab.run(
        "nft",
        "add table inet firewalld; add chain inet firewalld filter_FORWARD "
        "{ type filter hook forward priority 10; policy accept; }; add rule inet firewalld filter_FORWARD reject",
    )
    assert "firewall-cmd" in lab.on_host(firewall.cut_off)


def test_a_lost_race_for_a_port_is_reported_by_the_kernel(lab: Lab) -> None:
    """Two commands that publish the same port at the same moment: the batch of the second is refused as a whole."""
    lab.attach(2, "8080:80")

    def publish() -> None:
        way = publishing.ways(lab.attachments[0])[0].replace(ip="10.91.0.9")
        with Nftables() as nft:
            firewall.open_way(nft, bridge="orlop0", subnets=(("10.91.0.0", 16),), ways=[way], owner="lab:x")

    with pytest.raises(Conflict, match="8080"):
        lab.on_host(publish)
    assert "10.91.0.9" not in lab.ruleset()
