"""Registries for tests, of this package and of programs that use it.

`serving` runs a real registry as a process; `Direct` calls the application without a server in between; `Fake` is a
registry made of one function, which can answer as wrongly as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import subprocess
import sys
import threading

from orlop.errors import FailedPrecondition
from orlop.oci.descriptor import Descriptor
from orlop.oci.jsontext import dumps, loads
from orlop.oci.manifest import Manifest
from orlop.oci.mediatype import OCI_CONFIG, OCI_LAYER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

    from orlop.registry.server.app import Application
    from orlop.registry.server.files import FileStorage

_SERVE = """
import json, os, signal, sys, threading
from orlop.registry.server.program import ServeRequest, serve
def watch():  # the end of standard input: whoever started this is gone, and may have been killed
    while os.read(0, 4096):  # not sys.stdin: its lock, held here, would be held in forked workers too
        pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=watch, daemon=True).start()
serve(ServeRequest(**json.loads(sys.argv[1])), announce=lambda line: print(line, flush=True))
"""
_STOP_SECONDS = 60


class Served:
    """A running registry. `address` is host:port, `url` has the scheme before it, `process` is its main process."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process = process
        self.url = url
        self.address = url.rpartition("//")[2]

    def stop(self) -> int:
        """Ask it to stop (SIGTERM) and wait; the exit status."""
        self.process.terminate()
        return self.process.wait(_STOP_SECONDS)


@contextlib.contextmanager
def serving(**request: object) -> Iterator[Served]:
    """A registry in a process of its own; takes ServeRequest's fields. Without `addr` it is on a free loopback port."""
    request = {"addr": "127.0.0.1:0", "workers": 1} | request
    argv = [sys.executable, "-c", _SERVE, dumps(request).decode()]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = process.stdout.readline().decode().strip()
        if not line.startswith("listening on "):
            raise FailedPrecondition("the registry did not start", hint="see its standard error")
        yield Served(process, line.removeprefix("listening on "))
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stdin.close()


def image(*layers: bytes, config: bytes = b"{}") -> tuple[Manifest, dict[str, bytes]]:
    """An image of these layers, and its blobs by digest."""
    descriptors = [Descriptor.of(layer, OCI_LAYER) for layer in layers]
    described = Descriptor.of(config, OCI_CONFIG)
    blobs = {str(one.digest): raw for one, raw in zip(descriptors, layers, strict=True)} | {
        str(described.digest): config
    }
    return Manifest.build(config=described, layers=descriptors), blobs


class Answer:
    """What the application said to one request."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def code(self) -> str:
        """The code of the error that it is."""
        return str(loads(self.body, what="an error")["errors"][0]["code"])


class Direct:
    """The application over its storage, called without a server in between."""

    def __init__(self, app: Application, storage: FileStorage) -> None:
        self.app = app
        self.storage = storage

    def __call__(
        self,
        method: str,
        path: str,
        body: bytes | list[bytes] = b"",
        *,
        cut: bool = False,
        pathsend: bool = False,
        **headers: str,
    ) -> Answer:
        """One request. A list of bytes is a body in pieces; `cut` makes the client go away after the last of them."""
        path, _, query = path.partition("?")
        pieces = [body] if isinstance(body, bytes) else body
        waiting: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": cut or number + 1 < len(pieces)}
            for number, piece in enumerate(pieces)
        ]
        answer = Answer(0, {}, b"")

        async def receive() -> dict[str, Any]:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            elif message["type"] == "http.response.pathsend":
                with open(message["path"], "rb") as file:
                    answer.body += file.read()
            else:
                answer.body += message.get("body", b"")

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "extensions": {"http.response.pathsend": {}} if pathsend else {},
        }
        asyncio.run(self.app(scope, receive, send))
        return answer


class Fake:
    """A registry that is one function: `answer(handler)` gets each request and writes what it likes, see `reply`.

    `GET /v2/` is answered for it, unless `base` says that the function does that too.
    """

    def __init__(self, answer: Callable[[http.server.BaseHTTPRequestHandler], None], *, base: bool = False) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        handler = type("Handler", (_Handler,), {"fake": self})
        self._answer = answer
        self._base = base
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request, and remember it: method, path, headers with lower-case names."""
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.requests.append((handler.command, handler.path, headers))
        if handler.path == "/v2/" and not self._base:
            reply(handler, 200, b"{}")
        else:
            self._answer(handler)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are nothing to print."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two would wait 40 ms for each other (Nagle)
    fake: Fake

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._any
        raise AttributeError(name)

    def _any(self) -> None:
        self.fake.handle(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that http.server gave it
        """Nothing is logged."""


def reply(handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes = b"", /, **headers: str) -> None:
    """Write one whole answer. `Content_Length` may be given to lie about it, "" leaves a header out."""
    handler.send_response(status)
    given = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in given.items():
        if value:
            handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def drain(handler: http.server.BaseHTTPRequestHandler) -> bytes:
    """The request's body."""
    return handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
