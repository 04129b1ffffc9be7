"""`ps`, `port` and `top`."""

from __future__ import annotations

import time

from orlop.cli import units
from orlop.cli.command import Command
from orlop.cli.golang import quoted
from orlop.cli.listoptions import FILTER, FORMAT, NO_TRUNC, filters, label_of, labels_text
from orlop.cli.options import Option
from orlop.cli.session import display
from orlop.cli.tables import Table, aligned, show
from orlop.engine.requests import ListContainers
from orlop.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.cli.options import Given
    from orlop.cli.session import Session
    from orlop.engine.requests import ContainerSummary

CONTAINERS = Table(
    {
        "ID": "CONTAINER ID",
        "Names": "NAMES",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "CreatedAt": "CREATED AT",
        "RunningFor": "CREATED",
        "Ports": "PORTS",
        "State": "STATE",
        "Status": "STATUS",
        "Size": "SIZE",
        "Labels": "LABELS",
        "Mounts": "MOUNTS",
        "LocalVolumes": "LOCAL VOLUMES",
        "Networks": "NETWORKS",
    },
    ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"),
    quiet="ID",
)


def container_row(row: ContainerSummary, now: float, *, whole: bool) -> dict[str, Any]:
    """One container as the fields of docker's `ps` templates; `whole` cuts nothing."""
    size = ""
    if row.size_rw >= 0:
        size = f"{units.human_size(row.size_rw, 3)} (virtual {units.human_size(row.size_root + row.size_rw, 3)})"
    mounts = [mount if whole else units.ellipsis(mount, 15) for mount in row.mounts]
    return {
        "ID": row.id if whole else row.id[:12],
        "Names": ",".join(row.names),
        "Image": row.image if whole else _short_image(row.image),
        "Command": quoted(row.command if whole else units.ellipsis(row.command, 20)),
        "CreatedAt": units.local_time(row.created),
        "RunningFor": units.since(row.created, now),
        "Ports": ", ".join(row.ports),
        "State": row.state,
        "Status": row.status,
        "Size": size or "0B",
        "Labels": labels_text(row.labels),
        "Label": label_of(row.labels),
        "Mounts": ",".join(mounts),
        "LocalVolumes": str(row.local_volumes),
        "Networks": ",".join(row.networks),
    }


def _short_image(image: str) -> str:
    """An image's name without a digest that nobody can read."""
    if image.startswith("sha256:"):
        return units.short_id(image)
    name, at, _ = image.partition("@")
    return name if at else image


def _ps(session: Session, given: Given) -> int:
    last = 1 if given.flag("latest") else given.number("last")
    template = given.text("format")
    sized = given.flag("size") or ".Size" in template
    wanted = ListContainers(all=given.flag("all"), last=last, size=sized, filters=filters(given.list("filter")))
    now = time.time()
    rows = [container_row(row, now, whole=given.flag("no-trunc")) for row in session.engine.containers.list(wanted)]
    table = CONTAINERS
    if given.flag("size"):
        table = Table(CONTAINERS.titles, (*CONTAINERS.columns, "Size"), quiet="ID")
    show(table, rows, given)
    return 0


def _port(session: Session, given: Given) -> int:
    name = given.arguments[0]
    ports = session.engine.containers.ports(name)
    if len(given.arguments) == 1:
        print("".join(f"{port}\n" for port in ports), end="")
        return 0
    asked = given.arguments[1]
    wanted = asked if "/" in asked else f"{asked}/tcp"
    found = [host for port in ports for inside, _, host in [port.partition(" -> ")] if inside == wanted]
    if not found:
        raise NotFound(f"port {wanted} of container {name} is not published", hint=f"see what is: orlop port {name}")
    print("\n".join(found))
    return 0


def _top(session: Session, given: Given) -> int:
    name, *options = given.arguments
    rows = session.engine.containers.top(name, options)
    if not rows:
        return 0
    columns = list(rows[0])
    cells = [[str(row[column]) for column in columns] for row in rows]
    display(aligned([columns, *cells]))
    return 0


PS = Command(
    run=_ps,
    options=(
        Option("all", "a", "flag", "", "Show all containers, not only running ones"),
        FILTER,
        FORMAT,
        Option("last", "n", "int", "N", "Show the last N created containers, in any state", default=-1),
        Option("latest", "l", "flag", "", "Show the latest created container, in any state"),
        NO_TRUNC,
        Option("quiet", "q", "flag", "", "Show only ids"),
        Option("size", "s", "flag", "", "Show sizes"),
    ),
    examples=(
        ("orlop ps -a", "all containers, also those that ended"),
        ("orlop ps --filter status=exited -q", "the ids of those that ended"),
        ("orlop ps --format 'table {{.Names}}\\t{{.Status}}'", "a table of one's own"),
    ),
)

PORT = Command(
    run=_port,
    usage="CONTAINER [PORT[/PROTOCOL]]",
    least=1,
    most=2,
    complete=("container", ""),
    examples=(("orlop port web 80", "where port 80 of a container is published"),),
)

TOP = Command(
    run=_top,
    usage="CONTAINER [PS OPTIONS]",
    least=1,
    most=None,
    interspersed=False,
    complete=("running",),
    examples=(
        ("orlop top web", "its processes, with their pids on this machine"),
        ("orlop top web -o pid,user,rss,args", "with the options of this machine's ps"),
    ),
)
