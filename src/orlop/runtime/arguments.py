"""Command line words of `orlop-runtime`, sorted: runc's grammar (flags before or between operands, `--name=value` too).

argparse would cost more than creating a container does.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Shape(Value):
    """What a command takes. `flags` and `options` map every spelling to the name it is stored under.

    `operands` is the least and the most number of words (-1: any). `stops`: after the first operand nothing is a
    flag any more (what follows belongs to the program to be run).
    """

    flags: Mapping[str, str]
    options: Mapping[str, str]
    operands: tuple[int, int] = (1, 1)
    usage: str = ""
    stops: bool = False


class Words(Value):
    """What was given. `options` hold every value of an option in order."""

    flags: frozenset[str]
    options: Mapping[str, tuple[str, ...]]
    operands: tuple[str, ...]

    def one(self, name: str, default: str = "") -> str:
        """The last value of an option."""
        values = self.options.get(name)
        return values[-1] if values else default

    def number(self, name: str, default: int = 0) -> int:
        """The last value of an option, as a whole number."""
        text = self.one(name)
        if not text:
            return default
        try:
            return int(text)
        except ValueError as error:
            raise InvalidArgument(f"--{name} {text!r} is not a whole number") from error


def parse(command: str, words: Sequence[str], shape: Shape, *, at_command: bool = False) -> tuple[Words, int]:
    """Sort `words`; (what was given, how many words were used).

    With `at_command` the first word that is no flag ends it (it is the command). InvalidArgument says what is wrong.
    """
    flags: set[str] = set()
    options: dict[str, tuple[str, ...]] = {}
    operands: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            operands += words[at:]
            at = len(words)
        elif word.startswith("-") and len(word) > 1:
            at = _flag(command, words, at, shape, flags, options)
        elif at_command:
            at -= 1
            break
        else:
            operands.append(word)
            if shape.stops and len(operands) >= shape.operands[0]:
                operands += words[at:]
                at = len(words)
    low, high = shape.operands
    if not at_command and not (low <= len(operands) and (high < 0 or len(operands) <= high)):
        raise InvalidArgument(f"{command} takes {shape.usage or 'other operands'}", hint=f"got {' '.join(operands)!r}")
    return Words(flags=frozenset(flags), options=options, operands=tuple(operands)), at


def _flag(
    command: str,
    words: Sequence[str],
    at: int,
    shape: Shape,
    flags: set[str],
    options: dict[str, tuple[str, ...]],
) -> int:
    """Take the flag before `at`, with its value if it has one; where to go on."""
    name, equals, value = words[at - 1].lstrip("-").partition("=")
    if name in shape.flags:
        if not equals or value.lower() in ("true", "1"):
            flags.add(shape.flags[name])
        return at
    if name not in shape.options:
        raise InvalidArgument(f"{command} has no option {words[at - 1]!r}", hint=f"see orlop-runtime {command} --help")
    if not equals:
        if at == len(words):
            raise InvalidArgument(f"the option {words[at - 1]} needs a value")
        value = words[at]
        at += 1
    key = shape.options[name]
    options[key] = (*options.get(key, ()), value)
    return at
