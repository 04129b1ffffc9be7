"""Trust in registries, from the command line."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from command import Orlop
    from elsewhere import Elsewhere

ADDRESS = "10.99.0.1"  # not the loopback's, whose registries are trusted as they are


@pytest.fixture
def registry_by_tls(orlop: Orlop, elsewhere: Elsewhere) -> Iterator[str]:
    """A registry with a certificate that no authority has signed, and that anybody may use."""
    elsewhere.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    key, certificate = f"{orlop.folder}/key.pem", f"{orlop.folder}/registry.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={ADDRESS}",
         "-addext", f"subjectAltName=IP:{ADDRESS}", "-keyout", key, "-out", certificate],
        capture_output=True, check=True,
    )  # fmt: skip
    server = subprocess.Popen(
        [*orlop.program, "registry", "serve", "--addr", f"{ADDRESS}:0", "--root", f"{orlop.folder}/registry",
         "--anonymous", "--tls-cert", certificate, "--tls-key", key],
        env=orlop.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        yield server.stdout.readline().decode().strip().rpartition("//")[2]
    finally:
        server.terminate()
        server.wait(60)
        server.stdout.close()


def test_certificates_in_certs_d_are_trusted(orlop: Orlop, registry_by_tls: str) -> None:
    """What docker trusts by a folder in certs.d, push, pull and build trust too; without it they say why not."""
    (orlop.folder / "Dockerfile").write_text(f"FROM {registry_by_tls}/empty\nLABEL built=yes\n")
    (orlop.folder / "empty").mkdir()
    (orlop.folder / "empty" / "Dockerfile").write_text("FROM scratch\nLABEL empty=yes\n")
    orlop("build", "-q", "-t", f"{registry_by_tls}/empty", str(orlop.folder / "empty"))
    assert "not from an authority" in orlop.fails("push", f"{registry_by_tls}/empty", code=1)

    trusted = orlop.folder / "docker" / "certs.d" / registry_by_tls
    trusted.mkdir(parents=True)
    shutil.copy(orlop.folder / "registry.crt", trusted / "ca.crt")
    orlop("push", "-q", f"{registry_by_tls}/empty")
    orlop("rmi", f"{registry_by_tls}/empty")
    orlop("build", "-q", "-t", "built", "-f", str(orlop.folder / "Dockerfile"), str(orlop.folder / "empty"))
    orlop("pull", "-q", f"{registry_by_tls}/empty")
