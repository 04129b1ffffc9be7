"""Whole commands on real kernels: each test gets a root of its own, and must leave the machine as it found it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import Orlop
from elsewhere import Elsewhere
from patience import PATIENCE


@pytest.fixture
def orlop(tmp_path: Path) -> Iterator[Orlop]:
    """A fresh root; everything in it is removed afterwards, whatever the test did."""
    command = Orlop(tmp_path)
    yield command
    names = command.run("ps", "-aq").stdout.split()
    if names:
        command.run("rm", "-f", *names)
    command.run("internal", "teardown")


@pytest.fixture
def elsewhere(orlop: Orlop) -> Iterator[Elsewhere]:
    """The host that `orlop` works on, for this test."""
    host = Elsewhere(orlop)
    yield host
    names = orlop.run("ps", "-aq").stdout.split()
    if names:
        orlop.run("rm", "-f", *names)
    orlop.run("internal", "teardown")
    os.close(host.descriptor)


@pytest.fixture(scope="session")
def busybox_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with the image `busybox`, made of this machine's static busybox."""
    folder = tmp_path_factory.mktemp("busybox")
    command = Orlop(folder)
    try:
        command("image", "from-host", "busybox-base", "busybox")
        (folder / "Dockerfile").write_text(
            'FROM busybox-base\nRUN ["busybox", "--install", "-s", "/bin"]\n'
            "RUN mkdir -p /tmp /etc && chmod 1777 /tmp && echo 'nobody:x:65534:65534::/:/bin/false' >> /etc/passwd\n"
            'CMD ["sh"]\n'
        )
        command("build", "-q", "-t", "busybox", str(folder))
        command("save", "-o", str(folder / "busybox.tar"), "busybox")
    finally:
        command.run("internal", "teardown")
    return folder / "busybox.tar"


@pytest.fixture
def busybox(orlop: Orlop, busybox_archive: Path) -> str:
    """The name of a small image in the fresh root."""
    orlop("load", "-q", "-i", str(busybox_archive))
    return "busybox"


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Path]:
    """Make a build context: file names (with `/` as `__`) to contents."""

    def make(dockerfile: str, **files: str) -> Path:
        folder = tmp_path / "context"
        folder.mkdir(exist_ok=True)
        (folder / "Dockerfile").write_text(dockerfile)
        for name, text in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    return make


@pytest.fixture
def registry(orlop: Orlop) -> Iterator[str]:
    """A registry of our own on a free loopback port, with a user; the fixture's root is logged in."""
    htpasswd = orlop.folder / "htpasswd"
    orlop("registry", "user", "add", "--htpasswd", str(htpasswd), "--password-stdin", "sailor", stdin=b"hunter2hunter2")
    server = subprocess.Popen(
        [*orlop.program, "registry", "serve", "--addr", "127.0.0.1:0", "--root", str(orlop.folder / "registry"),
         "--htpasswd", str(htpasswd)],
        env=orlop.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        address = ""
        for line in server.stdout:
            if b"listening on" in line:
                address = line.decode().split("//")[1].split()[0].rstrip("/")
                break
        assert address, "the registry did not start"
        orlop("login", "-u", "sailor", "--password-stdin", address, stdin=b"hunter2hunter2")
        yield address
    finally:
        server.terminate()
        server.wait(PATIENCE)
        assert server.stdout is not None
        server.stdout.close()
