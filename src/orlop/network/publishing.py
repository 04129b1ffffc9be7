"""Published ports: which packets the firewall lets through and translates for a container, and which a proxy serves."""

from __future__ import annotations

import os
import sys

from orlop.errors import Conflict
from orlop.linux import route, sockets
from orlop.linux.nftables import Nftables
from orlop.network import children, firewall, ports, subnets
from orlop.network.ruleset import Way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.network.ports import Published, Reserved
    from orlop.network.values import Attachment, AttachRequest, Network

_LOOPBACK6 = "::1"
_PROXY_CODE = "import sys;sys.path.insert(0,sys.argv[1]);from orlop.network.proxy import main;main()"
_PROXIED_PROTOCOLS = ("tcp", "udp")


def ways(attachment: Attachment) -> list[Way]:
    """What the kernel translates for this container: all of its ports but those that the proxy serves."""
    return [
        Way(protocol=port.protocol, host_ip=port.host_ip, host_port=port.host_port, ip=ip, port=port.container_port)
        for port in attachment.ports
        if port not in attachment.proxied
        for ip in (attachment.ip, attachment.ip6)
        if ip and (not port.host_ip or (":" in port.host_ip) == (":" in ip))
    ]


def _needs_proxy(port: Published, attachment: Attachment) -> bool:
    if ":" not in port.host_ip:
        return False
    # ::1 cannot be translated (IPv6 has no route_localnet), nor can IPv6 to an IPv4 address.
    return port.host_ip == _LOOPBACK6 or not attachment.ip6


def publish(
    attachment: Attachment,
    request: AttachRequest,
    reserved: Reserved,
    *,
    alive: Callable[[str], bool],
    flushed: Callable[[], object] | None = None,
) -> Attachment:
    """Let packets of the container through, and those for its published ports in; what `attach` says of the rest.

    Of a port's owner that is not `alive` the port is taken over.
    """
    network = request.network
    ipv6 = bool(network.subnet6)
    with Nftables() as nft:
        blocked = firewall.cut_off(network.bridge, nft, ipv6=ipv6)
        if blocked and request.beside_docker and firewall.pass_docker(nft, network.bridge, ipv6=ipv6):
            blocked = firewall.cut_off(network.bridge, nft, ipv6=ipv6)
        proxied = tuple(
            port
            for port in attachment.ports
            if port.protocol in _PROXIED_PROTOCOLS and (blocked or _needs_proxy(port, attachment))
        )
        attachment = attachment.replace(proxied=proxied, warning="" if network.internal else blocked)
        anew = _open(nft, network, attachment, ways(attachment), alive=alive)
    if anew and flushed is not None:
        flushed()
    _forget_datagrams(attachment)
    if proxied:
        try:
            start_proxy(attachment, reserved, python=request.python)
        except BaseException:
            with Nftables() as nft:
                firewall.close_way(nft, ways(attachment), _owner(attachment))
            raise
    return attachment


def _open(
    nft: Nftables,
    network: Network,
    attachment: Attachment,
    opened: list[Way],
    alive: Callable[[str], bool] = lambda _: True,
) -> bool:
    return firewall.open_way(
        nft,
        bridge=network.bridge,
        subnets=subnets_of(network),
        internal=network.internal,
        talk=network.talk,
        ways=opened,
        owner=_owner(attachment),
        alive=alive,
    )


def subnets_of(network: Network) -> tuple[tuple[str, int], ...]:
    """The network's subnets as (base, bits): IPv4's, and IPv6's where it has one."""
    return tuple(subnets.parse(text) for text in (network.subnet, network.subnet6) if text)


def _owner(attachment: Attachment) -> str:
    return f"{attachment.scope}:{attachment.container}"


def unpublish(attachment: Attachment) -> None:
    """Take back what `publish` gave. What is gone already is as good."""
    if attachment.pid_file:
        children.stop(attachment.pid_file)
    translated = ways(attachment)
    if translated:
        with Nftables() as nft:
            firewall.close_way(nft, translated, _owner(attachment))
        _forget_datagrams(attachment)


def restore(attachments: Iterable[tuple[Network, Attachment]]) -> int:
    """Put back what running containers lack: ports, after somebody has flushed the host's rules; killed proxies.

    Returns how many ports there were to be put back.
    """
    count = 0
    with Nftables() as nft:
        there = {(owner, way) for owner, way in firewall.published(nft)}
        for network, attachment in attachments:
            missing = [way for way in ways(attachment) if (_owner(attachment), way) not in there]
            try:
                _open(nft, network, attachment, missing)
                if attachment.proxied:
                    start_proxy(attachment)
            except (Conflict, OSError):
                continue  # somebody else has a port meanwhile, and it stays theirs; or the container ends just now
            count += len(missing)
    return count


def _forget_datagrams(attachment: Attachment) -> None:
    udp = {port.host_port for port in attachment.ports if port.protocol == "udp"}
    if udp:
        from orlop.linux import conntrack  # only needed for UDP

        conntrack.forget(17, udp, ipv6=bool(attachment.ip6))


def start_proxy(attachment: Attachment, reserved: Reserved | None = None, *, python: str = "") -> int:
    """Start the proxy for `attachment.proxied`, on ports that `reserved` holds or that are taken now; its pid.

    Does nothing when it runs already: to be called again by whoever finds that it was killed.
    """
    pid = children.running(attachment.pid_file)
    if pid:
        return pid
    held = {} if reserved is None else reserved.held
    own: list[sockets.Socket] = []
    served: list[tuple[Published, int]] = []
    try:
        for port in attachment.proxied:
            sock = held.get(port)
            if sock is None:
                sock = ports.take(port.protocol, port.host_ip, port.host_port)
                own.append(sock)
            if port.protocol == "tcp":
                ports.listen(sock)
            served.append((port, sock.fileno()))
        return _spawn_proxy(attachment, served, python or sys.executable)
    finally:
        for sock in own:
            sock.close()


def _spawn_proxy(attachment: Attachment, served: list[tuple[Published, int]], python: str) -> int:
    arguments = [f"link={route.index_of(attachment.veth)}"]
    keep = {}
    above = max(3, *(fd for _, fd in served)) + 1  # no descriptor may be overwritten before it is passed on
    for fd, (port, ours) in enumerate(served, above):
        keep[fd] = ours
        target = attachment.ip6 if attachment.ip6 and ":" in port.host_ip else attachment.ip
        arguments.append(f"{port.protocol},{fd},{target},{port.container_port}")
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = ["orlop-proxy", "-I", "-S", "-X", "frozen_modules=on", "-c", _PROXY_CODE, folder, *arguments]
    return children.spawn(python, command, attachment.pid_file, keep=keep)
