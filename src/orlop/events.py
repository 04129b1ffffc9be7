"""What a verb tells while it works: one shape for every face.

The CLI draws events, the Docker API streams them as JSON lines, a Python program passes a function.
"""

from __future__ import annotations

from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias


class Event(Value):
    """One thing that happened.

    `action` is a dotted word from the table in docs/design/events.md ("pull.progress", "build.step", "build.output",
    "warning"...). `subject` is what it happened to: a digest, a step's number, a container's id. `current` and `total`
    are bytes where the action is a progress; total is 0 while unknown.
    """

    action: str
    subject: str = ""
    text: str = ""
    current: int = 0
    total: int = 0
    data: bytes = b""


if TYPE_CHECKING:
    Report: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The report of a caller who does not want to know."""
