"""Who forks shims and runners: one protocol, two ways.

A threaded process must not fork into Python code (locks may be held by threads that do not exist in the child), and
the container's first process must have a parent with one thread. `ProcessSpawner`, which the engine uses, therefore
asks a process with one thread, the spawner's process: forked while the program still had one thread, or started fresh
from a program that has more. Requests and descriptors travel over a seqpacket socket, the requests' text in a memfd
because of its size. `DirectSpawner` forks where it is called, for programs that never have a second thread.
"""

from __future__ import annotations

import os
import sys

from orlop.errors import Internal, OrlopError, Unavailable
from orlop.linux import process
from orlop.runtime import channel, errors, hygiene
from orlop.runtime.request import ExecRequest, ShimRequest
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn, Protocol, Self, TypeVar

    from orlop.runtime.channel import Channel

    Made = TypeVar("Made")

    class Spawner(Protocol):
        """Starts shims, and programs in running containers."""

        def spawn(
            self,
            request: ShimRequest,
            *,
            attach: int = -1,
            stdio: tuple[int, int, int] = (-1, -1, -1),
            warn: Callable[[str], None] | None = None,
        ) -> Handle:
            """Begin to make a container. `attach` is the shim's end of a foreground client's socket (it is copied).

            `stdio` is used with `inherit_stdio`: the container's standard streams. `warn` hears of what could not be
            done for this container; without it, the spawner's own.
            """

        def execute(self, request: ExecRequest, *, stdio: tuple[int, int, int] = (-1, -1, -1)) -> ExecHandle:
            """Start a program in a running container; returns once it is executed. -1 is the null device."""

        def close(self) -> None:
            """End what was started for spawning; shims and programs live on."""


class Process(Value):
    """A process by its number and its start, which tells it from later ones of that number."""

    pid: int
    ticks: int


def nothing() -> None:
    """What there is to do before a fork, for who has nothing."""


def silent(text: str) -> None:
    """The `warn` of who does not want to know."""


class _Asker:
    """The asking end of a control channel. A context manager that closes it."""

    def __init__(self, control: Channel, warn: Callable[[str], None]) -> None:
        self._control = control
        self._warn = warn
        self._fds: list[int] = []

    def _expect(self, word: str) -> dict[str, Any]:
        """The next message that is no warning: it must say `word`. Its descriptors are kept in `_fds`."""
        while True:
            try:
                message, self._fds = self._control.receive()
            except EOFError as error:
                raise Internal("the process that makes the container ended without a word") from error
            if "warn" in message:
                self._warn(str(message["warn"]))
            elif "error" in message:
                raise errors.of_fields(message)
            elif word in message:
                return message
            else:
                raise Internal(f"the other side said {sorted(message)}, not {word}")

    def close(self) -> None:
        """Hang up."""
        if self._control.fd >= 0:
            self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Handle(_Asker):
    """A container in the making. Closing it before `start` undoes everything, and waits until it is undone."""

    def __init__(self, control: Channel, warn: Callable[[str], None] = silent) -> None:
        super().__init__(control, warn)
        self._started = False
        self.shim_pid = int(self._expect("shim")["shim"])

    def wait_namespaces(self) -> Process:
        """The container's first process, as soon as its namespaces are there: the network can be attached."""
        message = self._expect("namespaces")
        return Process(pid=int(message["namespaces"]), ticks=int(message["ticks"]))

    def wait_created(self) -> None:
        """Wait until the container is created (the OCI word): all is set up, the program is not started."""
        self._expect("created")

    def hold(self, fds: list[int]) -> None:
        """Have the shim keep copies of descriptors until the container ends: the bound sockets of its ports, say."""
        try:
            for at in range(0, len(fds), channel.MAX_FDS):
                self._control.send(tuple(fds[at : at + channel.MAX_FDS]), hold=True)
        except (BrokenPipeError, ConnectionError):
            return  # it is gone, and `start` learns why

    def start(self) -> None:
        """Let the program go; returns once it is executed."""
        try:
            self._control.send(start=True)
        except (BrokenPipeError, ConnectionError):
            self._expect("started")  # it left word of why it went away
        self._expect("started")
        self._started = True

    def close(self) -> None:
        """Hang up; before `start`, that undoes the container."""
        if not self._started and self._control.fd >= 0:
            self._control.finish()
        super().close()


class ExecHandle(_Asker):
    """A program in a container. `terminal` is its master side (ours), or -1. Closing does not end the program."""

    def __init__(self, control: Channel, warn: Callable[[str], None] = silent) -> None:
        super().__init__(control, warn)
        message = self._expect("running")
        self.process = Process(pid=int(message["running"]), ticks=int(message["ticks"]))
        self.terminal = self._fds[0] if self._fds else -1
        self._code: int | None = None

    def wait(self) -> int:
        """Wait for the program's end: its exit code (128 + signal). DeadlineExceeded after the request's timeout."""
        if self._code is None:
            self._code = int(self._expect("exited")["exited"])
        return self._code

    @property
    def fd(self) -> int:
        """Readable when `wait` will not block."""
        return self._control.fd

    def close(self) -> None:
        """Hang up, and let go of the terminal."""
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1
        super().close()


class DirectSpawner:
    """Forks by itself, without a process in between. Refused (FailedPrecondition) in a process with threads.

    For programs with one thread that start containers with this room alone, and the contract suite's second witness.
    The engine uses it for `exec` alone: its other callers have threads, and the spawner's process loads its modules
    beside them.
    `before_fork` is called before every fork.
    """

    def __init__(self, before_fork: Callable[[], None] = nothing, warn: Callable[[str], None] = silent) -> None:
        self._before_fork = before_fork
        self._warn = warn
        self._children: list[int] = []

    def spawn(
        self,
        request: ShimRequest,
        *,
        attach: int = -1,
        stdio: tuple[int, int, int] = (-1, -1, -1),
        warn: Callable[[str], None] | None = None,
    ) -> Handle:
        """Fork the shim."""
        from orlop.runtime import shim  # noqa: F401  # loaded before the fork: the parent keeps it for the next time

        return _opened(Handle, self._fork(lambda its: become_shim(request, its, attach, stdio)), warn or self._warn)

    def execute(self, request: ExecRequest, *, stdio: tuple[int, int, int] = (-1, -1, -1)) -> ExecHandle:
        """Fork the runner."""
        from orlop.runtime import runner  # noqa: F401  # as above

        return _opened(ExecHandle, self._fork(lambda its: become_runner(request, its, stdio)), self._warn)

    def _fork(self, become: Callable[[Channel], NoReturn]) -> Channel:
        process.require_one_thread()
        self._reap()
        mine, its = channel.pair()
        self._before_fork()
        pid = os.fork()
        if pid == 0:
            try:
                mine.close()
                become(its)
            finally:
                os._exit(1)
        its.close()
        self._children.append(pid)
        return mine

    def _reap(self) -> None:
        """Collect the shims and runners that have ended, so that a long life makes no zombies."""
        left = []
        for pid in self._children:
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    left.append(pid)
            except ChildProcessError:
                continue
        self._children = left

    def settle(self) -> None:
        """Wait for all shims and runners; one whose program has ended is about to end, too."""
        children, self._children = self._children, []
        for pid in children:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                continue

    def close(self) -> None:
        """Nothing but zombies was kept."""
        self._reap()


_SERVE = (
    "import sys;sys.path[:0]=sys.argv[2].split('\\0');from orlop.runtime.spawner import serve;serve(int(sys.argv[1]))"
)


class ProcessSpawner:
    """Has a process with one thread do it. Safe to use from many threads; when that process is killed, it is replaced.

    `before_fork` is called before `begin` forks; a process that is started fresh never had our databases open.
    """

    def __init__(self, before_fork: Callable[[], None] = nothing, warn: Callable[[str], None] = silent) -> None:
        import _thread

        self._before_fork = before_fork
        self._warn = warn
        self._lock = _thread.allocate_lock()
        self._control: Channel | None = None
        self._pid = 0
        self._once = False  # its process becomes what it is first asked for

    def spawn(
        self,
        request: ShimRequest,
        *,
        attach: int = -1,
        stdio: tuple[int, int, int] = (-1, -1, -1),
        warn: Callable[[str], None] | None = None,
    ) -> Handle:
        """Have the shim forked."""
        return _opened(Handle, self._ask("spawn", request.to_json(), (attach, *stdio)), warn or self._warn)

    def execute(self, request: ExecRequest, *, stdio: tuple[int, int, int] = (-1, -1, -1)) -> ExecHandle:
        """Have the runner forked."""
        return _opened(ExecHandle, self._ask("execute", request.to_json(), (-1, *stdio)), self._warn)

    def _ask(self, what: str, text: bytes, given: tuple[int, ...]) -> Channel:
        mine, its = channel.pair()
        store = os.memfd_create("orlop-request")
        try:
            os.write(store, text)
            fds = (store, its.fd, *(fd for fd in given if fd >= 0))
            with self._lock:
                try:
                    self._process().send(fds, what=what, given=[fd >= 0 for fd in given])
                except (BrokenPipeError, ConnectionError):
                    self._forget()
                    self._process().send(fds, what=what, given=[fd >= 0 for fd in given])
                if self._once:
                    self._let_go()
        except OSError as error:
            mine.close()
            raise Unavailable(f"the process that starts containers cannot be started: {error.strerror}") from error
        finally:
            its.close()
            os.close(store)
        return mine

    def _process(self) -> Channel:
        if self._control is None:
            mine, its = channel.pair()
            try:
                home = os.path.dirname(sys.modules["orlop"].__path__[0])
                os.set_inheritable(its.fd, True)
                argv = [sys.executable, "-I", "-S", "-c", _SERVE, str(its.fd), home]
                null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(3)]
                self._pid = os.posix_spawn(sys.executable, argv, {"PATH": os.defpath}, setsid=True, file_actions=null)
            except BaseException:
                mine.close()
                raise
            finally:
                its.close()
            self._control = mine
        return self._control

    def begin(self, *, once: bool = False) -> None:
        """Fork the process now, while we have one thread (FailedPrecondition else), instead of starting it fresh later.

        It loads what it needs while the caller goes on, which halves the time to the first container. With `once` it
        becomes the first thing that it is asked for, which saves that one a fork; whoever asks more starts another.
        """
        process.require_one_thread()
        if self._control is not None:
            return
        mine, its = channel.pair()
        self._before_fork()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.setsid()
                hygiene.null_stdio()
                process.close_fds_except((0, 1, 2, its.fd))
                serve(its.fd, once=once)
            finally:
                os._exit(1)
        its.close()
        self._control, self._once = mine, once

    def _let_go(self) -> None:
        """The process is a shim or a runner now, and no longer ours to wait for."""
        if self._control is not None:
            self._control.close()
        self._control, self._once = None, False

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control, self._once = None, False
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:
                return  # the program that we are a library of collects its children itself

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._forget()


def _opened(
    kind: Callable[[Channel, Callable[[str], None]], Made], control: Channel, warn: Callable[[str], None]
) -> Made:
    """A handle on what was just begun; the channel does not outlive a failure."""
    try:
        return kind(control, warn)
    except BaseException:
        if control.fd >= 0:
            control.close()
        raise


def become_shim(request: ShimRequest, control: Channel, attach: int, stdio: tuple[int, int, int]) -> NoReturn:
    """In a fresh fork: be a shim. Never returns."""
    from orlop.runtime.shim import Shim

    Shim(request, control, attach, stdio).run()


def become_runner(request: ExecRequest, control: Channel, stdio: tuple[int, int, int]) -> NoReturn:
    """In a fresh fork: run one program in a container. Never returns."""
    from orlop.runtime import runner

    runner.run(request, control, stdio)


def serve(fd: int, *, once: bool = False) -> NoReturn:
    """The spawner process's whole life: a fork for each request, until the asker is gone. Ends the process.

    With `once` it forks nothing: it becomes what it is asked for first.
    """
    import _signal  # type: ignore[import-not-found]  # as in monitor
    import gc

    gc.freeze()  # a collection would write to every page that we share with the asker, and so copy it
    gc.disable()
    from orlop.runtime import shim

    shim.load()  # once, for all forks; runners load the little more that they need
    os.set_inheritable(fd, False)
    process.set_name("orlop-spawner")
    control = channel.of_fd(fd)
    if not once:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # shims are nobody's zombies
    while True:
        try:
            message, fds = control.receive()
        except EOFError:
            os._exit(0)
        if once or os.fork() == 0:
            try:
                _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
                control.close()
                _serve_one(message, fds)
            finally:
                os._exit(1)
        for one in fds:
            os.close(one)


def _serve_one(message: dict[str, Any], fds: list[int]) -> NoReturn:
    """In the spawner process's fork: become what was asked for."""
    with open(fds[0], "rb") as file:
        file.seek(0)
        text = file.read()
    its = channel.of_fd(fds[1])
    rest = iter(fds[2:])
    attach, *stdio = (next(rest) if there else -1 for there in message["given"])
    streams = (stdio[0], stdio[1], stdio[2])
    try:
        if message["what"] == "execute":
            become_runner(ExecRequest.from_json(text), its, streams)
        become_shim(ShimRequest.from_json(text), its, attach, streams)
    except OrlopError as error:
        its.send(**errors.to_fields(error, "the request cannot be served"))
        os._exit(1)
