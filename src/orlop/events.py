"""What a verb tells while it works: one shape for every face.

The CLI draws events, the Docker API streams them as JSON lines, a Python program passes a function.
"""

from __future__ import annotations

from _thread import RLock

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


class _OneByOne:
    """A report that is called by one thread at a time."""

    __slots__ = ("_lock", "_report")

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = RLock()  # who hears of something may begin a verb that reports to the same

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._report(event)


def serialised(report: Report) -> Report:
    """`report`, so that threads of a verb never call it at the same moment. Every verb that has threads begins so."""
    return report if report is ignore or isinstance(report, _OneByOne) else _OneByOne(report)
