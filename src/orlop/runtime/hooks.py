"""Hooks: programs of the host that run at points of a container's life (config.md, "POSIX-platform Hooks").

Each gets the container's state as JSON on standard input. Who runs them decides in which namespaces they find
themselves: this module only starts a program and waits.
"""

from __future__ import annotations

import os
import select
import time

from orlop.errors import DeadlineExceeded, FailedPrecondition, OrlopError
from orlop.oci import jsontext
from orlop.runtime.executable import DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Spawn = Callable[[str, list[str], dict[str, str], int, int], int]
    """(path, argv, environment, stdin, stderr) -> pid"""

_SAID_LIMIT = 4096


def spawn(path: str, argv: list[str], environment: dict[str, str], stdin: int, stderr: int) -> int:
    """Start a program of the host; its standard output goes where the errors go."""
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stderr, 1), (os.POSIX_SPAWN_DUP2, stderr, 2)]
    return os.posix_spawn(path, argv, environment, file_actions=actions)


def run(kind: str, hooks: Sequence[dict[str, Any]], state: dict[str, Any], *, start: Spawn = spawn) -> None:
    """Run the hooks in order. The first that fails, or outlives its timeout (seconds), raises and ends the row."""
    text = jsontext.dumps(state)
    for hook in hooks:
        _run_one(kind, hook, text, start)


def run_all(kind: str, hooks: Sequence[dict[str, Any]], state: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Run every hook; failures are only warned of (poststart and poststop, as the specification says)."""
    text = jsontext.dumps(state)
    for hook in hooks:
        try:
            _run_one(kind, hook, text, spawn)
        except OrlopError as error:
            warn(error.message)


def _run_one(kind: str, hook: dict[str, Any], text: bytes, start: Spawn) -> None:
    path = hook["path"]
    argv = list(hook.get("args") or [path])
    pairs = [entry.partition("=") for entry in hook.get("env") or [f"PATH={DEFAULT_PATH}"]]
    environment = {name: value for name, _, value in pairs}
    timeout = hook.get("timeout")
    stdin = os.memfd_create("orlop-hook")  # a file, not a pipe: a hook that does not read cannot stop us
    said_read, said_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.write(stdin, text)
        os.lseek(stdin, 0, os.SEEK_SET)
        os.set_blocking(said_write, True)
        try:
            pid = start(path, argv, environment, stdin, said_write)
        except OSError as error:
            raise FailedPrecondition(
                f"{kind} hook {path} cannot be started: {error.strerror}", hint="see hooks in the bundle's config.json"
            ) from error
        os.close(said_write)
        said_write = -1
        status, said = _await(pid, said_read, timeout)
    finally:
        os.close(stdin)
        os.close(said_read)
        if said_write >= 0:
            os.close(said_write)
    words = said.decode("utf-8", "replace").strip()
    if status is None:
        raise DeadlineExceeded(f"{kind} hook {path} did not end within {timeout} seconds")
    if status:
        code = os.waitstatus_to_exitcode(status)
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        raise FailedPrecondition(f"{kind} hook {path} failed with {how}{': ' + words if words else ''}")


def _await(pid: int, said_fd: int, timeout: float | None) -> tuple[int | None, bytes]:
    """Wait for the hook: (wait status, what it said), or (None, ...) after it was killed for its timeout."""
    until = time.monotonic() + timeout if timeout else None
    said = b""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(said_fd, select.POLLIN)
        while True:
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            ready = dict(poll.poll(left))
            if said_fd in ready:
                data = os.read(said_fd, _SAID_LIMIT) if ready[said_fd] & select.POLLIN else b""
                said = (said + data)[:_SAID_LIMIT]
                if not data:
                    poll.unregister(said_fd)
            if pidfd in ready and not ready.get(said_fd, 0) & select.POLLIN:
                return os.waitpid(pid, 0)[1], said
            if not ready:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                return None, said
    finally:
        os.close(pidfd)
