"""`stats`."""

from __future__ import annotations

import sys
import time

from orlop.cli import units
from orlop.cli.command import Command
from orlop.cli.listoptions import FORMAT, NO_TRUNC
from orlop.cli.options import Option
from orlop.cli.tables import Table, render
from orlop.engine.requests import ListContainers
from orlop.errors import FailedPrecondition, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.cli.options import Given
    from orlop.cli.session import Session
    from orlop.engine.requests import Stats

_EVERY = 1.0  # seconds between two pictures; docker's

ROWS = Table(
    {
        "Container": "CONTAINER",
        "ID": "CONTAINER ID",
        "Name": "NAME",
        "CPUPerc": "CPU %",
        "MemUsage": "MEM USAGE / LIMIT",
        "MemPerc": "MEM %",
        "NetIO": "NET I/O",
        "BlockIO": "BLOCK I/O",
        "PIDs": "PIDS",
    },
    ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"),
)


def stats_row(sample: Stats, *, whole: bool) -> dict[str, Any]:
    """One sample as the fields of docker's `stats` templates."""
    identifier = sample.id if whole else sample.id[:12]
    return {
        "Container": identifier,
        "ID": identifier,
        "Name": sample.name,
        "CPUPerc": f"{sample.cpu_percent:.2f}%",
        "MemUsage": f"{units.human_memory(sample.memory_usage)} / {units.human_memory(sample.memory_limit)}",
        "MemPerc": f"{sample.memory_percent:.2f}%",
        "NetIO": f"{units.human_size(sample.network_rx, 3)} / {units.human_size(sample.network_tx, 3)}",
        "BlockIO": f"{units.human_size(sample.block_read, 3)} / {units.human_size(sample.block_write, 3)}",
        "PIDs": str(sample.pids),
    }


def idle_row(identifier: str, name: str) -> dict[str, Any]:
    """A container that does not run: docker shows dashes for what cannot be measured."""
    pair = "-- / --"
    return dict(zip(ROWS.titles, (identifier, identifier, name, "--", pair, "--", pair, pair, "--"), strict=True))


def _picture(session: Session, given: Given) -> list[dict[str, Any]]:
    """One row for each container that was named, or for each that runs."""
    containers = session.engine.containers
    whole = given.flag("no-trunc")
    if given.arguments:
        return [stats_row(containers.stats(name), whole=whole) for name in given.arguments]
    rows = []
    for one in containers.list(ListContainers(all=given.flag("all"))):
        if one.state not in {"running", "paused"}:
            rows.append(idle_row(one.id if whole else one.id[:12], one.names[0]))
            continue
        try:
            rows.append(stats_row(containers.stats(one.id), whole=whole))
        except (NotFound, FailedPrecondition):
            continue  # it ended between the list and the look
    return rows


def _stats(session: Session, given: Given) -> int:
    template = given.text("format")
    if given.flag("no-stream"):
        print(render(ROWS, _picture(session, given), template), end="")
        return 0
    terminal = sys.stdout.isatty() and session.environ.get("TERM") != "dumb"
    while True:
        picture = render(ROWS, _picture(session, given), template)
        if terminal:
            # from the top, each line's rest blanked, and everything below the last line: no flicker
            print("\x1b[H" + picture.replace("\n", "\x1b[K\n") + "\x1b[J", end="", flush=True)
        else:
            print(picture, end="", flush=True)
        time.sleep(_EVERY)


STATS = Command(
    run=_stats,
    usage="[CONTAINER...]",
    options=(
        Option("all", "a", "flag", "", "Show all containers, not only running ones"),
        FORMAT,
        Option("no-stream", "", "flag", "", "Show one picture and end"),
        NO_TRUNC,
    ),
    most=None,
    complete=("running",),
    examples=(
        ("orlop stats", "what all running containers use, until ^C"),
        ("orlop stats --no-stream --format '{{.Name}}: {{.MemUsage}}'", "their memory, once"),
    ),
)
