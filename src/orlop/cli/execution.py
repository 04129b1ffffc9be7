"""`exec`."""

from __future__ import annotations

import sys

from orlop.cli.command import Command
from orlop.cli.joining import DETACH_KEYS, check_terminal
from orlop.cli.options import Option
from orlop.cli.variables import from_files_and_options
from orlop.engine.requests import Exec, Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.options import Given
    from orlop.cli.session import Session


def _exec(session: Session, given: Given) -> int:
    container, *command = given.arguments
    env, _ = from_files_and_options(given.list("env-file"), given.list("env"), session.environ)
    wanted = Exec(
        container=container,
        command=tuple(command),
        env=env,
        workdir=given.maybe("workdir"),
        user=given.maybe("user"),
        tty=given.flag("tty"),
        detach=given.flag("detach"),
        privileged=given.flag("privileged"),
    )
    if wanted.detach:
        return session.engine.containers.exec(wanted, None)
    interactive = given.flag("interactive")
    check_terminal(stdin=interactive, tty=wanted.tty)
    sys.stdout.flush()  # from here on the descriptors are the program's
    stdio = Stdio(stdin=0 if interactive else -1, detach_keys=given.text("detach-keys"), proxy_signals=False)
    return session.engine.containers.exec(wanted, stdio)


EXEC = Command(
    run=_exec,
    usage="CONTAINER COMMAND [ARG...]",
    options=(
        Option("detach", "d", "flag", "", "Run in the background"),
        DETACH_KEYS,
        Option("env", "e", "list", "NAME[=VALUE]", "Set an environment variable; without a value: as it is here"),
        Option("env-file", "", "list", "FILE", "Read environment variables from a file", complete="file"),
        Option("interactive", "i", "flag", "", "Keep standard input open"),
        Option("privileged", "", "flag", "", "Give the program all capabilities"),
        Option("tty", "t", "flag", "", "Give the program a terminal"),
        Option("user", "u", "text", "USER[:GROUP]", "User and group, as names or ids"),
        Option("workdir", "w", "text", "DIR", "Working directory of the program"),
    ),
    least=2,
    most=None,
    interspersed=False,
    failure=125,
    complete=("running", "file"),
    examples=(
        ("orlop exec -it web sh", "a shell in a running container"),
        ("orlop exec -u postgres db psql -c 'select 1'", "a program as another user"),
    ),
)
