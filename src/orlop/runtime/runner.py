"""The process that starts one program in a running container and waits for it, for somebody who must not fork.

What it says over its control channel: {"running": pid, "ticks": n} with the terminal's master side, if there is
one; then {"exited": code}; or {"error": ...} and its end. The program does not depend on it: it may outlive its
runner.
"""

from __future__ import annotations

import os

from orlop.linux import process
from orlop.runtime import errors, execute, hygiene

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from orlop.runtime.channel import Channel
    from orlop.runtime.request import ExecRequest


def run(request: ExecRequest, control: Channel, stdio: tuple[int, int, int]) -> NoReturn:
    """Start the program, tell, wait for its end, tell. Never returns."""
    try:
        streams = _prepare(control, stdio)
        started = execute.begin(
            request.container_id,
            request.process_object(),
            state_root=request.state_root,
            stdio=streams,
            warn=lambda text: control.send(warn=text),
        )
        for fd in set(streams):
            if fd > 2:
                os.close(fd)
        fds = (started.terminal,) if started.terminal >= 0 else ()
        control.send(fds, running=started.pid, ticks=_ticks(started.pid))
        for fd in fds:
            os.close(fd)
        code = execute.wait(started.pid, request.timeout or None)
        control.send(exited=code)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the asker is gone: nobody wants to know
    except Exception as error:  # noqa: BLE001  # nobody above us: it travels to the asker
        control.send(**errors.to_fields(error, f"nothing can be executed in container {request.container_id}"))
    finally:
        os._exit(0)


def _ticks(pid: int) -> int:
    return process.start_ticks(pid)  # our own child: at worst a zombie, which still has them


def _prepare(control: Channel, stdio: tuple[int, int, int]) -> tuple[int, int, int]:
    """Let go of everything of the asker's but the streams, which leave the numbers 0 to 2."""
    hygiene.new_session()
    process.set_name("orlop-exec")
    hygiene.default_signals()
    os.chdir("/")
    first, second, third = (hygiene.above_standard(fd) for fd in stdio)
    hygiene.null_stdio()
    process.close_fds_except((0, 1, 2, control.fd, first, second, third))
    return (max(first, 0), 1 if second < 0 else second, 2 if third < 0 else third)
