"""Token services: Docker's protocol and its OAuth2 variant, against a registry that demands tokens."""

from __future__ import annotations

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from orlop.errors import PermissionDenied, Unauthenticated, Unavailable
from orlop.oci.reference import Reference
from orlop.registry.client import Client
from orlop.registry.credentials import Credential, Keychain
from orlop.registry.headers import Challenge
from orlop.registry.testing import Fake, drain, reply
from orlop.registry.tokens import Authorizer

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

    from orlop.registry.transport import Options


class TokenRegistry:
    """A registry and its token service in one: bob's password is secret, his identity token idtoken."""

    def __init__(self) -> None:
        self.issued: list[dict[str, list[str]]] = []
        self.valid: set[str] = set()
        self.anonymous = True
        self.oauth_only = False
        self.status = 0
        self.lock = threading.Lock()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        body = drain(handler).decode()
        if handler.path.startswith("/token"):
            self.token(handler, body)
            return
        sent = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent in self.valid:
            reply(handler, 200, b'{"tags":["v1"]}')
            return
        host = handler.headers["Host"]
        challenge = f'Bearer realm="http://{host}/token",service="the service",scope="repository:a/b:pull"'
        reply(handler, 401, WWW_Authenticate=challenge)

    def token(self, handler: BaseHTTPRequestHandler, body: str) -> None:
        asked = parse_qs(body if handler.command == "POST" else urlsplit(handler.path).query)
        user, password = "", ""
        if header := handler.headers.get("Authorization"):
            user, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        if handler.command == "POST":
            user, password = asked.get("username", [""])[0], asked.get("password", [""])[0]
        if self.status:
            reply(handler, self.status)
            return
        if self.oauth_only and handler.command == "GET":
            reply(handler, 405)
            return
        known = (user, password) == ("bob", "secret") or asked.get("refresh_token") in (["idtoken"], ["refreshed"])
        if not (known or (self.anonymous and not user and "refresh_token" not in asked)):
            reply(handler, 401, b'{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}')
            return
        with self.lock:
            self.issued.append(asked | {"method": [handler.command], "user": [user]})
            token = f"token-{len(self.issued)}"
            self.valid.add(token)
        answer = {"token": token, "expires_in": 300}
        if handler.command == "POST":
            answer = {"access_token": token, "refresh_token": "refreshed", "expires_in": 300}
        reply(handler, 200, json.dumps(answer).encode())


@pytest.fixture
def keychain(tmp_path: Path) -> Keychain:
    return Keychain(str(tmp_path / "config.json"))


def tags(client: Client, fake: Fake) -> list[str]:
    return client.tags(Reference.parse(f"{fake.address}/a/b"))


def test_strangers_get_anonymous_tokens(client: Client) -> None:
    """A pull without credentials asks the service for a token for just that, once, and uses it again."""
    registry = TokenRegistry()
    with Fake(registry, base=True) as fake:
        for _ in range(3):
            assert tags(client, fake) == ["v1"]
    (issued,) = registry.issued
    assert issued["service"] == ["the service"]
    assert issued["scope"] == ["repository:a/b:pull"]
    assert "account" not in issued


def test_users_get_tokens_for_what_they_do(keychain: Keychain, quick: Options) -> None:
    """Credentials go to the token service only; each kind of work has its own token."""
    registry = TokenRegistry()
    with Fake(registry, base=True) as fake:
        keychain.store(fake.address, "bob", "secret")
        client = Client(keychain, options=quick)
        assert tags(client, fake) == ["v1"]
        client.has(Reference.parse(f"{fake.address}/a/b"), "sha256:" + "0" * 64)
        client.close()
        sent = [headers.get("authorization", "") for _, path, headers in fake.requests if path.startswith("/v2/")]
    assert not any(header.startswith("Basic") for header in sent)
    assert [one["scope"] for one in registry.issued] == [["repository:a/b:pull"], ["repository:a/b:pull,push"]]
    assert registry.issued[0]["account"] == ["bob"]


def test_a_token_that_is_no_longer_good_is_replaced(client: Client) -> None:
    """If the registry refuses a token that we thought good, a new one is fetched and the request is sent again."""
    registry = TokenRegistry()
    with Fake(registry, base=True) as fake:
        assert tags(client, fake) == ["v1"]
        registry.valid.clear()
        assert tags(client, fake) == ["v1"]
    assert len(registry.issued) == 2


def test_identity_tokens_are_refresh_tokens(tmp_path: Path, quick: Options) -> None:
    """An identity token is sent by OAuth2 POST, never as a password; the refresh token that comes back replaces it."""
    registry = TokenRegistry()
    with Fake(registry, base=True) as fake:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"auths": {fake.address: {"identitytoken": "idtoken"}}}))
        client = Client(Keychain(str(path)), options=quick)
        assert tags(client, fake) == ["v1"]
        registry.valid.clear()
        assert tags(client, fake) == ["v1"]
        client.close()
    assert [one["method"] for one in registry.issued] == [["POST"], ["POST"]]
    assert [one["refresh_token"] for one in registry.issued] == [["idtoken"], ["refreshed"]]
    assert registry.issued[0]["grant_type"] == ["refresh_token"]


def test_services_that_know_only_oauth2(keychain: Keychain, quick: Options) -> None:
    """Where GET is not allowed, user and password are sent by OAuth2 POST."""
    registry = TokenRegistry()
    registry.oauth_only = True
    with Fake(registry, base=True) as fake:
        keychain.store(fake.address, "bob", "secret")
        client = Client(keychain, options=quick)
        assert tags(client, fake) == ["v1"]
        client.close()
    assert registry.issued[0]["grant_type"] == ["password"]


def test_registry_tokens_are_sent_as_they_are(tmp_path: Path, quick: Options) -> None:
    """A registrytoken needs no service."""
    registry = TokenRegistry()
    registry.valid.add("mine")
    with Fake(registry, base=True) as fake:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"auths": {fake.address: {"registrytoken": "mine"}}}))
        client = Client(Keychain(str(path)), options=quick)
        assert tags(client, fake) == ["v1"]
        client.close()
    assert registry.issued == []


def test_wrong_passwords_are_said_without_quoting_them(keychain: Keychain, quick: Options) -> None:
    """A refusal by the token service names the user and the service, never the password."""
    registry = TokenRegistry()
    with Fake(registry, base=True) as fake:
        keychain.store(fake.address, "bob", "hunter2")
        client = Client(keychain, options=quick)
        with pytest.raises(Unauthenticated, match="refuses the credentials of bob") as caught:
            tags(client, fake)
        assert "hunter2" not in str(caught.value) + caught.value.hint
        assert f"orlop login {fake.address}" in caught.value.hint
        with pytest.raises(Unauthenticated):
            client.check_login(fake.address, "bob", "hunter2")
        client.check_login(fake.address, "bob", "secret")
        client.close()


def test_no_anonymous_tokens(client: Client) -> None:
    """A service that wants to know who asks says so with the way to log in."""
    registry = TokenRegistry()
    registry.anonymous = False
    with Fake(registry, base=True) as fake, pytest.raises(Unauthenticated, match="no anonymous token") as caught:
        tags(client, fake)
    assert caught.value.hint.startswith("orlop login")


def test_a_service_that_fails_is_tried_again(client: Client) -> None:
    """A token service that is down is named; a status that makes no sense is refused."""
    registry = TokenRegistry()
    registry.status = 503
    with Fake(registry, base=True) as fake:
        with pytest.raises(Unavailable, match="token service"):
            tags(client, fake)
        assert len([1 for _, path, _ in fake.requests if path.startswith("/token")]) == 3
        registry.status = 302
        with pytest.raises(PermissionDenied, match="status 302"):
            tags(client, fake)


def test_many_threads_fetch_one_token(client: Client) -> None:
    """Threads that need the same token at once cause one request for it, or few."""
    registry = TokenRegistry()
    with Fake(registry, base=True) as fake, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: tags(client, fake), range(16))) == [["v1"]] * 16
    assert len(registry.issued) == 1


def authorizer(answer: tuple[int, bytes], *, plain: bool = False) -> Authorizer:
    return Authorizer("r.example", lambda: Credential(username="bob", password="x"), lambda *_: answer, plain=plain)


def bearer(realm: str) -> list[Challenge]:
    return [Challenge(scheme="bearer", parameters={"realm": realm})]


@pytest.mark.parametrize("realm", ["http://evil.example/token", "", "ftp://x", "file:///etc/passwd"])
def test_credentials_are_not_sent_in_the_clear(realm: str) -> None:
    """A TLS registry whose token service is not TLS gets no credentials."""
    with pytest.raises(Unauthenticated):
        authorizer((200, b'{"token":"t"}')).answer(bearer(realm), ["repository:a:pull"], "")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"token":null}', b'{"token":"a\\nb"}', b'{"token":{}}', b'{"token":"t","expires_in":"x"}'],
)
def test_what_is_no_token_is_refused(body: bytes) -> None:
    """Answers without a usable token are errors; a token cannot smuggle a header."""
    from orlop.errors import OrlopError

    with pytest.raises(OrlopError):
        authorizer((200, body)).answer(bearer("https://a.example/t"), ["x"], "")


def test_schemes_are_chosen() -> None:
    """A token service is preferred to a password; unknown schemes are not answered."""
    both = [Challenge(scheme="basic", parameters={}), *bearer("https://a.example/t")]
    assert authorizer((200, b'{"token":"t"}')).answer(both, ["x"], "") == "Bearer t"
    assert authorizer((200, b"")).answer(both[:1], ["x"], "") == "Basic Ym9iOng="
    assert authorizer((200, b"")).answer([Challenge(scheme="negotiate", parameters={})], ["x"], "") == ""
    assert authorizer((200, b"")).header(["x"]) == ""
