"""Go's text/template, as far as `--format` is used: parsed once into functions, then run for every row. Pure.

What holds here is what pkg.go.dev/text/template says: field chains, pipelines, variables, `if`, `with`, `range`,
`break`, `continue`, trimmed blanks, comments, Go's functions and docker's (json, split, join, upper, lower, title, pad,
truncate). `define`, `template` and `block` are not here. An error shows the template and points at the place.
"""

from __future__ import annotations

from orlop.cli import golang
from orlop.cli.templatefunctions import FUNCTIONS, TemplateFailure
from orlop.cli.templatetokens import Token, lex
from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeAlias

    Value: TypeAlias = Callable[["Scope"], Any]
    Step: TypeAlias = Callable[["Scope", list[str]], None]

_DEEPEST = 100  # nested parentheses or blocks: nobody writes more, and Python's stack is finite


class TemplateError(InvalidArgument):
    """A template that cannot be parsed, or that the data does not fit. The message points at the place."""

    def __init__(self, text: str, at: int, what: str) -> None:
        before = text[:at]
        line = text.split("\n")[before.count("\n")]
        column = at - (before.rfind("\n") + 1)
        pointer = "".join("\t" if mark == "\t" else " " for mark in line[:column])
        super().__init__(f"template: {what}, at column {column + 1}:\n  {line}\n  {pointer}^")
        self.column = column + 1


class Scope:
    """Where a step runs: dot, and the variables that can be seen, innermost last."""

    __slots__ = ("dot", "variables")

    def __init__(self, dot: Any, variables: list[tuple[str, Any]]) -> None:
        self.dot = dot
        self.variables = variables

    def inner(self, dot: Any) -> Scope:
        """The scope of a block: it sees these variables, and its own are gone after it."""
        return Scope(dot, self.variables)


class _Break(Exception):
    """{{break}}."""


class _Continue(Exception):
    """{{continue}}."""


class Template:
    """A parsed template; `execute` runs it on data. `functions` replaces some of the built-in ones."""

    def __init__(self, text: str, functions: dict[str, Callable[..., Any]] | None = None) -> None:
        self.text = text
        self.functions = FUNCTIONS | (functions or {})
        self._run = _Parser(self).parse()

    def execute(self, data: Any) -> str:
        """The text for one piece of data. TemplateError where the data does not have what is asked of it."""
        out: list[str] = []
        try:
            self._run(Scope(data, [("$", data)]), out)
        except (_Break, _Continue):  # the parser lets them be only in a range
            raise TemplateError(self.text, 0, "break outside of range") from None
        return "".join(out)


class _Parser:
    """From tokens to functions, by recursive descent."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.text = template.text
        try:
            self.tokens = lex(template.text)
        except TemplateFailure as failure:
            raise TemplateError(self.text, failure.at, failure.what) from None
        self.at = 0
        self.loops = 0
        self.depth = 0
        self.names: list[str] = ["$"]  # variables declared so far, innermost last

    def parse(self) -> Step:
        body, end = self.body()
        if end is not None:
            self.fail(end, f"unexpected {{{{{end.text}}}}}")
        return body

    # tokens

    def failure(self, token: Token, what: str) -> TemplateError:
        return TemplateError(self.text, token.at, what)

    def fail(self, token: Token, what: str) -> NoReturn:
        raise self.failure(token, what)

    def peek(self) -> Token:
        if self.at < len(self.tokens):
            return self.tokens[self.at]
        raise TemplateError(self.text, len(self.text), "it ends too early")

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def close(self) -> None:
        token = self.next()
        if token.kind != "close":
            self.fail(token, f"unexpected {token.text!r}")

    # statements

    def body(self) -> tuple[Step, Token | None]:
        """Steps up to the end, or to an `end` or `else` that belongs to the caller (its word is consumed)."""
        self.depth += 1
        if self.depth > _DEEPEST:
            self.fail(self.tokens[min(self.at, len(self.tokens) - 1)], "it is nested too deeply")
        steps: list[Step] = []
        declared = len(self.names)
        end: Token | None = None
        while self.at < len(self.tokens):
            token = self.next()
            if token.kind == "text":
                steps.append(_text(token.text))
                continue
            word = self.peek()
            if word.kind == "close":
                self.fail(word, "an empty action")
            if word.kind == "word" and word.text in {"end", "else"}:
                end = self.next()
                break
            steps.append(self.action(word))
        del self.names[declared:]
        self.depth -= 1
        return _sequence(steps), end

    def action(self, word: Token) -> Step:
        """One {{...}} that is not text."""
        if word.kind == "word":
            if word.text in {"if", "with", "range"}:
                self.next()
                return self.block(word)
            if word.text in {"break", "continue"} and self.loops:
                self.next()
                self.close()
                return _raising(_Break if word.text == "break" else _Continue)
            if word.text in {"define", "template", "block", "break", "continue"}:
                self.fail(word, f"{word.text} cannot be used here")
        names, assigns, value = self.pipeline()
        self.close()
        if names:
            return _assignment(names[0], value, new=not assigns)
        return _printing(value)

    def block(self, word: Token) -> Step:
        """`if`, `with` or `range`, up to and with its `end`."""
        outer = len(self.names)
        names, assigns, value = self.pipeline(most=2 if word.text == "range" else 1)
        self.close()
        self.loops += word.text == "range"
        then, end = self.body()
        self.loops -= word.text == "range"
        otherwise: Step = _sequence([])
        if end is not None and end.text == "else":
            follows = self.peek()
            if follows.kind == "word" and follows.text in {"if", "with"} and word.text in {"if", "with"}:
                otherwise = self.block(self.next())
                del self.names[outer:]
                return self.joined(word, names, value, then, otherwise, new=not assigns)
            self.close()
            otherwise, end = self.body()
        if end is None or end.text != "end":
            self.fail(end or word, f"{word.text} without its end" if end is None else "a second else")
        self.close()
        del self.names[outer:]
        return self.joined(word, names, value, then, otherwise, new=not assigns)

    def joined(self, word: Token, names: list[str], value: Value, then: Step, otherwise: Step, *, new: bool) -> Step:
        if word.text == "range":
            return self.looping(word, names, value, then, otherwise)

        def run(scope: Scope, out: list[str]) -> None:
            kept = len(scope.variables)
            found = value(scope)
            if names:
                _bind(scope, names[0], found, new=new)
            if golang.truth(found):
                then(scope.inner(found) if word.text == "with" else scope, out)
            else:
                otherwise(scope, out)
            del scope.variables[kept:]

        return run

    def looping(self, word: Token, names: list[str], value: Value, then: Step, otherwise: Step) -> Step:
        def run(scope: Scope, out: list[str]) -> None:
            kept = len(scope.variables)
            pairs = self.pairs(word, value(scope))
            if not pairs:
                otherwise(scope, out)
            for key, one in pairs:
                for name, bound in zip(names, (key, one) if len(names) == 2 else (one,), strict=False):
                    scope.variables.append((name, bound))
                try:
                    then(scope.inner(one), out)
                except _Continue:
                    continue
                except _Break:
                    break
                finally:
                    del scope.variables[kept:]

        return run

    def pairs(self, word: Token, found: Any) -> list[tuple[Any, Any]]:
        if found is None or isinstance(found, golang.Nil):
            return []
        if isinstance(found, dict):
            return [(key, found[key]) for key in sorted(found) if not callable(found[key])]
        if isinstance(found, list | tuple):
            return list(enumerate(found))
        if isinstance(found, int) and not isinstance(found, bool):
            return [(number, number) for number in range(found)]
        raise self.failure(word, f"range cannot go over {golang.show(found)!r}")

    # expressions

    def pipeline(self, most: int = 1) -> tuple[list[str], bool, Value]:
        """Declared names, whether they are assigned to (`=`) instead of made (`:=`), and the value."""
        names, assigns = self.declaration(most)
        value = self.command(None)
        while self.peek().kind == "|":
            self.next()
            value = self.command(value)
        if not assigns:
            self.names += names
        return names, assigns, value

    def declaration(self, most: int) -> tuple[list[str], bool]:
        start = self.at
        names: list[str] = []
        while self.peek().kind == "variable" and "." not in self.peek().text:
            names.append(self.next().text)
            follows = self.next()
            if follows.kind in {":=", "="}:
                if len(names) > most:
                    self.fail(follows, "too many variables")
                for name in names if follows.kind == "=" else ():
                    self.known(name, follows)
                return names, follows.kind == "="
            if follows.kind != ",":
                break
        self.at = start
        return [], False

    def known(self, name: str, token: Token) -> None:
        if name not in self.names:
            self.fail(token, f"there is no variable {name}")

    def command(self, piped: Value | None) -> Value:
        """One command of a pipeline: an operand, or a function with its arguments."""
        head = self.peek()
        if head.kind == "word" and head.text not in {"true", "false", "nil"}:
            self.next()
            arguments = self.arguments()
            if piped is not None:
                arguments.append(piped)
            return self.call(head, arguments)
        value = self.operand()
        arguments = self.arguments()
        if piped is not None:
            arguments.append(piped)
        if not arguments:
            return self.simple(head, value)
        if head.kind != "field":
            self.fail(head, f"{head.text} is not a function and takes no arguments")
        return self.method(head, value, arguments)

    def simple(self, head: Token, value: Value) -> Value:
        """A value that may turn out to be a method without arguments."""

        def get(scope: Scope) -> Any:
            found = value(scope)
            if callable(found):
                self.fail(head, f"{head.text} needs an argument")
            return found

        return get

    def method(self, head: Token, value: Value, arguments: list[Value]) -> Value:
        def call(scope: Scope) -> Any:
            found = value(scope)
            if not callable(found):
                self.fail(head, f"{head.text} is not a function and takes no arguments")
            try:
                return found(*(argument(scope) for argument in arguments))
            except TypeError:
                self.fail(head, f"{head.text} takes other arguments")

        return call

    def arguments(self) -> list[Value]:
        found: list[Value] = []
        while self.peek().kind not in {"close", "|", ")"}:
            token = self.peek()
            if token.kind == "word" and token.text not in {"true", "false", "nil"}:
                self.next()
                found.append(self.call(token, []))
            else:
                found.append(self.simple(token, self.operand()))
        return found

    def operand(self) -> Value:
        token = self.next()
        if token.kind == "field":
            return self.fields(token, lambda scope: scope.dot, token.text)
        if token.kind == "variable":
            name, dot, chain = token.text.partition(".")
            self.known(name, token)
            return self.fields(token, lambda scope: _look_up(scope, name), dot + chain)
        if token.kind == "constant":
            constant = token.value
            return lambda _: constant
        if token.kind == "word":
            literal = {"true": True, "false": False, "nil": None}[token.text]
            return lambda _: literal
        if token.kind == "(":
            self.depth += 1
            if self.depth > _DEEPEST:
                self.fail(token, "it is nested too deeply")
            _, _, value = self.pipeline(most=0)
            closing = self.next()
            if closing.kind != ")":
                self.fail(closing, "a ) is missing")
            self.depth -= 1
            follows = self.peek()
            if follows.kind == "field" and follows.at == closing.at + 1 and follows.text != ".":
                self.next()
                return self.fields(follows, value, follows.text)
            return value
        raise self.failure(token, f"unexpected {token.text!r}")

    def fields(self, token: Token, base: Value, chain: str) -> Value:
        """The value behind `.A.B.C` of `base`."""
        names = [name for name in chain.split(".") if name]
        offset = len(token.text) - len(chain) + token.at

        def get(scope: Scope) -> Any:
            value = base(scope)
            at = offset
            for name in names:
                value = self.field(value, name, at)
                at += len(name) + 1
            return value

        return get

    def field(self, value: Any, name: str, at: int) -> Any:
        if isinstance(value, golang.Map):
            return value.get(name)
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if isinstance(value, golang.Struct) and name in value.omitted:
                return value.omitted[name]
            from orlop.cli.suggestions import did_you_mean

            meant = did_you_mean(name, value)
            raise TemplateError(self.text, at, f"there is no field {name}" + (f" (but {meant})" if meant else ""))
        if value is None or isinstance(value, golang.Nil):
            raise TemplateError(self.text, at, f"there is nothing here to take {name} of")
        raise TemplateError(self.text, at, f"{golang.show(value)!r} has no field {name}")

    def call(self, token: Token, arguments: list[Value]) -> Value:
        """A function's call; `and` and `or` look at no more arguments than they need."""
        name = token.text
        function = self.template.functions.get(name)
        if function is None:
            from orlop.cli.suggestions import did_you_mean

            meant = did_you_mean(name, [*self.template.functions, "and", "or"])
            if name not in {"and", "or"}:
                self.fail(token, f"there is no function {name}" + (f" (but {meant})" if meant else ""))
        if name in {"and", "or"}:
            if not arguments:
                self.fail(token, f"{name} needs an argument")
            return _choosing(arguments, stop=name == "or")

        def call(scope: Scope) -> Any:
            values = [argument(scope) for argument in arguments]
            try:
                return function(*values)  # type: ignore[misc]  # None was refused above
            except TemplateFailure as failure:
                self.fail(token, f"{name}: {failure.what}")
            except TypeError:
                self.fail(token, f"{name}: these arguments do not fit")

        return call


def _choosing(arguments: list[Value], *, stop: bool) -> Value:
    def choose(scope: Scope) -> Any:
        value = None
        for argument in arguments:
            value = argument(scope)
            if golang.truth(value) is stop:
                return value
        return value

    return choose


def _look_up(scope: Scope, name: str) -> Any:
    return next(value for known, value in reversed(scope.variables) if known == name)


def _bind(scope: Scope, name: str, value: Any, *, new: bool) -> None:
    if new:
        scope.variables.append((name, value))
        return
    at = max(at for at, (known, _) in enumerate(scope.variables) if known == name)
    scope.variables[at] = (name, value)


def _text(text: str) -> Step:
    return lambda _, out: out.append(text)


def _sequence(steps: list[Step]) -> Step:
    def run(scope: Scope, out: list[str]) -> None:
        kept = len(scope.variables)
        for step in steps:
            step(scope, out)
        del scope.variables[kept:]

    return run


def _raising(error: type[Exception]) -> Step:
    def run(_: Scope, __: list[str]) -> None:
        raise error

    return run


def _assignment(name: str, value: Value, *, new: bool) -> Step:
    return lambda scope, _: _bind(scope, name, value(scope), new=new)


def _printing(value: Value) -> Step:
    def run(scope: Scope, out: list[str]) -> None:
        found = value(scope)
        out.append("<no value>" if found is None else golang.show(found))

    return run
