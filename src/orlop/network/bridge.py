"""Bridge networks: the bridge, and each container's pair of links. Its ports are in `publishing`.

Everything happens in the network namespace of the calling thread (the host's), but for the container's side of the
pair, for which the thread visits the container's namespace (`linux.sockets.inside`): nothing is forked. Whatever a
killed command left behind can be found: links carry their owner in their alias, ports theirs in a comment.
"""

from __future__ import annotations

import errno
import os

from orlop.errors import Conflict, FailedPrecondition, InvalidArgument, PermissionDenied
from orlop.linux import route, sockets
from orlop.linux.nftables import Nftables
from orlop.linux.route import Link, Route
from orlop.network import firewall, ports, publishing, subnets
from orlop.network.values import Attachment, AttachRequest, Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from orlop.network.ports import Published, Reserved

_VETH_PREFIX = "ol"
_ID_CHARACTERS = 12
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ALIAS = "orlop"
_LINK_LOCAL = "fe80::1"


def choose_network(name: str, *, taken: Iterable[str] = (), small: bool = False, bridge: str = "") -> Network:
    """A network whose subnet overlaps nothing that this host has a route or a name server for, nor any of `taken`.

    Its bridge is `bridge`, or the first free one of orlop0, orlop1... The caller keeps the value in its store.
    """
    from orlop.network import names  # read only when a network is made

    with Route() as sock:
        links = {link.index: link for link in sock.links()}
        routes = sock.routes()
    used = [f"{one.destination}/{one.prefix}" for one in routes if one.destination]
    used += [f"{server}/{128 if ':' in server else 32}" for server in names.host_resolvers().nameservers]
    subnet = subnets.choose([*used, *taken], small=small)
    if not bridge:
        present = {link.name for link in links.values()}
        bridge = next(name for number in range(1 << 16) if (name := f"orlop{number}") not in present)
    uplink = next((links[one.index].mtu for one in routes if not one.destination and one.index in links), 0)
    return Network(
        name=name,
        bridge=bridge,
        subnet=subnet,
        gateway=subnets.gateway_of(subnet),
        mtu=uplink if 576 <= uplink < 1500 else 0,  # frames that the way out would have to refuse
    )


def veth_name(container: str, number: int = 0) -> str:
    """The host's end of a container's `number`th pair: at most 15 characters, found again from the id alone."""
    if not container.isalnum() or not container.isascii() or len(container) < _ID_CHARACTERS:
        raise InvalidArgument(f"{container!r} is not a container id: at least {_ID_CHARACTERS} letters and digits")
    if not 0 <= number < len(_DIGITS):
        raise InvalidArgument(f"a container can be in {len(_DIGITS)} networks at most")
    return f"{_VETH_PREFIX}{container[:_ID_CHARACTERS]}{_DIGITS[number]}"


def attach(
    netns: int | str,
    request: AttachRequest,
    *,
    keep: list[sockets.Socket] | None = None,
    flushed: Callable[[], object] | None = None,
) -> Attachment:
    """Join the network namespace `netns` (a descriptor, or a path such as /proc/PID/ns/net) to `request.network`.

    Afterwards the container has its link, addresses, routes and an up `lo`, and its ports are published. Where this
    fails, what was made is taken back. The host's ports are held by bound sockets only meanwhile, unless `keep` is
    given: then they are added to it, for the caller to hold open (in the container's monitor, say). `flushed` is called
    when none of our firewall rules were there any more, and with them those of running containers: see `restore`.

    Conflict: a port or the bridge is somebody else's. PermissionDenied, FailedPrecondition: not possible for us here.
    """
    if isinstance(netns, str):
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return attach(fd, request, keep=keep, flushed=flushed)
        finally:
            os.close(fd)
    veth = veth_name(request.container, request.number)
    reserved = ports.reserve(() if request.network.internal else request.bindings, taken=request.taken)
    try:
        attachment = _attach(netns, request, veth, reserved, flushed)
        if keep is not None:
            for port in [one for one in reserved.held if one not in attachment.proxied]:  # those, the proxy holds
                keep.append(reserved.held.pop(port))
    finally:
        reserved.close()
    return attachment


def _attach(
    netns: int, request: AttachRequest, veth: str, reserved: Reserved, flushed: Callable[[], object] | None
) -> Attachment:
    network = request.network
    attachment = _planned(request, veth, tuple(reserved.published))
    try:
        with Route() as sock:
            bridge = _ensure_bridge(sock, network, request.scope)
            _add_pair(sock, netns, attachment, network, bridge)
        sockets.inside(netns, lambda: _configure_inside(attachment))
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EACCES}:
            raise
        raise PermissionDenied(
            f"the container cannot be joined to the network {network.name}: {error.strerror}",
            hint="bridge networks need root (CAP_NET_ADMIN); use --network pasta, host or none",
        ) from error
    try:
        return publishing.publish(attachment, request, reserved, alive=_has_link, flushed=flushed)
    except BaseException:
        route.changes([route.link_delete(veth, missing_ok=True)])
        raise


def _planned(request: AttachRequest, veth: str, published: tuple[Published, ...]) -> Attachment:
    network = request.network
    reachable = request.default_route and not network.internal
    return Attachment(
        network=network.name,
        bridge=network.bridge,
        container=request.container,
        scope=request.scope,
        interface=request.interface,
        veth=veth,
        ip=request.ip,
        prefix=subnets.parse(network.subnet)[1],
        gateway=network.gateway if reachable else "",
        mac=request.mac or subnets.mac_of(request.ip),
        ip6=request.ip6,
        prefix6=subnets.parse(network.subnet6)[1] if network.subnet6 else 0,
        gateway6=network.gateway6 if reachable and request.ip6 else "",
        ports=published,
        pid_file=f"{request.run_dir}/proxy.{request.number}.pid" if request.run_dir else "",
    )


# --- links ------------------------------------------------------------------------------------------------------------


def _bridge_alias(network: Network, scope: str) -> str:
    return f"{_ALIAS}:{scope}:{network.name}"


def _ensure_bridge(sock: Route, network: Network, scope: str) -> Link:
    for _ in range(2):
        try:
            link = sock.link(network.bridge)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            _make_bridge(sock, network, scope)
            continue
        if link.kind != "bridge" or link.alias not in {"", _bridge_alias(network, scope)}:
            owner = link.alias or f"a {link.kind or 'physical'} link"
            raise Conflict(
                f"the link {network.bridge}, which the network {network.name} needs, belongs to {owner}",
                hint="give the network another bridge",
            )
        return link
    raise Conflict(f"the bridge {network.bridge} disappears as soon as it is made", hint="another tool deletes it")


def _make_bridge(sock: Route, network: Network, scope: str) -> None:
    # Its address is set: else a bridge takes the lowest of its ports', which changes as containers come and go.
    name = network.bridge
    try:
        sock.request(
            [
                route.link_add_bridge(name, mac=subnets.mac_of(network.gateway), mtu=network.mtu),
                route.link_set(name, alias=_bridge_alias(network, scope), link_local=bool(network.subnet6)),
            ]
        )
    except OSError as error:
        if error.errno != errno.EEXIST:  # another command makes it right now
            raise
    _allow_forwarding(network)


def _allow_forwarding(network: Network) -> None:
    try:
        # A port published at 127.0.0.1 is called from there, and the answer comes in through the bridge. The rule
        # in the table's chain `guard` keeps containers from using that for more.
        route.set_sysctl(f"net/ipv4/conf/{network.bridge}/route_localnet", "1")
        if network.internal:
            return
        route.set_sysctl("net/ipv4/ip_forward", "1")
        if network.subnet6:
            _allow_forwarding6()
    except OSError as error:
        raise FailedPrecondition(
            f"this host does not let orlop forward packets for containers: {error.strerror} ({error.filename})",
            hint="run sysctl -w net.ipv4.ip_forward=1 on the host, or use --network pasta or host",
        ) from error


def _allow_forwarding6() -> None:
    # A forwarding host ignores router advertisements unless told that it means it (accept_ra 2, ip-sysctl.rst), and
    # would lose the way out that it has from them.
    folder = "/proc/sys/net/ipv6/conf"
    for name in os.listdir(folder):
        with open(f"{folder}/{name}/accept_ra", encoding="ascii") as file:
            accepts = file.read().strip()
        if accepts == "1":
            route.set_sysctl(f"net/ipv6/conf/{name}/accept_ra", "2")
    route.set_sysctl("net/ipv6/conf/all/forwarding", "1")


def _add_pair(sock: Route, netns: int, attachment: Attachment, network: Network, bridge: Link) -> None:
    veth = attachment.veth
    address, prefix = network.gateway, subnets.parse(network.subnet)[1]
    wanted = [
        # Each time, as it costs nothing: whoever made the bridge may have been killed before giving it an address.
        route.address_add(bridge.index, address, prefix, link=bridge.name),
        route.link_set(bridge.name, index=bridge.index, up=True),
    ]
    if network.subnet6:
        prefix6 = subnets.parse(network.subnet6)[1]
        wanted += [
            route.address_add(bridge.index, network.gateway6, prefix6, link=bridge.name),
            # Neighbours are asked for from a link-local address. The kernel's own one is tentative for seconds: what is
            # forwarded to a container meanwhile is answered with "no route to host".
            route.address_add(bridge.index, _LINK_LOCAL, 64, link=bridge.name),
        ]
    pair = [
        route.link_add_veth(
            veth,
            peer=attachment.interface,
            peer_netns=netns,
            peer_mac=attachment.mac,
            mtu=network.mtu,
            master=bridge.index,
        ),
        route.link_set(veth, alias=f"{_ALIAS}:{attachment.scope}:{attachment.container}", link_local=False),
        # Hairpin: where bridged frames pass the firewall (br_netfilter), a container that calls its own published port
        # gets the call back through the port it left by.
        route.link_set_port(veth, hairpin=True, isolated=not network.talk),
        route.link_set(veth, up=True),
    ]
    try:
        sock.request([*wanted, *pair])
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        # The container's earlier life was killed half way and its namespace lives on somewhere.
        sock.request([route.link_delete(veth, missing_ok=True)])
        sock.request(pair)


def _configure_inside(attachment: Attachment) -> None:
    name = attachment.interface
    index = route.index_of(name)
    wanted = [
        route.link_set("lo", index=1, up=True),
        route.link_set(name, index=index, link_local=bool(attachment.ip6)),
        route.link_set(name, index=index, up=True),
        route.address_add(index, attachment.ip, attachment.prefix, link=name),
    ]
    if attachment.ip6:
        wanted.append(route.address_add(index, attachment.ip6, attachment.prefix6, link=name))
    wanted += [
        route.route_add(index, link=name, gateway=gateway)
        for gateway in (attachment.gateway, attachment.gateway6)
        if gateway
    ]
    route.changes(wanted)


def _has_link(owner: str) -> bool:
    """Whether a container still has a link to the host; it has one as long as its network namespace lives."""
    start = f"{_VETH_PREFIX}{owner.rpartition(':')[2][:_ID_CHARACTERS]}"
    with Route() as sock:
        return any(link.name.startswith(start) for link in sock.links())


# --- the end ----------------------------------------------------------------------------------------------------------


def detach(attachment: Attachment, *, delete_link: bool = True) -> None:
    """Take back what `attach` gave. What is gone already is as good; a second time is harmless.

    Deleting the link waits for the kernel to quiesce (20 ms). When the container is dead and nobody else holds its
    network namespace, the kernel deletes it anyway: then `delete_link` False saves the wait.
    """
    publishing.unpublish(attachment)
    if delete_link:
        route.changes([route.link_delete(attachment.veth, missing_ok=True)])


def reconcile(scope: str, live: Callable[[], Collection[str]]) -> int:
    """Delete links and published ports of this `scope` whose containers (ids) are not `live`; how many there were.

    `live` is asked after all of them were listed, so that whatever starts meanwhile is not taken for dead.
    """
    prefix, owner = f"{_ALIAS}:{scope}:", f"{scope}:"
    with Route() as sock, Nftables() as nft:
        pairs = {
            link.name: link.alias.removeprefix(prefix)
            for link in sock.links()
            if link.kind == "veth" and link.alias.startswith(prefix)
        }
        ports = {found.removeprefix(owner) for found, _ in firewall.published(nft) if found.startswith(owner)}
        if not pairs and not ports:
            return 0
        alive = live()
        dead = [name for name, container in pairs.items() if container not in alive]
        if dead:
            sock.request([route.link_delete(name, missing_ok=True) for name in dead])
        return len(dead) + firewall.forget(nft, {owner + container for container in ports if container not in alive})


def remove_network(network: Network, scope: str = "") -> None:
    """Delete the network's bridge and what the firewall knows of it; what is not there is as good.

    Conflict while containers are attached.
    """
    with Route() as sock:
        links = sock.links()
        bridge = next((link for link in links if link.name == network.bridge), None)
        if bridge is not None and bridge.alias == _bridge_alias(network, scope):
            attached = [link.alias.rpartition(":")[2][:12] for link in links if link.master == bridge.index]
            if attached:
                raise Conflict(
                    f"the network {network.name} is in use by {', '.join(attached)}", hint="stop these containers first"
                )
            sock.request([route.link_delete(network.bridge, missing_ok=True)])
    with Nftables() as nft:
        firewall.remove_network(nft, bridge=network.bridge, subnets=publishing.subnets_of(network))
        firewall.unpass_docker(nft, network.bridge)
