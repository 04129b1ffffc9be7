"""Options as data, and one small parser for all of them.

argparse is not used: importing it costs 15 ms, a quarter of a whole `run`, and it cannot stop at the first positional
argument, as docker does, so that `orlop run IMAGE ls -l` would need a `--`. What the parser knows of an option is also
what `--help`, the reference page and shell completion show: there is no second list.

The grammar is docker's (GNU's): `--name VALUE`, `--name=VALUE`, `-n VALUE`, `-nVALUE`, `-n=VALUE`, `-itd`,
`--flag=false`, `--no-flag`, and `--`, after which everything is an argument.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})
_USAGE = 125  # docker's exit code for an option that cannot be


class UsageError(InvalidArgument):
    """The command line cannot be meant. `exit_code` is docker's: 125 for options, 1 for a wrong number of arguments."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = _USAGE) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class Option:
    """One option. `kind` says what it takes and what it becomes.

    "flag" a bool; "text" a str; "list" a tuple of str (repeatable); "int" an int; "size" bytes ("200m"); "cpus"
    billionths of a CPU. `default` None is the kind's own: False, "", (), 0, 0, 0. `choices` are the only values of a
    text; `complete` names what a shell offers: "container", "image", "volume", "network", "file", "dir".
    """

    __slots__ = ("choices", "complete", "default", "help", "kind", "long", "metavar", "short")

    def __init__(  # noqa: PLR0917  # a row of a table: columns need no names
        self,
        long: str,
        short: str,
        kind: str,
        metavar: str,
        help: str,  # noqa: A002  # the word that is shown for it
        default: Any = None,
        choices: tuple[str, ...] = (),
        complete: str = "",
    ) -> None:
        self.long = long
        self.short = short
        self.kind = kind
        self.metavar = metavar
        self.help = help
        self.default = _EMPTY[kind] if default is None else default
        self.choices = choices
        self.complete = complete

    @property
    def shown(self) -> str:
        """How an error names it: "-m, --memory"."""
        return f"-{self.short}, --{self.long}" if self.short else f"--{self.long}"


_EMPTY: dict[str, Any] = {"flag": False, "text": "", "list": (), "int": 0, "size": 0, "cpus": 0}


class Given:
    """What a command line gave: every option's value (its default where it was not given), and the arguments.

    Asking for an option that the command does not have is a KeyError: a defect.
    """

    __slots__ = ("arguments", "named", "values")

    def __init__(self, values: dict[str, Any], arguments: list[str], named: set[str]) -> None:
        self.values = values
        self.arguments = arguments
        self.named = named  # long names that were on the command line

    def flag(self, name: str) -> bool:
        """A flag."""
        return self.values[name]  # type: ignore[no-any-return]

    def text(self, name: str) -> str:
        """A text."""
        return self.values[name]  # type: ignore[no-any-return]

    def maybe(self, name: str) -> str | None:
        """A text, None if it was not given (an empty text was)."""
        return self.values[name] if name in self.named else None

    def number(self, name: str) -> int:
        """An int, a size in bytes, or CPUs in billionths."""
        return self.values[name]  # type: ignore[no-any-return]

    def list(self, name: str) -> tuple[str, ...]:
        """A repeatable option's values, in order."""
        return self.values[name]  # type: ignore[no-any-return]


def parse(
    options: Sequence[Option], words: Sequence[str], *, interspersed: bool = True, refused: Sequence[str] = ()
) -> Given:
    """Read a command's words. Without `interspersed` options end at the first argument.

    `refused` are docker's options that this command knows of and cannot do: they are an error that says so. `--help`
    (and `-h`, where it means nothing else) ends the reading at once: "help" is then in `named`.
    """
    return _Reader(options, refused, interspersed=interspersed).read(list(words))


class _Reader:
    """The state of reading one command line."""

    def __init__(self, options: Sequence[Option], refused: Sequence[str], *, interspersed: bool) -> None:
        self.by_long = {option.long: option for option in options}
        self.by_short = {option.short: option for option in options if option.short}
        self.refused = refused
        self.interspersed = interspersed
        self.values: dict[str, Any] = {option.long: option.default for option in options}
        self.named: set[str] = set()
        self.lists: dict[str, list[str]] = {}
        self.rest: list[str] = []  # words to come, last first

    def read(self, words: list[str]) -> Given:
        arguments: list[str] = []
        self.rest = words[::-1]
        while self.rest and "help" not in self.named:
            word = self.rest.pop()
            if word == "--":
                arguments += self.rest[::-1]
                break
            if word.startswith("--"):
                self.long(word)
            elif word.startswith("-") and word != "-":
                self.shorts(word)
            else:
                arguments.append(word)
                if not self.interspersed:
                    arguments += self.rest[::-1]
                    break
        if "help" in self.named:
            arguments += self.rest[::-1]  # `orlop --help ps` asks about ps
        for name, values in self.lists.items():
            self.values[name] = tuple(values)
        return Given(self.values, arguments, self.named)

    def long(self, word: str) -> None:
        name, equals, value = word[2:].partition("=")
        option = self.by_long.get(name)
        if option is None:
            self.unknown(name, equals)
        elif option.kind == "flag":
            self.set(option, _boolean(option, value) if equals else True)
        else:
            self.take(option, value if equals else self.following(option))

    def shorts(self, word: str) -> None:
        at = 1
        while at < len(word):
            option = self.by_short.get(word[at])
            at += 1
            if option is None:
                if word[at - 1] == "h":
                    self.named.add("help")
                    return
                raise self.wrong_short(word[at - 1], word)
            rest = word[at:]
            if option.kind != "flag":
                self.take(option, rest.removeprefix("=") if rest else self.following(option))
                return
            if rest.startswith("="):
                self.set(option, _boolean(option, rest[1:]))
                return
            self.set(option, True)

    def unknown(self, name: str, equals: str) -> None:
        """`--help`, `--no-FLAG`, or an error that says what was probably meant."""
        if name == "help" and not equals:
            self.named.add("help")
            return
        positive = self.by_long.get(name.removeprefix("no-"))
        if name.startswith("no-") and positive is not None and positive.kind == "flag" and not equals:
            self.set(positive, False)
            return
        if name in self.refused:
            raise UsageError(f"--{name} is not supported yet", hint="see --help for what is")
        from orlop.cli.suggestions import did_you_mean

        meant = did_you_mean(name, self.by_long)
        raise UsageError(f"unknown option --{name}", hint=f"did you mean --{meant}?" if meant else "see --help")

    def wrong_short(self, letter: str, word: str) -> UsageError:
        if f"-{letter}" in self.refused:
            return UsageError(f"-{letter} is not supported yet", hint="see --help for what is")
        where = f" in {word}" if len(word) > 2 else ""
        return UsageError(f"unknown option -{letter}{where}", hint="see --help")

    def following(self, option: Option) -> str:
        if not self.rest:
            raise UsageError(f"{option.shown} needs a value", hint=f"write --{option.long} {option.metavar}")
        return self.rest.pop()

    def take(self, option: Option, text: str) -> None:
        if option.kind == "list":
            self.named.add(option.long)
            self.lists.setdefault(option.long, []).append(text)
            return
        self.set(option, _converted(option, text))

    def set(self, option: Option, value: Any) -> None:
        self.named.add(option.long)
        self.values[option.long] = value


def _boolean(option: Option, text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise UsageError(f"{option.shown} is {text!r}, which is neither true nor false")


def _converted(option: Option, text: str) -> Any:
    try:
        if option.kind == "int":
            return _integer(text)
        if option.kind in {"size", "cpus"}:
            from orlop.cli import units

            return units.parse_size(text) if option.kind == "size" else units.parse_cpus(text)
    except InvalidArgument as error:
        raise UsageError(f"{option.shown}: {error.message}", hint=error.hint) from error
    if option.choices and text not in option.choices:
        raise UsageError(f"{option.shown} is {text!r}", hint=f"use {', '.join(option.choices)}")
    return text


def _integer(text: str) -> int:
    digits = text[1:] if text[:1] in {"-", "+"} else text
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise InvalidArgument(f"{text!r} is not a whole number")
    return int(text)
