"""What takes away what nobody uses: `system prune`, and the `prune` of each kind of thing."""

from __future__ import annotations

import sys

from orlop.cli import units
from orlop.cli.command import Command
from orlop.cli.listoptions import filters
from orlop.cli.options import Option
from orlop.engine.requests import Prune

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.cli.options import Given
    from orlop.cli.session import Session
    from orlop.engine.core import Engine
    from orlop.engine.requests import Removed

_FORCE = Option("force", "f", "flag", "", "Do not ask")
_FILTER = Option("filter", "", "list", "KEY=VALUE", "Only what fits: until=24h, label=KEY[=VALUE], label!=KEY")

# what a removal's word becomes in docker's report, and the headline of its list
_HEADLINES = {
    "deleted container": "Deleted Containers:",
    "deleted network": "Deleted Networks:",
    "deleted build cache": "Deleted build cache objects:",
    "deleted volume": "Deleted Volumes:",
    "untagged": "Deleted Images:",
    "deleted": "Deleted Images:",
}


def confirmed(warning: str, *, force: bool) -> bool:
    """Ask on the terminal, as docker does; only y and yes are a yes, and the end of input is a no."""
    if force:
        return True
    print(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print()
    if answer.strip().lower() in {"y", "yes"}:
        return True
    print("Nothing was removed.", file=sys.stderr)
    return False


def report(removed: Removed, *, space: bool = True) -> str:
    """Docker's account of a prune: a list of each kind of thing, then what came free."""
    out: list[str] = []
    headline = ""
    for action, what in removed.actions:
        wanted = _HEADLINES.get(action, f"{action.capitalize()}:")
        if wanted != headline:
            out += ([""] if headline else []) + [wanted]
            headline = wanted
        image = wanted == "Deleted Images:"
        out.append(f"{action}: {what}" if image else what)
    if headline:
        out.append("")
    if space:
        out.append(f"Total reclaimed space: {units.human_size(removed.reclaimed)}")
    return "\n".join(out).removesuffix("\n") + "\n" if out else ""


def _pruning(
    verb: Callable[[Engine, Prune], Removed], warning: Callable[[Given], str], *, space: bool = True
) -> Callable[[Session, Given], int]:
    def run(session: Session, given: Given) -> int:
        wanted = Prune(
            all="all" in given.values and given.flag("all"),
            filters=filters(given.list("filter") if "filter" in given.values else ()),
            volumes="volumes" in given.values and given.flag("volumes"),
            keep_storage=_keep_storage(given),
        )
        if confirmed(warning(given), force=given.flag("force")):
            print(report(verb(session.engine, wanted), space=space), end="")
        return 0

    return run


def _keep_storage(given: Given) -> int:
    asked = [given.number(name) for name in ("keep-storage", "max-used-space") if name in given.values]
    return min((number for number in asked if number), default=0)


def _system_warning(given: Given) -> str:
    lines = ["This will remove:", "  - all stopped containers", "  - all networks not used by at least one container"]
    if given.flag("volumes"):
        lines.append("  - all anonymous volumes not used by at least one container")
    images = "all images without at least one container associated to them"
    lines.append(f"  - {images if given.flag('all') else 'all dangling images'}")
    lines.append("  - unused build cache")
    if given.list("filter"):
        lines.append(f"  Items to be pruned will be filtered with: {', '.join(given.list('filter'))}")
    return "\n".join(lines) + "\n"


def _image_warning(given: Given) -> str:
    if given.flag("all"):
        return "This will remove all images without at least one container associated to them."
    return "This will remove all dangling images."


def _volume_warning(given: Given) -> str:
    kind = "all" if given.flag("all") else "anonymous"
    return f"This will remove {kind} local volumes not used by at least one container."


SYSTEM_PRUNE = Command(
    run=_pruning(lambda engine, wanted: engine.system.prune(wanted), _system_warning),
    options=(
        Option("all", "a", "flag", "", "Remove all images that no container uses, not only those without a name"),
        _FILTER,
        _FORCE,
        Option("volumes", "", "flag", "", "Remove anonymous volumes too; named ones are never touched"),
    ),
    examples=(("orlop system prune -a --volumes", "everything that can be made or pulled again"),),
)

CONTAINER_PRUNE = Command(
    run=_pruning(
        lambda engine, wanted: engine.containers.prune(wanted), lambda _: "This will remove all stopped containers."
    ),
    options=(_FILTER, _FORCE),
    examples=(("orlop container prune -f --filter until=24h", "those that are older than a day"),),
)

IMAGE_PRUNE = Command(
    run=_pruning(lambda engine, wanted: engine.images.prune(wanted), _image_warning),
    options=(Option("all", "a", "flag", "", "Remove all that no container uses"), _FILTER, _FORCE),
    examples=(("orlop image prune", "images without a name"),),
)

NETWORK_PRUNE = Command(
    run=_pruning(
        lambda engine, wanted: engine.networks.prune(wanted),
        lambda _: "This will remove all custom networks not used by at least one container.",
        space=False,
    ),
    options=(_FILTER, _FORCE),
    examples=(("orlop network prune -f", "networks that no container is in"),),
)

VOLUME_PRUNE = Command(
    run=_pruning(lambda engine, wanted: engine.volumes.prune(wanted), _volume_warning),
    options=(Option("all", "a", "flag", "", "Remove named volumes too: what is in them is lost"), _FILTER, _FORCE),
    examples=(("orlop volume prune", "anonymous volumes that no container uses"),),
)

BUILDER_PRUNE = Command(
    run=_pruning(
        lambda engine, wanted: engine.builds.prune(wanted),
        lambda given: (
            "This will remove all build cache." if given.flag("all") else "This will remove all dangling build cache."
        ),
    ),
    options=(
        Option("all", "a", "flag", "", "Forget what every step made, too"),
        Option("filter", "", "list", "KEY=VALUE", "Only what fits: until=24h (not used since), id=KEY, type=KIND"),
        _FORCE,
        Option("keep-storage", "", "size", "BYTES", "Keep that much of what was used last"),
        Option("max-used-space", "", "size", "BYTES", "The same, under its newer name; the smaller one counts"),
    ),
    about="A build trims the cache by itself, at most once a day: what was not used for 60 days goes, and what is more "
    "than a tenth of the disk (2 GiB always stay), least recently used first.",
    examples=(
        ("orlop builder prune -a -f", "the next build runs every step"),
        ("orlop builder prune -f --filter until=48h", "what no build of the last two days used"),
    ),
)
