"""The monitor: watches one running container, copies its output, serves clients, records the end.

The same loop runs twice. First in the shim, which has orlop loaded; and, when the container has run for a moment, in a
bare interpreter that the shim turns itself into (`slim`): the same process, children and descriptors, a third of the
memory. So nothing but built-in modules may be imported here, and everything the loop knows travels in a memfd.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` would load enum: 2 ms and half a megabyte
import _socket
import fcntl
import marshal
import os
import select
import sys
import time

from orlop.runtime import exit as exits
from orlop.runtime import frames, logfile, remains
from orlop.runtime.clients import HIGH_WATER, Client, restore
from orlop.runtime.health import Health

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

STATE_VERSION = 1
SLIM_AFTER = 2_000_000_000
"""Nanoseconds after which the shim turns itself into a bare interpreter: 10 ms, not for short containers or groups."""

_READ_SIZE = 1 << 16
_TIOCSWINSZ = 0x5414
_DRAIN_QUIET = 0.1  # seconds without output after the end, when something outside still holds the other end
_DRAIN_TOTAL = 2.0
_FAREWELL = 5.0  # seconds for a client that does not read its last frames
_SLIM_CODE = (
    "import sys;sys.path.insert(0,sys.argv[2]);from orlop.runtime.monitor import resume;resume(int(sys.argv[1]))"
)
_STREAM_OF = {"stdout": frames.STDOUT, "stderr": frames.STDERR, "terminal": frames.STDOUT}


def describe(
    *,
    container_id: str,
    pid: int,
    shim_dir: str,
    outputs: dict[str, int],
    stdin: int,
    listener: int,
    log: dict[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """A monitor's state, as `Monitor` takes it; only marshal's types.

    `outputs` maps "stdout", "stderr" or "terminal" to descriptors, `stdin` is one or -1 (the terminal's, where there is
    one). `more`: stdin_once, clients, cgroups (directories), oom (file, count so far), exit_argv, environment, health,
    held (descriptors that are only kept open while the container runs).
    """
    state: dict[str, Any] = {
        "version": STATE_VERSION,
        "id": container_id,
        "pid": pid,
        "shim_dir": shim_dir,
        "outputs": outputs,
        "stdin": stdin,
        "stdin_once": False,
        "stdin_waiting": b"",
        "stdin_ending": False,
        "listener": listener,
        "clients": [],
        "log": log,
        "cgroups": [],
        "oom": None,
        "delete_argv": [],
        "exit_argv": [],
        "environment": {},
        "health": None,
        "held": [],
        "health_state": None,
        "programs": {},
        "started": time.time_ns(),
        "slim": False,
    }
    return state | more


class Monitor:
    """One running container, from `run` until its end. Owns every descriptor named in its state."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.given = state
        self.pid: int = state["pid"]
        self.outputs: dict[int, int] = {fd: _STREAM_OF[name] for name, fd in state["outputs"].items()}
        self.terminal: int = state["outputs"].get("terminal", -1)
        self.stdin: int = state["stdin"]
        self.stdin_waiting = bytearray(state["stdin_waiting"])
        self.stdin_ending: bool = state["stdin_ending"]
        self.listener: int = state["listener"]
        self.log = logfile.restore(state["log"])
        self.clients: dict[int, Client] = {one["fd"]: restore(one) for one in state["clients"]}
        self.programs: dict[int, str] = dict(state["programs"])
        now = time.monotonic_ns()
        self.health = Health(state["health"], now, state["health_state"]) if state["health"] else None
        self.slim_at = 0 if state["slim"] else now + SLIM_AFTER
        self.status: int | None = None
        for fd in (*self.outputs, self.stdin):
            if fd >= 0:
                os.set_blocking(fd, False)
        self._wakeup, self._wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> bool:
        """Watch until the container ends and all is recorded; whether a client has settled what comes after."""
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        ignore_signals()
        try:
            for client in self.clients.values():
                self._serve(client, select.POLLIN)  # whoever came with us has greeted: before the first output
            self._reap()
            while self.status is None:
                self._turn()
        finally:
            signal.set_wakeup_fd(-1)
        return self._finish()

    # --- one turn of the loop

    def _turn(self) -> None:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if self.listener >= 0:
            poll.register(self.listener, select.POLLIN)
        stalled = False
        for client in self.clients.values():
            stalled = stalled or len(client.waiting) > HIGH_WATER
            reading = 0 if len(self.stdin_waiting) > HIGH_WATER else select.POLLIN
            poll.register(client.fd, reading | (select.POLLOUT if client.waiting else 0))
        if not stalled:
            for fd in self.outputs:
                poll.register(fd, select.POLLIN)
        if self.stdin_waiting and self.stdin not in self.outputs:
            poll.register(self.stdin, select.POLLOUT)
        elif self.stdin_waiting:
            poll.register(self.stdin, select.POLLOUT | (0 if stalled else select.POLLIN))
        if self.health and self.health.fd >= 0:
            poll.register(self.health.fd, select.POLLIN)
        for fd, event in poll.poll(self._timeout()):
            self._handle(fd, event)
        self._sweep()
        self._on_time()

    def _timeout(self) -> int | None:
        """Milliseconds until something is due by the clock; None for never."""
        due = [self.slim_at] if self.slim_at else []
        if self.health:
            due.append(self.health.next_time)
        if not due:
            return None
        return max(0, -(-(min(due) - time.monotonic_ns()) // 1_000_000))

    def _on_time(self) -> None:
        now = time.monotonic_ns()
        if self.health and now >= self.health.next_time and self.status is None:
            running = self.health.pid
            self.health.tick(now, time.time_ns())
            if not running and not self.health.pid:
                self.health.save(self.given["shim_dir"])  # it could not even start
        if self.slim_at and now >= self.slim_at and self.status is None:
            self.slim()

    def _handle(self, fd: int, event: int) -> None:
        if fd == self._wakeup:
            os.read(self._wakeup, _READ_SIZE)
            self._reap()
        elif fd == self.listener:
            self._accept()
        elif fd in self.clients:
            self._serve(self.clients[fd], event)
        elif self.health and fd == self.health.fd:
            self.health.output()
        else:
            if event & select.POLLOUT or fd == self.stdin != self.terminal:
                self._feed()
            if fd in self.outputs and event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._copy(fd)

    def _reap(self) -> None:
        """Collect every child that has ended: the container's init, orphans that fell to us, our programs."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self.status is None:
                    self.status = exits.UNKNOWN << 8  # init was not our child: its end cannot be known
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.status = status
            elif self.health and pid == self.health.pid:
                self.health.ended(status, time.monotonic_ns(), time.time_ns())
                self.health.save(self.given["shim_dir"])
            elif pid in self.programs:
                self._program_ended(pid, status)

    # --- output, input

    def _copy(self, fd: int) -> int:
        """Copy once from a stream to the log and the clients: how many bytes; a stream that has ended is closed."""
        try:
            data = os.read(fd, _READ_SIZE)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""  # EIO: a terminal whose last user has closed it
        if not data:
            self._end_output(fd)
            return 0
        stream = self.outputs[fd]
        self.log.write(stream, data, time.time_ns())
        frame = b""
        for client in self.clients.values():
            if client.wants_output:
                frame = frame or frames.encode(stream, data)
                client.send(frame)
        return len(data)

    def _end_output(self, fd: int) -> None:
        del self.outputs[fd]
        if fd == self.stdin:
            self.stdin = -1
            self.stdin_waiting.clear()
        if fd == self.terminal:
            self.terminal = -1
        os.close(fd)

    def _feed(self) -> None:
        """Write what waits for the container's standard input."""
        try:
            while self.stdin_waiting and self.stdin >= 0:
                del self.stdin_waiting[: os.write(self.stdin, self.stdin_waiting[:_READ_SIZE])]
        except BlockingIOError:
            return
        except OSError:
            self.stdin_waiting.clear()  # nobody reads it any more
            self.stdin_ending = True
        if self.stdin_ending and self.stdin >= 0 and self.stdin != self.terminal:
            os.close(self.stdin)
            self.stdin = -1

    # --- clients

    def _accept(self) -> None:
        try:
            fd, _ = _accept4(self.listener)
        except OSError:
            return  # it went away again, or we have no descriptors left: it will see a closed socket
        client = self.clients[fd] = Client(fd)
        client.send(frames.hello())

    def _serve(self, client: Client, event: int) -> None:
        if event & select.POLLOUT:
            client.push()
        if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
            for kind, payload in client.receive():
                self._obey(client, kind, payload)

    def _obey(self, client: Client, kind: int, payload: bytes) -> None:
        try:
            if kind == frames.STDIN:
                if self.stdin >= 0 and not self.stdin_ending:
                    self.stdin_waiting += payload
                    self._feed()
            elif kind == frames.CLOSE_STDIN:
                self.stdin_ending = self.terminal < 0
                self._feed()
            elif kind == frames.RESIZE:
                self._resize(*frames.decode_resize(payload))
            elif kind == frames.SETTLED:
                client.settled = True
            elif kind == frames.EXEC:
                client.send(frames.encode(frames.OK, b"%d" % self._program(payload)))
            elif kind == frames.SIGNAL:
                if self.status is None and len(payload) == 1:
                    os.kill(self.pid, payload[0])  # not reaped yet, so the pid is still init's
            elif kind == frames.REOPEN_LOG:
                self.log.reopen()
                client.send(frames.encode(frames.OK))
            else:
                client.send(frames.encode(frames.ERROR, b"a client does not send frames of kind %d" % kind))
        except (OSError, ValueError) as error:
            client.send(frames.encode(frames.ERROR, str(error).encode("utf-8", "replace")))

    def _resize(self, rows: int, columns: int) -> None:
        if self.terminal >= 0:
            order = sys.byteorder
            size = rows.to_bytes(2, order) + columns.to_bytes(2, order) + bytes(4)
            fcntl.ioctl(self.terminal, _TIOCSWINSZ, size)

    def _sweep(self) -> None:
        """Let go of clients that left."""
        for fd, client in list(self.clients.items()):
            if client.gone:
                if client.flags & frames.WANT_STDIN and self.given["stdin_once"] and self.terminal < 0:
                    self.stdin_ending = True
                    self._feed()
                client.close()
                del self.clients[fd]

    # --- programs that a client asked for

    def _program(self, payload: bytes) -> int:
        """Start what an EXEC frame names, without input or output; its process id. Its end is recorded by name."""
        name, *argv = [part.decode("utf-8", "surrogateescape") for part in payload.split(b"\0")]
        if not argv or not name or "/" in name:
            raise ValueError("EXEC needs a name for its record and a program")
        pid = os.posix_spawn(
            argv[0],
            argv,
            self.given["environment"],
            setsid=True,
            setsigdef=(signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGINT),
            file_actions=[(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)],
        )
        self.programs[pid] = name
        return pid

    def _program_ended(self, pid: int, status: int) -> None:
        name = self.programs.pop(pid)
        record = exits.encode(name, status, oom_killed=False, started=0, finished=time.time_ns())
        try:
            exits.write(self.given["shim_dir"], f"exec-{name}.json", record)
        except OSError:
            return  # the folder is gone or full: an unknown end is what the reader will report

    # --- the end

    def _finish(self) -> bool:
        """The container is dead: copy what is left, record the end, tell the clients. Whether one has settled."""
        finished = time.time_ns()
        for fd in self.given["held"]:  # before anybody hears of the end: who does may want the ports again
            os.close(fd)
        for cgroup in self.given["cgroups"][:1]:
            remains.kill_all(cgroup)
        self._drain()
        self.log.flush(time.time_ns())
        self.log.close()
        record = exits.encode(
            self.given["id"],
            self.status or 0,
            oom_killed=remains.oom_killed(self.given["oom"]),
            started=self.given["started"],
            finished=finished,
        )
        exits.write(self.given["shim_dir"], exits.FILE, record)
        self._delete()
        remains.remove(self.given["cgroups"])
        self._close_listener()
        for client in self.clients.values():
            if client.greeted:
                client.send(frames.encode(frames.EXIT, record))
        return self._farewell()

    def _delete(self) -> None:
        """Have an external runtime forget the container; ours is forgotten by the engine, which settles more."""
        argv = self.given["delete_argv"]
        if not argv:
            return
        nothing = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
        try:
            os.waitpid(os.posix_spawn(argv[0], argv, self.given["environment"], file_actions=nothing), 0)
        except OSError:
            return  # the runtime is not there any more: what it knew is its own business

    def _drain(self) -> None:
        """Read what the container wrote before it died. Its pipes end at once unless somebody outside holds them."""
        until = time.monotonic() + _DRAIN_TOTAL
        while self.outputs and time.monotonic() < until:
            poll = select.poll()
            for fd in self.outputs:
                poll.register(fd, select.POLLIN)
            ready = poll.poll(int(_DRAIN_QUIET * 1000))
            if not ready:
                break
            for fd, _ in ready:
                self._copy(fd)
        for fd in list(self.outputs):
            self._end_output(fd)

    def _close_listener(self) -> None:
        if self.listener >= 0:
            # those who connected but were not accepted yet must get the record too
            os.set_blocking(self.listener, False)
            before = -1
            while before != len(self.clients):
                before = len(self.clients)
                self._accept()
            os.close(self.listener)
            self.listener = -1
            try:
                os.unlink(f"{self.given['shim_dir']}/attach.sock")
            except OSError:
                return

    def _farewell(self) -> bool:
        """Send out what waits, and wait for a client that promised to settle. Whether it did."""
        until = time.monotonic() + _FAREWELL
        while self.clients:
            poll = select.poll()
            patient = False
            for client in self.clients.values():
                patient = patient or (client.will_settle and not client.waiting)
                poll.register(client.fd, select.POLLIN | (select.POLLOUT if client.waiting else 0))
            left = int((until - time.monotonic()) * 1000)
            if left <= 0 and not patient:
                break
            for fd, event in poll.poll(None if patient else left):
                client = self.clients[fd]
                if event & select.POLLOUT:
                    client.push()
                if event & ~select.POLLOUT:
                    for kind, _ in client.receive():
                        client.settled = client.settled or (kind == frames.SETTLED and client.will_settle)
            for fd, client in list(self.clients.items()):
                if client.settled:
                    return True
                if client.gone or not (client.will_settle or client.waiting):
                    client.close()
                    del self.clients[fd]
        return False

    # --- becoming small

    def state(self) -> dict[str, Any]:
        """Everything another interpreter needs to go on from here."""
        names = {frames.STDOUT: "stdout", frames.STDERR: "stderr"}
        return self.given | {
            "outputs": {"terminal" if fd == self.terminal else names[kind]: fd for fd, kind in self.outputs.items()},
            "stdin": self.stdin,
            "stdin_waiting": bytes(self.stdin_waiting),
            "stdin_ending": self.stdin_ending,
            "listener": self.listener,
            "log": self.log.state(),
            "clients": [client.state() for client in self.clients.values()],
            "programs": self.programs,
            "health_state": self.health.state() if self.health else None,
            "slim": True,
        }

    def _descriptors(self) -> list[int]:
        kept = [*self.outputs, self.stdin, self.listener, *self.clients, self.health.fd if self.health else -1]
        kept += self.given["held"]
        return [fd for fd in dict.fromkeys(kept) if fd >= 0]

    def slim(self) -> None:
        """Become a bare interpreter that goes on from here. On failure nothing changes but the memory we keep."""
        self.slim_at = 0
        kept = self._descriptors()
        try:
            store = os.memfd_create("orlop-monitor")
            os.write(store, marshal.dumps(self.state(), 2))
            os.lseek(store, 0, os.SEEK_SET)
            for fd in (store, *kept):
                os.set_inheritable(fd, True)
            home = os.path.dirname(sys.modules["orlop"].__path__[0])
            argv = [sys.executable, "-I", "-S", "-c", _SLIM_CODE, str(store), home]
            os.execve(sys.executable, argv, self.given["environment"])  # noqa: S606  # no shell: on purpose
        except OSError:
            for fd in kept:
                os.set_inheritable(fd, False)


def ignore_signals() -> None:
    """A shutdown signals everyone, and we must see the container's end."""
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)


def resume(store: int) -> NoReturn:
    """The start of the bare interpreter: take the state over and go on. Ends the process."""
    with open(store, "rb") as file:
        state: dict[str, Any] = marshal.loads(file.read())  # noqa: S302  # our own memfd, written a moment ago
    monitor = Monitor(state)
    for fd in monitor._descriptors():  # noqa: SLF001  # its own kind, in its own module
        os.set_inheritable(fd, False)
    sys.path_importer_cache.clear()
    sys.path.clear()
    try:
        with open("/proc/self/comm", "wb") as comm:
            comm.write(b"orlop-shim")
    except OSError:
        pass  # the name is for people only
    finish(monitor)


def finish(monitor: Monitor) -> NoReturn:
    """Run a monitor to its end, then the exit command unless a client has settled. Ends the process."""
    settled = monitor.run()
    argv = monitor.given["exit_argv"]
    if argv and not settled:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execve(argv[0], argv, monitor.given["environment"])  # noqa: S606  # no shell: on purpose
        except OSError:
            os._exit(127)  # the record is written: the next command settles
    os._exit(0)


def _accept4(listener: int) -> tuple[int, Any]:
    """accept(2) on a descriptor we only have the number of; the new one is closed on exec."""
    server = _socket.socket(fileno=listener)
    try:
        return server._accept()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001  # what socket.accept calls
    finally:
        server.detach()
