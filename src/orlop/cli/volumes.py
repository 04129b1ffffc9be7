"""`volume create`, `volume ls` and `volume rm`."""

from __future__ import annotations

from orlop.cli.command import Command
from orlop.cli.listoptions import FILTER, FORMAT, filters, label_of, labels_text
from orlop.cli.options import Option, UsageError
from orlop.cli.tables import Table, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.cli.options import Given
    from orlop.cli.session import Session

ROWS = Table(
    {
        "Driver": "DRIVER",
        "Name": "VOLUME NAME",
        "Scope": "SCOPE",
        "Mountpoint": "MOUNTPOINT",
        "Labels": "LABELS",
    },
    ("Driver", "Name"),
    quiet="Name",
)


def volume_row(volume: dict[str, Any]) -> dict[str, Any]:
    """One volume as the fields of docker's `volume ls` templates."""
    labels = volume.get("Labels") or {}
    return {name: volume.get(name, "") for name in ROWS.titles} | {
        "Labels": labels_text(labels),
        "Label": label_of(labels),
    }


def _create(session: Session, given: Given) -> int:
    named = given.arguments[0] if given.arguments else given.text("name")
    if given.arguments and given.text("name"):
        raise UsageError("the volume's name was given twice", hint="leave out --name", exit_code=1)
    print(session.engine.volumes.create(named, given.list("label"))["Name"])
    return 0


def _ls(session: Session, given: Given) -> int:
    show(ROWS, [volume_row(one) for one in session.engine.volumes.list(filters(given.list("filter")))], given)
    return 0


def _rm(session: Session, given: Given) -> int:
    force = given.flag("force")
    return session.each(given.arguments, lambda name: session.engine.volumes.remove(name, force=force))


CREATE = Command(
    run=_create,
    usage="[VOLUME]",
    options=(
        Option("driver", "d", "text", "NAME", "Volume driver", default="local", choices=("local",)),
        Option("label", "", "list", "KEY=VALUE", "Set metadata on the volume"),
        Option("name", "", "text", "NAME", "Name of the volume, as an option"),
    ),
    most=1,
    refused=("opt", "-o"),
    examples=(("orlop volume create data", "a folder that outlives containers"),),
)

LS = Command(
    run=_ls,
    options=(FILTER, FORMAT, Option("quiet", "q", "flag", "", "Show only names")),
    examples=(("orlop volume ls --filter dangling=true", "the volumes that no container uses"),),
)

RM = Command(
    run=_rm,
    usage="VOLUME [VOLUME...]",
    options=(Option("force", "f", "flag", "", "No error for a volume that is not there"),),
    least=1,
    most=None,
    complete=("volume",),
    examples=(("orlop volume rm data", "delete a volume and everything in it"),),
)
