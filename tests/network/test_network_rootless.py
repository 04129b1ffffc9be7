"""Networks without root, with the real programs as an ordinary user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netlab import HOST
from patience import until

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.linux import process
from orlop.network import ports, rootless
from orlop.network.ports import Published
from orlop.network.rootless import RootlessRequest
from orlop.oci import jsontext

if TYPE_CHECKING:
    from pathlib import Path

    from netlab import Lab

USER = 12345

# An ordinary user's program: a container (user and network namespace), attached until its standard input ends.
PROGRAM = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from orlop.network import ports, rootless
from orlop.oci import jsontext
own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
container = ["unshare", *own, "--net", "sh", "-c", "echo; exec sleep 1000"]
child = subprocess.Popen(container, stdout=subprocess.PIPE)
child.stdout.readline()
try:
    try:
        attached = rootless.attach(rootless.RootlessRequest(pid=child.pid, run_dir=sys.argv[2], program=sys.argv[3],
            bindings=tuple(one for text in sys.argv[4:] for one in ports.parse(text))))
    except Exception as error:
        print(jsontext.dumps({"error": str(error)}).decode(), flush=True)
        raise
    print(jsontext.dumps({"pid": child.pid, "ip": attached.ip, "pid_file": attached.pid_file,
        "nameservers": attached.nameservers}).decode(), flush=True)
    sys.stdin.read()
    rootless.detach(attached.pid_file)
    rootless.detach(attached.pid_file)
finally:
    child.kill()
    child.wait()
"""

# /dev/net/tun of a mode that is asked for (distributions have 0666), and a resolver at the host's loopback.
DEVICE = """
mount --make-rprivate / && mknod "$0/tun" c 10 200 && chmod MODE "$0/tun" && mount --bind "$0/tun" /dev/net/tun &&
echo nameserver 127.0.0.1 > "$0/resolv.conf" && mount --bind "$0/resolv.conf" /etc/resolv.conf &&
exec "$@"
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A copy of the sources that every user can read."""
    tmp_path.chmod(0o755)
    for folder in list(tmp_path.parents)[:3]:
        folder.chmod(folder.stat().st_mode | 0o055)
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(rootless.__file__))))
    shutil.copytree(f"{here}/orlop", tmp_path / "src" / "orlop", ignore=shutil.ignore_patterns("__pycache__"))
    return str(tmp_path / "src")


def _python() -> str:
    """An interpreter that every user may run: ours may live in root's home."""
    for path in (os.path.realpath(sys.executable), "/usr/local/bin/python3", "/usr/bin/python3"):
        parts = path.split("/")
        folders = ["/".join(parts[:depth]) or "/" for depth in range(1, len(parts) + 1)]
        if os.path.exists(path) and all(os.stat(folder).st_mode & 0o005 == 0o005 for folder in folders):
            return path
    raise AssertionError("this machine has no Python that an ordinary user may run")


def _start(lab: Lab, source: str, *arguments: str, tun: str = "0666", holder: bool = False) -> subprocess.Popen[str]:
    run_dir = lab.folder / "run"
    run_dir.mkdir()
    os.chown(run_dir, USER, USER)
    command = [
        *("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--inh-caps=-all"),
        *(["unshare", "--user", "--map-root-user", "--mount"] if holder else []),
        *(_python(), "-c", PROGRAM, source, str(run_dir), *arguments),
    ]
    command = ["unshare", "--mount", "sh", "-c", DEVICE.replace("MODE", tun), str(lab.folder), *command]
    return lab.on_host(
        lambda: subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    )


@pytest.mark.parametrize("holder", [False, True], ids=["own-ids", "shared-ids"])
@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_a_user_publishes_ports_and_goes_out(lab: Lab, source: str, program: str, holder: bool) -> None:
    """TCP and UDP ports are reached from elsewhere and by loopback, the way out works, and nothing is left.

    Whether the container has a user namespace of its own, or shares the one that the caller is root of already.
    """
    lab.run("ip", "route", "add", "default", "via", "203.0.113.2")  # pasta copies the link that leads out
    with _start(lab, source, program, "8080:80", "127.0.0.1:8081:80", "5353:53/udp", holder=holder) as user:
        assert user.stdout
        said = user.stdout.readline()
        assert said, user.communicate()[1]
        told = jsontext.loads(said, what="the program")
        assert "error" not in told, told
        netns = os.open(f"/proc/{told['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        lab.containers["rootless"] = netns
        with open(told["pid_file"], encoding="ascii") as file:
            pid, ticks = (int(word) for word in file.read().split())
        lab.serve(netns, 80, answer=b"yes")
        lab.serve(netns, 53, kind=socket.SOCK_DGRAM, answer=b"udp")
        lab.serve(lab.outside, 90, answer=b"out")

        assert lab.call(lab.outside, HOST, 8080) == b"yes"
        assert lab.call(lab.host, "127.0.0.1", 8081) == b"yes"
        with pytest.raises(ConnectionRefusedError):
            lab.call(lab.outside, HOST, 8081)
        lab.serve(lab.host, 53, kind=socket.SOCK_DGRAM, answer=b"name")
        assert told["nameservers"] == ["169.254.1.1" if program == "pasta" else "10.0.2.3"]
        assert lab.call(netns, told["nameservers"][0], 53, kind=socket.SOCK_DGRAM) == b"name"
        assert lab.call(lab.outside, HOST, 5353, kind=socket.SOCK_DGRAM) == b"udp"
        assert lab.call(netns, "203.0.113.2", 90) == b"out"
        assert told["ip"] == (HOST if program == "pasta" else "10.0.2.100")
        assert process.alive(pid, ticks)

        user.communicate()
        assert user.returncode == 0
    until(lambda: not process.alive(pid, ticks), f"{program} to end")
    assert not os.path.exists(told["pid_file"])


def test_a_closed_tun_device_is_named(lab: Lab, source: str) -> None:
    """Where /dev/net/tun is for root alone, that is what the user reads."""
    with _start(lab, source, "", tun="0600") as user:
        assert user.stdout
        told = jsontext.loads(user.stdout.readline(), what="the program")
        user.communicate()
    assert "/dev/net/tun is not open" in told["error"]


def test_a_taken_port_is_refused_before_anything_starts(lab: Lab, source: str) -> None:
    """A port that somebody has is refused by our own check, in the words that bridges use."""
    lab.serve(lab.host, 8080)
    with _start(lab, source, "pasta", "8080:80") as user:
        assert user.stdout
        told = jsontext.loads(user.stdout.readline(), what="the program")
        user.communicate()
    assert "port 8080 is in use" in told["error"]


def test_what_is_not_installed_is_said() -> None:
    """Without any program the error says which package brings one."""
    with pytest.raises(FailedPrecondition, match="neither pasta nor slirp4netns") as caught:
        rootless.attach(RootlessRequest(pid=1, run_dir="/nonexistent", search="/nonexistent"))
    assert "passt" in caught.value.hint
    with pytest.raises(InvalidArgument):
        rootless.attach(RootlessRequest(pid=1, run_dir="/nonexistent", program="teleport"))


def test_real_root_is_told_apart() -> None:
    """Only the initial user namespace maps every id to itself."""
    assert rootless.in_initial_user_namespace("         0          0 4294967295\n")
    assert not rootless.in_initial_user_namespace("         0       1000          1\n")


PUBLISHED = st.builds(
    Published,
    container_port=st.integers(1, 65535),
    protocol=st.sampled_from(["tcp", "udp"]),
    host_ip=st.sampled_from(["", "127.0.0.1", "::1"]),
    host_port=st.integers(1, 65535),
)


@given(st.lists(PUBLISHED, max_size=5), st.booleans(), st.booleans())
def test_pasta_forwards_what_is_published_and_nothing_else(
    published: list[Published], pinned: bool, loopback: bool
) -> None:
    """Every direction is spelt out, because pasta's default is to forward everything that is bound."""
    request = RootlessRequest(pid=7, run_dir="/run", host_loopback=loopback)
    arguments = rootless.pasta_arguments(request, published, pinned="/run/n" if pinned else "", pid_file="/run/p")

    for option, protocol in (("-t", "tcp"), ("-u", "udp")):
        given_ = [arguments[at + 1] for at, one in enumerate(arguments) if one == option]
        wanted = [
            f"{port.host_ip}/{port.host_port}:{port.container_port}".lstrip("/")
            for port in published
            if port.protocol == protocol
        ]
        assert given_ == (wanted or ["none"])
    assert [arguments[at + 1] for at, one in enumerate(arguments) if one in {"-T", "-U"}] == ["none", "none"]
    assert ("--no-map-gw" in arguments) != loopback
    assert ("--userns" in arguments) != pinned


def test_slirp4netns_publishes_ipv4_only() -> None:
    """What slirp4netns cannot publish is refused with a way out, not dropped."""
    (binding,) = ports.parse("[::1]:80:80")
    port = Published(container_port=80, protocol="tcp", host_ip=binding.host_ip, host_port=80)
    with pytest.raises(InvalidArgument, match="IPv4"):
        rootless.slirp_forward(port)
