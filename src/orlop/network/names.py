"""/etc/hosts, /etc/hostname and /etc/resolv.conf of containers, as docker writes them. Pure but for `host_resolvers`.

A name server of our own for user-defined networks would be one more `nameservers` entry given to `resolv_conf`.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.linux.sockets import packed_address
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

RESOLV_CONF = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
"""Where systemd-resolved lists the servers that its own 127.0.0.53 asks (systemd-resolved.service(8))."""
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
"""Asked when the host has only name servers that a container cannot reach; docker's choice."""
HOST_GATEWAY = "host-gateway"
"""What `--add-host NAME:host-gateway` stands for: the address at which a container reaches its host."""
_SYSTEMD_STUB = "127.0.0.53"
_LONGEST_HOSTNAME = 64  # __NEW_UTS_LEN, hostname(7)

_STANDARD_HOSTS = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::0", "ip6-localnet"),
    ("ff00::0", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


class Resolvers(Value):
    """What a resolv.conf says (resolv.conf(5))."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> Resolvers:
    """The directives that count: all name servers, the last `search` or `domain`, all options."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            nameservers.append(words[1])
        elif words[0] in {"search", "domain"}:
            search = tuple(words[1:])
        elif words[0] == "options":
            options += words[1:]
    return Resolvers(nameservers=tuple(nameservers), search=search, options=tuple(options))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # a host without that file resolves nothing either


def host_resolvers(read: Callable[[str], str] = _read) -> Resolvers:
    """The host's resolvers; where they are just systemd-resolved's stub, the servers behind it."""
    found = parse_resolv_conf(read(RESOLV_CONF))
    if found.nameservers == (_SYSTEMD_STUB,):
        behind = parse_resolv_conf(read(SYSTEMD_RESOLV_CONF))
        if behind.nameservers:
            return behind.replace(search=found.search or behind.search, options=behind.options or found.options)
    return found


def _is_loopback(address: str) -> bool:
    bare = address.partition("%")[0]
    try:
        packed = packed_address(bare)
    except OSError:
        return False
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\1" or packed[:13] == _MAPPED_LOOPBACK


_MAPPED_LOOPBACK = bytes(10) + b"\xff\xff\x7f"


def resolvers(
    host: Resolvers,
    *,
    shares_host_network: bool = False,
    ipv6: bool = False,
    dns: Sequence[str] = (),
    dns_search: Sequence[str] = (),
    dns_options: Sequence[str] = (),
) -> Resolvers:
    """What a container gets: the options given, and for each that is not, what the host has.

    In a network of its own a container cannot reach the host's loopback, nor (without `ipv6`) IPv6 servers: those are
    left out, and when none remains, public ones are asked. `--dns-search .` means no search domains.
    """
    for address in dns:
        if not _is_address(address):
            raise InvalidArgument(f"--dns {address!r} is not an IP address", hint="for example --dns 9.9.9.9")
    servers = tuple(dns)
    if not servers:
        servers = host.nameservers
        if not shares_host_network:
            servers = tuple(
                one for one in servers if not _is_loopback(one) and "%" not in one and (ipv6 or ":" not in one)
            )
            servers = servers or FALLBACK_SERVERS
    search = tuple(one for one in dns_search if one != ".") if dns_search else host.search
    return Resolvers(nameservers=servers, search=search, options=tuple(dns_options) or host.options)


def _is_address(text: str) -> bool:
    try:
        packed_address(text)
    except OSError:
        return False
    return True


def resolv_conf(resolvers: Resolvers) -> str:
    """The file's text."""
    lines = [f"nameserver {server}" for server in resolvers.nameservers]
    if resolvers.search:
        lines.append("search " + " ".join(resolvers.search))
    if resolvers.options:
        lines.append("options " + " ".join(resolvers.options))
    return "".join(f"{line}\n" for line in lines)


def parse_add_host(text: str) -> tuple[str, str]:
    """(name, address or HOST_GATEWAY) of `--add-host NAME:ADDRESS` (or NAME=ADDRESS); an IPv6 address may be in []."""
    name, separator, address = text.partition("=")
    if not separator or ":" in name:
        name, separator, address = text.partition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if not name or not separator or name.split() != [name]:
        raise InvalidArgument(f"--add-host {text!r} is not NAME:ADDRESS", hint="for example --add-host db:10.0.0.5")
    if address != HOST_GATEWAY and not _is_address(address):
        raise InvalidArgument(
            f"--add-host {text!r}: {address!r} is not an IP address", hint=f"or {HOST_GATEWAY}, which means this host"
        )
    return name, address


def hosts(
    *,
    hostname: str = "",
    domain: str = "",
    addresses: Iterable[str] = (),
    aliases: Sequence[str] = (),
    add_hosts: Iterable[tuple[str, str]] = (),
    gateway: str = "",
) -> str:
    """The text of /etc/hosts: the standard lines, the `add_hosts`, and the container's own names at its addresses.

    `gateway` is what HOST_GATEWAY becomes; without one that is InvalidArgument.
    """
    lines = [f"{address}\t{names}" for address, names in _STANDARD_HOSTS]
    for name, address in add_hosts:
        if address == HOST_GATEWAY and not gateway:
            raise InvalidArgument(
                f"--add-host {name}:{HOST_GATEWAY} cannot be resolved: this network has no gateway to the host"
            )
        lines.append(f"{gateway if address == HOST_GATEWAY else address}\t{name}")
    own = [f"{hostname}.{domain}"] if hostname and domain else []
    own += [name for name in (hostname, *aliases) if name and name not in own]
    if own:
        lines += [f"{address}\t{' '.join(dict.fromkeys(own))}" for address in addresses if address]
    return "".join(f"{line}\n" for line in lines)


def host_network_hosts(host_text: str, add_hosts: Iterable[tuple[str, str]] = ()) -> str:
    """/etc/hosts for `--network host`: the host's own, and the additions. HOST_GATEWAY is the host itself there."""
    text = host_text if not host_text or host_text.endswith("\n") else host_text + "\n"
    return text + "".join(
        f"{'127.0.0.1' if address == HOST_GATEWAY else address}\t{name}\n" for name, address in add_hosts
    )


def hostname_file(hostname: str) -> str:
    """The text of /etc/hostname; InvalidArgument for what sethostname(2) refuses or programs stumble over."""
    if (
        not 0 < len(hostname) <= _LONGEST_HOSTNAME
        or not hostname.isascii()
        or not all(character.isalnum() or character in "-._" for character in hostname)
        or hostname[0] in "-."
    ):
        raise InvalidArgument(
            f"{hostname!r} is not a host name", hint=f"1 to {_LONGEST_HOSTNAME} letters, digits, '-', '.' or '_'"
        )
    return f"{hostname}\n"
