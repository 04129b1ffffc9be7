"""Trust and proxies: what stands between the client and a registry."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from orlop.errors import FailedPrecondition, Unavailable
from orlop.oci.reference import Reference
from orlop.registry.client import Client
from orlop.registry.testing import Fake, reply, serving
from orlop.registry.transport import Options, Pools, Transport, joined_query

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates for 127.0.0.1, one good and one expired, and their keys."""
    folder = tmp_path_factory.mktemp("tls")
    # `openssl x509` makes nothing that has expired (from 3.5 on), `openssl ca` does; it wants a file of settings.
    settings = folder / "ca.cnf"
    settings.write_text(
        f"[ca]\ndefault_ca=us\n[us]\ndatabase={folder}/index\nrand_serial=yes\nnew_certs_dir={folder}\ndefault_md=sha256\n"
        "policy=any\ncopy_extensions=copyall\nunique_subject=no\n[any]\ncommonName=supplied\n"
    )
    (folder / "index").touch()
    for name, end in (("good", "20991231000000Z"), ("expired", "20200201000000Z")):
        key, request, certificate = (f"{folder}/{name}.{kind}" for kind in ("key", "csr", "crt"))
        subject = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
        ask_for = f"openssl req -new -newkey rsa:2048 -nodes {subject} -keyout {key} -out {request}"
        sign = (
            f"openssl ca -batch -notext -config {settings} -selfsign -keyfile {key} -in {request} -out {certificate} "
            f"-startdate 20200101000000Z -enddate {end}"
        )
        for command in (ask_for, sign):
            subprocess.run(command.split(), capture_output=True, check=True)
    return folder


def ask(options: Options, address: str) -> int:
    """The status of /v2/ over TLS whose certificate is verified, which the client itself does not do on loopback."""
    from urllib3.exceptions import HTTPError

    from orlop.registry import failures

    pools = Pools(options)
    url = f"https://{address}/v2/"
    try:
        return int(pools.pool("https", address, verify=True).request("GET", url, retries=False).status)
    except HTTPError as error:
        raise failures.unreachable(error, registry=address, url=url) from error
    finally:
        pools.close()


def test_certificates_are_verified(tmp_path: Path, tls: Path) -> None:
    """An unknown authority is refused with the way out; its certificate in certs.d, as docker has it, is trusted."""
    with serving(root=str(tmp_path / "root"), tls_cert=f"{tls}/good.crt", tls_key=f"{tls}/good.key") as served:
        with pytest.raises(Unavailable, match="not from an authority") as caught:
            ask(Options(), served.address)
        assert f"ORLOP_INSECURE_REGISTRIES={served.address}" in caught.value.hint
        place = tmp_path / "certs.d" / served.address
        place.mkdir(parents=True)
        shutil.copy(tls / "good.crt", place / "ca.crt")
        assert ask(Options(certificates=(str(tmp_path / "certs.d"),)), served.address) == 200
        other = tmp_path / "certs.d" / served.address.replace("127.0.0.1", "localhost")
        place.rename(other)
        with pytest.raises(Unavailable, match="for another name"):
            ask(Options(certificates=(str(tmp_path / "certs.d"),)), other.name)


def test_an_expired_certificate_is_said(tmp_path: Path, tls: Path) -> None:
    """A certificate that was trusted once is refused as expired, with a word about this machine's clock."""
    with serving(root=str(tmp_path / "root"), tls_cert=f"{tls}/expired.crt", tls_key=f"{tls}/expired.key") as served:
        place = tmp_path / served.address
        place.mkdir()
        shutil.copy(tls / "expired.crt", place / "ca.crt")
        with pytest.raises(Unavailable, match="has expired") as caught:
            ask(Options(certificates=(str(tmp_path),)), served.address)
        assert "clock" in caught.value.hint


def test_unusable_certificates_are_said(tmp_path: Path) -> None:
    """A file in certs.d that is no certificate is named."""
    (tmp_path / "r.example").mkdir()
    (tmp_path / "r.example" / "ca.crt").write_text("nonsense")
    with pytest.raises(FailedPrecondition, match="cannot use the certificates"):
        ask(Options(certificates=(str(tmp_path),)), "r.example")


def test_a_plain_registry_is_named_when_tls_was_wanted() -> None:
    """TLS to a server that does not speak it says so, and how to allow plain HTTP."""
    with Fake(lambda handler: reply(handler, 200)) as fake, pytest.raises(Unavailable, match="not speak TLS") as caught:
        ask(Options(), fake.address)
    assert f"ORLOP_INSECURE_REGISTRIES={fake.address}" in caught.value.hint


def test_proxies_get_the_requests_and_their_password() -> None:
    """A registry behind a proxy is asked through it; the proxy's own credentials go to the proxy."""

    def proxy(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("http://registry.invalid:81/"):
            reply(handler, 200, json.dumps({"tags": [handler.path.rpartition("/")[0][-9:]]}).encode())
        else:
            reply(handler, 502)

    with Fake(proxy, base=True) as fake:
        options = Options(
            insecure=("registry.invalid:81",),
            proxies={"http_proxy": f"http://bob:s3cr%33t@{fake.address}", "NO_PROXY": "other.invalid"},
            attempts=1,
        )
        client = Client(None, options=options)
        assert client.tags(Reference.parse("registry.invalid:81/a/b")) == ["/a/b/tags"]
        client.close()
        wanted = "Basic " + base64.b64encode(b"bob:s3cr3t").decode()
        assert all(headers["proxy-authorization"] == wanted for _, _, headers in fake.requests)


def test_a_proxy_that_fails_is_named() -> None:
    """If the proxy cannot be reached, the error is about the proxy and does not quote its password."""
    options = Options(proxies={"https_proxy": "http://bob:s3cr3t@127.0.0.1:1"}, attempts=1)
    transport = Transport("registry.invalid", None, options, Pools(options))
    from orlop.registry.transport import Request

    with pytest.raises(Unavailable) as caught:
        transport.request(Request(method="GET", path="/v2/"))
    assert "s3cr3t" not in str(caught.value) + caught.value.hint
    assert "proxy" in str(caught.value)


def test_queries_are_joined() -> None:
    """Parameters are added to a path that may have some, escaped; empty ones are left out."""
    assert joined_query("/x", []) == "/x"
    assert joined_query("/x?a=1", [("b", "c d&"), ("e", "")]) == "/x?a=1&b=c%20d%26"
