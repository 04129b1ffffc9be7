"""Password files and the server's Basic authentication."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import stat
from typing import TYPE_CHECKING

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop.registry import htpasswd
from orlop.registry.server import auth
from orlop.registry.server.app import Application
from orlop.registry.server.auth import Passwords
from orlop.registry.server.files import FileStorage
from orlop.registry.server.replies import Refusal
from orlop.registry.testing import Direct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Guards = Callable[..., Passwords]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def passwords(tmp_path: Path) -> str:
    """A password file with the user bob, password secret, made cheap to check."""
    path = str(tmp_path / "htpasswd")
    htpasswd.add_user(path, "bob", "secret", rounds=4)
    return path


@pytest.fixture
def guards() -> Iterator[Guards]:
    """Makes guards of password files, and ends their threads afterwards."""
    with contextlib.ExitStack() as stack:
        yield lambda path, **more: stack.enter_context(Passwords(path, **more))


def admitted(guard: Passwords, header: str, *, pull: bool = False) -> int:
    """The status that `guard` has for a request: 200 if it admits it."""
    try:
        asyncio.run(guard.admit(header.encode(), pull=pull))
    except Refusal as refusal:
        return refusal.status
    return 200


def test_users_are_added_changed_and_removed(passwords: str) -> None:
    """The file is made for its owner only, holds hashes that bcrypt and Apache understand, and keeps other users."""
    assert stat.S_IMODE(os.stat(passwords).st_mode) == 0o600
    assert htpasswd.add_user(passwords, "ann", "x", rounds=4) is True
    assert htpasswd.add_user(passwords, "ann", "y", rounds=4) is False
    users = htpasswd.load(passwords)
    assert list(users) == ["bob", "ann"]
    assert users["ann"].startswith(b"$2y$04$")
    assert bcrypt.checkpw(b"y", users["ann"])
    htpasswd.remove_user(passwords, "ann")
    assert list(htpasswd.load(passwords)) == ["bob"]
    with pytest.raises(NotFound, match="has no user"):
        htpasswd.remove_user(passwords, "ann")


@pytest.mark.parametrize(
    ("user", "password"), [("", "x"), ("a:b", "x"), ("a\n", "x"), ("a", ""), ("a", "x" * 73), ("a", "x\0y")]
)
def test_impossible_users_are_refused(tmp_path: Path, user: str, password: str) -> None:
    """Names and passwords that the format or bcrypt cannot hold are refused, and nothing is written."""
    with pytest.raises(InvalidArgument):
        htpasswd.add_user(str(tmp_path / "f"), user, password)
    assert not (tmp_path / "f").exists()


@given(st.binary(max_size=60))
def test_password_files_parse_or_say_the_line(text: bytes) -> None:
    """Any bytes are either a password file or an error that says which line is wrong."""
    try:
        users = htpasswd.parse(text)
    except InvalidArgument as error:
        users = {}
        said = error.message
    else:
        said = "line"
    assert "line" in said
    assert all(user and len(hashed) == 60 for user, hashed in users.items())


def test_only_bcrypt_is_accepted() -> None:
    """Apache's weaker formats are refused by name of the user."""
    with pytest.raises(InvalidArgument, match="'bob' is not hashed with bcrypt"):
        htpasswd.parse(b"# users\n\nbob:$apr1$abc$def\n")


def test_right_and_wrong_credentials(passwords: str, guards: Guards) -> None:
    """Only the right password of a known user is admitted; everything else is a 401 with a challenge."""
    guard = guards(passwords)
    assert admitted(guard, basic("bob", "secret")) == 200
    assert admitted(guard, basic("bob", "secret")) == 200
    for header in (
        "",
        basic("bob", "Secret"),
        basic("bob", ""),
        basic("eve", "secret"),
        basic("", ""),
        "Basic !!!",
        "Basic",
        "Bearer x",
        "Basic " + "A" * 9000,
    ):
        assert admitted(guard, header) == 401


def test_a_verified_header_is_not_verified_again(
    passwords: str, monkeypatch: pytest.MonkeyPatch, guards: Guards
) -> None:
    """Bcrypt runs once for a right header until it expires, and each time for a wrong one."""
    checks: list[bytes] = []
    real = htpasswd.check

    def counted(password: bytes, hashed: bytes) -> bool:
        checks.append(password)
        return real(password, hashed)

    monkeypatch.setattr(htpasswd, "check", counted)
    guard = guards(passwords)
    for _ in range(5):
        assert admitted(guard, basic("bob", "secret")) == 200
    assert len(checks) == 1
    for _ in range(2):
        assert admitted(guard, basic("bob", "wrong")) == 401
    assert len(checks) == 3
    monkeypatch.setattr(auth, "REMEMBERED", -1.0)
    guard = guards(passwords)
    for _ in range(2):
        assert admitted(guard, basic("bob", "secret")) == 200
    assert len(checks) == 5


def test_requests_with_one_header_share_one_check(
    passwords: str, monkeypatch: pytest.MonkeyPatch, guards: Guards
) -> None:
    """Many first requests at once cost one bcrypt, and one of them going away does not fail the others."""
    checks: list[bytes] = []
    real = htpasswd.check

    def counted(password: bytes, hashed: bytes) -> bool:
        checks.append(password)
        return real(password, hashed)

    monkeypatch.setattr(htpasswd, "check", counted)
    guard = guards(passwords)

    async def many() -> list[BaseException | None]:
        header = basic("bob", "secret").encode()
        tasks = [asyncio.ensure_future(guard.admit(header, pull=False)) for _ in range(10)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(many())
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None] * 9
    assert len(checks) == 1


def test_too_many_logins_at_once_are_turned_away(
    passwords: str, monkeypatch: pytest.MonkeyPatch, guards: Guards
) -> None:
    """A flood of wrong passwords gets 429 with Retry-After once the queue is full."""
    monkeypatch.setattr(auth, "_WAITING", 3)
    guard = guards(passwords)

    async def flood() -> list[int]:
        tasks = [guard.admit(basic("bob", f"guess {n}").encode(), pull=False) for n in range(10)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return [result.status for result in results if isinstance(result, Refusal)]

    assert sorted(set(asyncio.run(flood()))) == [401, 429]


def test_a_changed_file_counts_at_once(passwords: str, guards: Guards) -> None:
    """A new password, a removed user and an unreadable file take effect with the next request."""
    guard = guards(passwords)
    assert admitted(guard, basic("bob", "secret")) == 200
    htpasswd.add_user(passwords, "bob", "changed", rounds=4)
    assert admitted(guard, basic("bob", "secret")) == 401
    assert admitted(guard, basic("bob", "changed")) == 200
    with open(passwords, "w") as file:
        file.write("nonsense\n")
    assert admitted(guard, basic("bob", "changed")) == 401
    os.unlink(passwords)
    assert admitted(guard, basic("bob", "changed")) == 401
    htpasswd.add_user(passwords, "ann", "x", rounds=4)
    assert admitted(guard, basic("ann", "x")) == 200


def test_a_missing_file_is_said_at_the_start(tmp_path: Path, guards: Guards) -> None:
    """Without its password file a server does not start."""
    with pytest.raises((FailedPrecondition, OSError)):
        guards(str(tmp_path / "none"))


def test_anonymous_pull(passwords: str, tmp_path: Path, guards: Guards) -> None:
    """With anonymous pulls anyone may read, nobody may write without logging in, and wrong credentials are refused.

    /v2/ asks who it is all the same: that is where docker learns that it can log in.
    """
    storage = FileStorage.open(str(tmp_path / "registry"))
    direct = Direct(Application(storage, guards(passwords, anonymous_pull=True)), storage)
    nobody = "Basic Og=="
    assert direct("GET", "/v2/a/tags/list").status == 404
    assert direct("GET", "/v2/a/tags/list", authorization=nobody).status == 404
    assert direct("GET", "/v2/a/tags/list", authorization=basic("bob", "wrong")).status == 401
    assert direct("GET", "/v2/").status == 401
    answer = direct("POST", "/v2/a/blobs/uploads/")
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"].startswith('Basic realm="')
    assert direct("POST", "/v2/a/blobs/uploads/", authorization=basic("bob", "secret")).status == 202


def test_no_endpoint_is_open_without_credentials(passwords: str, tmp_path: Path, guards: Guards) -> None:
    """With a password file, every endpoint and method refuses a stranger with a 401."""
    storage = FileStorage.open(str(tmp_path / "registry"))
    direct = Direct(Application(storage, guards(passwords)), storage)
    digest = "sha256:" + "0" * 64
    for path in (
        "/v2/",
        "/v2/_catalog",
        "/v2/a/tags/list",
        "/v2/a/manifests/x",
        f"/v2/a/manifests/{digest}",
        f"/v2/a/blobs/{digest}",
        "/v2/a/blobs/uploads/",
        "/v2/a/blobs/uploads/" + "0" * 32,
        f"/v2/a/referrers/{digest}",
    ):
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            assert direct(method, path).status in (401, 405)


def test_unicode_passwords(tmp_path: Path, guards: Guards) -> None:
    """Passwords are UTF-8, as the challenge announces."""
    path = str(tmp_path / "f")
    htpasswd.add_user(path, "bøb", "pässwörd: with colon", rounds=4)
    assert admitted(guards(path), basic("bøb", "pässwörd: with colon")) == 200
