"""What registries cost: microseconds of their CPU for a request, with 16 connections held open."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

USER, PASSWORD = "bench", "correct horse"
CONNECTIONS = 16
_TICK = os.sysconf("SC_CLK_TCK")
_BIG = 200 << 20


class Registry:
    """A registry's processes while they run."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, authorization: str) -> None:
        self.name = name
        self.process = process
        self.port = port
        self.authorization = authorization

    def processes(self) -> list[int]:
        """All its processes."""
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def cpu(self) -> float:
        """Seconds of CPU that they have had."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15]))  # its own, and of children that have ended
        return total / _TICK

    def memory(self) -> float:
        """MiB that the largest of them has in memory."""
        largest = 0
        for pid in self.processes():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            largest = max(largest, next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")))
        return largest / 1024

    def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
        """The bytes of one request."""
        length = f"Content-Length: {len(body)}\r\n" if body or method in {"PUT", "POST"} else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{self.authorization}{headers}{length}\r\n"
        return head.encode() + body

    def once(self, request: bytes) -> tuple[int, dict[str, str], int]:
        """One request on a connection of its own: status, headers, bytes of the body."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
            connection.sendall(request)
            return answer(connection, head_only=request.startswith(b"HEAD"))

    def push_blob(self, content: bytes) -> str:
        """Put a blob; its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        status, headers, _ = self.once(self.request("POST", "/v2/bench/blobs/uploads/"))
        if status != 202:
            raise RuntimeError(f"{self.name}: an upload begins with {status}")
        place = headers["location"].removeprefix(f"http://127.0.0.1:{self.port}")
        place += f"{'&' if '?' in place else '?'}digest={digest}"
        status, _, _ = self.once(self.request("PUT", place, content, "Content-Type: application/octet-stream\r\n"))
        if status != 201:
            raise RuntimeError(f"{self.name}: an upload ends with {status}")
        return digest

    def push_manifest(self, digest: str, size: int) -> None:
        """Put an image of one blob under the tag 1."""
        blob = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size}
        kind = "application/vnd.oci.image.manifest.v1+json"
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": blob, "layers": []}).encode()
        status, _, _ = self.once(self.request("PUT", "/v2/bench/manifests/1", body, f"Content-Type: {kind}\r\n"))
        if status != 201:
            raise RuntimeError(f"{self.name}: a manifest is answered with {status}")

    def microseconds(self, request: bytes, count: int) -> float:
        """CPU for one request, the mean of `count` over 16 connections."""
        before = self.cpu()
        flood(self.port, request, count)
        return (self.cpu() - before) / count * 1e6

    def rate(self, request: bytes, seconds: float) -> float:
        """Requests a second."""
        started = time.monotonic()
        done = 0
        while time.monotonic() < started + seconds:
            done += flood(self.port, request, CONNECTIONS)
        return done / (time.monotonic() - started)


def answer(connection: socket.socket, *, head_only: bool = False) -> tuple[int, dict[str, str], int]:
    """Read one answer to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(1 << 16)
        if not piece:
            raise RuntimeError(f"the registry closed the connection after {data!r}")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    got, length = len(rest), 0 if head_only else int(headers.get("content-length", 0))
    buffer = bytearray(1 << 20)
    while got < length:
        count = connection.recv_into(buffer)
        if not count:
            raise RuntimeError("the registry closed the connection in the middle of an answer")
        got += count
    return int(first.split()[1]), headers, got


def flood(port: int, request: bytes, count: int) -> int:
    """Make the same request `count` times over 16 connections; each must be answered with 200."""
    connections = [socket.create_connection(("127.0.0.1", port), timeout=120) for _ in range(CONNECTIONS)]
    head_only = request.startswith(b"HEAD")
    left, done = count, 0
    with selectors.DefaultSelector() as waiting, contextlib.ExitStack() as stack:
        for connection in connections:
            stack.enter_context(connection)
            waiting.register(connection, selectors.EVENT_READ)
            if left:
                connection.sendall(request)
                left -= 1
        while done < count:
            for key, _ in waiting.select(120):
                connection = key.fileobj  # type: ignore[assignment]  # it was registered as a socket
                status, _, _ = answer(connection, head_only=head_only)
                if status != 200:
                    raise RuntimeError(f"{request[:60]!r} is answered with {status}")
                done += 1
                if left:
                    connection.sendall(request)
                    left -= 1
    return done


@contextlib.contextmanager
def running(name: str, command: list[str], port: int, authorization: str, log: Path) -> Iterator[Registry]:
    """A registry's process from its first answer to its end."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    registry = Registry(name, process, port, authorization)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                registry.once(registry.request("GET", "/v2/"))
                break
            except (OSError, RuntimeError):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"{name} does not answer: {log.read_text()[-500:]}") from None
                time.sleep(0.1)
        yield registry
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ours(folder: Path, program: str, port: int, header: str) -> tuple[list[str], str]:
    users = folder / "users"
    subprocess.run(
        [program, "registry", "user", "add", "--htpasswd", str(users), "--password-stdin", USER],
        input=PASSWORD.encode(), check=True, capture_output=True,
    )  # fmt: skip
    serve = ["registry", "serve", "--addr", f"127.0.0.1:{port}", "--root", str(folder / "ours")]
    return [program, *serve, "--htpasswd", str(users)], header


def _theirs(folder: Path, port: int, header: str, *, users: bool) -> tuple[list[str], str]:
    settings = (
        f"version: 0.1\nlog:\n  level: error\n  accesslog: {{disabled: true}}\nhttp: {{addr: 127.0.0.1:{port}}}\n"
    )
    settings += f"storage:\n  filesystem: {{rootdirectory: {folder / 'theirs'}}}\n"
    if users:
        made = subprocess.run(
            ["htpasswd", "-nbBC", "10", USER, PASSWORD], check=True, capture_output=True, text=True
        ).stdout
        (folder / "their-users").write_text(made)
        settings += f"auth:\n  htpasswd: {{realm: bench, path: {folder / 'their-users'}}}\n"
    path = folder / f"registry-{users}.yml"
    path.write_text(settings)
    return ["docker-registry", "serve", str(path)], header if users else ""


def measured(registry: Registry) -> dict[str, float]:
    """All lines of one registry but that of its passwords."""
    small = os.urandom(512)
    digest = registry.push_blob(small)
    registry.push_manifest(digest, len(small))
    big = os.urandom(1 << 20) * (_BIG >> 20)
    before, started = registry.cpu(), time.monotonic()
    large = registry.push_blob(big)
    found = {"200 MiB blob PUT, MB/s": len(big) / 1e6 / (time.monotonic() - started)}
    for name, request in (
        ("manifest GET by tag, us", registry.request("GET", "/v2/bench/manifests/1", headers=_ACCEPT)),
        ("blob HEAD, us", registry.request("HEAD", f"/v2/bench/blobs/{digest}")),
        ("small blob GET, us", registry.request("GET", f"/v2/bench/blobs/{digest}")),
    ):
        flood(registry.port, request, 64)
        found[name] = registry.microseconds(request, 1000)
    before = registry.cpu()
    registry.once(registry.request("GET", f"/v2/bench/blobs/{large}"))
    found["200 MiB blob GET, CPU ms"] = (registry.cpu() - before) * 1000
    found["memory of a worker, MiB"] = registry.memory()
    return found


_ACCEPT = "Accept: application/vnd.oci.image.manifest.v1+json\r\n"
LINES = {
    "manifest GET by tag, us": "<= 200",
    "blob HEAD, us": "<= 150",
    "small blob GET, us": "<= 200",
    "200 MiB blob GET, CPU ms": "<= 150",
    "200 MiB blob PUT, MB/s": "sha256's",
    "/v2/ with password, req/s": ">= 2000",
    "memory of a worker, MiB": "<= 60",
}


def compare(folder: Path, program: str, port: int, show: Callable[[str, float | None, float | None], None]) -> None:
    """Measure ours and, where it is installed, docker-registry, and show the lines.

    Ours gets a password with every request; the peer only for its own line: it would be all that one sees.
    """
    folder.mkdir()
    header = f"Authorization: Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}\r\n"
    log = folder / "log"
    with running("orlop", *_placed(_ours(folder, program, port, header), port), log) as registry:
        ours = measured(registry)
        ours["/v2/ with password, req/s"] = registry.rate(registry.request("GET", "/v2/"), 2)
    theirs: dict[str, float] = {}
    if shutil.which("docker-registry"):
        with running(
            "docker-registry", *_placed(_theirs(folder, port + 1, header, users=False), port + 1), log
        ) as peer:
            theirs = measured(peer)
        if shutil.which("htpasswd"):
            users = _theirs(folder, port + 2, header, users=True)
            with running("docker-registry", *_placed(users, port + 2), log) as peer:
                theirs["/v2/ with password, req/s"] = peer.rate(peer.request("GET", "/v2/"), 3)
    for name in LINES:
        show(name, ours.get(name), theirs.get(name))


def _placed(made: tuple[list[str], str], port: int) -> tuple[list[str], int, str]:
    return made[0], port, made[1]
