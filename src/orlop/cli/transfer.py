"""`pull` and `push`."""

from __future__ import annotations

from orlop.cli.command import Command
from orlop.cli.options import Option
from orlop.engine.requests import Pull, Push

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.options import Given
    from orlop.cli.session import Session


def _pull(session: Session, given: Given) -> int:
    wanted = Pull(reference=given.arguments[0], platform=given.text("platform"), all_tags=given.flag("all-tags"))
    with session.reporting(quiet=given.flag("quiet"), stream=1) as report:
        found = session.engine.images.pull(wanted, report)
    if not wanted.all_tags:
        from orlop.oci.reference import Reference

        reference = Reference.parse(wanted.reference)
        if not given.flag("quiet"):
            print(f"Digest: {found.target}")
        print(reference)
    return 0


def _push(session: Session, given: Given) -> int:
    wanted = Push(reference=given.arguments[0], all_tags=given.flag("all-tags"))
    with session.reporting(quiet=given.flag("quiet"), stream=1) as report:
        session.engine.images.push(wanted, report)
    if given.flag("quiet"):
        from orlop.oci.reference import Reference

        print(Reference.parse(wanted.reference))
    return 0


PULL = Command(
    run=_pull,
    usage="NAME[:TAG|@DIGEST]",
    options=(
        Option("all-tags", "a", "flag", "", "Download every tag of the repository"),
        Option("platform", "", "text", "OS/ARCH[/VARIANT]", "Platform of the image"),
        Option("quiet", "q", "flag", "", "Print only the name"),
    ),
    least=1,
    most=1,
    refused=("disable-content-trust",),
    complete=("image",),
    examples=(
        ("orlop pull registry.example.com/team/app:1.2", "from a registry"),
        ("orlop pull --platform linux/arm64 alpine", "for another machine"),
    ),
)

PUSH = Command(
    run=_push,
    usage="NAME[:TAG]",
    options=(
        Option("all-tags", "a", "flag", "", "Upload every tag of the repository"),
        Option("quiet", "q", "flag", "", "Print only the name"),
    ),
    least=1,
    most=1,
    refused=("disable-content-trust", "platform"),
    complete=("image",),
    examples=(("orlop push registry.example.com/team/app:1.2", "to the registry that its name says"),),
)
