"""Who forks shims. One protocol, two ways: a direct fork while the process has one thread, a process of its own else.

A threaded process must not fork into Python code (locks may be held by threads that do not exist in the child), and the
container's first process must have a parent with one thread. `ProcessSpawner` therefore asks a helper process that was
started fresh; requests and descriptors travel over a seqpacket socket.
"""

from __future__ import annotations

import os

from orlop.errors import Internal, Unavailable
from orlop.linux import process
from orlop.runtime import channel
from orlop.runtime.request import ShimRequest
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn, Protocol, Self

    from orlop.runtime.channel import Channel

    class Spawner(Protocol):
        """Starts shims."""

        def spawn(
            self, request: ShimRequest, *, attach: int = -1, stdio: tuple[int, int, int] = (-1, -1, -1)
        ) -> Handle:
            """Begin to make a container. `attach` is the shim's end of a foreground client's socket (it is copied)."""

        def close(self) -> None:
            """End what was started for spawning; shims live on."""


class Process(Value):
    """A process by its number and its start, which tells it from later ones of that number."""

    pid: int
    ticks: int


def nothing() -> None:
    """What there is to do before a fork, for who has nothing."""


class Handle:
    """A container in the making. Leaving the `with` before `start` undoes everything."""

    def __init__(self, control: Channel, warn: Callable[[str], None] | None = None) -> None:
        self._control = control
        self._warn = warn
        self.shim_pid = int(self._expect("shim")["shim"])
        self._reap = -1

    def _expect(self, word: str) -> dict[str, object]:
        while True:
            try:
                message, fds = self._control.receive()
            except EOFError as error:
                raise Internal("the container's shim ended without a word", hint="look for it in dmesg") from error
            for fd in fds:
                os.close(fd)
            if "warn" in message:
                if self._warn is not None:
                    self._warn(str(message["warn"]))
                continue
            if "error" in message:
                from orlop.runtime import errors

                raise errors.of_fields(message)
            if word in message:
                return message
            raise Internal(f"the shim said {sorted(message)}, not {word}")

    def wait_namespaces(self) -> Process:
        """The container's first process, as soon as its namespaces are there: the network can be attached."""
        message = self._expect("namespaces")
        return Process(pid=int(str(message["namespaces"])), ticks=int(str(message["ticks"])))

    def wait_created(self) -> None:
        """Wait until the container is created (the OCI word): all is set up, the program is not started."""
        self._expect("created")

    def start(self) -> None:
        """Let the program go."""
        self._control.send(start=True)
        self._expect("started")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()


def become_shim(request: ShimRequest, control: Channel, attach: int, stdio: tuple[int, int, int]) -> NoReturn:
    """In a fresh fork: be a shim. Never returns."""
    try:
        from orlop.runtime.shim import Shim

        Shim(request, control, attach, stdio).run()
    finally:
        os._exit(1)


class DirectSpawner:
    """Forks by itself. Refused (FailedPrecondition) in a process with threads."""

    def __init__(self, before_fork: Callable[[], None] = nothing, warn: Callable[[str], None] | None = None) -> None:
        self._before_fork = before_fork
        self._warn = warn

    def spawn(self, request: ShimRequest, *, attach: int = -1, stdio: tuple[int, int, int] = (-1, -1, -1)) -> Handle:
        """Fork the shim."""
        process.require_one_thread()
        from orlop.runtime import shim  # noqa: F401  # loaded before the fork: the parent keeps it for the next time

        mine, its = channel.pair()
        self._before_fork()
        if os.fork() == 0:
            mine.close()
            become_shim(request, its, attach, stdio)
        its.close()
        return _begun(mine, self._warn)

    def close(self) -> None:
        """Nothing was started."""


def _begun(control: Channel, warn: Callable[[str], None] | None) -> Handle:
    try:
        return Handle(control, warn)
    except BaseException:
        control.close()
        raise


_SERVE = (
    "import sys;sys.path[:0]=sys.argv[2].split(':');from orlop.runtime.spawner import serve;serve(int(sys.argv[1]))"
)


class ProcessSpawner:
    """Has a fresh process with one thread do it. Safe to use from many threads."""

    def __init__(self, before_fork: Callable[[], None] = nothing, warn: Callable[[str], None] | None = None) -> None:
        del before_fork  # the helper never has our databases open
        import _thread

        self._warn = warn
        self._lock = _thread.allocate_lock()
        self._control: Channel | None = None
        self._pid = 0

    def _started(self) -> Channel:
        import sys

        if self._control is None:
            mine, its = channel.pair()
            path = ":".join(entry for entry in sys.path if entry)
            argv = [sys.executable, "-I", "-S", "-c", _SERVE, str(its.fd), path]
            actions = [(os.POSIX_SPAWN_DUP2, its.fd, its.fd)]  # a dup on itself clears close-on-exec
            os.set_inheritable(its.fd, True)
            self._pid = os.posix_spawn(sys.executable, argv, {"PATH": os.defpath}, file_actions=actions)
            its.close()
            self._control = mine
        return self._control

    def spawn(self, request: ShimRequest, *, attach: int = -1, stdio: tuple[int, int, int] = (-1, -1, -1)) -> Handle:
        """Have the shim forked."""
        mine, its = channel.pair()
        try:
            descriptors = [its.fd, *(fd for fd in (attach, *stdio) if fd >= 0)]
            with self._lock:
                try:
                    self._started().send(
                        tuple(descriptors),
                        request=request.to_json().decode(),
                        attach=attach >= 0,
                        stdio=[fd >= 0 for fd in stdio],
                    )
                except (BrokenPipeError, ConnectionError) as error:
                    self._control = None
                    raise Unavailable("the process that starts containers was killed", hint="try again") from error
        except BaseException:
            mine.close()
            raise
        finally:
            its.close()
        return _begun(mine, self._warn)

    def close(self) -> None:
        """End the helper."""
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
                os.waitpid(self._pid, 0)


def serve(fd: int) -> NoReturn:
    """The helper: fork a shim per request until the asker is gone. Never returns."""
    import _signal  # type: ignore[import-not-found]  # as in monitor

    from orlop.runtime import shim  # noqa: F401  # once, for all forks

    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # shims are nobody's zombies
    os.set_inheritable(fd, False)
    control = channel.of_fd(fd)
    while True:
        try:
            message, descriptors = control.receive()
        except EOFError:
            os._exit(0)
        given = iter(descriptors)
        its = channel.of_fd(next(given))
        attach = next(given) if message["attach"] else -1
        first, second, third = (next(given) if there else -1 for there in message["stdio"])
        if os.fork() == 0:
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            control.close()
            become_shim(ShimRequest.from_json(message["request"].encode()), its, attach, (first, second, third))
        its.close()
        for one in descriptors[1:]:
            os.close(one)
