"""The commands of `orlop-runtime`: words in; text to print and an exit code out. No printing here."""

from __future__ import annotations

import os
import select

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from orlop.linux import process
from orlop.oci import jsontext
from orlop.runtime import execute, lifecycle
from orlop.runtime import spec as specs
from orlop.runtime import state as states
from orlop.runtime.arguments import Shape
from orlop.runtime.attach import Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from orlop.runtime.arguments import Words

_SIGKILL = 9


class Context:
    """What a command needs of the world: where states are, who is warned, and the descriptors a supervisor passed."""

    __slots__ = ("listen_fds", "print", "state_root", "warn")

    def __init__(
        self, state_root: str, warn: Callable[[str], None], show: Callable[[str], None], listen_fds: int
    ) -> None:
        self.state_root = state_root
        self.warn = warn
        self.print = show
        self.listen_fds = listen_fds


def _bundle(words: Words) -> str:
    return words.one("bundle") or "."


def _make(context: Context, words: Words, **more: Any) -> lifecycle.Created:
    """What `create` and `run` have in common."""
    console = _sender(words.one("console-socket"))
    preserved = words.number("preserve-fds") + context.listen_fds
    environment = (f"LISTEN_FDS={context.listen_fds}", "LISTEN_PID=1") if context.listen_fds else ()
    return lifecycle.create(
        _bundle(words),
        words.operands[0],
        state_root=context.state_root,
        console=console,
        preserve_fds=preserved,
        pivot="no-pivot" not in words.flags,
        pid_file=words.one("pid-file"),
        keyring="no-new-keyring" not in words.flags,
        environment=environment,
        warn=context.warn,
        **more,
    )


def _sender(path: str) -> Callable[[int], None] | None:
    if not path:
        return None
    from orlop.runtime import terminals

    return lambda master: terminals.send(path, master)


def _need_console(context: Context, words: Words, *, detached: bool) -> bool:
    """Whether the bundle wants a terminal; who detaches must say where it goes."""
    wants = bool((specs.load(_bundle(words)).get("process") or {}).get("terminal"))
    if wants and detached and not words.one("console-socket"):
        raise InvalidArgument(
            "a container with a terminal needs --console-socket when nobody stays with it",
            hint="set process.terminal to false, or listen on a socket for the terminal",
        )
    if not wants and words.one("console-socket"):
        raise InvalidArgument("--console-socket is given, but process.terminal is false")
    del context
    return wants


def create(context: Context, words: Words) -> int:
    """Make a container; its program waits for `start`."""
    _need_console(context, words, detached=True)
    _make(context, words)
    return 0


def run(context: Context, words: Words) -> int:
    """Create, start, and (unless detached) wait and delete: the program's exit code."""
    detached = "detach" in words.flags
    terminal = _need_console(context, words, detached=detached)
    if not detached and "no-subreaper" not in words.flags:
        process.set_child_subreaper()
    created = _make(context, words)
    container_id = words.operands[0]
    watch = Signals(not detached, resizes=terminal)  # from now on signals are the container's
    try:
        lifecycle.start(container_id, state_root=context.state_root, warn=context.warn)
        if detached:
            return 0
        code = serve(created.container.pid, created.terminal, watch)
    except BaseException:
        lifecycle.delete(container_id, state_root=context.state_root, force=True, warn=context.warn)
        raise
    finally:
        watch.close()
    if "keep" not in words.flags:
        lifecycle.delete(container_id, state_root=context.state_root, force=True, warn=context.warn)
    return code


def serve(pid: int, terminal: int, watch: Signals) -> int:
    """Stay with our child until it ends, on its terminal (or -1), passing on the signals that we get: its exit code."""
    if terminal >= 0:
        from orlop.runtime import terminals

        terminals.serve(terminal, pid, watch, forward=lambda number: _forward(pid, number))
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(watch.fd, select.POLLIN)
        while pidfd not in dict(poll.poll()):
            for number in watch.taken():
                _forward(pid, number)
    finally:
        os.close(pidfd)
    return execute.exit_code(os.waitpid(pid, 0)[1])


def _forward(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)  # our own child, not reaped yet: the pid is its
    except ProcessLookupError:
        return


def start(context: Context, words: Words) -> int:
    """Let a created container run its program."""
    for container_id in words.operands:
        lifecycle.start(container_id, state_root=context.state_root, warn=context.warn)
    return 0


def state(context: Context, words: Words) -> int:
    """Print a container's state."""
    found = lifecycle.state(words.operands[0], state_root=context.state_root)
    container, path = states.load(context.state_root, words.operands[0])
    more = {"rootfs": container.rootfs, "created": stamp(container.created), "owner": _owner(os.stat(path).st_uid)}
    context.print(_pretty(found | more))
    return 0


def stamp(ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339, UTC."""
    from orlop.runtime.logfile import Stamp

    return Stamp().of(ns).decode()


def _owner(uid: int) -> str:
    if uid == 0:
        return "root"
    import pwd  # the host's own users, and no container is near

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _pretty(value: Any) -> str:
    return jsontext.pretty(value)


def kill(context: Context, words: Words) -> int:
    """Send a signal (TERM unless another is named)."""
    from orlop.linux import signals

    text = words.operands[1] if len(words.operands) > 1 else "TERM"
    number = signals.number_of(text)
    lifecycle.kill(words.operands[0], number, state_root=context.state_root, everyone="all" in words.flags)
    return 0


def delete(context: Context, words: Words) -> int:
    """Remove a container that has stopped."""
    for container_id in words.operands:
        lifecycle.delete(container_id, state_root=context.state_root, force="force" in words.flags, warn=context.warn)
    return 0


def list_all(context: Context, words: Words) -> int:
    """Print all containers."""
    rows = lifecycle.list_containers(state_root=context.state_root)
    if "quiet" in words.flags:
        context.print("".join(f"{row['id']}\n" for row in rows))
        return 0
    for row in rows:
        row["created"], row["owner"] = stamp(row["created"]), _owner(row["owner"])
    if _json(words):
        context.print(jsontext.dumps(rows).decode() + "\n")
        return 0
    table = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    table += [(r["id"], str(r["pid"]), r["status"], r["bundle"], r["created"], r["owner"]) for r in rows]
    context.print(_table(table))
    return 0


def _json(words: Words) -> bool:
    chosen = words.one("format", "table")
    if chosen not in ("json", "table"):
        raise InvalidArgument(f"--format {chosen!r} is not json or table")
    return chosen == "json"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def ps(context: Context, words: Words) -> int:
    """Print a container's processes; words after the id are options for the host's ps."""
    pids = lifecycle.processes(words.operands[0], state_root=context.state_root)
    if _json(words):
        context.print(jsontext.dumps(pids).decode() + "\n")
        return 0
    lines = _ps(words.operands[1:] or ("-ef",)).splitlines()
    columns = lines[0].split() if lines else []
    if "PID" not in columns:
        raise InvalidArgument("these options for ps print no column PID", hint="add pid to the output format")
    at = columns.index("PID")
    wanted = {str(pid) for pid in pids}
    chosen = [line for line in lines[1:] if len(line.split()) > at and line.split()[at] in wanted]
    context.print("\n".join([lines[0], *chosen]) + "\n")
    return 0


def _ps(options: tuple[str, ...]) -> str:
    program = next((path for path in ("/bin/ps", "/usr/bin/ps") if os.access(path, os.X_OK)), "")
    if not program:
        raise NotFound("the host has no ps", hint="use --format json")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
    pid = os.posix_spawn(program, [program, *options], {"PATH": os.defpath}, file_actions=actions)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as output:
        text = output.read()
    if os.waitpid(pid, 0)[1]:
        raise InvalidArgument(f"ps does not take {' '.join(options)}")
    return text


def pause(context: Context, words: Words) -> int:
    """Stop all processes of a container where they are."""
    lifecycle.pause(words.operands[0], state_root=context.state_root)
    return 0


def resume(context: Context, words: Words) -> int:
    """Let paused processes go on."""
    lifecycle.resume(words.operands[0], state_root=context.state_root)
    return 0


def events(context: Context, words: Words) -> int:
    """Print what a container uses: once (--stats), or every --interval until it ends."""
    from orlop.runtime.features import stats_event

    container, _ = states.load(context.state_root, words.operands[0])
    pause_for = _seconds(words.one("interval", "5s"))
    while True:
        used = lifecycle.stats(words.operands[0], state_root=context.state_root)
        context.print(jsontext.dumps(stats_event(container.id, used)).decode() + "\n")
        if "stats" in words.flags or lifecycle.wait(container, pause_for):
            return 0


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit in ("ms", "s", "m", "h"):
        if text.endswith(unit) and text[: -len(unit)].replace(".", "", 1).isdigit():
            return float(text[: -len(unit)]) * units[unit]
    raise InvalidArgument(f"{text!r} is not a duration", hint="e.g. 5s")


def make_spec(context: Context, words: Words) -> int:
    """Write a default config.json into the bundle's folder."""
    path = os.path.join(words.one("bundle") or ".", "config.json")
    made = specs.default_spec(rootless="rootless" in words.flags)
    if "rootless" in words.flags:
        specs.make_rootless(made, os.geteuid(), os.getegid())
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError as error:
        raise FailedPrecondition(
            f"{path} exists already", hint="remove it first, or choose another --bundle"
        ) from error
    with open(fd, "w", encoding="utf-8") as file:
        file.write(_pretty(made) + "\n")
    del context
    return 0


def features(context: Context, words: Words) -> int:
    """Print what this runtime can do."""
    from orlop.runtime.features import features as found

    del words
    context.print(_pretty(found()) + "\n")
    return 0


def checkpoint(context: Context, words: Words) -> int:
    """Checkpoints are not made here."""
    del context, words
    raise Unimplemented("orlop-runtime makes no checkpoints", hint="use a runtime that was built with CRIU")


_NONE: dict[str, str] = {}
_MAKING = {
    "b": "bundle",
    "bundle": "bundle",
    "console-socket": "console-socket",
    "pid-file": "pid-file",
    "preserve-fds": "preserve-fds",
}
_MAKING_FLAGS = {"no-pivot": "no-pivot", "no-new-keyring": "no-new-keyring"}
_FORMAT = {"f": "format", "format": "format"}

SHAPES: dict[str, Shape] = {
    "create": Shape(flags=_MAKING_FLAGS, options=_MAKING, usage="[--bundle FOLDER] ID"),
    "run": Shape(
        flags=_MAKING_FLAGS | {"d": "detach", "detach": "detach", "keep": "keep", "no-subreaper": "no-subreaper"},
        options=_MAKING,
        usage="[--bundle FOLDER] [--detach] ID",
    ),
    "start": Shape(flags=_NONE, options=_NONE, usage="ID"),
    "state": Shape(flags=_NONE, options=_NONE, usage="ID"),
    "kill": Shape(flags={"a": "all", "all": "all"}, options=_NONE, operands=(1, 2), usage="[--all] ID [SIGNAL]"),
    "delete": Shape(flags={"f": "force", "force": "force"}, options=_NONE, usage="[--force] ID"),
    "list": Shape(flags={"q": "quiet", "quiet": "quiet"}, options=_FORMAT, operands=(0, 0), usage="[--quiet]"),
    "ps": Shape(flags=_NONE, options=_FORMAT, operands=(1, -1), usage="[--format json] ID [PS OPTIONS]", stops=True),
    "pause": Shape(flags=_NONE, options=_NONE, usage="ID"),
    "resume": Shape(flags=_NONE, options=_NONE, usage="ID"),
    "events": Shape(flags={"stats": "stats"}, options={"interval": "interval"}, usage="[--stats] ID"),
    "spec": Shape(
        flags={"rootless": "rootless"},
        options={"b": "bundle", "bundle": "bundle"},
        operands=(0, 0),
        usage="[--bundle FOLDER] [--rootless]",
    ),
    "features": Shape(flags=_NONE, options=_NONE, operands=(0, 0), usage="nothing"),
    "checkpoint": Shape(flags=_NONE, options=_NONE, operands=(0, -1)),
    "restore": Shape(flags=_NONE, options=_NONE, operands=(0, -1)),
}
COMMANDS: dict[str, Callable[[Context, Words], int]] = {
    "create": create,
    "run": run,
    "start": start,
    "state": state,
    "kill": kill,
    "delete": delete,
    "list": list_all,
    "ps": ps,
    "pause": pause,
    "resume": resume,
    "events": events,
    "spec": make_spec,
    "features": features,
    "checkpoint": checkpoint,
    "restore": checkpoint,
}


def describe() -> Iterator[str]:
    """One line for each command."""
    for name, shape in SHAPES.items():
        said = (COMMANDS[name].__doc__ or "").partition("\n")[0]
        yield f"  {name} {shape.usage}\n      {said}"
