"""A container's life after `create`: start, attach, stop, restart, kill, pause, unpause, wait, rename, rm."""

from __future__ import annotations

import sys

from orlop.cli.command import Command
from orlop.cli.joining import DETACH_KEYS, SIG_PROXY, check_terminal
from orlop.cli.options import Option, UsageError
from orlop.engine.requests import Stdio
from orlop.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.cli.options import Given
    from orlop.cli.session import Session
    from orlop.engine.containers import Containers

_TIME = Option("time", "t", "int", "SECONDS", "Seconds to wait before killing it; -1 waits for ever")
_TIMEOUT = Option("timeout", "", "int", "SECONDS", "The same as --time")
_SIGNAL = Option("signal", "s", "text", "SIGNAL", "Signal to send", default="KILL")


def _timeout(given: Given) -> int | None:
    """None: as the container says."""
    for name in ("time", "timeout"):
        if name in given.named:
            return given.number(name)
    return None


def _start(session: Session, given: Given) -> int:
    attach, interactive = given.flag("attach"), given.flag("interactive")
    containers = session.engine.containers
    if not (attach or interactive):
        return session.each(given.arguments, lambda name: containers.start(name, None, session.reporting()))
    if len(given.arguments) > 1:
        raise UsageError("only one container can be started and attached to at once", exit_code=1)
    name = given.arguments[0]
    config = containers.inspect(name)["Config"]
    stdin = interactive and bool(config["OpenStdin"])
    check_terminal(stdin=stdin, tty=bool(config["Tty"]))
    sys.stdout.flush()
    stdio = Stdio(
        stdin=0 if stdin else -1, detach_keys=given.text("detach-keys"), proxy_signals=given.flag("sig-proxy")
    )
    return containers.start(name, stdio, session.reporting()) or 0  # None: the user has let go


def _attach(session: Session, given: Given) -> int:
    name = given.arguments[0]
    containers = session.engine.containers
    found = containers.inspect(name)
    stdin = bool(found["Config"]["OpenStdin"]) and not given.flag("no-stdin")
    check_terminal(stdin=stdin, tty=bool(found["Config"]["Tty"]))
    sys.stdout.flush()
    stdio = Stdio(
        stdin=0 if stdin else -1, detach_keys=given.text("detach-keys"), proxy_signals=given.flag("sig-proxy")
    )
    return containers.attach(name, stdio) or 0  # None: the user has let go


def _stop(session: Session, given: Given) -> int:
    timeout = _timeout(given)
    return session.each(given.arguments, lambda name: session.engine.containers.stop(name, timeout))


def _restart(session: Session, given: Given) -> int:
    timeout = _timeout(given)
    return session.each(given.arguments, lambda name: session.engine.containers.restart(name, timeout))


def _kill(session: Session, given: Given) -> int:
    signal = given.text("signal")
    return session.each(given.arguments, lambda name: session.engine.containers.kill(name, signal))


def _rm(session: Session, given: Given) -> int:
    force, volumes = given.flag("force"), given.flag("volumes")
    return session.each(
        given.arguments,
        lambda name: session.engine.containers.remove(name, force=force, volumes=volumes),
        forgiven=(NotFound,) if force else (),  # who forces wants it gone, and it is
    )


def _rename(session: Session, given: Given) -> int:
    session.engine.containers.rename(*given.arguments)
    return 0


def _wait(session: Session, given: Given) -> int:
    from orlop.cli.session import tell
    from orlop.errors import OrlopError

    code = 0
    for name in given.arguments:
        try:
            print(session.engine.containers.wait(name), flush=True)
        except OrlopError as error:
            tell(error)
            code = 1
    return code


def _each(verb: Callable[[Containers, str], object]) -> Callable[[Session, Given], int]:
    """A command that does one thing to every container it is given."""
    return lambda session, given: session.each(given.arguments, lambda name: verb(session.engine.containers, name))


START = Command(
    run=_start,
    usage="CONTAINER [CONTAINER...]",
    options=(
        Option("attach", "a", "flag", "", "Show its output, pass signals on, and end with its exit code"),
        DETACH_KEYS,
        Option("interactive", "i", "flag", "", "Join its standard input too"),
        SIG_PROXY,
    ),
    least=1,
    most=None,
    refused=("checkpoint", "checkpoint-dir"),
    complete=("container",),
    examples=(("orlop start -a job", "run it again, and see what it prints"),),
)

ATTACH = Command(
    run=_attach,
    usage="CONTAINER",
    options=(DETACH_KEYS, Option("no-stdin", "", "flag", "", "Do not join its standard input"), SIG_PROXY),
    least=1,
    most=1,
    complete=("running",),
    examples=(("orlop attach shell", "go back to a program; leave it again with ctrl-p ctrl-q"),),
)

STOP = Command(
    run=_stop,
    usage="CONTAINER [CONTAINER...]",
    options=(_TIME, _TIMEOUT),
    least=1,
    most=None,
    refused=("signal", "-s"),
    complete=("running",),
    examples=(("orlop stop -t 30 db", "ask it to end, and kill it if it has not after 30 seconds"),),
)

RESTART = Command(
    run=_restart,
    usage="CONTAINER [CONTAINER...]",
    options=(_TIME, _TIMEOUT),
    least=1,
    most=None,
    refused=("signal", "-s"),
    complete=("container",),
    examples=(("orlop restart web", "stop it and start it again"),),
)

KILL = Command(
    run=_kill,
    usage="CONTAINER [CONTAINER...]",
    options=(_SIGNAL,),
    least=1,
    most=None,
    complete=("running",),
    examples=(("orlop kill -s HUP web", "send it a signal"),),
)

PAUSE = Command(
    run=_each(lambda containers, name: containers.pause(name)),
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    complete=("running",),
    examples=(("orlop pause web", "freeze its processes"),),
)

UNPAUSE = Command(
    run=_each(lambda containers, name: containers.unpause(name)),
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    complete=("running",),
    examples=(("orlop unpause web", "let them go on"),),
)

WAIT = Command(
    run=_wait,
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    complete=("running",),
    examples=(("orlop wait job", "wait for its end and print its exit code"),),
)

RENAME = Command(
    run=_rename,
    usage="CONTAINER NEW_NAME",
    least=2,
    most=2,
    complete=("container", ""),
    examples=(("orlop rename web web-old", "make room for a new one of that name"),),
)

RM = Command(
    run=_rm,
    usage="CONTAINER [CONTAINER...]",
    options=(
        Option("force", "f", "flag", "", "Kill it first if it runs"),
        Option("volumes", "v", "flag", "", "Remove its anonymous volumes too"),
    ),
    least=1,
    most=None,
    refused=("link", "-l"),
    complete=("container",),
    examples=(("orlop rm -f web", "kill and remove it"), ("orlop rm $(orlop ps -aq)", "remove all that do not run")),
)
