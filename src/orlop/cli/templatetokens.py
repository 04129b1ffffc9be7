"""The words of a Go template: text, and what is between {{ and }}. Pure."""

from __future__ import annotations

from orlop.cli.templatefunctions import TemplateFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\", '"': '"', "'": "'"}
_BLANKS = " \t\r\n"


class Token:
    """One token. `kind`: text, open, close, field (".A.B"), variable ("$x.A"), word, constant, or the mark itself."""

    __slots__ = ("at", "kind", "text", "value")

    def __init__(self, kind: str, text: str, at: int, value: Any = None) -> None:
        self.kind = kind
        self.text = text
        self.at = at  # offset in the template
        self.value = value  # of a constant


def lex(text: str) -> list[Token]:
    """All tokens. TemplateFailure (with `at`) for what is none."""
    tokens: list[Token] = []
    at, trim = 0, False
    while True:
        start = text.find("{{", at)
        plain = text[at:] if start < 0 else text[at:start]
        if trim:
            plain = plain.lstrip(_BLANKS)
        if (
            start >= 0
            and text[start + 2 : start + 3] == "-"
            and text[start + 3 : start + 4] in _BLANKS
            and text[start + 3 :]
        ):
            plain = plain.rstrip(_BLANKS)
        if plain:
            tokens.append(Token("text", plain, at))
        if start < 0:
            return tokens
        at, trim = _action(text, start, tokens)


def _action(text: str, start: int, tokens: list[Token]) -> tuple[int, bool]:
    """The tokens of one {{...}}; returns where it ends, and whether the text after it loses its first blanks."""
    at = start + 2
    if text[at : at + 1] == "-" and text[at + 1 : at + 2] and text[at + 1] in _BLANKS:
        at += 2
    opened = len(tokens)
    tokens.append(Token("open", "{{", start))
    while True:
        blanks = at
        while at < len(text) and text[at] in _BLANKS:
            at += 1
        if text.startswith("}}", at):
            tokens.append(Token("close", "}}", at))
            return at + 2, False
        if text.startswith("-}}", at) and at > blanks:
            tokens.append(Token("close", "-}}", at))
            return at + 3, True
        if at >= len(text):
            raise TemplateFailure("an action without its }}", start)
        if text.startswith("/*", at):
            if len(tokens) != opened + 1:
                raise TemplateFailure("a comment in the middle of an action", at)
            del tokens[opened:]
            return _comment(text, at)
        token = _token(text, at)
        tokens.append(token)
        at = token.at + len(token.text)


def _comment(text: str, at: int) -> tuple[int, bool]:
    end = text.find("*/", at + 2)
    if end < 0:
        raise TemplateFailure("a comment without its */", at)
    end += 2
    rest = text[end:].lstrip(_BLANKS)
    if rest.startswith("}}"):
        return len(text) - len(rest) + 2, False
    if rest.startswith("-}}") and text[end : end + 1] in _BLANKS:
        return len(text) - len(rest) + 3, True
    raise TemplateFailure("a comment must be all there is between {{ and }}", at)


def _token(text: str, at: int) -> Token:
    mark = text[at]
    if mark == ".":
        if text[at + 1 : at + 2].isdigit():
            return _number(text, at)
        end = _chain(text, at)
        return Token("field", text[at:end], at)
    if mark == "$":
        end = _chain(text, _name(text, at + 1))
        return Token("variable", text[at:end], at)
    if mark == '"':
        return _string(text, at)
    if mark == "`":
        end = text.find("`", at + 1)
        if end < 0:
            raise TemplateFailure("a string without its `", at)
        return Token("constant", text[at : end + 1], at, text[at + 1 : end])
    if mark == "'":
        token = _string(text, at, "'")
        if len(token.value) != 1:
            raise TemplateFailure('a character has one letter; write strings with "', at)
        token.value = ord(token.value)
        return token
    if mark.isdigit() or (mark in "+-" and text[at + 1 : at + 2].isdigit()):
        return _number(text, at)
    if mark.isalpha() or mark == "_":
        return Token("word", text[at : _name(text, at)], at)
    for marks in (":=", "=", "|", "(", ")", ","):
        if text.startswith(marks, at):
            return Token(marks, marks, at)
    raise TemplateFailure(f"unexpected {mark!r}", at)


def _name(text: str, at: int) -> int:
    while at < len(text) and (text[at].isalnum() or text[at] == "_"):
        at += 1
    return at


def _chain(text: str, at: int) -> int:
    """The end of `.A.B.C`; a lone dot is a chain too."""
    while at < len(text) and text[at] == ".":
        end = _name(text, at + 1)
        if end == at + 1:
            return end
        at = end
    return at


def _number(text: str, at: int) -> Token:
    end = at + 1
    while end < len(text) and (
        text[end].isalnum() or text[end] in "._" or (text[end] in "+-" and text[end - 1] in "eE")
    ):
        end += 1
    word = text[at:end]
    value: int | float
    try:
        value = int(word, 0)
    except ValueError:
        try:
            value = float(word)
        except ValueError:
            raise TemplateFailure(f"{word!r} is not a number", at) from None
    return Token("constant", word, at, value)


def _string(text: str, at: int, quote: str = '"') -> Token:
    found: list[str] = []
    end = at + 1
    while end < len(text) and text[end] not in {quote, "\n"}:
        if text[end] != "\\":
            found.append(text[end])
            end += 1
            continue
        letter = text[end + 1 : end + 2]
        digits = {"x": 2, "u": 4, "U": 8}.get(letter, 0)
        if letter in _ESCAPES and letter:
            found.append(_ESCAPES[letter])
        elif digits:
            try:
                found.append(chr(int(text[end + 2 : end + 2 + digits], 16)))
            except (ValueError, OverflowError):
                raise TemplateFailure("a malformed escape", end) from None
        else:
            raise TemplateFailure(f"an unknown escape \\{letter}", end)
        end += 2 + digits
    if end >= len(text) or text[end] != quote:
        raise TemplateFailure(f"a string without its {quote}", at)
    return Token("constant", text[at : end + 1], at, "".join(found))
