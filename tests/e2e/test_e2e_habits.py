"""What people who know docker do without thinking, and what must not surprise them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from command import Orlop


def until(condition: Callable[[], bool]) -> None:
    """Poll until `condition` holds; a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def test_leaving_a_program_that_gets_no_signals(orlop: Orlop, busybox: str) -> None:
    """^C on `run --rm --sig-proxy=false` ends the client alone: the container runs on and is known."""
    client = subprocess.Popen(
        ["env", "--default-signal=INT", *orlop.program, "run", "--rm", "--name", "alone", "--sig-proxy=false", busybox, "sleep", "1000"],
        env=orlop.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: orlop("ps", "--format", "{{.Names}} {{.State}}") == "alone running\n")
        client.send_signal(signal.SIGINT)
        assert client.wait(timeout=60) == 130
    finally:
        client.kill()
        client.wait()

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
