"""`system df`: what is on the disk, in four lines or thing by thing."""

from __future__ import annotations

import time

from orlop.cli import units
from orlop.cli.command import Command
from orlop.cli.golang import quoted
from orlop.cli.listoptions import FORMAT
from orlop.cli.options import Option, UsageError
from orlop.cli.tables import Table, aligned, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.cli.options import Given
    from orlop.cli.session import Session
    from orlop.engine.requests import Usage

USAGE = Table(
    {
        "Type": "TYPE",
        "TotalCount": "TOTAL",
        "Active": "ACTIVE",
        "Size": "SIZE",
        "Reclaimable": "RECLAIMABLE",
    },
    ("Type", "TotalCount", "Active", "Size", "Reclaimable"),
)


def usage_row(row: Usage) -> dict[str, str]:
    """One kind of things as the fields of docker's `system df` templates."""
    reclaimable = units.human_size(row.reclaimable)
    if row.size and row.kind != "Build Cache":
        reclaimable += f" ({row.reclaimable * 100 // row.size}%)"
    return {
        "Type": row.kind,
        "TotalCount": str(row.total),
        "Active": str(row.active),
        "Size": units.human_size(row.size),
        "Reclaimable": reclaimable,
    }


def _df(session: Session, given: Given) -> int:
    if not given.flag("verbose"):
        show(USAGE, [usage_row(row) for row in session.engine.system.df()], given)
    elif given.text("format") == "json":
        from orlop.oci import jsontext

        print(jsontext.dumps(session.engine.system.details()).decode())
    elif given.text("format"):
        raise UsageError("--verbose has several tables, and --format is for one", hint="use --format json")
    else:
        print(report(session.engine.system.details(), time.time()), end="")
    return 0


def report(found: dict[str, Any], now: float) -> str:
    """Docker's four tables: images, containers, volumes and the build cache."""
    cache = sum(row["Size"] for row in found["BuildCache"])
    sections = (
        ("Images space usage:", _images(found["Images"], now)),
        ("Containers space usage:", _containers(found["Containers"], now)),
        ("Local Volumes space usage:", _volumes(found["Volumes"])),
        (f"Build cache usage: {units.human_size(cache)}", _cache(found["BuildCache"])),
    )
    return "\n".join(f"{title}\n\n{aligned(rows)}" for title, rows in sections)


def _images(rows: list[dict[str, Any]], now: float) -> list[list[str]]:
    found = [["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]]
    for row in rows:
        for name in row["RepoTags"] or ["<none>:<none>"]:
            repository, _, tag = name.rpartition(":")
            sizes = (row["Size"], row["SharedSize"], row["Size"] - row["SharedSize"])
            found.append(
                [repository, tag, units.short_id(row["Id"]), units.since(row["Created"], now)]
                + [units.human_size(size) for size in sizes]
                + [str(row["Containers"])]
            )
    return found


def _containers(rows: list[dict[str, Any]], now: float) -> list[list[str]]:
    found = [["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"]]
    found += [
        [
            row["Id"][:12],
            row["Image"],
            quoted(units.ellipsis(row["Command"], 20)),
            str(row["LocalVolumes"]),
            units.human_size(row["SizeRw"]),
            units.since(row["Created"], now),
            row["Status"],
            ",".join(name.removeprefix("/") for name in row["Names"]),
        ]
        for row in rows
    ]
    return found


def _volumes(rows: list[dict[str, Any]]) -> list[list[str]]:
    found = [["VOLUME NAME", "LINKS", "SIZE"]]
    for row in rows:
        usage = row["UsageData"]
        found.append([row["Name"], str(usage["RefCount"]), units.human_size(usage["Size"])])
    return found


def _cache(rows: list[dict[str, Any]]) -> list[list[str]]:
    found = [["CACHE ID", "CACHE TYPE", "SIZE", "LAST USED"]]
    found += [[row["ID"][:12], row["Type"], units.human_size(row["Size"]), row["LastUsedAt"]] for row in rows]
    return found


DF = Command(
    run=_df,
    options=(FORMAT, Option("verbose", "v", "flag", "", "Show every single thing")),
    examples=(
        ("orlop system df", "what images, containers, volumes and the build cache take, and what a prune would free"),
        ("orlop system df -v", "which of them take it"),
    ),
)
