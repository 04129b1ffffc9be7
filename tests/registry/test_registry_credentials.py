"""Credentials in docker's config.json and in helper programs."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import FailedPrecondition, InvalidArgument, OrlopError
from orlop.registry.credentials import Credential, Keychain, hostname

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "docker" / "config.json"


def write(config: Path, value: object) -> Keychain:
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps(value))
    return Keychain(str(config))


def packed(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


_HELPER = """#!/bin/sh
# A credential helper over a folder: one file a server, named by its checksum.
folder={folder}
case "$1" in
get) file="$folder/$(cksum | tr ' ' -)"
  [ -f "$file" ] || {{ echo 'credentials not found in native keychain'; exit 1; }}
  cat "$file";;
store) text="$(cat)"
  server="$(printf %s "$text" | sed 's/.*"ServerURL":"\\([^"]*\\)".*/\\1/')"
  printf %s "$text" > "$folder/$(printf %s "$server" | cksum | tr ' ' -)";;
erase) rm "$folder/$(cksum | tr ' ' -)";;
*) echo "broken $1"; exit 2;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A credential helper program in PATH; its name."""
    folder, programs = tmp_path / "secrets", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    program = programs / "docker-credential-test"
    program.write_text(_HELPER.format(folder=folder))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return "test"


def test_what_is_stored_is_found_and_forgotten(config: Path) -> None:
    """A stored credential is found, replaced and erased; the file is the owner's alone."""
    keychain = Keychain(str(config))
    assert keychain.get("r.example:5000") is None
    keychain.store("r.example:5000", "bob", "pass:word")
    assert keychain.get("r.example:5000") == Credential(username="bob", password="pass:word")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    keychain.store("r.example:5000", "bob", "new")
    assert keychain.get("r.example:5000") == Credential(username="bob", password="new")
    assert keychain.get("r.example") is None
    assert keychain.erase("r.example:5000") is True
    assert keychain.erase("r.example:5000") is False
    assert keychain.get("r.example:5000") is None


def test_docker_understands_what_we_store(config: Path) -> None:
    """Docker Hub has the key that docker gives it; unknown fields survive."""
    keychain = write(config, {"psFormat": "table", "auths": {"x.example": {"auth": packed("a", "b"), "email": "e"}}})
    keychain.store("docker.io", "bob", "secret")
    found = json.loads(config.read_text())
    assert found["psFormat"] == "table"
    assert found["auths"]["x.example"] == {"auth": packed("a", "b"), "email": "e"}
    assert found["auths"]["https://index.docker.io/v1/"] == {"auth": packed("bob", "secret")}


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_many_names(config: Path, key: str) -> None:
    """Whatever a tool called Docker Hub, its credential is found under docker.io, and goes when that is erased."""
    keychain = write(config, {"auths": {key: {"auth": packed("bob", "x")}}})
    assert keychain.get("docker.io") == Credential(username="bob", password="x")
    assert keychain.erase("docker.io") is True
    assert json.loads(config.read_text())["auths"] == {}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("https://r.example:5000/v2/", "r.example:5000"),
        ("http://r.example", "r.example"),
        ("r.example/", "r.example"),
        ("https://index.docker.io/v1/", "docker.io"),
    ],
)
def test_keys_are_hosts(key: str, expected: str) -> None:
    """Schemes and paths in keys do not matter."""
    assert hostname(key) == expected


def test_tokens_are_found(config: Path) -> None:
    """Identity and registry tokens are credentials too."""
    keychain = write(config, {"auths": {"a": {"identitytoken": "i"}, "b": {"registrytoken": "r"}, "c": {}}})
    assert keychain.get("a") == Credential(identity="i")
    assert keychain.get("b") == Credential(bearer="r")
    assert keychain.get("c") is None


def test_secrets_are_not_shown() -> None:
    """The repr of a credential, as tracebacks and logs have it, has no secret in it."""
    assert "hunter2" not in repr(Credential(username="bob", password="hunter2", identity="hunter2", bearer="hunter2"))


def test_a_helper_keeps_the_secret(config: Path, helper: str) -> None:
    """With credsStore the secret goes to the program, and the file says only that there is one."""
    keychain = write(config, {"credsStore": helper})
    assert keychain.get("r.example") is None
    keychain.store("r.example", "bob", "hunter2")
    assert "hunter2" not in config.read_text()
    assert json.loads(config.read_text())["auths"] == {"r.example": {}}
    assert keychain.get("r.example") == Credential(username="bob", password="hunter2")
    assert keychain.erase("r.example") is True
    assert keychain.get("r.example") is None
    assert keychain.erase("r.example") is False


def test_a_helper_for_one_registry(config: Path, helper: str) -> None:
    """CredHelpers name programs for single registries; others stay in the file. `<token>` is an identity token."""
    keychain = write(config, {"credHelpers": {"r.example": helper}})
    keychain.store("r.example", "<token>", "refresh")
    keychain.store("s.example", "ann", "x")
    assert keychain.get("r.example") == Credential(identity="refresh")
    assert keychain.get("s.example") == Credential(username="ann", password="x")


def test_a_missing_helper_is_said(config: Path) -> None:
    """A helper that is not installed is an error that names it; a path is no helper's name."""
    with pytest.raises(FailedPrecondition, match="docker-credential-nonexistent is not installed"):
        write(config, {"credsStore": "nonexistent"}).get("r.example")
    with pytest.raises(InvalidArgument, match="not a program's name"):
        write(config, {"credsStore": "../../tmp/x"}).get("r.example")


def test_a_helper_that_fails_is_quoted(config: Path, helper: str, tmp_path: Path) -> None:
    """What a failing helper says is in the error."""
    (tmp_path / "bin" / "docker-credential-test").write_text("#!/bin/sh\necho 'the vault is locked'; exit 3\n")
    with pytest.raises(FailedPrecondition, match="the vault is locked"):
        write(config, {"credsStore": helper}).get("r.example")


def test_two_logins_at_once_lose_nothing(config: Path) -> None:
    """Concurrent changes of one file all arrive."""
    keychain = Keychain(str(config))
    threads = [threading.Thread(target=keychain.store, args=(f"r{number}.example", "bob", "x")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(config.read_text())["auths"]) == 8


def test_a_linked_file_stays_a_link(config: Path, tmp_path: Path) -> None:
    """If config.json is a symbolic link, what it points to is replaced."""
    config.parent.mkdir()
    target = tmp_path / "dotfiles.json"
    target.write_text("{}")
    config.symlink_to(target)
    Keychain(str(config)).store("r.example", "bob", "x")
    assert config.is_symlink()
    assert "r.example" in target.read_text()


def test_no_file_is_no_credentials() -> None:
    """The keychain of "" is empty, and cannot be stored to."""
    assert Keychain("").get("docker.io") is None
    assert Keychain("").erase("docker.io") is False
    with pytest.raises(FailedPrecondition):
        Keychain("").store("docker.io", "a", "b")


@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["auths", "credsStore", "credHelpers", "r.example", "auth", "identitytoken", "username"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    """Whatever config.json holds, the answer is a credential, None or one of our errors."""
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(text)
    try:
        found = Keychain(str(path)).get("r.example")
    except OrlopError:
        return
    assert found is None or isinstance(found, Credential)
