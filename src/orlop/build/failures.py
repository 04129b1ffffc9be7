"""What goes wrong while instructions are carried out, shown at their place in the Dockerfile."""

from __future__ import annotations

import contextlib

from orlop.build.dockerfile.source import Failure, Located
from orlop.errors import Cancelled, Kind, OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.build.dockerfile.source import Source, Span
    from orlop.build.steps import Step

_KILLED = {
    137: "was killed (SIGKILL): perhaps it had not enough memory",
    139: "crashed (SIGSEGV)",
    134: "aborted (SIGABRT)",
}
_SHELL = {126: "found its program, but it cannot be executed", 127: "did not find its program"}


class BuildFailed(Failure):
    """A RUN that ended with another exit code than 0. `exit_code` is the program's, `output` its last lines."""

    def __init__(self, *, step: Step, exit_code: int, output: list[str]) -> None:
        words = _KILLED.get(exit_code) or _SHELL.get(exit_code)
        headline = f"{step.instruction.name} failed with exit code {exit_code}" + (f": it {words}" if words else "")
        super().__init__(headline, source=step.source, span=step.instruction.span, kind=Kind.FAILED_PRECONDITION)
        self.exit_code = exit_code
        self.output = tuple(output)
        if output:
            self.message += "\nits last output:\n" + "\n".join(f"   | {line}" for line in output)
            self.args = (self.message,)


@contextlib.contextmanager
def located(source: Source, span: Span, *, extra: str = "", hint: str = "") -> Iterator[None]:
    """Errors that come out of this get a place in the Dockerfile, unless they have one; `extra` ends their sentence."""
    try:
        yield
    except Cancelled:
        raise
    except OrlopError as error:
        if isinstance(error, Located):
            raise
        raise Failure(
            error.message + extra, source=source, span=span, kind=error.kind, hint=hint or error.hint
        ) from error
