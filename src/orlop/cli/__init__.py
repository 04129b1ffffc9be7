"""The terminal: commands as a table, options as data; every decision about containers is the engine's."""

from __future__ import annotations


def main() -> int:
    """Run the command that the process' arguments name; returns its exit code. This is what `orlop` starts."""
    from orlop.cli.program import run_process

    return run_process()
