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
    import gc
    import os

    # A start makes some 30,000 objects and lets go of few: by default they would be looked through 40 times.
    gc.set_threshold(100_000, 10, 10)
    from orlop.cli.program import run_process

    os._exit(run_process())
