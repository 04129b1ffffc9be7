"""Where a registry is, and how it may be spoken to: TLS or plain, directly or through a proxy or a mirror. Pure."""

from __future__ import annotations

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.registry.failures import redacted
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DOCKER_IO = "docker.io"
DOCKER_IO_HOST = "registry-1.docker.io"
DOCKER_IO_NAMES = (DOCKER_IO, "index.docker.io", DOCKER_IO_HOST)


class Mirror(Value):
    """A registry asked before another one when something is pulled. There, names start with `prefix`."""

    registry: str
    prefix: str = ""


def host_of(registry: str) -> str:
    """The host, with its port, that serves `registry`."""
    return DOCKER_IO_HOST if registry in DOCKER_IO_NAMES else registry


def split_port(host: str) -> tuple[str, str]:
    """("host", "port" or "") of "host:port"; an IPv6 address comes without its brackets."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest.removeprefix(":")
    name, _, port = host.partition(":")
    return name, port


def is_loopback(registry: str) -> bool:
    """Whether `registry` is on this machine: localhost, 127/8 or ::1. Those may speak plain HTTP, as docker has it."""
    name, _ = split_port(registry)
    if name == "localhost" or name.endswith(".localhost") or name == "::1":
        return True
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() and int(part) < 256 for part in parts)


def is_listed(registry: str, entries: Iterable[str]) -> bool:
    """Whether `entries` (hosts, host:port, or networks like 10.0.0.0/8) name `registry`."""
    name, _ = split_port(registry)
    for entry in entries:
        if entry in (registry, name):
            return True
        if "/" in entry and _in_network(name, entry):
            return True
    return False


def redirected(url: str, location: str, *, plain_is_fine: bool) -> str:
    """Where a redirect from `url` leads. FailedPrecondition if that is off TLS, unless `plain_is_fine`, or not HTTP."""
    from urllib.parse import urljoin

    target = urljoin(url, location)
    if target.startswith("https://"):
        return target
    if target.startswith("http://") and (plain_is_fine or url.startswith("http://")):
        return target
    raise FailedPrecondition(
        f"{redacted(url)} redirects to {redacted(target)}, which is not encrypted",
        hint="this is a mistake of the registry, or an attack",
    )


def _in_network(address: str, network: str) -> bool:
    import ipaddress  # 10 ms, only where a network is listed

    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def mirrors(entries: Sequence[str]) -> dict[str, tuple[Mirror, ...]]:
    """Mirrors by registry, from "REGISTRY=MIRROR[/PREFIX]" entries; without "REGISTRY=" a mirror is docker.io's."""
    found: dict[str, tuple[Mirror, ...]] = {}
    for entry in entries:
        registry, equals, where = entry.rpartition("=")
        where = where.rstrip("/")
        if "://" in where or not where or (equals and not registry):
            raise InvalidArgument(f"{entry!r} is not a mirror", hint="write REGISTRY=HOST[:PORT][/PREFIX]")
        host, _, prefix = where.partition("/")
        registry = DOCKER_IO if not equals or registry in DOCKER_IO_NAMES else registry
        found[registry] = (*found.get(registry, ()), Mirror(registry=host, prefix=prefix))
    return found


def proxy_for(scheme: str, host: str, environ: Mapping[str, str]) -> str:
    """The proxy that the variables HTTP(S)_PROXY and NO_PROXY choose for a host; "" for none. Never for loopback."""
    if is_loopback(host) or _is_direct(host, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return ""
    name = f"{scheme}_proxy"
    proxy = environ.get(name) or environ.get(name.upper()) or ""
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _is_direct(host: str, text: str) -> bool:
    """Whether NO_PROXY (hosts, .domains, networks, host:port, *) takes `host` out."""
    name, port = split_port(host)
    for entry in text.replace(",", " ").split():
        if entry == "*":
            return True
        wanted, wanted_port = split_port(entry) if "/" not in entry else (entry, "")
        if wanted_port and wanted_port != port:
            continue
        domain = wanted.removeprefix("*").lstrip(".").lower()
        if name.lower() == domain or name.lower().endswith("." + domain) or ("/" in entry and _in_network(name, entry)):
            return True
    return False
