"""Flags of one instruction: `--name=value` words, taken by name; what nobody takes is an error that suggests a name."""

from __future__ import annotations

from orlop.build.dockerfile import forms
from orlop.build.dockerfile.instructions import MountFlag, Option, Word
from orlop.build.dockerfile.source import DockerfileUnimplemented, did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Protocol

    from orlop.build.dockerfile.lines import Logical
    from orlop.build.dockerfile.source import Source, Span

    class Line(Protocol):
        """What flags need of the line they stand on."""

        written: str
        source: Source
        logical: Logical

        def fail(self, sentence: str, span: Span | None = None, hint: str = "") -> NoReturn:
            """Raise a DockerfileError."""


_MOUNT_KEYS = frozenset({
    "type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro", "readwrite", "rw", "id",
    "sharing", "required", "size", "mode", "uid", "gid", "env",
})  # fmt: skip
_BARE_KEYS = frozenset({"readonly", "ro", "readwrite", "rw", "required"})
_SHORTEST = 1_000_000  # nanoseconds; docker refuses health intervals below a millisecond


class Flags:
    """The flags of one line. `finish` must be called when all known ones are taken."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._given: list[tuple[str, str | None, Span]] = []
        self._known: set[str] = set()

    def take(self, pieces: list[forms.Piece]) -> None:
        """The flags that stand on the line."""
        for piece in pieces:
            name, equals, value = piece.text[2:].partition("=")
            span = self._line.logical.span(piece.start, piece.end)
            self._given.append((name, value if equals else None, span))

    def finish(self) -> None:
        """Raise DockerfileError if a flag was given that nobody asked for."""
        for name, _, span in self._given:
            if name not in self._known:
                instruction = self._line.written.upper()
                guess = did_you_mean(f"--{name}", [f"--{known}" for known in self._known])
                hint = "" if self._known else f"{instruction} takes no flags; -- before the first argument ends flags"
                self._line.fail(f"{instruction} has no flag --{name}{guess}", span, hint)

    def _all(self, name: str) -> list[tuple[str | None, Span]]:
        self._known.add(name)
        return [(value, span) for given, value, span in self._given if given == name]

    def _one(self, name: str) -> tuple[str | None, Span] | None:
        found = self._all(name)
        if len(found) > 1:
            self._line.fail(f"--{name} is given twice", found[1][1])
        return found[0] if found else None

    def words(self, name: str) -> tuple[Word, ...]:
        """All values of a flag that may be repeated."""
        result = []
        for value, span in self._all(name):
            if value is None:
                self._line.fail(f"--{name} needs a value", span, hint=f"write --{name}=value")
            result.append(Word(text=value, span=span))
        return tuple(result)

    def word(self, name: str) -> Word | None:
        """The value of a flag that may be given once."""
        found = self._one(name)
        if found is None:
            return None
        value, span = found
        if value is None:
            self._line.fail(f"--{name} needs a value", span, hint=f"write --{name}=value")
        return Word(text=value, span=span)

    def boolean(self, name: str) -> bool | None:
        """`--name`, `--name=true` or `--name=false`; None when not given."""
        found = self._one(name)
        if found is None:
            return None
        value, span = found
        if value is None or value.lower() == "true":
            return True
        if value.lower() != "false":
            self._line.fail(f"--{name} is true or false, not {value!r}", span)
        return False

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """One of `choices`."""
        word = self.word(name)
        if word is None:
            return None
        if word.text not in choices:
            self._line.fail(
                f"--{name} is {', '.join(choices[:-1])} or {choices[-1]}, not {word.text!r}"
                f"{did_you_mean(word.text, choices)}",
                word.span,
            )
        return word.text

    def duration(self, name: str) -> int:
        """Nanoseconds; 0 when not given."""
        word = self.word(name)
        if word is None or not word.text:
            return 0
        try:
            value = forms.duration(word.text)
        except ValueError:
            self._line.fail(
                f"--{name} is no duration: {word.text!r}", word.span, hint="for example 30s, 1m30s or 500ms"
            )
        if value and value < _SHORTEST:
            self._line.fail(f"--{name} must be at least 1ms, not {word.text}", word.span)
        return value

    def count(self, name: str) -> int:
        """A whole number from 0; 0 when not given."""
        word = self.word(name)
        if word is None or not word.text:
            return 0
        if not (word.text.isascii() and word.text.isdigit()):
            self._line.fail(f"--{name} is a whole number from 0, not {word.text!r}", word.span)
        return int(word.text)

    def reject(self, name: str, sentence: str) -> None:
        """A flag that is understood but cannot be carried out."""
        found = self._all(name)
        if found:
            raise DockerfileUnimplemented(sentence, source=self._line.source, span=found[0][1])

    def mounts(self) -> tuple[MountFlag, ...]:
        """All --mount flags, split into options and checked for unknown keys."""
        result = []
        for word in self.words("mount"):
            fields = _fields(word.text)
            options = tuple(self._option(field, word.span) for field in fields if field)
            result.append(MountFlag(options=options, span=word.span))
        return tuple(result)

    def _option(self, field: str, span: Span) -> Option:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if key not in _MOUNT_KEYS:
            self._line.fail(f"--mount has no option {key!r}{did_you_mean(key, _MOUNT_KEYS)}", span)
        if not equals and key not in _BARE_KEYS:
            self._line.fail(f"--mount option {key} needs a value", span)
        if key == "from" and "$" in value[:-1]:
            self._line.fail(
                "variables are not expanded in from",
                span,
                hint="name a stage for it: FROM $IMAGE AS name, then from=name",
            )
        return Option(key=key, value=value if equals else None)


def _fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    import csv  # quoted fields are rare

    return next(csv.reader([text]), [])
