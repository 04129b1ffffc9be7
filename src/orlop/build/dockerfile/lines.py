"""Physical lines -> logical lines: parser directives, comments, continuations, heredoc bodies.

A logical line keeps a map back to the file, so that any offset in it has a line and a column.
Source of the rules: the Dockerfile reference ("Parser directives", "Escape", "Here-Documents").
"""

from __future__ import annotations

import re
from bisect import bisect_right

from orlop.build.dockerfile.forms import json_words
from orlop.build.dockerfile.source import DockerfileError, Finding, Source, Span, did_you_mean
from orlop.build.dockerfile.words import ExpansionError, Lexer
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$")
_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)\Z")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
_HEREDOC_TAKERS = frozenset({"RUN", "COPY", "ADD"})
DIRECTIVES = ("syntax", "escape", "check")


class Heredoc(Value):
    """One here-document: `name` is the terminator; `expand` is false when any part of it was quoted."""

    name: str
    content: str = ""
    expand: bool = True
    chomp: bool = False
    span: Span | None = None

    @property
    def text(self) -> str:
        """The body as the program sees it: leading tabs gone where `<<-` asked for that."""
        return _LEADING_TABS.sub("", self.content) if self.chomp else self.content


class Directive(Value):
    """`# name=value` above everything else."""

    name: str
    value: str
    span: Span


class Logical(Value):
    """One instruction's text with continuations joined. `pieces` are (offset in `text`, line, column) ascending."""

    text: str
    pieces: tuple[tuple[int, int, int], ...]
    end_line: int
    comments: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column (from 1) of the character at `offset`."""
        start, line, column = self.pieces[max(0, bisect_right(self.pieces, (offset, 1 << 60, 0)) - 1)]
        return line, column + offset - start

    def span(self, start: int, end: int) -> Span:
        """Where `text[start:end]` stands in the file."""
        line, column = self.place(start)
        end_line, end_column = self.place(max(start, end - 1))
        return Span(line=line, column=column, end_line=end_line, end_column=end_column + 1)

    def whole(self) -> Span:
        """The instruction with its continuation lines and heredoc bodies."""
        first = self.span(0, len(self.text.rstrip()) or 1)
        if self.end_line <= first.end_line:
            return first
        return Span(line=first.line, column=first.column, end_line=self.end_line, end_column=1)


class Split(Value):
    """What `split` found: the escape character, the directives, the logical lines and warnings about them."""

    escape: str
    directives: tuple[Directive, ...]
    lines: tuple[Logical, ...]
    findings: tuple[Finding, ...]


def source_of(text: str, name: str = "Dockerfile") -> Source:
    """`text` as a Source; a byte-order mark is dropped and CRLF read as LF."""
    text = text.removeprefix("\ufeff")
    return Source(name=name, lines=tuple(line.removesuffix("\r") for line in text.split("\n")))


def split(source: Source) -> Split:
    """Split into logical lines. Raises DockerfileError on a bad directive or a heredoc without its end."""
    escape, directives = _directives(source)
    reader = _Reader(source, escape)
    return Split(
        escape=escape, directives=tuple(directives), lines=tuple(reader.logicals()), findings=tuple(reader.findings)
    )


def parse_heredoc(word: str) -> Heredoc | None:
    """`<<EOF`, `<<-EOF`, `3<<'EOF'` as a Heredoc without its body; None when `word` is something else."""
    found = _HEREDOC.match(word)
    if found is None or not found[3]:
        return None
    try:
        words = Lexer("\\", skip_unset=True).words(found[3], {})
        raw = Lexer("\\", skip_unset=True, raw_quotes=True).words(found[3], {})
    except ExpansionError:
        return None
    if len(words) != 1 or len(raw) != 1:
        return None
    return Heredoc(name=words[0], expand=_quotes(words[0]) == _quotes(raw[0]), chomp=bool(found[2]))


def heredocs_in(text: str) -> list[Heredoc]:
    """All here-documents that an instruction's text announces, in order."""
    try:
        words = Lexer("\\", skip_unset=True, raw_quotes=True, raw_escapes=True).words(text, {})
    except ExpansionError:
        return []
    return [found for word in words if (found := parse_heredoc(word))]


def _quotes(word: str) -> int:
    return word.count("'") + word.count('"')


def _directives(source: Source) -> tuple[str, list[Directive]]:
    escape = "\\"
    seen: list[Directive] = []
    for number, line in enumerate(source.lines, 1):
        found = _DIRECTIVE.match(line.lstrip())
        if found is None:
            break
        name = found[1].lower()
        if name not in DIRECTIVES:
            break
        indent = len(line) - len(line.lstrip())
        span = Span(line=number, column=indent + 1, end_line=number, end_column=len(line.rstrip()) + 1)
        if any(name == other.name for other in seen):
            raise DockerfileError(f"only one {name} parser directive is allowed", source=source, span=span)
        if name == "escape":
            if found[2] not in {"\\", "`"}:
                raise DockerfileError(f"escape must be \\ or `, not {found[2]!r}", source=source, span=span)
            escape = found[2]
        seen.append(Directive(name=name, value=found[2], span=span))
    return escape, seen


class _Reader:
    def __init__(self, source: Source, escape: str) -> None:
        self.source = source
        self.escape = escape
        self.findings: list[Finding] = []
        self.at = 0  # index of the next physical line
        token = re.escape(escape)
        # A token after another token is an escaped token, not a continuation.
        self.continued = re.compile(rf"(?:^|(?<!{token})){token}[ \t]*\Z")

    def logicals(self) -> Iterator[Logical]:
        lines = self.source.lines
        comments: list[str] = []
        while self.at < len(lines):
            line = lines[self.at]
            stripped = line.lstrip()
            if stripped.startswith("#"):
                comment = stripped[1:].strip()
                comments = [*comments, comment] if comment else []
                self.at += 1
                continue
            if not stripped:
                self.at += 1
                comments = []
                continue
            logical = self._logical(tuple(comments))
            comments = []
            if logical.text.strip():
                yield self._with_heredocs(logical)

    def _logical(self, comments: tuple[str, ...]) -> Logical:
        lines = self.source.lines
        line = lines[self.at]
        indent = len(line) - len(line.lstrip())
        parts: list[str] = []
        pieces: list[tuple[int, int, int]] = []
        length = 0
        part, column = line[indent:], indent + 1
        while True:
            ending = self.continued.search(part)
            part = part[: ending.start()] if ending else part
            pieces.append((length, self.at + 1, column))
            parts.append(part)
            length += len(part)
            self.at += 1
            if not ending:
                break
            following = self._next_continuation()
            if following is None:
                break
            part, column = following, 1
        return Logical(text="".join(parts), pieces=tuple(pieces), end_line=self.at, comments=comments)

    def _next_continuation(self) -> str | None:
        """The next line that is neither comment nor empty; both may stand inside a continued instruction."""
        lines = self.source.lines
        blanks: list[int] = []
        while self.at < len(lines):
            line = lines[self.at]
            stripped = line.strip()
            if stripped and not stripped.startswith("#"):
                for number in blanks:
                    span = Span(line=number, column=1, end_line=number, end_column=2)
                    self.findings.append(Finding(rule="NoEmptyContinuation", text="Empty continuation line", span=span))
                return line
            self.at += 1
            if not stripped:
                blanks.append(self.at)
        return None

    def _with_heredocs(self, logical: Logical) -> Logical:
        if "<<" not in logical.text or not _takes_heredocs(logical.text):
            return logical
        bodies = [self._body(announced, logical) for announced in heredocs_in(logical.text)]
        return logical.replace(heredocs=tuple(bodies), end_line=max(logical.end_line, self.at)) if bodies else logical

    def _body(self, announced: Heredoc, logical: Logical) -> Heredoc:
        lines = self.source.lines
        start = self.at
        for number in range(start, len(lines)):
            line = lines[number].rstrip("\r")
            if (line.lstrip("\t") if announced.chomp else line) == announced.name:
                self.at = number + 1
                body = lines[start:number]
                span = Span(line=start + 1, column=1, end_line=max(start + 1, number), end_column=1)
                return announced.replace(content="".join(f"{row}\n" for row in body), span=span)
        rest = [row.strip() for row in lines[start:]]
        raise DockerfileError(
            f"here-document {announced.name} has no end{did_you_mean(announced.name, filter(None, rest))}",
            source=self.source,
            span=logical.span(0, len(logical.text)),
            hint=f"a line that holds nothing but {announced.name} ends it"
            + ("" if announced.chomp else "; with <<- that line may be indented by tabs"),
        )


def _takes_heredocs(text: str) -> bool:
    """Whether this is RUN, COPY or ADD (perhaps below ONBUILD), and not in JSON form."""
    words = text.split(None, 2)
    name = words[0].upper()
    rest = text.strip()[len(words[0]) :].strip()
    if name == "ONBUILD" and len(words) > 1:
        name = words[1].upper()
        rest = rest[len(words[1]) :].strip()
    if name not in _HEREDOC_TAKERS:
        return False
    while rest.startswith("--"):
        rest = rest.split(None, 1)[1] if len(rest.split(None, 1)) > 1 else ""
    return not _is_string_array(rest)


def _is_string_array(text: str) -> bool:
    try:
        return json_words(text) is not None
    except ValueError:
        return True
