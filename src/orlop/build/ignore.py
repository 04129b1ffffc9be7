"""Which files of a build context do not exist for the build: .dockerignore.

Rules as in moby's patternmatcher: comments start with # in the first column, a leading slash means nothing, a trailing
slash neither, `!` brings back, the last matching line wins, and a line that matches a folder matches all below it.
"""

from __future__ import annotations

import os

from orlop.build.patterns import Matcher, Rule, clean_rule
from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SIZE = 1 << 20  # bytes of an ignore file


def parse(text: str, name: str = ".dockerignore") -> Matcher:
    """The rules of an ignore file. Raises InvalidArgument naming file and line."""
    rules = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if line.startswith("#") or not line.strip():
            continue
        rules.append(_rule(line, name, number))
    return _matcher(rules)


def of_patterns(patterns: Iterable[str], name: str) -> Matcher:
    """A matcher for patterns that stand in a flag (--exclude). Raises InvalidArgument."""
    return _matcher([_rule(pattern, name, 0) for pattern in patterns if pattern.strip()])


def load(context: str, dockerfile: str) -> Matcher:
    """The ignore rules for a build: `<dockerfile>.dockerignore`, else `.dockerignore` in the folder `context`.

    Both are paths on this machine; a missing ignore file ignores nothing.
    """
    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else []
    candidates.append(os.path.join(context, ".dockerignore"))
    for path in candidates:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(MAX_SIZE + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except IsADirectoryError as error:
            raise InvalidArgument(f"{path} is a folder, not a list of patterns") from error
        if len(text) > MAX_SIZE:
            raise InvalidArgument(f"{path} is larger than {MAX_SIZE} bytes")
        return parse(text, os.path.relpath(path, context) if path.startswith(context) else path)
    return Matcher(())


def _rule(line: str, name: str, number: int) -> Rule:
    try:
        pattern, negated = clean_rule(line)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}:{number}: {error.message}") from error
    return Rule(pattern=pattern, negated=negated, file=name, line=number, text=line.strip())


def _matcher(rules: list[Rule]) -> Matcher:
    try:
        return Matcher(rules)
    except InvalidArgument as error:
        where = ", ".join(sorted({f"{rule.file}:{rule.line}" for rule in rules if rule.pattern in error.message}))
        raise InvalidArgument(f"{where}: {error.message}" if where else error.message) from error
