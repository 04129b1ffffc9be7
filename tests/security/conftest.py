"""One arena for all attacks: a root with a small image, kept for the session; each attack makes its own containers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attack
import pytest
from command import Orlop
from patience import PATIENCE


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orlop]:
    """A root with the image `busybox`. Attacks leave nothing in it but images."""
    folder = tmp_path_factory.mktemp("arena")
    command = Orlop(folder)
    base = folder / "base"
    base.mkdir()
    command("image", "from-host", "busybox-base", "busybox")
    (base / "Dockerfile").write_text(
        'FROM busybox-base\nRUN ["busybox", "--install", "-s", "/bin"]\n'
        "RUN mkdir -p /tmp /etc && chmod 1777 /tmp && echo 'nobody:x:65534:65534::/:/bin/false' >> /etc/passwd\n"
        'CMD ["sh"]\n'
    )
    command("build", "-q", "-t", "busybox", str(base))
    yield command
    names = command.run("ps", "-aq").stdout.split()
    if names:
        command.run("rm", "-f", *names)
    command.run("internal", "teardown")


@pytest.fixture
def target(arena: Orlop, request: pytest.FixtureRequest) -> Iterator[str]:
    """A running container to attack, gone afterwards."""
    name = attack.unique("target")
    arena("run", "-d", "--network", "none", "--name", name, "busybox", "sleep", "1000")
    yield name
    arena("rm", "-f", name)


@pytest.fixture
def image(arena: Orlop) -> Iterator[Callable[..., str]]:
    """Load a hostile image: layers of tar members over busybox's own, and a config. Its name."""
    made: list[str] = []

    def make(*members: attack.Member, **config: object) -> str:
        name = attack.unique("hostile")
        archive = attack.image_over(attack.saved(arena, "busybox"), name, list(members), dict(config))
        arena("load", "-q", stdin=archive)
        made.append(name)
        return name

    yield make
    if made:
        arena.run("rmi", "-f", *made)


@pytest.fixture
def host_file(tmp_path: Path) -> Path:
    """A file of the host that no container may touch or see; whoever asks for it must find it unchanged."""
    path = tmp_path / "host-secret"
    path.write_text("the host's own")
    return path


@pytest.fixture
def registry(arena: Orlop, tmp_path: Path) -> Iterator[str]:
    """A registry of our own on a free loopback port, with the user `sailor`; nobody is logged in."""
    htpasswd = tmp_path / "htpasswd"
    arena("registry", "user", "add", "--htpasswd", str(htpasswd), "--password-stdin", "sailor", stdin=b"hunter2hunter2")
    server = subprocess.Popen(
        [*arena.program, "registry", "serve", "--addr", "127.0.0.1:0", "--root", str(tmp_path / "registry"),
         "--htpasswd", str(htpasswd)],
        env=arena.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        address = next(
            line.decode().split("//")[1].split()[0].rstrip("/") for line in server.stdout if b"listening on" in line
        )
        yield address
    finally:
        server.terminate()
        server.wait(PATIENCE)
        server.stdout.close()
