"""What `top` makes of ps' output."""

from __future__ import annotations

import pytest

from orlop.engine import processes
from orlop.errors import InvalidArgument


def test_rows_of_the_asked_pids() -> None:
    """Only the container's processes are left; the last column keeps its blanks."""
    shown = "  PID USER COMMAND\n    1 root /sbin/init  quiet\n   42 app  sleep 10\n  421 app  cat\n"

    assert processes.chosen(shown, {"42", "1"}) == [
        {"PID": "1", "USER": "root", "COMMAND": "/sbin/init  quiet"},
        {"PID": "42", "USER": "app", "COMMAND": "sleep 10"},
    ]


@pytest.mark.parametrize("shown", ["", "COMMAND\ninit\n", "PPID CMD\n1 init\n"])
def test_without_pids_nobody_knows_whose_they_are(shown: str) -> None:
    """Ps must have been asked for the PID column."""
    with pytest.raises(InvalidArgument, match="no column PID"):
        processes.chosen(shown, {"1"})
