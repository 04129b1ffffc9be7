"""The userland proxy: its state as laws, and the process with real connections."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netlab import HOST, HOST6, PATIENCE
from patience import until

from orlop.linux import process, route, sockets
from orlop.network import bridge, children, proxy, publishing
from orlop.network.flows import Pipe, Sessions

if TYPE_CHECKING:
    from netlab import Lab

UDP = socket.SOCK_DGRAM


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(0, 60)))
def test_a_pipe_loses_and_reorders_nothing(pieces: list[bytes], takes: list[int]) -> None:
    """Whatever sizes the sink takes, it gets all bytes in order, then the end, exactly once; one piece is held."""
    pipe, got, waiting = Pipe(), b"", [piece for piece in pieces if piece]
    for take in [*takes, *[60] * (len(waiting) + 2)]:
        if pipe.wants_input:
            pipe.feed(waiting.pop(0) if waiting else b"")
        taken = pipe.pending[:take]
        pipe.took(len(taken))
        got += taken
        if pipe.must_shut:
            assert not pipe.pending
            pipe.finish()
            assert not pipe.must_shut
    assert pipe.shut
    assert got == b"".join(pieces)


def test_a_pipe_refuses_what_breaks_its_bound() -> None:
    """Feeding a full pipe, or taking more than there is, is a defect of the caller and says so."""
    pipe = Pipe()
    pipe.feed(b"one")
    with pytest.raises(ValueError, match="no input"):
        pipe.feed(b"two")
    with pytest.raises(ValueError, match="4 of 3"):
        pipe.took(4)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5))), st.integers(1, 5))
def test_sessions_are_bounded_and_forgotten_in_order(uses: list[tuple[int, int]], limit: int) -> None:
    """There are never more than the limit, the longest unused goes first, and silence for the timeout ends one."""
    table, now, model = Sessions(limit, 10.0), 0.0, dict[int, float]()
    for key, passed in uses:
        now += passed
        expired = set(table.expire(now))
        assert expired == {old for old, used in model.items() if now - used >= 10.0}
        model = {old: used for old, used in model.items() if old not in expired}
        found = table.use(key, now)
        assert (found is not None) == (key in model)
        if found is None:
            evicted = table.add(key, key, now)
            expected = min(model, key=lambda old: model[old]) if len(model) >= limit else None
            if expected is not None:
                # Equal moments: the table knows the order, the model does not.
                assert evicted is not None
                assert model[evicted] == model[expected]
                del model[evicted]
            else:
                assert evicted is None
        model[key] = now
        assert len(table) == len(model) <= limit
        assert 0 <= table.next_expiry(now) <= 10.0
    for key in list(model):
        assert table.drop(key) == key
    assert table.next_expiry(now) == -1
    assert table.drop(99) is None


@given(st.binary(max_size=100), st.integers(0, 2**31 - 1))
def test_news_of_links_are_read_safely(datagram: bytes, index: int) -> None:
    """Any bytes from the kernel are understood or passed over, without end or exception."""
    assert proxy.link_is_gone(datagram, index) in {True, False}


def test_the_end_of_a_link_is_recognized() -> None:
    """RTM_DELLINK for our index, alone or after another message, means that it is gone; for another index not."""

    def news(kind: int, index: int) -> bytes:
        return struct.pack("=IHHII", 32, kind, 0, 0, 0) + struct.pack("=BxHiII", 0, 0, index, 0, 0)

    assert proxy.link_is_gone(news(16, 7) + news(17, 7), 7)
    assert not proxy.link_is_gone(news(17, 8) + news(16, 7), 7)


def test_answers_leave_from_where_the_question_came_to() -> None:
    """The control message of an answer names the local address of the question, v4 and v6; others are ignored."""
    v4 = struct.pack("=i4s4s", 3, b"\1\1\1\1", b"\2\2\2\2")
    assert proxy.reply_from([(socket.IPPROTO_IP, 8, v4)]) == [(0, 8, bytes(4) + b"\2\2\2\2" + bytes(4))]
    v6 = bytes(range(16)) + struct.pack("=i", 3)
    assert proxy.reply_from([(socket.IPPROTO_IPV6, 50, v6)]) == [(socket.IPPROTO_IPV6, 50, v6)]
    assert proxy.reply_from([(1, 2, b""), (socket.IPPROTO_IP, 8, b"short")]) == []


# --- the process ------------------------------------------------------------------------------------------------------


def _listener(lab: Lab, port: int) -> socket.socket:
    _, netns = lab.container(2)
    server = sockets.inside(netns, lambda: socket.socket(socket.AF_INET))
    server.bind(("0.0.0.0", port))
    server.listen()
    server.settimeout(PATIENCE)
    return server


def _client(lab: Lab, address: tuple[str, int]) -> socket.socket:
    client = sockets.inside(lab.outside, lambda: socket.socket(socket.AF_INET6))
    client.settimeout(PATIENCE)
    client.connect(address)
    return client


def test_half_closed_connections_go_on(lab: Lab) -> None:
    """A client that has sent all and says so still gets the whole answer, and the server's end reaches it in turn."""
    lab.attach(2, "[::]:8080:80")
    with _listener(lab, 80) as server, _client(lab, (HOST6, 8080)) as client:
        inner, _ = server.accept()
        with inner:
            inner.settimeout(PATIENCE)
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert inner.recv(100) == b"question"
            assert inner.recv(100) == b""
            inner.sendall(b"answer")
            assert client.recv(100) == b"answer"
            inner.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""


def test_much_data_both_ways_at_once(lab: Lab) -> None:
    """Megabytes in both directions, at different speeds, arrive unharmed while little of them is held in the proxy."""
    attachment = lab.attach(2, "[::]:8080:80")
    data = os.urandom(1 << 20) * 8
    with _listener(lab, 80) as server, _client(lab, (HOST6, 8080)) as client:
        inner, _ = server.accept()
        with inner:
            inner.settimeout(PATIENCE)
            digests: dict[str, str] = {}

            def read(name: str, sock: socket.socket) -> None:
                found = hashlib.sha256()
                while piece := sock.recv(30_000):
                    found.update(piece)
                digests[name] = found.hexdigest()

            def write(sock: socket.socket) -> None:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)

            work = [
                threading.Thread(target=read, args=("inner", inner)),
                threading.Thread(target=read, args=("client", client)),
                threading.Thread(target=write, args=(inner,)),
                threading.Thread(target=write, args=(client,)),
            ]
            for one in work:
                one.start()
            for one in work:
                one.join()
    wanted = hashlib.sha256(data).hexdigest()
    assert digests == {"inner": wanted, "client": wanted}
    with open(f"/proc/{children.running(attachment.pid_file)}/status", encoding="ascii") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    assert peak < 32 << 10, "kilobytes"


def test_a_reader_that_stops_stops_the_writer(lab: Lab) -> None:
    """Backpressure: when the container does not read, the client cannot send without end."""
    lab.attach(2, "[::]:8080:80")
    with _listener(lab, 80) as server, _client(lab, (HOST6, 8080)) as client:
        inner, _ = server.accept()
        with inner:
            client.setblocking(False)
            sent = 0
            while select.select([], [client], [], 0.3)[1]:
                sent += client.send(bytes(1 << 16))
                assert sent < 64 << 20
            inner.settimeout(PATIENCE)
            got = 0
            while got < sent:
                got += len(inner.recv(1 << 20))


def test_resets_and_refusals_are_passed_on(lab: Lab) -> None:
    """A container that refuses or resets shows as a reset at the client, not as an ordinary end."""
    lab.attach(2, "[::]:8080:80")
    with _client(lab, (HOST6, 8080)) as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    with _listener(lab, 80) as server, _client(lab, (HOST6, 8080)) as client:
        inner, _ = server.accept()
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        inner.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_udp_clients_are_kept_apart(lab: Lab) -> None:
    """Each client gets its own answers, over and over, from the address it asked."""
    lab.attach(2, "[::]:5353:53/udp")
    _, netns = lab.container(2)
    with sockets.inside(netns, lambda: socket.socket(socket.AF_INET, UDP)) as server:
        server.bind(("0.0.0.0", 53))
        server.settimeout(PATIENCE)
        clients = [sockets.inside(lab.outside, lambda: socket.socket(socket.AF_INET6, UDP)) for _ in range(5)]
        for _ in range(2):
            for number, client in enumerate(clients):
                client.settimeout(PATIENCE)
                client.sendto(b"%d" % number, (HOST6, 5353))
            for _ in clients:
                data, address = server.recvfrom(100)
                server.sendto(b"answer " + data, address)
            for number, client in enumerate(clients):
                data, address = client.recvfrom(100)
                assert data == b"answer %d" % number
                assert address[:2] == (HOST6, 5353)
        for client in clients:
            client.close()


def test_the_proxy_ends_with_the_container(lab: Lab) -> None:
    """When the namespace dies (everybody was killed, nobody tidied up), the link and with it the proxy go."""
    attachment = lab.attach(2, "[::]:8080:80")
    pid = children.running(attachment.pid_file)
    ticks = process.start_ticks(pid)

    name, netns = lab.container(2)
    os.close(netns)
    del lab.containers[name]

    until(lambda: not process.alive(pid, ticks), "the proxy to end")
    assert os.waitpid(pid, 0)[1] == 0


def test_a_killed_proxy_is_started_again(lab: Lab) -> None:
    """`start_proxy` does nothing while it runs, and serves the same ports again when it was killed."""
    attachment = lab.attach(2, "[::]:8080:80")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")
    pid = children.running(attachment.pid_file)
    assert lab.on_host(lambda: publishing.start_proxy(attachment)) == pid
    assert lab.call(lab.outside, HOST6, 8080) == b"yes"
    os.kill(pid, 9)
    os.waitpid(pid, 0)

    again = lab.on_host(lambda: publishing.start_proxy(attachment))

    assert again != pid
    assert lab.call(lab.outside, HOST6, 8080) == b"yes"
    lab.on_host(lambda: bridge.detach(attachment))
    assert not children.running(attachment.pid_file)
    with pytest.raises(ProcessLookupError):
        os.kill(again, 0)


def test_the_proxy_is_small(lab: Lab) -> None:
    """It runs in a bare interpreter: none of the heavy modules, a few megabytes of its own."""
    attachment = lab.attach(2, "[::]:8080:80")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")
    assert lab.call(lab.outside, HOST6, 8080) == b"yes"  # it is past its start
    with open(f"/proc/{children.running(attachment.pid_file)}/smaps_rollup", encoding="ascii") as file:
        pss = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    assert pss < 8 << 10, "kilobytes"


def test_the_proxy_imports_only_built_in_modules() -> None:
    """`-I -S` and built-in modules: the proxy's start costs what a bare interpreter's does."""
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(proxy.__file__))))
    code = f"import sys; sys.path.insert(0, {folder!r}); import orlop.network.proxy; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "socket",
        "re",
        "typing",
        "enum",
        "dataclasses",
        "ctypes",
        "subprocess",
        "json",
        "collections",
        "functools",
    }
    assert not heavy & set(done.stdout.split())


def test_a_proxy_can_watch_a_process_instead(lab: Lab) -> None:
    """Where there is no link to watch, the end of a process ends the proxy; one that is gone already at once."""
    command = [sys.executable, "-c", "import sys; from orlop.network.proxy import serve; serve(sys.argv[1:])"]
    done = lab.on_host(lambda: subprocess.run([*command, "pid=999999999"], timeout=PATIENCE, check=False))
    assert done.returncode == 0
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as watched:
        assert watched.stdin
        with subprocess.Popen([*command, f"pid={watched.pid}"]) as serving:
            watched.stdin.close()
            assert serving.wait(PATIENCE) == 0


def test_a_lingering_connection_does_not_block_a_restart(lab: Lab) -> None:
    """Connections in TIME_WAIT on the host's port are no obstacle for the next proxy on it."""
    lab.run("iptables", "-P", "FORWARD", "DROP")
    attachment = lab.attach(2, "8080:80")
    lab.serve(lab.container(2)[1], 80, answer=b"yes")
    assert lab.call(lab.host, "127.0.0.1", 8080) == b"yes"
    lab.on_host(lambda: bridge.detach(attachment, delete_link=False))
    lab.on_host(lambda: route.changes([route.link_delete(attachment.veth)]))

    again = lab.attach(2, "8080:80")

    assert again.proxied
    assert lab.call(lab.outside, HOST, 8080) == b"yes"
