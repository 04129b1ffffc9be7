"""What `-p` means, and who has a port."""

from __future__ import annotations

import socket
import string
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import Conflict, InvalidArgument
from orlop.network import ports
from orlop.network.ports import Binding, Published

if TYPE_CHECKING:
    from netlab import Lab

NUMBER = st.integers(1, 65535)
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80", [("", 0, 0, 80, "tcp")]),
        ("8080:80", [("", 8080, 8080, 80, "tcp")]),
        ("8080:80/udp", [("", 8080, 8080, 80, "udp")]),
        ("8080:80/UDP", [("", 8080, 8080, 80, "udp")]),
        ("0.0.0.0:8080:80", [("", 8080, 8080, 80, "tcp")]),
        ("127.0.0.1:8080:80/sctp", [("127.0.0.1", 8080, 8080, 80, "sctp")]),
        ("127.0.0.1::80", [("127.0.0.1", 0, 0, 80, "tcp")]),
        (":80", [("", 0, 0, 80, "tcp")]),
        ("[::1]:8080:80", [("::1", 8080, 8080, 80, "tcp")]),
        ("[::1]::80", [("::1", 0, 0, 80, "tcp")]),
        ("[::1]:80", [("::1", 0, 0, 80, "tcp")]),
        ("8000-8001:80-81", [("", 8000, 8000, 80, "tcp"), ("", 8001, 8001, 81, "tcp")]),
        ("8000-8010:80", [("", 8000, 8010, 80, "tcp")]),
        ("80-81", [("", 0, 0, 80, "tcp"), ("", 0, 0, 81, "tcp")]),
        ("0:80", [("", 0, 0, 80, "tcp")]),
        ("127.0.0.1:0:80/udp", [("127.0.0.1", 0, 0, 80, "udp")]),
    ],
)
def test_the_shapes_of_publish(text: str, wanted: list[tuple[str, int, int, int, str]]) -> None:
    """Each of docker's ways to write a published port is understood as docker does."""
    found = ports.parse(text)
    assert [(b.host_ip, b.first_host, b.last_host, b.container_port, b.protocol) for b in found] == wanted


@given(
    st.one_of(st.just(""), V4, V6), st.one_of(st.none(), NUMBER), NUMBER, st.sampled_from(["", "tcp", "udp", "sctp"])
)
def test_what_is_written_is_read(host_ip: str, host_port: int | None, port: int, protocol: str) -> None:
    """Any address, ports and protocol, written as one text, come back."""
    address = f"[{host_ip}]" if ":" in host_ip else host_ip
    text = f"{address}:{host_port or ''}:{port}" if host_ip else f"{host_port}:{port}" if host_port else str(port)
    (found,) = ports.parse(text + (f"/{protocol}" if protocol else ""))
    assert found == Binding(
        container_port=port,
        protocol=protocol or "tcp",
        host_ip="" if host_ip == "0.0.0.0" else host_ip,
        first_host=host_port or 0,
        last_host=host_port or 0,
    )


@given(st.one_of(st.text(max_size=20), st.text(alphabet=string.digits + ":-/[].udptc", max_size=24)))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is understood or refused with an error that quotes it and shows the syntax; nothing else happens."""
    try:
        found = ports.parse(text)
    except InvalidArgument as error:
        refusal = error
    else:
        assert all(0 < one.container_port < 65536 and one.first_host <= one.last_host < 65536 for one in found)
        return
    assert repr(text) in refusal.message
    assert refusal.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80:0",
        "65536",
        "a:b",
        "1:2:3",
        "8080:80/icmp",
        "80-70",
        "1-2:1-3",
        "::1:80:80",
        "[::1:80",
        "1.2.3:1:1",
    ],
)
def test_what_cannot_be_meant(text: str) -> None:
    """Ports out of range, ranges that do not match, unknown protocols and half addresses are refused."""
    with pytest.raises(InvalidArgument):
        ports.parse(text)


def test_exposed_ports() -> None:
    """EXPOSE takes a port or a range, with a protocol."""
    assert ports.parse_exposed("80") == ((80, "tcp"),)
    assert ports.parse_exposed("80-82/udp") == ((80, "udp"), (81, "udp"), (82, "udp"))
    with pytest.raises(InvalidArgument):
        ports.parse_exposed("80:80")


@given(NUMBER, st.one_of(st.just(""), V4.filter(lambda ip: ip != "0.0.0.0"), V6))
def test_published_ports_survive_json(port: int, host_ip: str) -> None:
    """A record's port comes back as it was; everywhere is written 0.0.0.0, as docker prints it."""
    one = Published(container_port=port, protocol="tcp", host_ip=host_ip, host_port=port)
    assert Published.from_json(one.to_json()) == one
    assert one.to_json()["host_ip"] == (host_ip or "0.0.0.0")


def _published(host_ip: str, port: int = 80, protocol: str = "tcp") -> Published:
    return Published(container_port=1, protocol=protocol, host_ip=host_ip, host_port=port)


def test_which_ports_exclude_each_other() -> None:
    """The same port conflicts at the same address and where one is everywhere; another protocol never does."""
    assert ports.overlap(_published(""), _published("127.0.0.1"))
    assert ports.overlap(_published("127.0.0.1"), _published("127.0.0.1"))
    assert ports.overlap(_published("::"), _published(""))
    assert not ports.overlap(_published("127.0.0.1"), _published("127.0.0.2"))
    assert not ports.overlap(_published(""), _published("", 81))
    assert not ports.overlap(_published(""), _published("", protocol="udp"))


def test_a_range_takes_the_first_free_port(lab: Lab) -> None:
    """8000-8002:80 skips ports that processes or containers have, and says so when none is left."""
    lab.serve(lab.host, 8000)
    taken = (("web", _published("", 8001)),)
    held = lab.on_host(lambda: ports.reserve(ports.parse("8000-8002:80"), taken=taken))
    assert [one.host_port for one in held.published] == [8002]
    with pytest.raises(Conflict):
        lab.on_host(lambda: ports.reserve(ports.parse("8000-8001:80"), taken=taken))
    held.close()


def test_one_request_cannot_have_a_port_twice(lab: Lab) -> None:
    """Publishing the same host port twice is a conflict of the request with itself."""
    with pytest.raises(Conflict, match="published twice"):
        lab.on_host(lambda: ports.reserve([*ports.parse("8000:80"), *ports.parse("127.0.0.1:8000:81")]))


def test_the_listening_process_is_named(lab: Lab) -> None:
    """A conflict with a process says its name and number, for TCP and UDP, v4 and v6 listeners."""
    code = (
        "import socket,sys\n"
        "a=socket.socket(); a.bind(('0.0.0.0',8000)); a.listen()\n"
        "b=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); b.bind(('127.0.0.1',8001))\n"
        "c=socket.socket(socket.AF_INET6); c.bind(('::',8002)); c.listen()\n"
        "print(flush=True); sys.stdin.read()"
    )
    with lab.on_host(
        lambda: subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ) as child:
        assert child.stdout
        child.stdout.readline()
        for text in ("8000:1", "127.0.0.1:8001:1/udp", "8002:1"):
            with pytest.raises(Conflict, match=rf"is in use by python[0-9.]* \(pid {child.pid}\)"):
                lab.on_host(lambda text=text: ports.reserve(ports.parse(text)))  # type: ignore[misc]
        child.communicate()


def test_addresses_of_others_are_refused(lab: Lab) -> None:
    """Publishing at an address that the host does not have says so."""
    with pytest.raises(InvalidArgument, match=r"192\.0\.2\.99 is not an address of this host"):
        lab.on_host(lambda: ports.reserve(ports.parse("192.0.2.99:80:80")))


def test_held_ports_are_closed_to_every_other_program(lab: Lab) -> None:
    """A reserved port can neither be bound nor listened on, even with SO_REUSEADDR; a second reservation conflicts."""
    held = lab.on_host(lambda: ports.reserve(ports.parse("8000:80")))
    with lab.on_host(socket.socket) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def serve() -> None:
            other.bind(("0.0.0.0", 8000))
            other.listen()

        with pytest.raises(OSError, match="in use"):
            serve()
    with pytest.raises(Conflict):
        lab.on_host(lambda: ports.reserve(ports.parse("8000:80")))
    held.close()
    lab.on_host(lambda: ports.reserve(ports.parse("8000:80"))).close()


TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0
   2: 0100007F:1F90 0200007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 100 0 0 10 0
garbage
"""


@pytest.mark.skipif(sys.byteorder == "big", reason="the table was printed by a little-endian kernel")
def test_the_kernels_table_of_sockets() -> None:
    """Listeners at the address or everywhere count, connections and other addresses do not."""
    assert ports.inodes_bound(TABLE, 0x1F90, "127.0.0.1", "tcp") == {"11"}
    assert ports.inodes_bound(TABLE, 0x1F90, "", "tcp") == {"11"}
    assert ports.inodes_bound(TABLE, 0x1F90, "10.0.0.1", "tcp") == set()
    assert ports.inodes_bound(TABLE, 0x1F91, "10.0.0.1", "tcp") == {"12"}
    assert ports.inodes_bound("", 1, "", "tcp") == set()
