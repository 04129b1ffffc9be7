"""Log in to registries and out of them; the credentials live where docker keeps them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.core import Engine
    from orlop.engine.requests import Login
    from orlop.engine.settings import Settings
    from orlop.registry.client import Client
    from orlop.registry.credentials import Keychain


class Registries:
    """The verbs on registries."""

    def __init__(self, engine: Engine) -> None:
        self._settings = engine.settings

    def login(self, request: Login) -> None:
        """Verify credentials with the registry, then keep them. Unauthenticated where the registry refuses them."""
        registry = request.registry or "docker.io"
        with client(self._settings) as asked:
            asked.check_login(registry, request.username, request.password)
        keychain(self._settings).store(registry, request.username, request.password)

    def logout(self, registry: str) -> bool:
        """Forget the credentials for `registry`; False if there were none."""
        return keychain(self._settings).erase(registry or "docker.io")


def keychain(settings: Settings) -> Keychain:
    """The credentials of the user who asks."""
    from orlop.registry.credentials import Keychain

    return Keychain(f"{settings.docker_config}/config.json")


def client(settings: Settings) -> Client:
    """A registry client with the user's credentials and proxies, and the certificates that docker would trust."""
    from orlop.registry.client import Client

    return Client(
        keychain(settings),
        insecure=settings.insecure_registries,
        proxies=dict(settings.environ),
        mirrors=settings.mirrors,
        certificates=(f"{settings.docker_config}/certs.d", "/etc/docker/certs.d"),
    )
