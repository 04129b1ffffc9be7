"""A small internet in network namespaces: a host of our own, another host that it can reach, and containers.

host 203.0.113.1 -- eth0 -- 203.0.113.2 outside; the real host's links and rules are never touched. Sockets belong to
the namespace they are made in, so that servers and clients of all of them live in this process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from orlop.linux import route, sockets
from orlop.network import bridge, ports
from orlop.network.values import Attachment, AttachRequest, Network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self, TypeVar

    Made = TypeVar("Made")

HOST, HOST6 = "203.0.113.1", "2001:db8::1"
OUTSIDE, OUTSIDE6 = "203.0.113.2", "2001:db8::2"
NETWORK = Network(name="lab", bridge="orlop0", subnet="10.91.0.0/16", gateway="10.91.0.1")
OTHER = Network(name="other", bridge="orlop1", subnet="10.92.0.0/24", gateway="10.92.0.1")
PATIENCE = 60.0  # seconds; only a failure waits that long
BRIEF = 0.4


class Lab:
    """`with Lab(folder) as lab`: everything it made is gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = sockets.new_network_namespace()
        self.outside = sockets.new_network_namespace()
        self.containers: dict[str, int] = {}
        self.attachments: list[Attachment] = []
        self._closing: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        def near() -> None:
            with route.Route() as sock:
                sock.request([route.link_add_veth("eth0", peer="eth0", peer_netns=self.outside)])
            self._configure(HOST, HOST6, OUTSIDE, OUTSIDE6)

        sockets.inside(self.host, near)
        sockets.inside(self.outside, lambda: self._configure(OUTSIDE, OUTSIDE6, HOST, HOST6))
        return self

    @staticmethod
    def _configure(ip: str, ip6: str, gateway: str, gateway6: str) -> None:
        index = route.index_of("eth0")
        route.changes(
            [
                route.link_set("lo", index=1, up=True),
                route.link_set("eth0", index=index, up=True),
                route.address_add(index, ip, 24, link="eth0"),
                route.address_add(index, ip6, 64, link="eth0"),
            ]
        )
        del gateway, gateway6

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self._closing:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for attachment in self.attachments:
            self.on_host(lambda attachment=attachment: bridge.detach(attachment))  # type: ignore[misc]
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        for fd in (self.host, self.outside, *self.containers.values()):
            os.close(fd)

    def on_host(self, make: Callable[[], Made]) -> Made:
        """Do it in the host's namespace."""
        return sockets.inside(self.host, make)

    def run(self, *arguments: str) -> str:
        """The output of a program in the host's namespace."""
        done = self.on_host(lambda: subprocess.run(arguments, capture_output=True, text=True, check=False))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def container(self, number: int) -> tuple[str, int]:
        """(id, namespace) of container `number`."""
        name = f"{number:012x}".replace("0", "c") + "deadbeef"
        if name not in self.containers:
            self.containers[name] = sockets.new_network_namespace()
        return name, self.containers[name]

    def attach(self, number: int, *publish: str, network: Network = NETWORK, **more: Any) -> Attachment:
        """Attach container `number` as address .number."""
        name, netns = self.container(number)
        bindings = tuple(one for text in publish for one in ports.parse(text))
        more.setdefault("ip", network.gateway.rpartition(".")[0] + f".{number}")
        if network.subnet6:
            more.setdefault("ip6", f"{network.gateway6[:-1]}{number}")
        request = AttachRequest(
            container=name, network=network, bindings=bindings, run_dir=str(self.folder), scope="lab", **more
        )
        attachment = self.on_host(lambda: bridge.attach(netns, request))
        self.attachments.append(attachment)
        return attachment

    def serve(
        self, netns: int, port: int, *, kind: int = socket.SOCK_STREAM, answer: bytes = b"", v6: bool = False
    ) -> None:
        """Answer every call (or datagram) at `port` with `answer`, or with what is known of the caller: its address."""
        family = socket.AF_INET6 if v6 else socket.AF_INET
        server = sockets.inside(netns, lambda: socket.socket(family, kind))
        self._closing.append(server)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::" if v6 else "0.0.0.0", port))
        target = self._serve_tcp if kind == socket.SOCK_STREAM else self._serve_udp
        if kind == socket.SOCK_STREAM:
            server.listen()
        thread = threading.Thread(target=target, args=(server, answer), daemon=True)
        thread.start()
        self._threads.append(thread)

    @staticmethod
    def _serve_tcp(server: socket.socket, answer: bytes) -> None:
        while True:
            try:
                client, address = server.accept()
            except OSError:
                return
            with client:
                client.settimeout(PATIENCE)
                try:
                    client.recv(100)
                    client.sendall(answer or address[0].encode())
                except OSError:
                    continue

    @staticmethod
    def _serve_udp(server: socket.socket, answer: bytes) -> None:
        while True:
            try:
                data, address = server.recvfrom(65535)
                if not data:
                    return  # shut down
                server.sendto(answer or address[0].encode(), address)
            except OSError:
                return

    def call(
        self,
        netns: int,
        ip: str,
        port: int,
        *,
        kind: int = socket.SOCK_STREAM,
        wait: float = PATIENCE,
        source: str = "",
    ) -> bytes:
        """What is answered at `ip`:`port` to a caller in `netns`; OSError (also TimeoutError) when nothing is."""
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with sockets.inside(netns, lambda: socket.socket(family, kind)) as sock:
            sock.settimeout(wait)
            if source:
                sock.bind((source, 0))
            sock.connect((ip, port))
            if kind == socket.SOCK_STREAM:
                sock.sendall(b"hello")
                return sock.recv(65535)
            deadline = time.monotonic() + wait
            while True:  # a datagram may be lost, so that those who send it ask again
                sock.settimeout(max(0.01, min(2.0, deadline - time.monotonic())))
                sock.send(b"hello")
                try:
                    return sock.recv(65535)
                except TimeoutError:
                    if time.monotonic() > deadline:
                        raise

    def ruleset(self) -> str:
        """The host's rules, as nft prints them."""
        return self.run("nft", "list", "ruleset")
