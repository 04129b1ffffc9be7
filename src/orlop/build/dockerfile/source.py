"""Where things stand in a Dockerfile, and how an error shows the place.

Every instruction, word and flag carries a `Span`, so that an error can print the line and underline the culprit.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument, OrlopError, Unimplemented
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_EXCERPT_LINES = 6
MAX_COLUMNS = 160


class Span(Value):
    """A range of text. Lines and columns count from 1; the end column is exclusive, the end line inclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


class Source(Value):
    """A Dockerfile's text and the name to call it by in messages."""

    name: str
    lines: tuple[str, ...]

    def excerpt(self, span: Span) -> str:
        """The lines of `span`, numbered, with a row of carets below where it lies on one line.

        A span of many lines is shown by its first few, each marked by `>>>`.
        """
        last = min(span.end_line, len(self.lines), span.line + MAX_EXCERPT_LINES - 1)
        numbers = range(span.line, last + 1)
        width = max(4, len(str(last)))
        rows = []
        for number in numbers:
            shown = _visible(self.lines[number - 1])
            rows.append(f"{number:>{width}} | {shown[:MAX_COLUMNS]}".rstrip())
        if span.line == span.end_line and span.line <= len(self.lines):
            text = self.lines[span.line - 1]
            before = len(_visible(text[: span.column - 1]))
            marked = len(_visible(text[span.column - 1 : span.end_column - 1]))
            if before < MAX_COLUMNS:
                rows.append(" " * (width + 3 + before) + "^" * max(1, min(marked, MAX_COLUMNS - before)))
        elif last < span.end_line:
            rows.append(" " * width + " | ...")
        return "\n".join(rows)


class Located:
    """What an error about a place in a Dockerfile adds: `file`, `span`, `excerpt`, and `headline` without them."""

    file: str
    span: Span
    excerpt: str
    headline: str

    def _locate(self, headline: str, source: Source, span: Span) -> str:
        self.file = source.name
        self.span = span
        self.headline = headline
        self.excerpt = source.excerpt(span)
        return f"{source.name}:{span.line}: {headline}\n{self.excerpt}"


class DockerfileError(Located, InvalidArgument):
    """A Dockerfile that cannot be meant. `message` holds the sentence, the line and a row of carets."""

    def __init__(self, headline: str, *, source: Source, span: Span, hint: str = "") -> None:
        InvalidArgument.__init__(self, self._locate(headline, source, span), hint=hint)


class DockerfileUnimplemented(Located, Unimplemented):
    """Understood Dockerfile text that this orlop cannot carry out, shown like a `DockerfileError`."""

    def __init__(self, headline: str, *, source: Source, span: Span, hint: str = "") -> None:
        Unimplemented.__init__(self, self._locate(headline, source, span), hint=hint)


class Failure(Located, OrlopError):
    """Something that failed while an instruction was carried out; `kind` is the cause's."""

    def __init__(self, headline: str, *, source: Source, span: Span, kind: str, hint: str = "") -> None:
        OrlopError.__init__(self, self._locate(headline, source, span), hint=hint)
        self.kind = kind


class Finding(Value):
    """A warning about a place in a Dockerfile; `rule` is a name from the lint table."""

    rule: str
    text: str
    span: Span
    url: str = ""


def near(word: str, choices: Iterable[str], *, limit: int = 3) -> str:
    """The choice closest to `word` by edit distance (case aside), or "" when none is near enough.

    Near means at most `limit` edits, and fewer edits than half of the word's letters (but always one).
    """
    best, best_distance = "", min(limit, max(1, len(word) // 2)) + 1
    for choice in choices:
        distance = _distance(word.lower(), choice.lower(), best_distance)
        if distance < best_distance:
            best, best_distance = choice, distance
    return best


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing; ready to be added to a sentence."""
    found = near(word, choices)
    return f" (did you mean {found}?)" if found else ""


def _distance(left: str, right: str, limit: int) -> int:
    """Edits (insert, delete, replace, swap of neighbours) from `left` to `right`, or `limit` when not fewer."""
    if abs(len(left) - len(right)) >= limit:
        return limit
    older: list[int] = []
    previous = list(range(len(right) + 1))
    for row, a in enumerate(left, 1):
        current = [row]
        for column, b in enumerate(right, 1):
            cost = min(previous[column] + 1, current[column - 1] + 1, previous[column - 1] + (a != b))
            if row > 1 and column > 1 and a == right[column - 2] and left[row - 2] == b:
                cost = min(cost, older[column - 2] + 1)
            current.append(cost)
        if min(current) >= limit:
            return limit
        older, previous = previous, current
    return previous[-1]


def _visible(text: str) -> str:
    """`text` with tabs as spaces and control characters as `?`, so that columns align and terminals are safe."""
    text = text.expandtabs(4)
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)
