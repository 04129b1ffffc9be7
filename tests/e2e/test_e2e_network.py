"""Networks from the command line: published ports, from here and from other hosts."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest
from command import Orlop
from patience import PATIENCE, free_port, until

from orlop.linux import process
from orlop.runtime import lifecycle

if TYPE_CHECKING:
    from elsewhere import Elsewhere

SERVE = "while :; do echo hello | nc -l -p 80; done"


def fetch(host: str, port: int) -> bytes:
    """What a server says, once it is there."""

    def ask() -> bytes:
        with socket.create_connection((host, port), timeout=10) as connection:
            return connection.recv(100)

    return until(ask, f"an answer of {host}:{port}")


def test_published_port_from_loopback(orlop: Orlop, busybox: str) -> None:
    """-p makes a container's port reachable on the host's loopback; `port` and `ps` show it."""
    port = free_port()
    orlop("run", "-d", "--name", "web", "-p", f"{port}:80", busybox, "sh", "-c", SERVE)

    assert fetch("127.0.0.1", port) == b"hello\n"
    assert f"{port}->80/tcp" in orlop("ps")
    assert f"80/tcp -> 0.0.0.0:{port}" in orlop("port", "web")


def test_port_in_use_names_the_container(orlop: Orlop, busybox: str) -> None:
    """A port that another container has is refused with that container's name, and nothing is left behind."""
    port = free_port()
    orlop("run", "-d", "--name", "first", "-p", f"{port}:80", busybox, "sleep", "1000")
    error = orlop.fails("run", "-d", "--name", "second", "-p", f"{port}:80", busybox, "sleep", "1000", code=125)

    assert "first" in error
    assert str(port) in error


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
            return False
        return True


@pytest.mark.parametrize("end", ["stop", "kill", "restart"])
def test_a_published_port_is_taken(orlop: Orlop, busybox: str, end: str) -> None:
    """No other program gets a published port as long as the container runs; when its end is known, the port is free."""
    port = free_port()
    orlop("run", "-d", "--name", "web", "-p", f"{port}:80", busybox, "sh", "-c", SERVE)
    assert fetch("127.0.0.1", port) == b"hello\n"
    assert not _is_free(port)

    orlop(end, *(() if end == "kill" else ("-t", "0")), "web")  # a shell that is pid 1 takes no SIGTERM
    if end == "restart":
        assert fetch("127.0.0.1", port) == b"hello\n"
        assert not _is_free(port)
    else:
        orlop("wait", "web")
        assert _is_free(port)


def test_a_port_is_free_for_the_next(orlop: Orlop, busybox: str) -> None:
    """Whoever waited for one container may publish its port at once again."""
    port = free_port()
    for _ in range(5):
        orlop("run", "--rm", "-p", f"{port}:80", busybox, "true")
    assert _is_free(port)


def test_containers_reach_each_other_by_address(orlop: Orlop, busybox: str) -> None:
    """Two containers on the default bridge talk to each other."""
    orlop("run", "-d", "--name", "server", busybox, "sh", "-c", SERVE)
    address = orlop("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server").strip()
    out = until(lambda: orlop.run("run", "--rm", busybox, "nc", "-w", "10", address, "80").stdout)
    assert out == "hello\n"


def test_other_modes(orlop: Orlop, busybox: str) -> None:
    """--network none has loopback only; host has the host's network itself."""
    alone = orlop("run", "--rm", "--network", "none", busybox, "ls", "/sys/class/net").split()
    assert alone == ["lo"]
    shared = orlop("run", "--rm", "--network", "host", busybox, "readlink", "/proc/self/ns/net").strip()
    assert shared == os.readlink("/proc/self/ns/net")


def test_files_that_name_hosts(orlop: Orlop, busybox: str) -> None:
    """/etc/hosts, /etc/hostname and /etc/resolv.conf are the container's own."""
    out = orlop(
        "run", "--rm", "--hostname", "deck", "--add-host", "db:10.1.2.3", "--dns", "10.9.9.9", busybox,
        "cat", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf",
    )  # fmt: skip

    assert "10.1.2.3\tdb" in out
    assert "deck" in out
    assert "nameserver 10.9.9.9" in out


@pytest.mark.parametrize("command", [["run", "--rm", "busybox", "true"], ["network", "create", "other"]])
def test_a_flushed_firewall_is_restored_by_the_next_command(
    orlop: Orlop, elsewhere: Elsewhere, busybox: str, command: list[str]
) -> None:
    """Whoever flushes all rules cuts published ports off; the next start, or change of networks, brings them back."""
    orlop("run", "-d", "--name", "web", "-p", "8080:80", busybox, "sh", "-c", SERVE)
    assert elsewhere.fetch(8080) == "hello\n"
    elsewhere.run("nft", "flush", "ruleset")
    assert "8080" not in elsewhere.run("nft", "list", "ruleset")

    orlop(*command)

    assert "8080" in elsewhere.run("nft", "list", "ruleset")
    assert elsewhere.fetch(8080) == "hello\n"


def test_what_killed_commands_left_goes_with_the_next(orlop: Orlop, elsewhere: Elsewhere, busybox: str) -> None:
    """Links, ports and addresses of a container of which no record is left; those of one that runs stay."""
    orlop("run", "-d", "--name", "web", "-p", "8080:80", busybox, "sh", "-c", SERVE)
    lost = orlop("run", "-d", "--name", "lost", "-p", "8081:80", busybox, "sleep", "1000").strip()
    address = orlop("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "lost").strip()
    launch = json.loads((orlop.folder / "run/containers" / lost / "launch.json").read_text())
    holder = os.open(f"/proc/{launch['pid']}/ns/net", os.O_RDONLY)  # else the kernel would take the link with it
    try:
        for who, ticks in (("shim_pid", "shim_ticks"), ("pid", "ticks")):
            os.kill(launch[who], signal.SIGKILL)
            assert process.wait_gone(launch[who], launch[ticks], 60)
        with contextlib.closing(sqlite3.connect(orlop.folder / "root/state.db", timeout=60)) as database, database:
            database.execute("DELETE FROM containers WHERE id = ?", (lost,))
        assert lost[:12] in elsewhere.run("ip", "-br", "link")

        orlop("network", "prune", "-f")

        assert lost[:12] not in elsewhere.run("ip", "-br", "link")
        rules = elsewhere.run("nft", "list", "ruleset")
        assert "8080" in rules
        assert "8081" not in rules
        assert elsewhere.fetch(8080) == "hello\n"
        assert f"{address}/" in orlop("run", "--rm", busybox, "ip", "-4", "addr", "show", "eth0")
    finally:
        os.close(holder)
        lifecycle.delete(lost, state_root=str(orlop.folder / "run/runtime"), force=True)  # its cgroup


def test_the_default_network_stays_by_its_id_too(orlop: Orlop, busybox: str) -> None:
    """`network rm` refuses the network that is always there, whatever it is called by."""
    orlop("run", "--rm", busybox, "true")
    identity = orlop("network", "inspect", "--format", "{{.Id}}", "bridge").strip()

    assert "always there" in orlop.fails("network", "rm", identity[:12])
    assert orlop("network", "inspect", "--format", "{{.Id}}", "bridge").strip() == identity


def test_another_run_directory_leaves_a_build_its_network(orlop: Orlop, busybox: str) -> None:
    """Whoever tidies networks up from another run directory knows a running build's step by its lease."""
    (orlop.folder / "Dockerfile").write_text(
        f"FROM {busybox}\nRUN --mount=type=cache,target=/c touch /c/here; "
        "until [ -e /c/go ]; do sleep 0.1; done; ip addr show eth0 | grep inet\n"
    )
    other = Orlop(orlop.folder, ORLOP_RUN_ROOT=str(orlop.folder / "run2"))
    cache = orlop.folder / "root" / "build" / "cache"
    with subprocess.Popen([*orlop.program, "build", "-q", "."], env=orlop.environ, cwd=orlop.folder) as build:
        try:
            until(lambda: list(cache.glob("*/here")), "the step to run")
            other("network", "create", "lan")
            other("network", "rm", "lan")
        finally:
            for folder in cache.glob("*"):
                (folder / "go").touch()
            code = build.wait()

    assert code == 0


def test_the_port_of_a_dead_container_is_taken_over(orlop: Orlop, busybox: str) -> None:
    """Who was killed with nobody to tidy up keeps no port, and takes none from its next owner when it is removed."""
    port = free_port()
    dead = orlop("run", "-d", "-p", f"{port}:80", busybox, "sleep", "1000").strip()
    launch = json.loads((orlop.folder / "run/containers" / dead / "launch.json").read_text())
    for who, ticks in (("shim_pid", "shim_ticks"), ("pid", "ticks")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(launch[who], signal.SIGKILL)
        assert process.wait_gone(launch[who], launch[ticks], PATIENCE)
    until(lambda: f"ol{dead[:12]}" not in os.listdir("/sys/class/net"), "the dead container's link to go")

    orlop("run", "-d", "--name", "next", "-p", f"{port}:80", busybox, "sh", "-c", SERVE)
    assert fetch("127.0.0.1", port) == b"hello\n"
    orlop("rm", "-f", dead)

    assert fetch("127.0.0.1", port) == b"hello\n"
