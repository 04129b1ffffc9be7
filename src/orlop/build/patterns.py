"""Path patterns: Go's filepath.Match for COPY sources, and moby's `**` patterns for .dockerignore and --exclude.

Paths are slash-separated and relative ("src/app.py"). Both are compiled once to regular expressions.
"""

from __future__ import annotations

import re
from posixpath import normpath

from orlop.errors import InvalidArgument
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_WILD = frozenset("*?[")
_SPECIAL = frozenset("*?[]\\")


def has_wildcards(path: str) -> bool:
    """Whether a `*`, `?` or `[` stands in `path` without a backslash before it."""
    at = 0
    while at < len(path):
        if path[at] == "\\":
            at += 1
        elif path[at] in _WILD:
            return True
        at += 1
    return False


def unescaped(path: str) -> str:
    """A path without wildcards as the name it means: backslashes gone."""
    return re.sub(r"\\(.)", r"\1", path)


def compile_glob(pattern: str) -> re.Pattern[str]:
    """A pattern as Go's filepath.Match reads it: `*` and `?` stop at a slash, `[a-z]`, `[^a]`, a backslash escapes.

    Raises InvalidArgument for an open bracket or a trailing backslash.
    """
    out: list[str] = []
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*":
            out.append("[^/]*")
        elif letter == "?":
            out.append("[^/]")
        elif letter == "[":
            piece, at = _bracket(pattern, at)
            out.append(piece)
        elif letter == "\\":
            if at >= len(pattern):
                raise InvalidArgument(f"the pattern {pattern!r} ends with a backslash")
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(letter))
    return _compiled("".join(out), pattern)


def _compiled(expression: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(expression + r"\Z", re.DOTALL)
    except re.error as error:
        raise InvalidArgument(f"the pattern {pattern!r} is not valid: {error}") from error


def _bracket(pattern: str, at: int) -> tuple[str, int]:
    """A bracket expression from after its `[`; the regular expression for it and where it ends."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[str] = []
    while True:
        if at >= len(pattern):
            raise InvalidArgument(f"the pattern {pattern!r} has an open bracket")
        if pattern[at] == "]" and ranges:
            break
        low, at = _member(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _member(pattern, at + 1)
        if low > high:
            raise InvalidArgument(f"the pattern {pattern!r} has a range that runs backwards")
        ranges.append(re.escape(low) if low == high else f"{re.escape(low)}-{re.escape(high)}")
    slash = "" if negated else "(?!/)"
    return f"{slash}[{'^/' if negated else ''}{''.join(ranges)}]", at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    if at >= len(pattern) or pattern[at] in "-]":
        raise InvalidArgument(f"the pattern {pattern!r} has a malformed bracket")
    if pattern[at] == "\\":
        at += 1
        if at >= len(pattern):
            raise InvalidArgument(f"the pattern {pattern!r} ends with a backslash")
    return pattern[at], at + 1


class Rule(Value):
    """One line of an ignore list. `pattern` is cleaned, without `!`; `negated` lines bring files back."""

    pattern: str
    negated: bool
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.text})"


class Matcher:
    """An ordered list of rules: the last one that matches a path, or a folder above it, decides.

    `verdict(path, above)` is given the state of the folder above and returns the deciding rule and the path's own
    state, so that a walk never tests a parent twice. A state is a bit mask of the rules that matched.
    """

    __slots__ = ("_any_negated", "_expressions", "_literal", "rules")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._any_negated = any(rule.negated for rule in self.rules)
        self._expressions = [compile_rule(rule.pattern) for rule in self.rules]

    def verdict(self, path: str, above: int = 0) -> tuple[Rule | None, int]:
        """The rule that decides about `path` (None: none matched) and the state for what lies below it."""
        state = above
        decided: Rule | None = None
        for number, matches in enumerate(self._expressions):
            bit = 1 << number
            if above & bit or matches(path):
                state |= bit
                decided = self.rules[number]
        return decided, state

    def ignores(self, path: str) -> Rule | None:
        """The rule that hides `path`, its parents considered; None when it is visible."""
        state = 0
        parts = path.split("/")
        decided: Rule | None = None
        for count in range(1, len(parts) + 1):
            decided, state = self.verdict("/".join(parts[:count]), state)
        return decided if decided and not decided.negated else None

    def may_return(self, folder: str) -> bool:
        """Whether something below the hidden `folder` may be brought back by a negated rule."""
        if not self._any_negated:
            return False
        depth = folder.count("/") + 1
        head = folder.split("/")
        for rule in self.rules:
            if not rule.negated:
                continue
            parts = rule.pattern.split("/")
            if len(parts) <= depth and "**" not in rule.pattern:
                continue  # it can match the folder or something above it, which the walk has seen
            fixed = []
            for part in parts:
                if has_wildcards(part) or "\\" in part:
                    break
                fixed.append(part)
            shared = min(len(fixed), depth)
            if fixed[:shared] == head[:shared]:
                return True
        return False


def clean_rule(text: str) -> tuple[str, bool]:
    """A line of an ignore list as (pattern, negated). Raises InvalidArgument for a lone `!`."""
    text = text.strip()
    negated = text.startswith("!")
    if negated:
        text = text[1:].strip()
        if not text:
            raise InvalidArgument("a lone ! negates nothing")
    text = normpath(text)
    if text.startswith("//"):
        text = text[1:]
    if len(text) > 1:
        text = text.removeprefix("/")
    return text, negated


def compile_rule(pattern: str) -> _Match:
    """A `**` pattern as a predicate on paths.

    `**` is any number of folders (none included), `*` and `?` stop at a slash. Raises InvalidArgument.
    """
    if pattern in {".", "/"}:
        return lambda _: False  # nobody means "ignore the whole context" by a dot
    if not has_wildcards(pattern) and "\\" not in pattern:
        return pattern.__eq__
    compile_glob(pattern)  # only to refuse malformed patterns
    if pattern.startswith("**") and not _SPECIAL.intersection(pattern[2:]):
        suffix = pattern[2:]
        return lambda path: path.endswith(suffix) or f"/{path}" == suffix
    out: list[str] = []
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*" and pattern.startswith("*", at):
            at += 1
            if pattern.startswith("/", at):
                at += 1
            out.append(".*" if at >= len(pattern) else "(?:.*/)?")
        elif letter == "*":
            out.append("[^/]*")
        elif letter == "?":
            out.append("[^/]")
        elif letter == "[":
            piece, at = _bracket(pattern, at)
            out.append(piece)
        elif letter == "\\":
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(letter))
    matcher = _compiled("".join(out), pattern).match
    return lambda path: matcher(path) is not None


if TYPE_CHECKING:
    from collections.abc import Callable

    _Match = Callable[[str], bool]
