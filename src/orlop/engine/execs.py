"""Another program in a running container."""

from __future__ import annotations

import os
import select
import sys

from orlop.engine import journal, specs, status
from orlop.errors import FailedPrecondition, NotFound, Unimplemented
from orlop.linux import safepath, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.engine.requests import Exec, Stdio
    from orlop.engine.status import Status
    from orlop.runtime.request import ExecRequest
    from orlop.store.containers import ContainerRecord


def process(engine: Engine, record: ContainerRecord, now: Status, request: Exec) -> dict[str, Any]:
    """The runtime-spec process object: the container's own, with the program, user and environment asked for."""
    kept = status.read_json(f"{status.run_dir(engine.root, record.id)}/bundle/config.json")
    if kept is None:
        raise NotFound(f"the bundle of container {record.name} is gone", hint="restart the container")
    base: dict[str, Any] = kept["process"]
    user = record.config["user"] if request.user is None else request.user
    identity = _identity(now.pid, user)
    groups = [] if request.user is not None else base["user"].get("additionalGids") or []
    if engine.settings.uid and users.single_id():
        from orlop.engine import oneid

        identity, _ = oneid.only_user(identity)
        groups = []
    config = record.config | ({"privileged": True} if request.privileged else {})
    env = [one for one in base["env"] if not one.startswith("HOME=") or one in record.config["env"]]
    for entry in request.env:
        name = entry.partition("=")[0]
        env = [one for one in env if one.partition("=")[0] != name] + [entry]
    if not any(one.startswith("HOME=") for one in env):
        env.append(f"HOME={identity.home or '/'}")
    if request.tty and not any(one.startswith("TERM=") for one in env):
        env.append("TERM=xterm")
    return base | {
        "terminal": request.tty,
        "args": list(request.command),
        "env": env,
        "cwd": request.workdir or record.config["cwd"],
        "user": specs.user(identity, groups),
        "capabilities": specs.capability_sets(config, identity),
    }


def _identity(pid: int, user: str) -> users.Identity:
    """Who that is, by the files of the container as they are now."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return users.lookup(
            user, safepath.read_in_root(root, "etc/passwd", 1 << 20), safepath.read_in_root(root, "etc/group", 1 << 20)
        )
    finally:
        os.close(root)


def execute(engine: Engine, request: Exec, stdio: Stdio | None) -> int:
    """Run the program; its exit code, or 0 at once when it is detached."""
    record = engine.containers.record(request.container)
    now = running(engine, record)
    given = process(engine, record, now, request)
    note(engine, record, request)
    if request.detach or stdio is None:
        return _detached(engine, record, given)
    program = record.config["runtime"] or engine.settings.runtime
    if program and program != "orlop":
        return by_program(engine, record, program, given, stdio)
    from orlop.linux.process import thread_count

    if thread_count() != 1:
        return _spawned(engine, record, given, stdio)
    return _forked(engine, record, given, stdio)


def _argv(engine: Engine, record: ContainerRecord, program: str, given: dict[str, Any], *more: str) -> list[str]:
    """The command line of a runtime's `exec`, with the process object in a file."""
    run = status.run_dir(engine.root, record.id)
    path = f"{run}/exec-{os.urandom(8).hex()}.json"
    status.write_json(path, given)
    if program and program != "orlop":
        base = [program, "--root", f"{engine.root.run_path}/runtime/@{os.path.basename(program)}"]  # as External does
    else:
        # -P: the folder that we were called in may be somebody's checkout, full of modules
        base = [sys.executable, "-P", "-m", "orlop.runtime.program", "--root", f"{engine.root.run_path}/runtime"]
    return [*base, "exec", *more, "--process", path, record.id]


def _detached(engine: Engine, record: ContainerRecord, given: dict[str, Any]) -> int:
    """The shim starts it, so that it has a parent when we are gone."""
    from orlop.runtime.attach import request_program

    program = record.config["runtime"] or engine.settings.runtime
    argv = _argv(engine, record, program, given, "--detach")
    try:
        if "/" not in argv[0]:
            argv[0] = _found(engine, argv[0])
        runtime = request_program(status.run_dir(engine.root, record.id), os.urandom(8).hex(), argv)
        _await_end(runtime)  # the runtime ends when the program is executed
    finally:
        os.unlink(argv[argv.index("--process") + 1])  # it holds the environment, secrets too
    return 0


def _await_end(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([fd], [], [])
    finally:
        os.close(fd)


def _found(engine: Engine, program: str) -> str:
    for folder in dict(engine.settings.environ).get("PATH", "").split(":"):
        if folder and os.access(f"{folder}/{program}", os.X_OK):
            return f"{folder}/{program}"
    raise NotFound(f"the runtime {program} is not installed")


def _forked(engine: Engine, record: ContainerRecord, given: dict[str, Any], stdio: Stdio) -> int:
    """A child in a session of its own starts it and waits for it, and we wait for that one.

    A PID namespace ends when all who were in it are reaped. We may be stopped from the keyboard, or stand still at an
    output that nobody reads: were the program our own child, the container could not be stopped meanwhile.
    """
    from orlop.runtime.spawner import DirectSpawner

    spawner = DirectSpawner(engine.disconnect)
    if given["terminal"]:
        from orlop.engine import terminals

        code = terminals.execute(lambda sized: spawner.execute(_request(engine, record, sized)), given, stdio)
        if code is None:
            return 0  # the user has left, the program goes on
    else:
        with spawner.execute(_request(engine, record, given), stdio=_streams(stdio)) as handle:
            code = handle.wait()
    spawner.settle()
    return code


def _request(engine: Engine, record: ContainerRecord, given: dict[str, Any]) -> ExecRequest:
    from orlop.oci import jsontext
    from orlop.runtime.request import ExecRequest

    return ExecRequest(
        container_id=record.id, state_root=f"{engine.root.run_path}/runtime", process=jsontext.dumps(given)
    )


def _streams(stdio: Stdio) -> tuple[int, int, int]:
    return (stdio.stdin, stdio.stdout, stdio.stderr)


def _spawned(engine: Engine, record: ContainerRecord, given: dict[str, Any], stdio: Stdio) -> int:
    """In a program with threads, the spawner's process starts it."""
    if given["terminal"]:
        raise Unimplemented(
            "a program with threads cannot serve a terminal here", hint="exec without tty, or from the command line"
        )
    with engine.spawner.execute(_request(engine, record, given), stdio=_streams(stdio)) as handle:
        return handle.wait()


def by_program(
    engine: Engine, record: ContainerRecord, program: str, given: dict[str, Any], stdio: Stdio | None = None
) -> int:
    """A fresh process of the runtime does it, with the caller's standard streams."""
    argv = _argv(engine, record, program, given)
    path = argv[0] if "/" in argv[0] else _found(engine, argv[0])
    actions: list[tuple[Any, ...]] = []
    for number, fd in enumerate((stdio.stdin, stdio.stdout, stdio.stderr) if stdio else (0, 1, 2)):
        if fd < 0:
            actions.append((os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0))
        elif fd != number:
            actions.append((os.POSIX_SPAWN_DUP2, fd, number))
    try:
        pid = os.posix_spawn(path, argv, dict(engine.settings.environ), file_actions=actions)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.unlink(argv[argv.index("--process") + 1])


def running(engine: Engine, record: ContainerRecord) -> Status:
    """The container's state; FailedPrecondition unless it runs and is not paused."""
    now = status.status_of(engine.root, record)
    status.require_running(now, record.name, "execute in")
    if now.word == "paused":
        raise FailedPrecondition(f"container {record.name} is paused", hint=f"orlop unpause {record.name}")
    return now


def note(engine: Engine, record: ContainerRecord, request: Exec) -> None:
    """Tell the journal."""
    journal.record(
        engine.root, "container", "exec_start", record.id, {"name": record.name, "command": " ".join(request.command)}
    )
