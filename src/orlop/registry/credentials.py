"""Credentials where docker keeps them: `config.json`, and the programs docker-credential-* that it names.

What orlop stores, docker, podman and skopeo find, and the reverse. Fields that orlop does not know stay as they are.
"""

from __future__ import annotations

import os

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.linux import wholefile
from orlop.oci.jsontext import dumps, load_object, pretty
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOCKER_IO_KEY = "https://index.docker.io/v1/"
"""What docker calls Docker Hub in its file, for reasons of history."""

_DOCKER_IO = ("docker.io", "index.docker.io", "registry-1.docker.io")
_TOKEN_USER = "<token>"  # noqa: S105  # the name that says "the secret is an identity token"
_LIMIT = 16 << 20
_HELPER_SECONDS = 60


class Credential(Value):
    """What a registry is told. `identity` is an OAuth2 refresh token, `bearer` a token to be sent as it is."""

    _secret = ("password", "identity", "bearer")

    username: str = ""
    password: str = ""
    identity: str = ""
    bearer: str = ""

    @property
    def who(self) -> str:
        """A name for messages."""
        return self.username or "the holder of the token"


class Keychain:
    """The credentials in one config.json, which need not exist. "" is a keychain that is always empty."""

    def __init__(self, config_path: str) -> None:
        self._path = config_path

    def get(self, registry: str) -> Credential | None:
        """The credential for `registry` ("docker.io", "host:port"), None where there is none."""
        config = self._load()
        helper = self._helper(config, registry)
        if helper:
            found = _ask(helper, "get", _key(registry).encode())
            return _from_helper(found, helper) if found is not None else None
        auths = config.get("auths")
        if not isinstance(auths, dict):
            return None
        for key in [_key(registry), *auths]:
            if key in auths and (key == _key(registry) or hostname(key) == hostname(registry)):
                credential = _from_entry(auths[key], self._path)
                if credential is not None:
                    return credential
        return None

    def store(self, registry: str, username: str, password: str) -> None:
        """Keep a credential: in the helper that the file names, else in the file (mode 0600)."""
        if not username or ":" in username:
            raise InvalidArgument(f"{username!r} cannot be a user name: it is empty or has a colon in it")

        def change(config: dict[str, Any]) -> None:
            auths = config.setdefault("auths", {})
            helper = self._helper(config, registry)
            if helper:
                _ask(helper, "store", dumps({"ServerURL": _key(registry), "Username": username, "Secret": password}))
                auths[_key(registry)] = {}
                return
            import base64  # one millisecond, for logins only

            auths[_key(registry)] = {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}

        self._change(change)

    def erase(self, registry: str) -> bool:
        """Forget the credential; False if there was none."""
        had = [False]

        def change(config: dict[str, Any]) -> None:
            helper = self._helper(config, registry)
            if helper and _ask(helper, "get", _key(registry).encode()) is not None:
                _ask(helper, "erase", _key(registry).encode())
                had[0] = True
            auths = config.get("auths")
            if not isinstance(auths, dict):
                return
            for key in list(auths):
                if hostname(key) == hostname(registry):
                    had[0] = had[0] or bool(auths[key])
                    del auths[key]

        if self._load():
            self._change(change)
        return had[0]

    def _helper(self, config: dict[str, Any], registry: str) -> str:
        """The name of the helper program for `registry`; "" for none."""
        helpers = config.get("credHelpers")
        name = ""
        if isinstance(helpers, dict):
            name = next((helpers[key] for key in helpers if hostname(key) == hostname(registry)), "")
        name = name or config.get("credsStore", "")
        if not isinstance(name, str) or "/" in name or "\0" in name:
            raise InvalidArgument(f"{self._path} names the credential helper {name!r}, which is not a program's name")
        return name

    def _load(self) -> dict[str, Any]:
        if not self._path:
            return {}
        try:
            with open(self._path, "rb") as file:
                text = file.read(_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise FailedPrecondition(f"cannot read the credentials in {self._path}: {error.strerror}") from error
        return load_object(text, what=self._path, limit=_LIMIT) if text.strip() else {}

    def _change(self, change: Any) -> None:
        """Read, change and replace the file, alone among all orlop processes."""
        import fcntl  # for logins only

        if not self._path:
            raise FailedPrecondition("there is no file to keep credentials in")
        path = os.path.realpath(self._path)  # a link from a folder of dot files stays a link
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                config = self._load()
                change(config)
                wholefile.write(path, pretty(config).encode() + b"\n", durable=True)
            finally:
                os.close(folder)
        except OSError as error:
            raise FailedPrecondition(f"cannot write {self._path}: {error.strerror}") from error


def hostname(key: str) -> str:
    """The registry that a key in config.json means: "https://host:5000/v2/" is "host:5000"."""
    host = key.partition("://")[2] or key
    host = host.partition("/")[0]
    return "docker.io" if host in _DOCKER_IO else host


def _key(registry: str) -> str:
    return DOCKER_IO_KEY if registry in _DOCKER_IO else registry


def _from_entry(entry: object, path: str) -> Credential | None:
    """The credential in one value of `auths`; None for the empty one that stands beside a helper."""
    if not isinstance(entry, dict):
        return None
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    packed = entry.get("auth")
    if packed:
        import base64  # one millisecond, where there are credentials
        import binascii

        try:
            username, _, password = base64.b64decode(str(packed), validate=True).decode().partition(":")
        except (binascii.Error, ValueError) as error:
            raise InvalidArgument(
                f"{path} has an `auth` that is not base64 of user:password", hint="log in again: orlop login"
            ) from error
    credential = Credential(
        username=username,
        password=password.strip("\0"),
        identity=str(entry.get("identitytoken") or ""),
        bearer=str(entry.get("registrytoken") or ""),
    )
    return credential if credential != Credential() else None


def _from_helper(answer: bytes, helper: str) -> Credential:
    value = load_object(answer, what=f"the answer of docker-credential-{helper}", limit=_LIMIT)
    username, secret = str(value.get("Username") or ""), str(value.get("Secret") or "")
    if username == _TOKEN_USER:
        return Credential(identity=secret)
    return Credential(username=username, password=secret)


def _ask(helper: str, verb: str, question: bytes) -> bytes | None:
    """Run docker-credential-<helper>; None where it says that it has no such credential."""
    import subprocess  # 20 ms, only where a helper is configured

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, verb], input=question, capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise FailedPrecondition(
            f"the credential helper {program} is not installed",
            hint="install it, or take `credsStore` and `credHelpers` out of docker's config.json",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(f"{program} {verb} did not answer in {_HELPER_SECONDS} s") from error
    if done.returncode == 0:
        return done.stdout
    # The helpers' protocol has no other sign for this than its message.
    said = (done.stdout.strip() or done.stderr.strip()).decode(errors="replace")[:200]
    if verb in ("get", "erase") and "not found" in said:
        return None
    raise FailedPrecondition(f"{program} {verb} failed: {said or f'exit status {done.returncode}'}")
