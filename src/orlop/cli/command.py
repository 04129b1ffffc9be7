"""What a command is: its options and arguments as data, and the function that asks the engine."""

from __future__ import annotations

from orlop.cli.options import UsageError
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.cli.options import Given, Option
    from orlop.cli.session import Session


class Command(Value):
    """One command. Its one-line help is in `cli.commands`, beside its name.

    `usage` are the arguments as a person reads them; `least` and `most` (None: any number) are what is checked.
    `run` does it and returns the exit code. `failure` is the exit code of orlop's own errors. `complete` says what each
    argument is (the last one repeats): see Option.complete. `examples` are (command line, what it does).
    """

    run: Callable[[Session, Given], int]
    usage: str = ""
    options: tuple[Option, ...] = ()
    least: int = 0
    most: int | None = 0
    interspersed: bool = True
    failure: int = 1
    refused: tuple[str, ...] = ()
    complete: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    about: str = ""

    def check(self, path: str, given: Given) -> None:
        """UsageError unless the number of arguments is right."""
        count = len(given.arguments)
        if self.least <= count and (self.most is None or count <= self.most):
            return
        if self.most == 0:
            raise UsageError(
                f"orlop {path} takes no arguments, but got {given.arguments[0]!r}",
                hint=f"see orlop {path} --help",
                exit_code=1,
            )
        wanted = f"{self.least}" if self.least == self.most else f"at {'least' if count < self.least else 'most'}"
        if self.least != self.most:
            wanted += f" {self.least if count < self.least else self.most}"
        plural = "" if wanted.endswith(" 1") or wanted == "1" else "s"
        raise UsageError(
            f"orlop {path} needs {wanted} argument{plural}, but got {count}",
            hint=f"orlop {path} {self.usage}",
            exit_code=1,
        )
