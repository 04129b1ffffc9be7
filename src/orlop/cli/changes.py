"""`diff`."""

from __future__ import annotations

import os

from orlop.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.options import Given
    from orlop.cli.session import Session


def _diff(session: Session, given: Given) -> int:
    for kind, path in session.engine.containers.diff(given.arguments[0]):
        # a name may be any bytes: one line a change, and nothing that a terminal would act on
        shown = os.fsencode(path).decode(errors="backslashreplace")
        print(kind, "".join(one if one.isprintable() else repr(one)[1:-1] for one in shown))
    return 0


DIFF = Command(
    run=_diff,
    usage="CONTAINER",
    least=1,
    most=1,
    complete=("container",),
    about="A is what was added, C what was changed, D what was deleted, of the image's files. Volumes do not count.",
    examples=(("orlop diff web", "what a container has written"),),
)
