"""HTTP to one registry: TLS or plain, proxies, authentication, redirects, retries. urllib3 is imported on first use."""

from __future__ import annotations

import threading
import time

from orlop.errors import FailedPrecondition, ResourceExhausted, Unavailable
from orlop.oci.jsontext import EMPTY
from orlop.registry import endpoints, failures
from orlop.registry.headers import challenges, seconds
from orlop.registry.tokens import Authorizer
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from urllib3 import BaseHTTPResponse, PoolManager

    from orlop.registry.credentials import Credential, Keychain

AGENT = "orlop/0.1"
PIECE = 1 << 20
"""Bytes read from or written to a connection at once."""

_REDIRECTS = 10
_LONGEST_PAUSE = 10.0
_ANSWER_LIMIT = 16 << 20
_MOVED = (301, 302, 303, 307, 308)
_RETRIED = (429, 500, 502, 503, 504)


class Options(Value):
    """How to talk. Times are in seconds.

    `insecure` are registries (host, host:port or networks) whose certificates are not checked and that may be plain
    HTTP. `proxies` are HTTP_PROXY, HTTPS_PROXY and NO_PROXY as the environment has them. `certificates` are folders
    laid out as docker's certs.d: `<host:port>/{*.crt,client.cert,client.key}`. If a registry asks for a wait that is
    longer than `patience`, that is an error at once.
    """

    insecure: tuple[str, ...] = ()
    proxies: dict[str, str] = EMPTY
    certificates: tuple[str, ...] = ()
    attempts: int = 5
    backoff: float = 0.5
    patience: float = 60.0
    connect_timeout: float = 15.0
    read_timeout: float = 60.0


class Request(Value):
    """One request. `body` makes its content anew for every try; with `once` there is only one."""

    method: str
    path: str  # below the registry, or a whole URL
    scopes: tuple[str, ...] = ()
    headers: dict[str, str] = EMPTY
    body: Callable[[], Any] | None = None
    once: bool = False


class Pools:
    """Connections, by proxy and by how certificates are checked; shared by all registries of a client. Thread-safe."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._pools: dict[tuple[str, str], PoolManager] = {}
        self._lock = threading.Lock()

    def pool(self, scheme: str, host: str, *, verify: bool) -> PoolManager:
        """The connections to use for `scheme`://`host`."""
        proxy = endpoints.proxy_for(scheme, host, self._options.proxies)
        trust = ""
        if scheme == "https":
            trust = (self._folder(host) or "system") if verify else "none"
        with self._lock:
            found = self._pools.get((proxy, trust))
            if found is None:
                found = self._pools[proxy, trust] = self._make(proxy, trust)
            return found

    def _make(self, proxy: str, trust: str) -> PoolManager:
        from urllib.parse import unquote

        import urllib3

        options: dict[str, Any] = {
            "num_pools": 16,
            "maxsize": 16,
            "blocksize": PIECE,
            "retries": False,
            "timeout": urllib3.Timeout(connect=self._options.connect_timeout, read=self._options.read_timeout),
        }
        if trust:
            options["ssl_context"] = _tls(trust)
            if trust == "none":
                options["cert_reqs"], options["assert_hostname"] = "CERT_NONE", False
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the user has asked for it
        if not proxy:
            return urllib3.PoolManager(**options)
        user, _, where = proxy.partition("://")[2].rpartition("@")
        headers = urllib3.util.make_headers(proxy_basic_auth=unquote(user)) if user else None
        return urllib3.ProxyManager(f"{proxy.partition('://')[0]}://{where}", proxy_headers=headers, **options)

    def _folder(self, host: str) -> str:
        """The folder with certificates for `host`, "" without one."""
        import os

        for folder in self._options.certificates:
            if os.path.isdir(f"{folder}/{host}"):
                return f"{folder}/{host}"
        return ""

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for manager in self._pools.values():
                for key in manager.pools.keys():  # noqa: SIM118  # this mapping has keys() but cannot be iterated over
                    hosts = manager.pools.get(key)
                    if hosts is not None:
                        hosts.close()  # clear() alone would leave that to the garbage collector
                manager.clear()
            self._pools.clear()


def _tls(trust: str) -> Any:
    """An ssl.SSLContext that trusts the "system", "none" (everybody), or the system and a folder's certificates."""
    import os
    import ssl

    context = ssl.create_default_context()
    if trust == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif trust != "system":
        try:
            for name in sorted(os.listdir(trust)):
                if name.endswith(".crt"):
                    context.load_verify_locations(f"{trust}/{name}")
                elif name.endswith(".cert"):
                    context.load_cert_chain(f"{trust}/{name}", f"{trust}/{name.removesuffix('.cert')}.key")
        except (OSError, ssl.SSLError) as error:
            raise FailedPrecondition(f"cannot use the certificates in {trust}: {error}") from error
    return context


class Transport:
    """Requests to one registry."""

    def __init__(self, registry: str, keychain: Keychain | None, options: Options, pools: Pools) -> None:
        self.registry = registry
        self._host = endpoints.host_of(registry)
        self._options = options
        self._pools = pools
        self._loopback = endpoints.is_loopback(registry)
        self._listed = endpoints.is_listed(registry, options.insecure)
        self._base = "" if self._loopback or self._listed else f"https://{self._host}"
        self._lock = threading.Lock()
        self._keychain = keychain
        self._credential: Credential | None = None
        self._authorizer: Authorizer | None = None

    @property
    def attempts(self) -> int:
        """How often something is tried."""
        return self._options.attempts

    @property
    def user(self) -> str:
        """Who we are logged in as; "" for nobody."""
        return self._authorize().user

    def log_in_as(self, credential: Credential) -> None:
        """Use `credential` instead of the keychain's."""
        self._credential = credential
        self._authorizer = None

    def base(self) -> str:
        """The registry's scheme and host. On first use for a registry that may be plain HTTP, finds out which it is."""
        with self._lock:
            if not self._base:
                self._base = self._probe()
            return self._base

    def _probe(self) -> str:
        """Ask, without credentials, which scheme is spoken.

        Plain HTTP first on this machine (no TLS library is loaded for it), TLS first elsewhere, so that no password is
        sent in the clear to a registry that can do better.
        """
        schemes = ("http", "https") if self._loopback and not self._listed else ("https", "http")
        failed: Unavailable | None = None
        doubtful = ""
        for scheme in schemes:
            url = f"{scheme}://{self._host}"
            try:
                response = self._send("GET", f"{url}/v2/", {}, None)
            except Unavailable as error:
                failed = failed or error
                continue
            status = response.status
            _drop(response)
            if scheme == "http" and status == 400 and schemes[0] == "http":  # a TLS server's answer to plain HTTP
                doubtful = url
                continue
            return url
        if doubtful:
            return doubtful
        if isinstance(failed, failures.Unreachable):
            raise failed
        raise failures.Unreachable(
            f"{self.registry} speaks neither HTTP nor TLS", hint="check the port: is it a registry's?"
        ) from failed

    def request(self, request: Request) -> BaseHTTPResponse:
        """The response, whatever its status, its body unread. Tries again after broken connections, 5xx and 429."""
        last = self._options.attempts if not request.once else 1
        for attempt in range(1, last + 1):
            try:
                response = self._authorized(request)
            except failures.Interrupted:
                if attempt == last:
                    raise
                time.sleep(self._pause(attempt))
                continue
            if response.status not in _RETRIED or attempt == last:
                return response
            wait = seconds(response.headers.get("Retry-After", ""), time.time())
            if wait is not None and wait > self._options.patience:
                return response
            _drop(response)
            time.sleep(max(wait or 0.0, self._pause(attempt)))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def pause(self, attempt: int) -> None:
        """Sleep as long as is due after the failed try number `attempt` (from 1)."""
        time.sleep(self._pause(attempt))

    def _pause(self, attempt: int) -> float:
        from random import random

        pause = min(self._options.backoff * 2 ** (attempt - 1), _LONGEST_PAUSE)
        return float(pause * (0.5 + random()))  # noqa: S311  # spreads retries

    def _authorized(self, request: Request) -> BaseHTTPResponse:
        """Send with what authentication is known; answer at most two challenges (a stale token, then a fresh one)."""
        base = self.base()
        authorizer = self._authorize()
        header = authorizer.header(request.scopes)
        for _ in range(2):
            response, url = self._follow(request, base, header)
            if response.status != 401 or not _same_host(url, base):
                return response
            offered = challenges(response.headers.getlist("WWW-Authenticate"))
            try:
                header = authorizer.answer(offered, request.scopes, header)
            except BaseException:
                response.close()
                raise
            if not header:
                return response
            _drop(response)
        return self._follow(request, base, header)[0]

    def _authorize(self) -> Authorizer:
        if self._authorizer is None:

            def credential() -> Credential | None:
                if self._credential is not None or self._keychain is None:
                    return self._credential
                return self._keychain.get(self.registry)

            plain = self._loopback or self._listed
            self._authorizer = Authorizer(self.registry, credential, self._ask_token, plain=plain)
        return self._authorizer

    def _ask_token(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]:
        response = self._send(method, url, headers, body)
        return response.status, read(response)

    def _follow(self, request: Request, base: str, authorization: str) -> tuple[BaseHTTPResponse, str]:
        """Send, following redirects: the response, and where it is from.

        Only the registry's own host gets the Authorization header.
        """
        from urllib.parse import urljoin

        plain = self._listed or self._loopback
        url = urljoin(base, request.path)
        if not _same_host(url, base):  # where an upload goes on, say: its registry chose that as it chooses redirects
            url = endpoints.redirected(base, url, plain_is_fine=plain)
        for _ in range(_REDIRECTS + 1):
            headers = dict(request.headers)
            if authorization and _same_host(url, base):
                headers["Authorization"] = authorization
            response = self._send(request.method, url, headers, request.body() if request.body else None)
            location = response.headers.get("Location", "")
            if response.status not in _MOVED or not location:
                return response, url
            if response.status < 307 and request.method not in ("GET", "HEAD"):
                return response, url
            _drop(response)
            url = endpoints.redirected(url, location, plain_is_fine=plain)
        raise FailedPrecondition(f"{self.registry} redirects in circles: {_REDIRECTS} times for one request")

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> BaseHTTPResponse:
        """One request on one connection."""
        from urllib.parse import urlsplit

        from urllib3 import exceptions

        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        verify = not (endpoints.is_loopback(host) or endpoints.is_listed(host, self._options.insecure))
        pool = self._pools.pool(parts.scheme, host, verify=verify)
        sent = {"User-Agent": AGENT, "Accept-Encoding": "identity", **headers}
        try:
            return pool.request(
                method, url, headers=sent, body=body, redirect=False, retries=False, preload_content=False
            )
        except (exceptions.ProtocolError, exceptions.ReadTimeoutError, exceptions.IncompleteRead) as error:
            raise failures.Interrupted(
                f"the connection to {self.registry} broke ({failures.redacted(url)})", hint="retry; it may work later"
            ) from error
        except (exceptions.HTTPError, OSError) as error:
            raise failures.unreachable(error, registry=self.registry, url=url) from error


def _same_host(url: str, base: str) -> bool:
    """Whether `url` has the scheme, host and port of `base`; a relative one has."""
    return url.startswith(("/", base + "/")) or url == base


def read(response: BaseHTTPResponse, limit: int = _ANSWER_LIMIT) -> bytes:
    """A small body, whole; its connection is free again. ResourceExhausted past `limit` bytes."""
    from urllib3 import exceptions

    pieces = []
    left = limit + 1
    try:
        while left > 0 and (piece := response.read(min(left, PIECE), decode_content=False)):
            pieces.append(piece)
            left -= len(piece)
    except (exceptions.HTTPError, OSError) as error:
        response.close()
        raise failures.Interrupted("the connection broke in the middle of an answer", hint="retry") from error
    if left <= 0:
        response.close()
        raise ResourceExhausted(f"the registry's answer has more than {limit} bytes, which is not believable")
    response.release_conn()
    return b"".join(pieces)


def _drop(response: BaseHTTPResponse) -> None:
    """Be done with a response. A short body is read, so that its connection can be used again."""
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) <= PIECE:
        try:
            read(response, PIECE)
        except failures.Interrupted:
            return
    else:
        response.close()


def joined_query(path: str, pairs: Sequence[tuple[str, str]]) -> str:
    """`path` (which may have a query that must be kept) with more query parameters."""
    from urllib.parse import quote

    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs if value)
    return f"{path}{'&' if '?' in path else '?'}{query}" if query else path
