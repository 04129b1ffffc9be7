"""Health probes: a program run beside the container again and again, and what its exit codes mean.

The probe is an argv that the engine made (an `exec` into the container). The rules are docker's: a probe that fails
while the start period runs does not count until one has succeeded; `retries` failures in a row make the container
unhealthy, one success makes it healthy. Runs in the monitor's bare interpreter: nothing but built-in modules may be
imported here.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` would load enum: 2 ms and half a megabyte
import os

from orlop.runtime import exit as exits
from orlop.runtime.logfile import Stamp, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "health.json"
STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"

OUTPUT_LIMIT = 4096
"""Bytes of a probe's output that are kept."""
_KEPT = 5
_MOST_REST = 1_000_000_000
_GRACE = 5_000_000_000  # the probe's own program ends it at its timeout; ours is the backstop


class Health:
    """The probing of one container. Times given in are nanoseconds of the monotonic clock unless said otherwise.

    `given`: argv, interval, timeout, start_period, start_interval (nanoseconds), retries.
    """

    __slots__ = (
        "_began",
        "_deadline",
        "_due",
        "_given",
        "_log",
        "_output",
        "_read",
        "_stamp",
        "_started",
        "_wall",
        "pid",
        "status",
        "streak",
    )

    def __init__(self, given: dict[str, Any], now: int, state: dict[str, Any] | None = None) -> None:
        kept = state or {}
        self._given = given
        self._began: int = kept.get("began", now)
        self._due: int = kept.get("due", now + self._pause(now))
        self._log: list[list[Any]] = kept.get("log", [])
        self._read: int = kept.get("read", -1)
        self._output: bytes = kept.get("output", b"")
        self._deadline: int = kept.get("deadline", 0)
        self._wall: int = kept.get("wall", 0)
        self._started: int = kept.get("started", now)
        self.pid: int = kept.get("pid", 0)
        self.status: str = kept.get("status", STARTING)
        self.streak: int = kept.get("streak", 0)
        self._stamp = Stamp()

    def state(self) -> dict[str, Any]:
        """What the constructor takes as `state` in another interpreter."""
        return {
            "began": self._began,
            "due": self._due,
            "log": self._log,
            "read": self._read,
            "output": self._output,
            "deadline": self._deadline,
            "wall": self._wall,
            "started": self._started,
            "pid": self.pid,
            "status": self.status,
            "streak": self.streak,
        }

    @property
    def fd(self) -> int:
        """Where the running probe's output comes from, or -1."""
        return self._read

    @property
    def next_time(self) -> int:
        """When `tick` has something to do."""
        return self._deadline if self.pid else self._due

    def _in_start_period(self, now: int) -> bool:
        return self.status == STARTING and now - self._began < self._given["start_period"]

    def _pause(self, now: int) -> int:
        starting = now - self._began < self._given["start_period"]
        quick: int = self._given["start_interval"]
        usual: int = self._given["interval"]
        return quick if starting and quick else usual

    def tick(self, now: int, wall: int) -> None:
        """Start a probe that is due, or kill one that outlived its timeout and the grace after it."""
        if self.pid and now >= self._deadline:
            self._deadline = now + _GRACE
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return  # it ended just now; its exit is on the way
        elif not self.pid and now >= self._due:
            self._start(now, wall)

    def _start(self, now: int, wall: int) -> None:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        argv = self._given["argv"]
        try:
            self.pid = os.posix_spawn(
                argv[0],
                argv,
                self._given["env"],
                setsid=True,
                setsigdef=(signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGINT),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, write, 1),
                    (os.POSIX_SPAWN_DUP2, write, 2),
                ],
            )
        except OSError as error:
            os.close(read)
            self._wall = wall
            self._note(wall, 126, str(error).encode())
            self._due = now + self._pause(now)
            return
        finally:
            os.close(write)
        self._read, self._output, self._wall, self._started = read, b"", wall, now
        self._deadline = now + self._given["timeout"] + _GRACE

    def output(self) -> None:
        """Take what the probe has written; call when `fd` is readable."""
        try:
            data = os.read(self._read, OUTPUT_LIMIT)
        except BlockingIOError:
            return
        if not data:
            os.close(self._read)
            self._read = -1
        self._output = (self._output + data)[:OUTPUT_LIMIT]

    def ended(self, status: int, now: int, wall: int) -> None:
        """The probe's process was reaped with wait status `status`."""
        self.pid = 0
        while self._read >= 0:
            before = len(self._output)
            self.output()
            if self._read >= 0 and len(self._output) == before:
                os.close(self._read)  # something the probe left behind holds the other end
                self._read = -1
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        was = self.status
        if code == 0:
            self.status, self.streak = HEALTHY, 0
        elif not self._in_start_period(now):
            self.streak += 1
            if self.streak >= self._given["retries"]:
                self.status = UNHEALTHY
        if self.status != was:
            self._tell()
        self._note(wall, code, self._output)
        # A probe costs the host some time outside of the container's limits: an image that wants one every
        # microsecond may not have all of it.
        took = now - self._started
        self._due = now + max(self._pause(now), min(took, _MOST_REST))

    def _tell(self) -> None:
        """Run the program that wants to know of a change. It is a child like others, and nobody waits for it."""
        argv = [*self._given.get("changed_argv", ()), self.status]
        if len(argv) == 1:
            return
        try:
            os.posix_spawn(
                argv[0],
                argv,
                self._given["env"],
                setsid=True,
                setsigdef=(signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGINT),
                file_actions=[(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)],
            )
        except OSError:
            return  # news that nobody gets; the state itself is in health.json

    def _note(self, wall: int, code: int, output: bytes) -> None:
        self._log = [*self._log[1 - _KEPT :], [self._wall, wall, code, output]]

    def save(self, directory: str) -> None:
        """Leave the state as directory/health.json, in docker's shape. A full disk is no reason to stop probing."""
        entries = ",".join(
            f'{{"Start":"{self._stamp.of(start).decode()}","End":"{self._stamp.of(end).decode()}","ExitCode":{code},'
            f'"Output":{quote(output.decode("utf-8", "replace"))}}}'
            for start, end, code, output in self._log
        )
        text = f'{{"Status":"{self.status}","FailingStreak":{self.streak},"Log":[{entries}]}}\n'
        try:
            exits.write(directory, FILE, text.encode())
        except OSError:
            return
