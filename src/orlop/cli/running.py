"""`run` and `create`."""

from __future__ import annotations

import sys

from orlop.cli.command import Command
from orlop.cli.creating import OPTIONS, REFUSED, attached, request
from orlop.cli.joining import DETACH_KEYS, SIG_PROXY, check_terminal, joined
from orlop.cli.options import Option, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.options import Given
    from orlop.cli.session import Session

_FAILED = 125  # docker's: the failure is not the program's


def _run(session: Session, given: Given) -> int:
    session.starts_one()
    wanted = request(given, session.environ)
    streams = attached(given)
    if given.flag("detach") and streams:
        raise UsageError("--detach and --attach contradict each other", hint="leave out one of them")
    if given.flag("detach"):
        with session.reporting(quiet=given.flag("quiet")) as report:
            ran = session.engine.containers.run(wanted, None, report)
        print(ran.id)
        return 0
    stdin = wanted.interactive and (not streams or "stdin" in streams)
    check_terminal(stdin=stdin, tty=wanted.tty)
    sys.stdout.flush()  # from here on the descriptors are the program's
    stdio = joined(given, stdin=stdin, streams=streams)
    with session.reporting(quiet=given.flag("quiet")) as report:
        ran = session.engine.containers.run(wanted, stdio, report)
    return ran.exit_code or 0


def _create(session: Session, given: Given) -> int:
    wanted = request(given, session.environ)
    with session.reporting(quiet=given.flag("quiet")) as report:
        identifier = session.engine.containers.create(wanted, report)
    print(identifier)
    return 0


RUN = Command(
    run=_run,
    usage="IMAGE [COMMAND] [ARG...]",
    options=(
        *OPTIONS,
        Option("detach", "d", "flag", "", "Run in the background and print the container's id"),
        DETACH_KEYS,
        SIG_PROXY,
    ),
    least=1,
    most=None,
    interspersed=False,
    failure=_FAILED,
    refused=REFUSED,
    complete=("image", "file"),
    examples=(
        ("orlop run --rm -it busybox sh", "a shell in a fresh container that is gone afterwards"),
        ("orlop run -d --name web -p 8080:80 nginx", "a server in the background, on this machine's port 8080"),
        (
            "orlop run --rm -v $PWD:/src -w /src -m 512m --cpus 1.5 python:3.12 python test.py",
            "a script of this folder",
        ),
        ("orlop run --rm -e HTTP_PROXY --env-file .env app", "variables from here and from a file"),
    ),
)

CREATE = Command(
    run=_create,
    usage="IMAGE [COMMAND] [ARG...]",
    options=OPTIONS,
    least=1,
    most=None,
    interspersed=False,
    failure=1,
    refused=REFUSED,
    complete=("image", "file"),
    examples=(("orlop create --name job busybox sleep 60", "a container to `orlop start job` later"),),
)
