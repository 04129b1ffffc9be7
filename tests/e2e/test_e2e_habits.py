"""What people who know docker do without thinking, and what must not surprise them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

from patience import until, until_equal

if TYPE_CHECKING:
    from command import Orlop


def test_leaving_a_program_that_gets_no_signals(orlop: Orlop, busybox: str) -> None:
    """^C on `run --rm --sig-proxy=false` ends the client alone: the container runs on and is known."""
    client = subprocess.Popen(
        ["env", "--default-signal=INT", *orlop.program, "run", "--rm", "--name", "alone", "--sig-proxy=false", busybox,
         "sh", "-c", "echo joined; exec sleep 1000"],
        env=orlop.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"joined\n"  # from here on the client only passes bytes on
        client.send_signal(signal.SIGINT)
        assert client.wait(timeout=60) == 130
    finally:
        client.kill()
        client.communicate()

    assert orlop("ps", "--format", "{{.Names}} {{.State}}") == "alone running\n"
    orlop("rm", "-f", "alone")


def test_relative_folder_is_the_creators(orlop: Orlop, busybox: str) -> None:
    """-v ./folder means the folder where `create` was typed, wherever `start` is."""
    here, elsewhere = orlop.folder / "here", orlop.folder / "elsewhere"
    (here / "sub").mkdir(parents=True)
    (here / "sub" / "file").write_text("found")
    elsewhere.mkdir()
    orlop.folder = here
    orlop("create", "--name", "far", "-v", "./sub:/x", "--mount", "type=bind,src=./sub,dst=/y", busybox,
          "cat", "/x/file", "/y/file")  # fmt: skip
    orlop.folder = elsewhere

    assert orlop("start", "-a", "far") == "foundfound"


def test_no_shared_memory(orlop: Orlop, busybox: str) -> None:
    """--ipc none: a namespace of its own and no /dev/shm, which nobody else may join either."""
    assert orlop.run("run", "--name", "mute", "--ipc", "none", busybox, "ls", "/dev/shm").returncode == 1
    assert orlop("inspect", "-f", "{{.HostConfig.IpcMode}}", "mute") == "none\n"
    assert "--ipc shareable" in orlop.fails("run", "--ipc", "container:mute", busybox, "true", code=125)


def test_refused_limits_are_told_as_such(orlop: Orlop, busybox: str) -> None:
    """A limit that the kernel refuses is what the error is about, not what else went wrong because of it."""
    last = os.sysconf("SC_NPROCESSORS_CONF") + 5000

    assert f"'{last}'" in orlop.fails("run", "--rm", "--cpuset-cpus", str(last), busybox, "true", code=125)


def test_top_takes_the_options_of_ps(orlop: Orlop, busybox: str) -> None:
    """`top` lists with names of users; with options it shows what this machine's ps shows of the container."""
    orlop("run", "-d", "--name", "busy", busybox, "sleep", "1234")

    titles, row = (line.split() for line in orlop("top", "busy").splitlines())
    assert (titles[0], row[0], row[-2:]) == ("UID", "root", ["sleep", "1234"])
    pid = orlop("inspect", "-f", "{{.State.Pid}}", "busy").strip()
    assert [line.split() for line in orlop("top", "busy", "-o", "pid,args").splitlines()] == [
        ["PID", "COMMAND"],
        [pid, "sleep", "1234"],
    ]
    assert orlop("top", "busy", "aux").splitlines()[1].split()[:2] == ["root", pid]
    assert "no column PID" in orlop.fails("top", "busy", "-o", "args")
    assert "ps does not take" in orlop.fails("top", "busy", "--no-such-option")


def test_changes_of_health_are_events(orlop: Orlop, busybox: str) -> None:
    """Each change of a container's health is an event, health_status: STATUS, as docker tells it."""
    orlop("run", "-d", "--name", "patient", "--health-cmd", "test -e /tmp/well", "--health-interval", "200ms",
          "--health-retries", "1", busybox, "sleep", "1000")  # fmt: skip
    shown = ("events", "--since", "10m", "--until", "0s", "--filter", "event=health_status", "--format")

    until_equal(lambda: orlop(*shown, "{{.Action}}"), "health_status: unhealthy\n")
    orlop("exec", "patient", "touch", "/tmp/well")
    until_equal(lambda: orlop(*shown, "{{.Action}}").splitlines()[1:], ["health_status: healthy"])
    assert orlop(*shown, "{{.Actor.Attributes.name}}").splitlines() == ["patient", "patient"]
    assert orlop("ps", "--filter", "health=healthy", "--format", "{{.Names}}") == "patient\n"


def test_disk_usage_thing_by_thing(orlop: Orlop, busybox: str) -> None:
    """`system df -v` has a line for each image, container and volume, and says what images share."""
    orlop("tag", busybox, "second")
    orlop(
        "run", "--name", "heavy", "-v", "hold:/hold", busybox, "dd", "if=/dev/urandom", "of=/hold/f", "bs=1M", "count=2"
    )

    images, containers, volumes, cache = orlop("system", "df", "-v").split("\n\n")[1::2]

    assert {line.split()[0] for line in images.splitlines()[1:]} >= {"busybox", "second"}
    assert containers.splitlines()[1].split()[-1] == "heavy"
    assert volumes.splitlines()[1].split()[:2] == ["hold", "1"]
    assert cache.split()[:2] == ["CACHE", "ID"]
    found = json.loads(orlop("system", "df", "-v", "--format", "json"))
    assert found["Volumes"][0]["UsageData"]["Size"] >= 1 << 20
    assert found["Images"][0]["SharedSize"] <= found["Images"][0]["Size"] <= found["LayersSize"]


def test_leaving_a_program_that_was_executed(orlop: Orlop, busybox: str) -> None:
    """The detach keys end `exec -it` alone: its program runs on with its terminal, however much it writes."""
    orlop("run", "-d", "--name", "host", busybox, "sleep", "1000")
    master, slave = os.openpty()
    script = "echo ready; while ! test -e /tmp/go; do sleep 0.1; done; seq 50000; tty > /tmp/done"
    try:
        client = subprocess.Popen(
            [*orlop.program, "exec", "-it", "--detach-keys", "ctrl-a,x", "host", "sh", "-c", script],
            env=orlop.environ, stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        seen = b""
        while b"ready" not in seen:
            assert select.select([master], [], [], 60)[0], seen
            seen += os.read(master, 1 << 16)
        os.write(master, b"\x01x")
        assert client.wait(timeout=60) == 0
    finally:
        client.kill()
        client.wait()
        os.close(slave)
        os.close(master)

    orlop("exec", "host", "touch", "/tmp/go")
    until(lambda: orlop.run("exec", "host", "cat", "/tmp/done").stdout.startswith("/dev/pts/"))
    orlop("rm", "-f", "host")


def test_what_a_container_has_changed(orlop: Orlop, busybox: str) -> None:
    """`diff` tells of the program's own changes, and neither of mounts nor of what a start makes for them."""
    orlop("run", "--name", "quiet", "-v", "hold:/hold/deep", busybox, "touch", "/hold/deep/file")
    orlop(
        "run", "--name", "loud", busybox, "sh", "-c", "echo x > /etc/new; rm /etc/passwd; mkdir /made; touch '/a\033b'"
    )

    assert orlop("diff", "quiet") == ""
    assert orlop("diff", "loud").splitlines() == ["A /a\\x1bb", "C /etc", "A /etc/new", "D /etc/passwd", "A /made"]


def test_a_client_that_stands_still_holds_up_no_container(orlop: Orlop, busybox: str) -> None:
    """^Z on `exec`, or a reader that stops reading it: the container can be stopped nevertheless."""
    orlop("run", "-d", "--name", "free", "--network", "none", busybox, "sleep", "1000")
    with subprocess.Popen(
        [*orlop.program, "exec", "free", "sh", "-c", "echo ready; sleep 1000"],
        env=orlop.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as still, subprocess.Popen(
        [*orlop.program, "exec", "-t", "free", "sh", "-c", "echo ready; yes; sleep 1000"],
        env=orlop.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as stuck:  # fmt: skip
        try:
            for client in (still, stuck):
                assert client.stdout is not None
                assert client.stdout.readline().strip() == b"ready"
            still.send_signal(signal.SIGSTOP)
            until(lambda: _waits_for_reader(stuck.pid))

            orlop("stop", "-t", "0", "free", timeout=60)

            still.send_signal(signal.SIGCONT)
            assert still.wait(timeout=60) == 137
        finally:
            still.kill()
            stuck.kill()
    orlop("rm", "free")


def _waits_for_reader(pid: int) -> bool:
    """Whether the process sleeps in write(2)."""
    with open(f"/proc/{pid}/syscall") as file:
        return file.read().split()[0] in {"1", "64"}  # on x86_64, on aarch64
