"""The Authorization header of a registry's requests: Basic, or tokens from the service that it names.

The token protocol is Docker's (distribution's "Token Authentication Specification" and its OAuth2 variant).
"""

from __future__ import annotations

import threading
import time

from orlop.errors import InvalidArgument, PermissionDenied, Unauthenticated
from orlop.oci.jsontext import loads
from orlop.registry.credentials import Credential
from orlop.registry.failures import Interrupted, plain, redacted, said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.registry.headers import Challenge

    Ask = Callable[[str, str, dict[str, str], bytes | None], tuple[int, bytes]]
    """(method, URL, headers, body) -> (status, body): one request to the token service, without our Authorization."""

CLIENT = "orlop"
_LEAST_SECONDS = 60.0
_TOKEN_LIMIT = 1 << 20


class Authorizer:
    """Knows how to authenticate to one registry, and remembers the tokens it was given. Thread-safe."""

    def __init__(self, registry: str, credential: Callable[[], Credential | None], ask: Ask, *, plain: bool) -> None:
        self._registry = registry
        self._find = credential
        self._found: tuple[Credential | None] | None = None
        self._ask = ask
        self._plain = plain  # the registry itself is spoken to without TLS
        self._challenge: Challenge | None = None
        self._tokens: dict[str, tuple[str, float]] = {}
        self._identity = ""
        self._lock = threading.Lock()

    @property
    def user(self) -> str:
        """Who we are logged in as; "" for nobody."""
        credential = self._credential()
        return credential.who if credential else ""

    def header(self, scopes: Sequence[str]) -> str:
        """The header for a request that needs `scopes`; "" while the registry has not said what it wants."""
        with self._lock:
            challenge = self._challenge
            return self._answer(challenge, scopes, "") if challenge else ""

    def answer(self, challenges: Sequence[Challenge], scopes: Sequence[str], used: str) -> str:
        """The header after a 401 with `challenges` to a request that was sent with the header `used`.

        "" if there is nothing better to send.
        """
        with self._lock:
            challenge = _best(challenges)
            if challenge is None:
                return ""
            self._challenge = challenge
            header = self._answer(challenge, scopes, used)
            return header if header != used else ""

    def _credential(self) -> Credential | None:
        if self._found is None:
            self._found = (self._find(),)
        return self._found[0]

    def _answer(self, challenge: Challenge, scopes: Sequence[str], used: str) -> str:
        credential = self._credential()
        if credential and credential.bearer:
            return f"Bearer {credential.bearer}"
        if challenge.scheme == "basic":
            return basic(credential.username, credential.password) if credential and credential.password else ""
        wanted = " ".join(sorted(set(scopes) or set(challenge.parameters.get("scope", "").split())))
        token, until = self._tokens.get(wanted, ("", 0.0))
        if not token or until < time.monotonic() or f"Bearer {token}" == used:
            token, lifetime = self._fetch(challenge, wanted, credential)
            self._tokens[wanted] = (token, time.monotonic() + 0.9 * lifetime)
        return f"Bearer {token}"

    def _fetch(self, challenge: Challenge, scopes: str, credential: Credential | None) -> tuple[str, float]:
        """A token for `scopes` from the service, and the seconds it lives."""
        from urllib.parse import urlencode

        realm = challenge.parameters.get("realm", "")
        self._check_realm(realm)
        query = [("service", challenge.parameters.get("service", "")), ("client_id", CLIENT)]
        query += [("scope", scope) for scope in scopes.split()]
        query = [(name, value) for name, value in query if value]
        headers: dict[str, str] = {}
        identity = self._identity or (credential.identity if credential else "")
        if identity:
            form = [*query, ("grant_type", "refresh_token"), ("refresh_token", identity)]
            status, body = self._post(realm, _joined(form))
        else:
            if credential and credential.username:
                query.append(("account", credential.username))
                headers["Authorization"] = basic(credential.username, credential.password)
            status, body = self._ask("GET", realm + ("&" if "?" in realm else "?") + urlencode(query), headers, None)
            if status in (404, 405) and credential and credential.username:  # some services know OAuth2 only
                form = [*query, ("grant_type", "password")]
                form += [("username", credential.username), ("password", credential.password)]
                status, body = self._post(realm, _joined(form))
        return self._read(status, body, realm, credential)

    def _post(self, realm: str, form: list[tuple[str, str]]) -> tuple[int, bytes]:
        from urllib.parse import urlencode

        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._ask("POST", realm, headers, urlencode(form).encode())

    def _check_realm(self, realm: str) -> None:
        """Credentials go to the address that the registry names, so a TLS registry may not name a plain one."""
        if not realm.startswith(("https://", "http://")):
            raise Unauthenticated(f"{self._registry} wants a token but names no service to get it from")
        if realm.startswith("http://") and not self._plain:
            raise Unauthenticated(
                f"{self._registry} wants a token from {redacted(realm)}, which is not encrypted",
                hint="this is a mistake of the registry, or an attack",
            )

    def _read(self, status: int, body: bytes, realm: str, credential: Credential | None) -> tuple[str, float]:
        where = redacted(realm)
        if status in (400, 401, 403):
            code, message = said(body)
            told = f" ({message or code})" if message or code else ""
            if credential:
                raise Unauthenticated(
                    f"{where} refuses the credentials of {credential.who}{told}",
                    hint=f"log in again: orlop login {self._registry}",
                )
            raise Unauthenticated(f"{where} gives no anonymous token{told}", hint=f"orlop login {self._registry}")
        if status == 429 or status >= 500:
            raise Interrupted(f"the token service {where} failed with status {status}", hint="it may work later")
        if status != 200:
            raise PermissionDenied(f"the token service {where} answered with status {status}")
        try:
            value = loads(body, what=f"the token from {where}", limit=_TOKEN_LIMIT)
            token = value.get("token") or value.get("access_token") or ""
            lifetime = float(value.get("expires_in") or 0)
            self._identity = str(value.get("refresh_token") or "") or self._identity
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidArgument(f"the token service {where} answered with something else than a token") from error
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise Unauthenticated(f"the token service {where} answered without a token: {plain(str(token)[:20])!r}")
        return token, max(_LEAST_SECONDS, lifetime)


def basic(username: str, password: str) -> str:
    """The header of RFC 7617, in UTF-8."""
    from binascii import b2a_base64

    return "Basic " + b2a_base64(f"{username}:{password}".encode(), newline=False).decode()


def _joined(form: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """OAuth2 forms have one `scope`, with spaces in it."""
    scopes = " ".join(value for name, value in form if name == "scope")
    return [pair for pair in form if pair[0] not in ("scope", "account")] + ([("scope", scopes)] if scopes else [])


def _best(challenges: Sequence[Challenge]) -> Challenge | None:
    """A token service before a password, anything else not at all."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None
