"""Shell-like words: variables, quotes and escapes as the Dockerfile language reads them.

It is a small language of its own: `$name`, `${name}`, `${name:-word}`, `${name-word}`, `${name:+word}`, `${name+word}`,
`${name:?word}`, `${name?word}`, `${name#pattern}`, `##`, `%`, `%%`, `${name/pattern/word}`, `${name//pattern/word}`;
no command substitution, no arithmetic.
"""

from __future__ import annotations

import re

from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SPECIAL = frozenset("@*#?-$!0")
_END = ""  # what `_peek` gives past the end


class ExpansionError(InvalidArgument):
    """A word that cannot be expanded: an open quote, a bad substitution, a variable that had to be set."""


class Lexer:
    """Expands words. `escape` is the Dockerfile's escape character.

    `raw_quotes` and `raw_escapes` keep quotes and escape characters in the result; `skip_unset` leaves variables that
    are not set as they are written; `skip_quotes` treats quotes as plain letters. `used` and `unset` collect the names
    that were looked up.
    """

    __slots__ = ("escape", "raw_escapes", "raw_quotes", "skip_quotes", "skip_unset", "unset", "used")

    def __init__(
        self,
        escape: str = "\\",
        *,
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        skip_unset: bool = False,
        skip_quotes: bool = False,
    ) -> None:
        self.escape = escape
        self.raw_quotes = raw_quotes
        self.raw_escapes = raw_escapes
        self.skip_unset = skip_unset
        self.skip_quotes = skip_quotes
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def word(self, text: str, env: Mapping[str, str]) -> str:
        """`text` expanded as one word; blanks stay."""
        return _Run(self, text, env).until(_END, raw_escapes=self.raw_escapes)[0]

    def words(self, text: str, env: Mapping[str, str]) -> list[str]:
        """`text` expanded and split at unquoted blanks, those from variables included; empty words vanish."""
        return _Run(self, text, env).until(_END, raw_escapes=self.raw_escapes)[1]


class _Words:
    """Collects words while letters arrive; raw letters never split."""

    __slots__ = ("current", "done")

    def __init__(self) -> None:
        self.done: list[str] = []
        self.current: list[str] = []

    def letter(self, letter: str) -> None:
        if not letter.isspace():
            self.current.append(letter)
        elif self.current and any(self.current):
            self.done.append("".join(self.current))
            self.current = []

    def raw(self, text: str) -> None:
        self.current.append(text)

    def finish(self) -> list[str]:
        last = "".join(self.current)
        return [*self.done, last] if last else self.done


class _Run:
    """One expansion: a cursor over the text."""

    __slots__ = ("at", "env", "lexer", "raw_escapes", "text")

    def __init__(self, lexer: Lexer, text: str, env: Mapping[str, str]) -> None:
        self.lexer = lexer
        self.text = text
        self.env = env
        self.at = 0
        self.raw_escapes = lexer.raw_escapes

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _next(self) -> str:
        letter = self.text[self.at : self.at + 1]
        self.at += 1
        return letter

    def until(self, stop: str, *, raw_escapes: bool) -> tuple[str, list[str]]:
        """Expand up to an unquoted `stop` letter (taken, not returned), or to the end where `stop` is empty."""
        outer, self.raw_escapes = self.raw_escapes, raw_escapes
        result: list[str] = []
        words = _Words()
        while letter := self._peek():
            if letter == stop:
                self.at += 1
                self.raw_escapes = outer
                return "".join(result), words.finish()
            if letter == "$":
                value = self._dollar()
                result.append(value)
                for one in value:
                    words.letter(one)
            elif letter in "'\"" and not self.lexer.skip_quotes:
                value = self._single() if letter == "'" else self._double()
                result.append(value)
                words.raw(value)
            elif letter == "<":
                value = self._less()
                result.append(value)
                words.raw(value)
            elif letter == self.lexer.escape:
                self._escaped(result, words)
            else:
                self.at += 1
                result.append(letter)
                words.letter(letter)
        self.raw_escapes = outer
        if stop:
            raise ExpansionError(f"the text ends before its {stop!r}")
        return "".join(result), words.finish()

    def _escaped(self, result: list[str], words: _Words) -> None:
        self.at += 1
        if self.raw_escapes:
            result.append(self.lexer.escape)
            words.raw(self.lexer.escape)
        letter = self._next()
        result.append(letter)
        words.raw(letter)

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise ExpansionError("a single quote is not closed")
        inner = self.text[self.at + 1 : end]
        self.at = end + 1
        return f"'{inner}'" if self.lexer.raw_quotes else inner

    def _double(self) -> str:
        quote = '"' if self.lexer.raw_quotes else ""
        result = [quote]
        self.at += 1
        while letter := self._peek():
            if letter == '"':
                self.at += 1
                result.append(quote)
                return "".join(result)
            if letter == "$":
                result.append(self._dollar())
                continue
            self.at += 1
            if letter == self.lexer.escape:
                if self.raw_escapes:
                    result.append(letter)
                following = self._peek()
                if not following:
                    continue
                if following in {'"', "$", self.lexer.escape}:
                    letter = self._next()
            result.append(letter)
        raise ExpansionError("a double quote is not closed")

    def _less(self) -> str:
        """`<<` and blanks after it stay together with the word that follows: it may announce a here-document."""
        start = self.at
        self.at += 1
        if self._peek() == "<":
            self.at += 1
            while self._peek() and self._peek() in " \t\r":
                self.at += 1
        return self.text[start : self.at]

    def _name(self) -> str:
        start = self.at
        first = self._peek()
        if first.isdigit():
            while self._peek().isdigit():
                self.at += 1
        elif first and first in _SPECIAL:
            self.at += 1
        else:
            while self._peek() and (self._peek().isalnum() or self._peek() == "_"):
                self.at += 1
        return self.text[start : self.at]

    def _lookup(self, name: str) -> str | None:
        value = self.env.get(name)
        (self.lexer.unset if value is None else self.lexer.used).add(name)
        return value

    def _dollar(self) -> str:
        start = self.at
        self.at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._lookup(name)
            return self.text[start : self.at] if value is None and self.lexer.skip_unset else value or ""
        self.at += 1
        if not self._peek():
            raise ExpansionError("${ has no closing }")
        if self._peek() in "{}:":
            raise ExpansionError(f"bad substitution ${{{self._peek()}")
        name = self._name()
        value = self._modified(name)
        return value if value is not None else self.text[start : self.at]

    def _modified(self, name: str) -> str | None:
        """What follows the name inside `${`; None means: leave it as written."""
        sign = self._next()
        if sign == "}":
            value = self._lookup(name)
            return None if value is None and self.lexer.skip_unset else value or ""
        if sign == "/":
            return self._replaced(name)
        colon = sign == ":"
        if colon:
            sign = self._next()
        if not sign:
            raise ExpansionError("${ has no closing }")
        if sign not in "+-?#%" or (colon and sign in "#%"):
            raise ExpansionError(
                f"${{{name}{':' if colon else ''}{sign}...}} is not a substitution that Dockerfiles have",
                hint="there are :- - :+ + :? ? # ## % %% / and //",
            )
        word = self._until_brace(raw_escapes=sign in "#%")
        value = self._lookup(name)
        if value is None and self.lexer.skip_unset:
            return None
        if sign in "#%":
            return _trimmed(value or "", word, sign)
        return self._conditional(name, value, word, sign, colon=colon)

    def _conditional(self, name: str, value: str | None, word: str, sign: str, *, colon: bool) -> str:
        missing = value is None or (colon and not value)
        if sign == "-":
            return word if missing else value or ""
        if sign == "+":
            return "" if missing else word
        if missing:
            raise ExpansionError(f"{name}: {word or ('must not be unset' if value is None else 'must not be empty')}")
        return value or ""

    def _until_brace(self, *, raw_escapes: bool) -> str:
        try:
            return self.until("}", raw_escapes=raw_escapes)[0]
        except ExpansionError as error:
            if self.at >= len(self.text) and error.message.startswith("the text ends"):
                raise ExpansionError("${ has no closing }") from error
            raise

    def _replaced(self, name: str) -> str | None:
        everywhere = self._peek() == "/"
        if everywhere:
            self.at += 1
        pattern = self.until("/", raw_escapes=True)[0]
        replacement = self._until_brace(raw_escapes=True)
        value = self._lookup(name)
        if value is None:
            return None if self.lexer.skip_unset else ""
        compiled = _pattern(pattern, greedy=True)
        return compiled.sub(lambda _: replacement, value, count=0 if everywhere else 1)


def _trimmed(value: str, word: str, sign: str) -> str:
    greedy = word.startswith(sign)
    if greedy:
        word = word[1:]
    if sign == "#":
        found = _pattern(word, greedy=greedy).match(value)
        return value[found.end() :] if found else value
    # The shortest or longest suffix: the ends where a match may start are tried in order.
    compiled = _pattern(word, greedy=True)
    starts = range(len(value) + 1) if greedy else range(len(value), -1, -1)
    for start in starts:
        if compiled.fullmatch(value, start):
            return value[:start]
    return value


def _pattern(pattern: str, *, greedy: bool) -> re.Pattern[str]:
    """A shell pattern (`*`, `?`, backslash; no brackets) as a regular expression."""
    out: list[str] = []
    letters = iter(pattern)
    for letter in letters:
        if letter == "*":
            out.append(".*" if greedy else ".*?")
        elif letter == "?":
            out.append(".")
        elif letter == "\\":
            following = next(letters, "")
            if not following or following not in "*?\\}/":
                raise ExpansionError(f"invalid escape \\{following} in the pattern {pattern!r}")
            out.append(re.escape(following))
        else:
            out.append(re.escape(letter))
    return re.compile("".join(out))
