"""The `exec` and `update` commands of `orlop-runtime`: their many options as process objects and resources."""

from __future__ import annotations

from orlop.errors import InvalidArgument, NotFound
from orlop.oci import jsontext
from orlop.runtime import execute, lifecycle
from orlop.runtime import state as states
from orlop.runtime.arguments import Shape
from orlop.runtime.attach import Signals
from orlop.runtime.commands import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.runtime.arguments import Words
    from orlop.runtime.commands import Context

_LIMIT = 8 << 20

EXEC = Shape(
    flags={
        "t": "tty",
        "tty": "tty",
        "d": "detach",
        "detach": "detach",
        "no-new-privs": "no-new-privs",
        "ignore-paused": "ignore-paused",
        "no-subreaper": "no-subreaper",
    },
    options={
        "console-socket": "console-socket",
        "cwd": "cwd",
        "e": "env",
        "env": "env",
        "u": "user",
        "user": "user",
        "g": "additional-gids",
        "additional-gids": "additional-gids",
        "p": "process",
        "process": "process",
        "pid-file": "pid-file",
        "process-label": "process-label",
        "apparmor": "apparmor",
        "c": "cap",
        "cap": "cap",
        "preserve-fds": "preserve-fds",
        "cgroup": "cgroup",
    },
    operands=(1, -1),
    usage="[OPTIONS] ID COMMAND [ARGUMENTS]  or  --process FILE ID",
    stops=True,
)

# option: (part of the resources, name in it, factor for numbers or 0 for text)
_UPDATES = {
    "blkio-weight": ("blockIO", "weight", 1),
    "cpu-period": ("cpu", "period", 1),
    "cpu-quota": ("cpu", "quota", 1),
    "cpu-burst": ("cpu", "burst", 1),
    "cpu-share": ("cpu", "shares", 1),
    "cpu-rt-period": ("cpu", "realtimePeriod", 1),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime", 1),
    "cpu-idle": ("cpu", "idle", 1),
    "cpuset-cpus": ("cpu", "cpus", 0),
    "cpuset-mems": ("cpu", "mems", 0),
    "memory": ("memory", "limit", 1),
    "memory-reservation": ("memory", "reservation", 1),
    "memory-swap": ("memory", "swap", 1),
    "kernel-memory": ("memory", "kernel", 1),
    "kernel-memory-tcp": ("memory", "kernelTCP", 1),
    "pids-limit": ("pids", "limit", 1),
}
_SUFFIXES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

UPDATE = Shape(
    flags={},
    options={"r": "resources", "resources": "resources"} | {name: name for name in _UPDATES},
    usage="[--resources FILE] [LIMITS] ID",
)


def run_exec(context: Context, words: Words) -> int:
    """Run another program in a running container."""
    container_id = words.operands[0]
    given = process_object(context.state_root, words)
    console = None
    if given.get("terminal") and words.one("console-socket"):
        from orlop.runtime import terminals

        path = words.one("console-socket")
        console = lambda master: terminals.send(path, master)  # noqa: E731  # a closure, no function of its own
    elif given.get("terminal") and "detach" in words.flags:
        raise InvalidArgument("a program with a terminal needs --console-socket when nobody stays with it")
    detached = "detach" in words.flags
    watch = Signals(not detached, resizes=bool(given.get("terminal")))  # from now on signals are the program's
    try:
        started = execute.begin(
            container_id,
            given,
            state_root=context.state_root,
            preserve_fds=words.number("preserve-fds"),
            console=console,
            pid_file=words.one("pid-file"),
            cgroup=words.one("cgroup").strip("/"),
            ignore_paused="ignore-paused" in words.flags,
            warn=context.warn,
        )
        return 0 if detached else serve(started.pid, started.terminal, watch)
    finally:
        watch.close()


def process_object(state_root: str, words: Words) -> dict[str, Any]:
    """The process to execute: the one in --process, or the container's own changed by the options."""
    if words.one("process"):
        if len(words.operands) > 1:
            raise InvalidArgument("exec takes either --process or a command, not both")
        return _read_object(words.one("process"), "the process file")
    if len(words.operands) < 2:
        raise InvalidArgument("exec needs a command", hint=EXEC.usage)
    _, path = states.load(state_root, words.operands[0])
    try:
        given: dict[str, Any] = states.config(path).get("process") or {"cwd": "/"}
    except FileNotFoundError as error:
        raise NotFound(f"container {words.operands[0]} is not complete") from error
    given = dict(given) | {"args": list(words.operands[1:]), "terminal": "tty" in words.flags}
    given.pop("consoleSize", None)
    if words.one("cwd"):
        given["cwd"] = words.one("cwd")
    if words.options.get("env"):
        given["env"] = [*(given.get("env") or ()), *words.options["env"]]
    if words.one("user") or words.options.get("additional-gids"):
        given["user"] = _user(given.get("user") or {}, words)
    if words.options.get("cap"):
        given["capabilities"] = _more(given.get("capabilities") or {}, words.options["cap"])
    if "no-new-privs" in words.flags:
        given["noNewPrivileges"] = True
    if words.one("apparmor"):
        given["apparmorProfile"] = words.one("apparmor")
    if words.one("process-label"):
        given["selinuxLabel"] = words.one("process-label")
    return given


def _user(now: dict[str, Any], words: Words) -> dict[str, Any]:
    found = dict(now)
    if words.one("user"):
        uid, colon, gid = words.one("user").partition(":")
        if not uid.isdecimal() or (colon and not gid.isdecimal()):
            raise InvalidArgument(f"--user {words.one('user')!r} is not UID or UID:GID", hint="names mean nothing here")
        found = {"uid": int(uid), "gid": int(gid) if colon else found.get("gid") or 0}
    groups = words.options.get("additional-gids") or ()
    if not all(group.isdecimal() for group in groups):
        raise InvalidArgument(f"--additional-gids {' '.join(groups)!r} are not numbers")
    if groups:
        found["additionalGids"] = [*(found.get("additionalGids") or ()), *(int(group) for group in groups)]
    return found


def _more(now: dict[str, list[str]], names: tuple[str, ...]) -> dict[str, list[str]]:
    """The capability sets with `names` added, as runc adds them (not to the inheritable and ambient ones)."""
    added = [name if name.startswith("CAP_") else f"CAP_{name}" for name in (one.upper() for one in names)]
    found = dict(now)
    for kind in ("bounding", "effective", "permitted"):
        found[kind] = list(dict.fromkeys([*(now.get(kind) or ()), *added]))
    return found


def _read_object(path: str, what: str) -> dict[str, Any]:
    """A JSON object from a file, "-" for standard input."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            return jsontext.load_object(file.read(_LIMIT + 1), what=what, limit=_LIMIT)
    except FileNotFoundError as error:
        raise NotFound(f"{what} {path} does not exist") from error


def update(context: Context, words: Words) -> int:
    """Change the limits of a living container."""
    resources = _read_object(words.one("resources"), "the resources file") if words.one("resources") else {}
    for option, (part, name, factor) in _UPDATES.items():
        text = words.one(option)
        if text:
            resources.setdefault(part, {})[name] = number_of(option, text) if factor else text
    if not resources:
        raise InvalidArgument("update needs something to change", hint=UPDATE.usage)
    for said in lifecycle.update(words.operands[0], resources, state_root=context.state_root):
        context.warn(said)
    return 0


def number_of(option: str, text: str) -> int:
    """A number with an optional suffix for bytes ("64m"), or -1 for no limit."""
    lowered = text.lower()
    if lowered in ("-1", "max", "unlimited"):
        return -1
    digits = lowered.rstrip("bkmgt")
    suffix = lowered[len(digits) :].rstrip("b") or ""
    if not digits.isdecimal() or suffix not in _SUFFIXES:
        raise InvalidArgument(f"--{option} {text!r} is not a number", hint="e.g. 512m, or -1 for no limit")
    return int(digits) * _SUFFIXES[suffix]
