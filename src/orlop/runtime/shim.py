"""The process that makes one container and stays with it: forked by a spawner, later only the monitor.

It talks to the one who asked for the container over a control channel until that is started; if the asker goes away
before, everything is undone. What it says, in order: {"shim": pid}, {"namespaces": pid, "ticks": n}, {"created":
true}, {"started": true}, with any number of {"warn": text} between; or {"error": ...} at any point, and its end.
What it is told: {"start": true}.
"""

from __future__ import annotations

import gc
import os

from orlop.errors import Internal
from orlop.linux import process, sockets
from orlop.runtime import errors, hygiene, lifecycle, logfile, monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from orlop.runtime.channel import Channel
    from orlop.runtime.creation import Created
    from orlop.runtime.request import ShimRequest

SOCKET = "attach.sock"


def load() -> None:
    """Load what making a container loads when it is needed: who waits for work does it before there is any."""
    import _blake2  # noqa: F401  # for the name of a compiled filter

    from orlop.linux import devices  # noqa: F401  # for the device rules


class Shim:
    """One container's shim, in its own process."""

    def __init__(self, request: ShimRequest, control: Channel, attach: int, stdio: tuple[int, int, int]) -> None:
        self._request = request
        self._control = control
        self._attach = attach
        self._given_stdio = stdio
        self._outputs: dict[str, int] = {}
        self._stdin = -1
        self._held: list[int] = []
        self._inside: list[int] = []  # the container's ends of the pipes: ours to close once it has them
        self._runtime = None
        if request.runtime:
            from orlop.runtime.external import External  # most containers are our own

            self._runtime = External(request.runtime, request.state_root)

    def run(self) -> NoReturn:
        """Make the container, start it when told, watch it. Never returns."""
        request = self._request
        try:
            self._prepare()
            self._control.send(shim=os.getpid())
            listener = sockets.unix_listen(f"{request.shim_dir}/{SOCKET}")
            created = self._create()
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)
        except Exception as error:  # noqa: BLE001  # nobody above us: it travels to the asker
            self._fail(error, f"container {request.id} cannot be created")
        try:
            self._control.send(created=True)  # from here on there is something to undo
            self._await_start()
            self._start()
            self._control.send(started=True)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._undo()
            os._exit(1)
        except Exception as error:  # noqa: BLE001  # nobody above us: it travels to the asker
            self._undo()
            self._fail(error, f"container {request.id} cannot be started")
        self._control.close()
        gc.enable()  # off while it was made; the watching may be long, if we cannot become small
        monitor.finish(monitor.Monitor(self._state(created, listener.detach())))

    def _fail(self, error: Exception, doing: str) -> NoReturn:
        try:
            self._control.send(**errors.to_fields(error, doing))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)
        finally:
            os._exit(1)

    def _prepare(self) -> None:
        hygiene.new_session()
        process.set_child_subreaper()
        process.set_name("orlop-shim")
        hygiene.default_signals()
        monitor.ignore_signals()
        os.chdir("/")
        os.umask(0o022)
        # not on 0 to 2, which become ours to give away
        self._given_stdio = tuple(hygiene.above_standard(fd) for fd in self._given_stdio)  # type: ignore[assignment]  # still three
        hygiene.null_stdio()
        process.close_fds_except((0, 1, 2, self._control.fd, self._attach, *self._given_stdio))
        os.makedirs(self._request.shim_dir, mode=0o700, exist_ok=True)

    def _warn(self, text: str) -> None:
        self._control.send(warn=text)

    # --- making

    def _create(self) -> Created:
        request = self._request
        logfile.restore(self._log()).close()  # a log that cannot be written is told now, not after the start
        stdio = self._stdio()
        if self._runtime is not None:
            created = self._runtime.create(
                request.bundle,
                request.id,
                root=request.root,
                stdio=stdio,
                terminal=request.terminal,
                folder=request.shim_dir,
            )
            self._tell_namespaces(created.container.pid)
        else:
            created = lifecycle.create(
                request.bundle,
                request.id,
                state_root=request.state_root,
                root=request.root,
                stdio=stdio,
                dies_with_maker=True,
                on_namespaces=self._tell_namespaces,
                warn=self._warn,
            )
        for fd in self._inside:
            os.close(fd)
        if created.terminal >= 0:
            os.set_inheritable(created.terminal, False)
            self._outputs["terminal"] = self._stdin = created.terminal
            if request.console_size != (0, 0):
                from orlop.linux import terminal

                terminal.set_window_size(created.terminal, *request.console_size)
        return created

    def _tell_namespaces(self, pid: int) -> None:
        self._control.send(namespaces=pid, ticks=process.start_ticks(pid))

    def _stdio(self) -> tuple[int, int, int]:
        """The container's standard streams: the asker's own, a terminal's (later), or pipes to us."""
        request = self._request
        if request.inherit_stdio:
            self._inside = [fd for fd in dict.fromkeys(self._given_stdio) if fd >= 0]
            return self._given_stdio
        if request.terminal:
            return (0, 1, 2)
        stdin = 0
        if request.open_stdin:
            stdin, self._stdin = os.pipe2(os.O_CLOEXEC)
            self._inside.append(stdin)
        ends = []
        for name in ("stdout", "stderr"):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self._outputs[name] = reader
            self._inside.append(writer)
            ends.append(writer)
        return (stdin, ends[0], ends[1])

    # --- starting, or not

    def _await_start(self) -> None:
        while True:
            message, fds = self._control.receive()
            if "hold" not in message:
                break
            self._held += fds
        for fd in fds:
            os.close(fd)
        if "start" not in message:
            raise Internal(f"the shim was told {sorted(message)}, not to start")

    def _start(self) -> None:
        if self._runtime is not None:
            self._runtime.start(self._request.id)
        else:
            lifecycle.start(self._request.id, state_root=self._request.state_root, warn=self._warn)

    def _undo(self) -> None:
        if self._runtime is not None:
            self._runtime.delete(self._request.id, force=True)
        else:
            lifecycle.delete(self._request.id, state_root=self._request.state_root, force=True)

    # --- watching

    def _log(self) -> dict[str, Any]:
        request = self._request
        return {
            "path": request.log_path,
            "format": request.log_format if request.log_path else logfile.NONE,
            "max_size": request.log_max_size,
            "max_files": request.log_max_files,
            "partial": {},
            "lost": 0,
        }

    def _state(self, created: Created, listener: int) -> dict[str, Any]:
        request = self._request
        clients = []
        if self._attach >= 0:
            clients.append({"fd": self._attach, "flags": 0, "greeted": False, "unread": b"", "waiting": b""})
        environment = dict(request.environment)
        health = None
        if request.health is not None:
            probe = request.health
            health = {field: getattr(probe, field) for field in probe._fields} | {
                "argv": list(probe.argv),
                "env": environment,
            }
        return monitor.describe(
            container_id=request.id,
            pid=created.container.pid,
            shim_dir=request.shim_dir,
            outputs=self._outputs,
            stdin=self._stdin,
            listener=listener,
            log=self._log(),
            stdin_once=request.stdin_once,
            clients=clients,
            cgroups=list(created.cgroups),
            oom=created.oom,
            delete_argv=self._runtime.delete_argv(request.id) if self._runtime else [],
            exit_argv=list(request.exit_argv),
            environment=environment,
            health=health,
            held=self._held,
        )
