"""The registry's process: a socket, workers, signals. `orlop registry serve` calls `serve`."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from functools import partial

from orlop.errors import FailedPrecondition, InvalidArgument, Unimplemented
from orlop.registry import htpasswd as passwords
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.registry.server.app import Application

_GRACE = 10
"""Seconds that running requests get to finish when the process is asked to stop."""

_START = 60.0
_BACKLOG = 1024


class ServeRequest(Value):
    """What to serve, and where.

    `addr` is HOST:PORT (an IPv6 host in brackets; port 0 takes a free one). `htpasswd` is a file of bcrypt hashes;
    `anonymous_pull` lets anyone read all the same. `anonymous` says that serving without passwords on an address that
    others can reach is meant. `workers` 0 means one a core, four at most. `server` is "granian", "uvicorn" (one
    worker only) or "" for the best there is.
    """

    root: str
    addr: str = "127.0.0.1:5000"
    htpasswd: str = ""
    anonymous_pull: bool = False
    anonymous: bool = False
    read_only: bool = False
    sparse: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    workers: int = 0
    access_log: bool = False
    server: str = ""


def serve(request: ServeRequest, announce: Callable[[str], None] = print) -> None:
    """Serve until SIGTERM or SIGINT. `announce` gets "listening on URL" once requests are answered.

    Must be called from the main thread. Raises FailedPrecondition where the address, the folder, the password file or
    the certificate cannot be used, or where anyone could write and nobody said that this is meant.
    """
    host, port = split_address(request.addr)
    _check(request, host)
    application(request)  # everything that can be wrong with the folder and the passwords is said now, not by a worker
    held, address, port = _reserve(host, port)
    scheme = "https" if request.tls_cert else "http"
    shown = f"[{address}]" if ":" in address else address
    ready = _Ready(address, port, lambda: announce(f"listening on {scheme}://{shown}:{port}"))
    try:
        _engine(request)(request, address, port, ready)
    finally:
        ready.cancel()
        held.close()


def application(request: ServeRequest) -> Application:
    """The ASGI application that `request` describes."""
    from orlop.registry.server.app import Application  # asyncio: only where requests are answered
    from orlop.registry.server.auth import Everyone, Passwords  # same
    from orlop.registry.server.files import FileStorage  # same

    guard = Passwords(request.htpasswd, anonymous_pull=request.anonymous_pull) if request.htpasswd else Everyone()
    storage = FileStorage.open(request.root)
    return Application(storage, guard, read_only=request.read_only, sparse=request.sparse)


def split_address(text: str) -> tuple[str, int]:
    """HOST and PORT of "HOST:PORT", "[IPv6]:PORT", ":PORT" (all addresses) or "PORT" (loopback)."""
    host, _, port = text.rpartition(":")
    if not host:
        host = "0.0.0.0" if text.startswith(":") else "127.0.0.1"  # noqa: S104  # asked for with ":PORT"
    host = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"{text!r} is not an address to listen on", hint="write HOST:PORT, as in 127.0.0.1:5000")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    from ipaddress import ip_address  # once, when a server starts

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check(request: ServeRequest, host: str) -> None:
    if bool(request.tls_cert) != bool(request.tls_key):
        raise InvalidArgument("TLS needs both a certificate and its key (--tls-cert and --tls-key)")
    if request.anonymous_pull and not request.htpasswd:
        raise InvalidArgument(
            "anonymous pulls are meant for a registry with a password file", hint="add --htpasswd FILE"
        )
    if request.workers < 0:
        raise InvalidArgument(f"{request.workers} workers are not possible")
    if not (request.htpasswd or request.anonymous or is_loopback(host)):
        raise FailedPrecondition(
            f"refusing to serve on {host} without passwords: anyone who can reach it could read and change everything",
            hint="make users with `orlop registry user add` and pass --htpasswd FILE; or say --anonymous, and mean it",
        )
    if request.htpasswd:
        passwords.module()
    for path in filter(None, (request.tls_cert, request.tls_key)):
        if not os.access(path, os.R_OK):
            raise FailedPrecondition(f"cannot read {path}")


def _reserve(host: str, port: int) -> tuple[socket.socket, str, int]:
    """Take the address: a socket that holds the port without listening, and what it is bound to.

    Workers listen with SO_REUSEPORT, each on a socket of its own. Another server that listens already would share
    requests with them silently, so the first bind goes without.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            where = probe.getsockname()
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(where)
    except OSError as error:
        shown = f"[{host}]" if ":" in host else host
        raise FailedPrecondition(
            f"cannot listen on {shown}:{port}: {error.strerror}", hint="choose another with --addr HOST:PORT"
        ) from error
    return held, str(where[0]), int(where[1])


class _Ready:
    """Calls `then` once something listens on the address, unless cancelled."""

    def __init__(self, address: str, port: int, then: Callable[[], None]) -> None:
        self._address = address
        self._port = port
        self._then = then
        self._cancelled = threading.Event()

    def watch(self) -> None:
        """Start to look."""
        threading.Thread(target=self._watch, name="ready", daemon=True).start()

    def cancel(self) -> None:
        """Stop looking."""
        self._cancelled.set()

    def _watch(self) -> None:
        any_address = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to connect to what listens on all
        where = (any_address.get(self._address, self._address), self._port)
        deadline = time.monotonic() + _START
        while not self._cancelled.wait(0.01) and time.monotonic() < deadline:
            try:
                socket.create_connection(where, timeout=1).close()
            except OSError:
                continue
            self._then()
            return


def _engine(request: ServeRequest) -> Callable[[ServeRequest, str, int, _Ready], None]:
    from importlib.util import find_spec  # once, when a server starts

    engines = {"granian": _granian, "uvicorn": _uvicorn}
    if request.server and request.server not in engines:
        raise InvalidArgument(f"{request.server!r} is not a server", hint="granian or uvicorn")
    for name in [request.server] if request.server else engines:
        if find_spec(name):
            return engines[name]
    raise Unimplemented("serving a registry needs the package granian", hint="pip install 'orlop[registry]'")


def _workers(request: ServeRequest) -> int:
    return request.workers or min(4, len(os.sched_getaffinity(0)))


def _granian(request: ServeRequest, address: str, port: int, ready: _Ready) -> None:
    import multiprocessing  # granian starts its workers with it
    from pathlib import Path  # what granian wants

    from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols  # an extra
    from granian.log import LogLevels  # same
    from granian.server import Server  # same

    # Python 3.14 would import everything anew in each worker, and keep a process for nothing but its bookkeeping.
    multiprocessing.set_start_method("fork", force=True)
    server = Server(
        "orlop.registry",
        address=address,
        port=port,
        interface=Interfaces.ASGINL,
        workers=_workers(request),
        loop=Loops.asyncio,
        http=HTTPModes.auto if request.tls_cert else HTTPModes.http1,
        websockets=False,
        backlog=_BACKLOG,
        backpressure=_BACKLOG,
        log_enabled=request.access_log,
        log_level=LogLevels.warning,
        log_access=request.access_log,
        ssl_cert=Path(request.tls_cert) if request.tls_cert else None,
        ssl_key=Path(request.tls_key) if request.tls_key else None,
        ssl_protocol_min=SSLProtocols.tls12,
        respawn_failed_workers=True,
        workers_kill_timeout=_GRACE,
    )
    server.on_startup(ready.watch)
    server.serve(target_loader=partial(_in_worker, request, os.getpid()), wrap_loader=False)


def _in_worker(request: ServeRequest, parent: int) -> Application:
    """The application, in a worker that dies with its parent: orphans would keep the port and serve on.

    Not by SIGTERM: granian makes the worker's handler for that only after this function. Until then the forked worker
    has its parent's, which would swallow a SIGTERM.
    """
    from orlop.linux.process import set_pdeathsig

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return application(request)


def _uvicorn(request: ServeRequest, address: str, port: int, ready: _Ready) -> None:
    import uvicorn  # an extra

    options: dict[str, Any] = {
        "host": address,
        "port": port,
        "lifespan": "off",
        "ws": "none",
        "loop": "asyncio",
        "backlog": _BACKLOG,
        "access_log": request.access_log,
        "log_level": "info" if request.access_log else "warning",
        "timeout_graceful_shutdown": _GRACE,
        "ssl_certfile": request.tls_cert or None,
        "ssl_keyfile": request.tls_key or None,
    }
    server = uvicorn.Server(uvicorn.Config(application(request), **options))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            number, _handled
        )  # uvicorn stops on a signal, and then sends it once more to who was there before
    ready.watch()
    server.run(sockets=[_listening(address, port)])


def _handled(_: int, __: object) -> None:
    """A signal that has had its effect."""


def _listening(address: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((address, port))
    return listening
