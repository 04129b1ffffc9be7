"""The terminal: commands as a table, options as data; every decision about containers is the engine's."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command that the process' arguments name, and end the process. This is what `orlop` starts.

    Everything is closed and flushed by then; the interpreter's own farewell, which frees each object one by one, would
    add 6 ms to a `run` of 60.
    """
    import os

    from orlop.cli.program import run_process

    os._exit(run_process())
