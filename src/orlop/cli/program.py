"""The process `orlop`: global options, which command, its errors as exit codes.

Only what the command needs is imported: a start that imported every command would take twice as long as `run` may.
"""

from __future__ import annotations

import os
import sys

from orlop.cli.options import Option, UsageError, parse
from orlop.cli.session import Session, tell
from orlop.errors import OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.cli.command import Command
    from orlop.engine.core import Engine
    from orlop.engine.settings import Settings

GLOBAL_OPTIONS = (
    Option("root", "", "text", "DIR", "Where images, containers and volumes are kept", complete="dir"),
    Option("run-root", "", "text", "DIR", "Where what dies at boot is kept", complete="dir"),
    Option("namespace", "", "text", "NAME", "Whose containers and images: a world of names of its own"),
    Option("debug", "D", "flag", "", "Show where an unexpected error comes from"),
    Option("version", "v", "flag", "", "Print the version and quit"),
)

_INTERRUPTED = 130  # 128 + SIGINT, what a shell says of a program that ^C ended
_NO_READER = 141  # 128 + SIGPIPE


def run_process() -> int:
    """Run this process' command line. Descriptors 0 to 2 are open afterwards, whatever they were before."""
    _open_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        # names in images and paths are bytes: they go out as they came in, whatever the locale says
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    code = _flushed(run(sys.argv[1:], os.environ, ending=True))
    try:
        sys.stderr.flush()
    except OSError:
        return code or 1
    return code


def _open_standard_descriptors() -> None:
    """Without this, the first file that orlop opens would become its standard output."""
    missing = []
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            missing.append(descriptor)
    for descriptor in missing:
        opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this very descriptor
        os.set_inheritable(opened, True)
        for name in ("stdin", "stdout", "stderr")[descriptor : descriptor + 1]:
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, os.fdopen(opened, mode, encoding="utf-8", closefd=False))


def _flushed(code: int) -> int:
    """What was printed must have arrived before the command may claim success."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return _NO_READER
    except OSError as error:
        print(f"orlop: cannot write to standard output: {error.strerror}", file=sys.stderr)
        _discard_output()
        return code or 1
    return code


def _discard_output() -> None:
    """Let the interpreter's own flush at exit find nothing to fail on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def run(
    words: Sequence[str],
    environ: Mapping[str, str],
    *,
    engine: Callable[[Settings], Engine] | None = None,
    ending: bool = False,
) -> int:
    """Run one command line (without the program's name); returns its exit code.

    `engine` makes another engine. `ending`: the process ends with this command, so that the kernel may tidy up.
    """
    failure = 1
    session = Session(environ)
    try:
        given = parse(GLOBAL_OPTIONS, words, interspersed=False)
        session = Session(
            environ,
            root=given.text("root"),
            run_root=given.text("run-root"),
            namespace=given.text("namespace"),
            debug=given.flag("debug"),
            engine=engine,
            ending=ending,
        )
        from orlop.cli import commands

        arguments = given.arguments
        if arguments[:1] == ["help"]:
            arguments = [*arguments[1:], "--help"]
        path, rest = commands.resolve(arguments)
        if given.flag("version") and not path:
            path = "version --short"
        if "help" in given.named or path not in commands.TABLE:
            return _without_command(path, rest)
        command = commands.load(path)
        failure = command.failure
        return _run_command(session, path, command, rest)
    except OrlopError as error:
        if session.debug:
            _traceback()
        tell(error)
        return int(getattr(error, "exit_code", None) or failure)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError as error:
        if _someone_reads():
            return _unexpected(session, error, failure)
        _discard_output()
        return _NO_READER
    except OSError as error:
        if session.debug:
            _traceback()
        where = f"{error.filename}: " if error.filename else ""
        tell(OrlopError(f"{where}{error.strerror or error}"))
        return failure
    except Exception as error:  # noqa: BLE001  # the last one to hear of a defect: it is told, never swallowed
        return _unexpected(session, error, failure)
    finally:
        session.close()


def _run_command(session: Session, path: str, command: Command, words: Sequence[str]) -> int:
    given = parse(command.options, words, interspersed=command.interspersed, refused=command.refused)
    if "help" in given.named:
        from orlop.cli.help import command_help

        print(command_help(path, command), end="")
        return 0
    command.check(path, given)
    return command.run(session, given)


def _without_command(path: str, rest: Sequence[str]) -> int:
    """`orlop`, `orlop GROUP`, `orlop --help COMMAND`, and words that are no command."""
    from orlop.cli import commands
    from orlop.cli.help import command_help, group_help, version_line

    if path == "version --short":
        print(version_line())
        return 0
    if path in commands.TABLE:
        print(command_help(path, commands.load(path)), end="")
        return 0
    unknown = [word for word in rest if not word.startswith("-")]
    if not unknown:
        print(group_help(path), end="")
        return 0
    from orlop.cli.suggestions import WAYS_ROUND, did_you_mean

    way = WAYS_ROUND.get(f"{path} {unknown[0]}".strip().removeprefix("container ").removeprefix("image "))
    if way:
        raise UsageError(f"docker's {unknown[0]} is not there yet", hint=way, exit_code=1)
    prefix = f"{path} " if path else ""
    known = [one.removeprefix(prefix) for one in commands.visible() if one.startswith(prefix)]
    meant = did_you_mean(unknown[0], [one for one in known if " " not in one])
    raise UsageError(
        f"there is no command orlop {prefix}{unknown[0]}",
        hint=f"did you mean orlop {prefix}{meant}?" if meant else f"see orlop {prefix}--help",
        exit_code=1,
    )


def _unexpected(session: Session, error: BaseException, failure: int) -> int:
    """A defect of orlop's own: short for everybody, the whole story for who asks."""
    if session.debug:
        _traceback()
    tell(
        OrlopError(
            f"internal error: {type(error).__name__}: {error}",
            hint="this is a defect of orlop: please report it with what `orlop --debug ...` and `orlop doctor` print",
        )
    )
    return failure


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _someone_reads() -> bool:
    """Whether standard output still has a reader: a broken pipe elsewhere is another matter."""
    import select

    poll = select.poll()
    poll.register(1, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))
