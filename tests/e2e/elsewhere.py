"""A host of its own for a root: a network namespace, in which nothing can be done to the machine's links and rules."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

from orlop.linux import sockets

if TYPE_CHECKING:
    from command import Orlop


class Elsewhere:
    """From now on `orlop` works there; its loopback link is up."""

    def __init__(self, orlop: Orlop) -> None:
        self.descriptor = sockets.new_network_namespace()
        self.enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.descriptor}"]
        orlop.program = [*self.enter, *orlop.program]
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str) -> str:
        """A program there, which must succeed."""
        return subprocess.run([*self.enter, *argv], capture_output=True, text=True, check=True).stdout

    def fetch(self, port: int) -> str:
        """What 127.0.0.1:port there says, once it does."""
        deadline = time.monotonic() + 60
        while True:
            call = [*self.enter, "busybox", "nc", "-w", "5", "127.0.0.1", str(port)]
            done = subprocess.run(call, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.stdout:
                return done.stdout
            assert time.monotonic() < deadline, f"port {port} did not answer: {done.stderr}"
            time.sleep(0.05)
