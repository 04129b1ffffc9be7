"""`logs`."""

from __future__ import annotations

import sys

from orlop.cli.command import Command
from orlop.cli.options import Option, UsageError
from orlop.engine.requests import Logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.options import Given
    from orlop.cli.session import Session


def _logs(session: Session, given: Given) -> int:
    tail = given.text("tail")
    if tail != "all" and not (tail.lstrip("-").isascii() and tail.lstrip("-").isdigit()):
        raise UsageError(f"-n, --tail is {tail!r}", hint="use a number, or all")
    wanted = Logs(
        container=given.arguments[0],
        follow=given.flag("follow"),
        tail=-1 if tail == "all" else max(-1, int(tail)),
        since=given.text("since"),
        until=given.text("until"),
    )
    stamped = given.flag("timestamps")
    out, err = sys.stdout.buffer, sys.stderr.buffer
    for line in session.engine.containers.logs(wanted):
        stream = err if line.stream == "stderr" else out
        stream.write(line.time.encode() + b" " + line.data if stamped else line.data)
        if stream is err or wanted.follow:
            out.flush()  # what was written first is seen first, and a follower wants to see it now
            err.flush()
    return 0


LOGS = Command(
    run=_logs,
    usage="CONTAINER",
    options=(
        Option("follow", "f", "flag", "", "Go on with what is written from now on, until the container ends"),
        Option("since", "", "text", "TIME", "Only what was written since: 2026-01-31T12:00:00Z, or 10m"),
        Option("tail", "n", "text", "LINES", "Only so many lines from the end", default="all"),
        Option("timestamps", "t", "flag", "", "Show when each line was written"),
        Option("until", "", "text", "TIME", "Only what was written before: 2026-01-31T12:00:00Z, or 10m"),
    ),
    least=1,
    most=1,
    refused=("details",),
    complete=("container",),
    examples=(
        ("orlop logs -f --tail 20 web", "the last lines, and those to come"),
        ("orlop logs --since 1h -t web", "the last hour, with times"),
    ),
)
