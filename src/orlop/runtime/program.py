"""`orlop-runtime`: the runtime as a program with runc's command line, for podman, containerd and others."""

from __future__ import annotations

import os
import stat
import sys
import time

from orlop.errors import InvalidArgument, OrlopError, PermissionDenied, Unimplemented
from orlop.oci import jsontext
from orlop.runtime import commands, errors, execwords
from orlop.runtime.arguments import Shape, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.runtime.arguments import Words

_GLOBAL = Shape(
    flags={
        "debug": "debug",
        "systemd-cgroup": "systemd-cgroup",
        "version": "version",
        "v": "version",
        "help": "help",
        "h": "help",
    },
    options={
        "root": "root",
        "log": "log",
        "log-format": "log-format",
        "rootless": "rootless",
        "cgroup-manager": "cgroup-manager",
    },
)
_SHAPES = commands.SHAPES | {"exec": execwords.EXEC, "update": execwords.UPDATE}
_COMMANDS = commands.COMMANDS | {"exec": execwords.run_exec, "update": execwords.update}


class _Log:
    """Where complaints go: standard error, and the file of --log in its format."""

    def __init__(self, words: Words) -> None:
        self._path = words.one("log")
        self._json = words.one("log-format", "text") == "json"
        if words.one("log-format", "text") not in ("json", "text"):
            raise InvalidArgument(f"--log-format {words.one('log-format')!r} is not json or text")
        self._words = words

    def warn(self, text: str) -> None:
        """Something that a person should know and that stops nothing."""
        self._write("warning", text, also_stderr=not self._path)

    def failed(self, error: OrlopError) -> None:
        """Why the command failed."""
        text = f"{error.message} ({error.hint})" if error.hint else error.message
        self._write("error", text, also_stderr=True)

    def _write(self, level: str, text: str, *, also_stderr: bool) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._path:
            line = jsontext.dumps({"level": level, "msg": text, "time": stamp})
            if not self._json:
                line = f'time="{stamp}" level={level} msg={jsontext.dumps(text).decode()}'.encode()
            try:
                with open(self._path, "ab") as file:
                    file.write(line + b"\n")
            except OSError as failed:
                print(f"orlop-runtime: the log {self._path}: {failed.strerror}", file=sys.stderr)
        if also_stderr:
            print(f"orlop-runtime: {text}", file=sys.stderr)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = sys.argv[1:] if words is None else list(words)
    try:
        given, used = parse("orlop-runtime", words, _GLOBAL, at_command=True)
        log = _Log(given)
    except OrlopError as error:
        print(f"orlop-runtime: {error.message}", file=sys.stderr)
        return 1
    try:
        return _run(given, words[used:], log)
    except OrlopError as error:
        log.failed(error)
        return int(getattr(error, "exit_code", 1))
    except OSError as error:
        log.failed(errors.from_os(error, "the host does not play along"))
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        _flush()


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read has gone: let the interpreter end in peace


def _run(given: Words, words: list[str], log: _Log) -> int:
    if "version" in given.flags:
        print(_version())
        return 0
    if "help" in given.flags or not words or words[0] == "help":
        print(_help())
        return 0
    command = words[0]
    if command not in _COMMANDS:
        raise InvalidArgument(f"there is no command {command!r}", hint="see orlop-runtime --help")
    if "systemd-cgroup" in given.flags or given.one("cgroup-manager") == "systemd":
        raise Unimplemented(
            "orlop-runtime makes cgroups itself and cannot ask systemd for them",
            hint='use the cgroupfs manager (podman: --cgroup-manager cgroupfs; docker: "native.cgroupdriver=cgroupfs")',
        )
    if {"--help", "-h"} & set(words[1:2]):
        print(f"orlop-runtime {command} {_SHAPES[command].usage}\n{_COMMANDS[command].__doc__}")
        return 0
    parsed, _ = parse(command, words[1:], _SHAPES[command])
    context = commands.Context(_state_root(given), log.warn, _show, _listen_fds())
    return _COMMANDS[command](context, parsed)


def _show(text: str) -> None:
    print(text, end="" if not text or text.endswith("\n") else "\n", flush=True)


def _state_root(given: Words) -> str:
    if given.one("root"):
        return os.path.abspath(given.one("root"))
    if os.geteuid() == 0:
        return "/run/orlop-runtime"
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    if not folder:
        folder = f"/tmp/orlop-runtime-{os.geteuid()}"  # noqa: S108  # checked to be ours, whoever made it
        _claim(folder)
    return f"{folder}/orlop-runtime"


def _claim(folder: str) -> None:
    """Make a folder where everybody may make folders; PermissionDenied for one that somebody else may change."""
    try:  # noqa: SIM105  # contextlib is not loaded for every call of a runtime
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass  # judged like a new one
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionDenied(
            f"{folder}, where the states of containers would lie, is not a folder of ours alone",
            hint="set XDG_RUNTIME_DIR, or give --root",
        )


def _listen_fds() -> int:
    """How many descriptors from 3 on a supervisor has passed (sd_listen_fds(3))."""
    text = os.environ.get("LISTEN_FDS", "")
    return int(text) if text.isdecimal() else 0


def _version() -> str:
    from orlop import __version__

    return f"orlop-runtime version {__version__}\nspec: 1.2.0"


def _help() -> str:
    return "\n".join(
        [
            "orlop-runtime [--root FOLDER] [--log FILE] [--log-format json|text] COMMAND ...",
            "",
            *commands.describe(),
            f"  exec {execwords.EXEC.usage}\n      {execwords.run_exec.__doc__}",
            f"  update {execwords.UPDATE.usage}\n      {execwords.update.__doc__}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
