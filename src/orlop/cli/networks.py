"""`network create`, `network ls` and `network rm`."""

from __future__ import annotations

from orlop.cli.command import Command
from orlop.cli.listoptions import FILTER, FORMAT, NO_TRUNC, filters, label_of, labels_text
from orlop.cli.options import Option
from orlop.cli.tables import Table, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.cli.options import Given
    from orlop.cli.session import Session

ROWS = Table(
    {
        "ID": "NETWORK ID",
        "Name": "NAME",
        "Driver": "DRIVER",
        "Scope": "SCOPE",
        "Internal": "INTERNAL",
        "CreatedAt": "CREATED AT",
        "Labels": "LABELS",
    },
    ("ID", "Name", "Driver", "Scope"),
    quiet="ID",
)


def network_row(network: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """One network as the fields of docker's `network ls` templates."""
    labels = network.get("Labels") or {}
    identifier = network.get("Id", "")
    return {
        "ID": identifier if whole else identifier[:12],
        "Name": network["Name"],
        "Driver": network.get("Driver", ""),
        "Scope": network.get("Scope", "local"),
        "Internal": "true" if network.get("Internal") else "false",
        "CreatedAt": network.get("Created", ""),
        "Labels": labels_text(labels),
        "Label": label_of(labels),
    }


def _create(session: Session, given: Given) -> int:
    made = session.engine.networks.create(
        given.arguments[0],
        subnet=given.text("subnet"),
        gateway=given.text("gateway"),
        internal=given.flag("internal"),
        labels=given.list("label"),
    )
    print(made["Id"])
    return 0


def _ls(session: Session, given: Given) -> int:
    whole = given.flag("no-trunc")
    found = session.engine.networks.list(filters(given.list("filter")))
    show(ROWS, [network_row(one, whole=whole) for one in found], given)
    return 0


def _rm(session: Session, given: Given) -> int:
    return session.each(given.arguments, session.engine.networks.remove)


CREATE = Command(
    run=_create,
    usage="NETWORK",
    options=(
        Option("driver", "d", "text", "NAME", "Network driver", default="bridge", choices=("bridge",)),
        Option("gateway", "", "text", "IP", "Address of this machine in the network"),
        Option("internal", "", "flag", "", "No way out of the network"),
        Option("label", "", "list", "KEY=VALUE", "Set metadata on the network"),
        Option("subnet", "", "text", "CIDR", "Addresses of the network"),
    ),
    least=1,
    most=1,
    refused=(
        "attachable",
        "aux-address",
        "config-from",
        "config-only",
        "ingress",
        "ip-range",
        "ipam-driver",
        "ipam-opt",
        "ipv4",
        "ipv6",
        "opt",
        "-o",
        "scope",
    ),
    examples=(
        (
            "orlop network create --subnet 10.5.0.0/24 back",
            "a network of one's own; containers in it find each other by name",
        ),
    ),
)

LS = Command(
    run=_ls,
    options=(FILTER, FORMAT, NO_TRUNC, Option("quiet", "q", "flag", "", "Show only ids")),
    examples=(("orlop network ls", "all networks"),),
)

RM = Command(
    run=_rm,
    usage="NETWORK [NETWORK...]",
    least=1,
    most=None,
    refused=("force", "-f"),
    complete=("network",),
    examples=(("orlop network rm back", "delete a network that no container is in"),),
)
