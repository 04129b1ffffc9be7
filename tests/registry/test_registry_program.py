"""The registry's process: address, signals, workers, TLS, and what it refuses to do."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, until

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.mediatype import OCI_LAYER
from orlop.oci.reference import Reference
from orlop.registry import htpasswd
from orlop.registry.client import Client
from orlop.registry.server import program
from orlop.registry.server.program import ServeRequest
from orlop.registry.testing import serving

if TYPE_CHECKING:
    from pathlib import Path

    from orlop.registry.transport import Options


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(child) for child in file.read().split()]
    return found


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("[::1]:0", ("::1", 0)),
        (":5000", ("0.0.0.0", 5000)),
        ("5000", ("127.0.0.1", 5000)),
        ("r.example:80", ("r.example", 80)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    """HOST:PORT in all its forms."""
    assert program.split_address(text) == expected


@pytest.mark.parametrize("text", ["", "127.0.0.1", "127.0.0.1:", "x:99999", "x:-1", "x:http"])
def test_what_is_no_address(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidArgument, match="not an address"):
        program.split_address(text)


@pytest.mark.parametrize("addr", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "r.example:0"])
def test_no_open_registry_by_accident(tmp_path: Path, addr: str) -> None:
    """Without passwords, an address that others can reach needs to be asked for; nothing is made before that."""
    with pytest.raises(FailedPrecondition, match="without passwords") as caught:
        program.serve(ServeRequest(root=str(tmp_path / "root"), addr=addr))
    assert "--anonymous" in caught.value.hint
    assert not (tmp_path / "root").exists()


def test_contradictions_are_refused(tmp_path: Path) -> None:
    """TLS with half of its files, anonymous pulls without users, unreadable files: said at the start."""
    root = str(tmp_path / "root")
    with pytest.raises(InvalidArgument, match="both a certificate and its key"):
        program.serve(ServeRequest(root=root, tls_cert="x"))
    with pytest.raises(InvalidArgument, match="anonymous pulls"):
        program.serve(ServeRequest(root=root, anonymous_pull=True))
    with pytest.raises(FailedPrecondition, match="cannot read"):
        program.serve(ServeRequest(root=root, tls_cert="/nonexistent", tls_key="/nonexistent"))
    with pytest.raises(InvalidArgument, match="is not a server"):
        program.serve(ServeRequest(root=root, addr="127.0.0.1:0", server="apache"))


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    """A port that something listens on is refused, also another registry's of ours."""
    with serving(root=str(tmp_path / "one")) as served:
        with pytest.raises(FailedPrecondition, match="cannot listen on") as caught:
            program.serve(ServeRequest(root=str(tmp_path / "two"), addr=served.address))
        assert "Address already in use" in str(caught.value)


@pytest.mark.parametrize("server", ["granian", "uvicorn"])
def test_port_0_and_sigterm(tmp_path: Path, server: str) -> None:
    """Port 0 becomes a free one, which is announced when it answers; SIGTERM ends the process with status 0."""
    with serving(root=str(tmp_path / "root"), server=server, workers=2) as served:
        assert not served.address.endswith(":0")
        assert answers(served.address)
        workers = children(served.process.pid)
        assert served.stop() == 0
        assert not answers(served.address)
        until(lambda: not any(_runs(pid) for pid in workers), "the workers to end")


@pytest.mark.parametrize("server", ["granian", "uvicorn"])
def test_requests_in_progress_are_finished(tmp_path: Path, server: str) -> None:
    """An upload that is under way when SIGTERM comes is completed before the process ends."""
    content = b"x" * 3_000_000
    digest = Digest.of(content)
    with serving(root=str(tmp_path / "root"), server=server) as served:
        host, _, port = served.address.rpartition(":")
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=PATIENCE)) as connection:
            head = f"POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
            connection.sendall(head.encode() + content[:2_000_000])
            uploads = tmp_path / "root" / "repositories" / "a" / "_uploads"
            until(lambda: uploads.is_dir() and any(file.stat().st_size for file in uploads.iterdir()))
            served.process.terminate()
            threading.Event().wait(0.3)
            connection.sendall(content[2_000_000:])
            assert connection.recv(4096).startswith(b"HTTP/1.1 201")
        assert served.process.wait(PATIENCE) == 0
        assert (tmp_path / "root" / "blobs" / "sha256" / digest.encoded).stat().st_size == len(content)


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """SIGKILL to a worker costs its connections; another one takes its place."""
    with serving(root=str(tmp_path / "root"), workers=1) as served:
        until(lambda: len(children(served.process.pid)) == 1)
        (worker,) = children(served.process.pid)
        os.kill(worker, signal.SIGKILL)
        until(lambda: bool(set(children(served.process.pid)) - {worker}))
        until(lambda: answers(served.address))


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """SIGKILL to the main process leaves no worker behind that would keep the port."""
    with serving(root=str(tmp_path / "root"), workers=2) as served:
        until(lambda: len(children(served.process.pid)) == 2)
        workers = children(served.process.pid)
        served.process.kill()
        served.process.wait()
        until(lambda: not any(_runs(pid) for pid in workers))
        until(lambda: not answers(served.address))


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_connection_that_breaks_leaves_a_resumable_upload(tmp_path: Path) -> None:
    """What arrived before a client vanished is there to go on from, over a real server."""
    with serving(root=str(tmp_path / "root"), workers=2) as served:
        host, _, port = served.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        connection.request("POST", "/v2/a/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        location = answer.headers["Location"]
        with contextlib.closing(socket.create_connection((host, int(port)))) as broken:
            head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
            broken.sendall(head.encode() + b"x" * 300_000)

        def size() -> str:
            connection.request("GET", location)
            answer = connection.getresponse()
            answer.read()
            return str(answer.headers["Range"])

        until(lambda: size() == "0-299999")
        rest = b"x" * 700_000
        connection.request("PUT", f"{location}?digest={Digest.of(b'x' * 1_000_000)}", rest)
        assert connection.getresponse().status == 201
        connection.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one folder."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1".split()
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("server", ["granian", "uvicorn"])
def test_tls(tmp_path: Path, certificate: Path, quick: Options, server: str) -> None:
    """With a certificate the registry speaks TLS only; clients find that out on loopback, and push and pull."""
    cert, key = str(certificate / "cert.pem"), str(certificate / "key.pem")
    with serving(root=str(tmp_path / "root"), tls_cert=cert, tls_key=key, server=server) as served:
        assert served.url.startswith("https://")
        context = ssl.create_default_context(cafile=cert)
        host, _, port = served.address.rpartition(":")
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=PATIENCE)
        connection.request("GET", "/v2/")
        assert connection.getresponse().status == 200
        connection.close()
        client = Client(None, options=quick)
        ref = Reference.parse(f"{served.address}/a:v1")
        blob = Descriptor.of(b"over TLS", OCI_LAYER)
        assert client.upload(ref, blob, lambda: io.BytesIO(b"over TLS")) == "uploaded"
        with client.blob(ref, blob) as pieces:
            assert b"".join(pieces) == b"over TLS"
        client.close()


def test_ipv6(tmp_path: Path, quick: Options) -> None:
    """An IPv6 address is served, announced in brackets, and pulled from."""
    with serving(root=str(tmp_path / "root"), addr="[::1]:0") as served:
        assert served.url.startswith("http://[::1]:")
        client = Client(None, options=quick)
        assert client.catalog(served.address) == []
        client.close()


def test_new_users_need_no_restart(tmp_path: Path, quick: Options) -> None:
    """A user added while the registry runs can log in at once."""
    path = str(tmp_path / "htpasswd")
    htpasswd.add_user(path, "bob", "secret", rounds=4)
    with serving(root=str(tmp_path / "root"), htpasswd=path, workers=2) as served:
        client = Client(None, options=quick)
        client.check_login(served.address, "bob", "secret")
        htpasswd.add_user(path, "ann", "other", rounds=4)
        for _ in range(4):
            client.check_login(served.address, "ann", "other")
        client.close()


def test_the_request_crosses_to_spawned_workers() -> None:
    """A ServeRequest can be pickled: Python 3.14 does not fork by default."""
    import pickle

    request = ServeRequest(root="/x", addr="127.0.0.1:0", read_only=True)
    assert pickle.loads(pickle.dumps(request)) == request


def test_the_program_is_light_to_import() -> None:
    """The command line can import the request and the function without loading a server."""
    code = "import sys, orlop.registry.server.program; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert not {"asyncio", "granian", "uvicorn", "bcrypt", "urllib3"} & set(loaded)


def test_a_killed_test_run_leaves_no_registry(tmp_path: Path) -> None:
    """If the process that used `testing.serving` is killed, the registry that it started ends by itself."""
    code = f"""
import os
from orlop.registry.testing import serving
with serving(root={str(tmp_path / "root")!r}, workers=2) as served:
    print(served.process.pid, served.address, flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == -signal.SIGKILL
    pid, address = done.stdout.split()
    until(lambda: not _runs(int(pid)))
    until(lambda: not answers(address))
