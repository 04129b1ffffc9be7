"""Text -> Dockerfile: reads each logical line into its typed instruction, with errors that show the place.

Source of the grammar: the Dockerfile reference (docs.docker.com/reference/dockerfile), checked against BuildKit.
"""

from __future__ import annotations

from orlop.build.dockerfile import forms, instructions
from orlop.build.dockerfile.flags import Flags
from orlop.build.dockerfile.instructions import Dockerfile, Instruction, Pair, Word
from orlop.build.dockerfile.lines import Logical, parse_heredoc, source_of, split
from orlop.build.dockerfile.source import DockerfileError, Finding, Source, Span, did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

MAX_SIZE = 4 * 1024 * 1024  # characters; far above any real Dockerfile, far below what hurts


def parse(text: str, name: str = "Dockerfile") -> Dockerfile:
    """Parse a whole Dockerfile. Raises DockerfileError.

    `name` is what messages call the file. FROM is not required to come first here: `graph.plan` checks the order.
    """
    source = source_of(text, name)
    if len(text) > MAX_SIZE:
        span = Span(line=1, column=1, end_line=1, end_column=2)
        raise DockerfileError(f"more than {MAX_SIZE} characters", source=source.replace(lines=("",)), span=span)
    if "\0" in text:
        number = text[: text.index("\0")].count("\n") + 1
        column = source.lines[number - 1].index("\0") + 1
        span = Span(line=number, column=column, end_line=number, end_column=column + 1)
        raise DockerfileError("a NUL character cannot stand in a Dockerfile", source=source, span=span)
    parts = split(source)
    findings = list(parts.findings)
    found = []
    for logical in parts.lines:
        reader = _Line(source, logical, parts.escape, findings)
        found.append(reader.instruction())
    return Dockerfile(
        source=source,
        escape=parts.escape,
        directives=parts.directives,
        instructions=tuple(found),
        findings=tuple(findings),
    )


def parse_trigger(text: str, image: str) -> Instruction:
    """An ONBUILD trigger kept in a base image. Raises DockerfileError that names the image."""
    dockerfile = parse(text, f"ONBUILD of {image}")
    if len(dockerfile.instructions) != 1:
        span = Span(line=1, column=1, end_line=1, end_column=2)
        raise DockerfileError("a trigger must be one instruction", source=dockerfile.source, span=span)
    return dockerfile.instructions[0]


class _Line:
    """One logical line on its way to an instruction."""

    def __init__(
        self, source: Source, logical: Logical, escape: str, findings: list[Finding], *, start: int = 0, outer: str = ""
    ) -> None:
        self.source = source
        self.logical = logical
        self.escape = escape
        self.findings = findings
        self.text = logical.text
        word = forms.keyword(self.text[start:])
        self.written = word.text
        self.keyword = logical.span(start + word.start, start + word.end)
        self.start = start + word.start
        self.after = start + word.end
        self.outer = outer
        self.flags = Flags(self)

    def fail(self, sentence: str, span: Span | None = None, hint: str = "") -> NoReturn:
        raise DockerfileError(sentence, source=self.source, span=span or self.logical.whole(), hint=hint)

    def instruction(self) -> Instruction:
        name = self.written.upper()
        reader = _READERS.get(name)
        if reader is None:
            self.fail(
                f"unknown instruction {self.written}{did_you_mean(name, _READERS)}",
                self.keyword,
                hint="" if self.written.isalpha() else "a continued line needs \\ at the end of the line before it",
            )
        flags, self.rest = forms.flags(self.text, self.after, self.escape)
        self.flags.take(flags)
        return reader(self)

    def common(self) -> dict[str, Any]:
        """Takes no further flags, and gives the fields that all instructions share."""
        self.flags.finish()
        return {
            "written": self.written,
            "text": self.text[self.start :].rstrip(),
            "span": self.logical.whole(),
            "keyword": self.keyword,
            "comments": self.logical.comments,
        }

    def word(self, piece: forms.Piece) -> Word:
        return Word(text=piece.text, span=self.logical.span(piece.start, piece.end))

    @property
    def argument(self) -> str:
        return self.text[self.rest :].strip()

    def argument_span(self) -> Span:
        return self.logical.span(self.rest, max(self.rest + 1, len(self.text.rstrip())))

    def whole_word(self) -> Word:
        """The rest of the line as exactly one argument, blanks included."""
        if not self.argument:
            self.fail(f"{self.written.upper()} needs an argument")
        return Word(text=self.argument, span=self.argument_span())

    def json(self, at: int) -> list[str] | None:
        """The JSON array of strings at `at`; None where there is none. Warns about what only looks like one."""
        text = self.text[at:].strip()
        try:
            words = forms.json_words(text)
        except ValueError:
            self.fail("only strings may stand in the JSON form", self.argument_span())
        if (
            words is None
            and text.startswith("[")
            and text.endswith("]")
            and ("," in text or '"' in text or "'" in text)
        ):
            hint = "use double quotes" if "'" in text else "check its quotes and commas"
            self.findings.append(
                Finding(
                    rule="JSONForm",
                    text=f"{self.written.upper()} looks like the JSON form but is not valid JSON, so it runs as shell "
                    f"text ({hint})",
                    span=self.argument_span(),
                )
            )
        return words


def _from(line: _Line) -> Instruction:
    words = [line.word(piece) for piece in forms.blank_words(line.text, line.rest)]
    platform = line.flags.word("platform")
    if not words:
        line.fail("FROM needs an image or a stage")
    alias = None
    connective = ""
    if len(words) == 3 and words[1].text.upper() == "AS":
        connective, alias = words[1].text, words[2]
        if not _is_stage_name(alias.text.lower()):
            line.fail(
                f"{alias.text!r} cannot name a stage",
                alias.span,
                hint="a stage's name starts with a letter, then has letters, digits, '-', '_' and '.'",
            )
    elif len(words) != 1:
        wrong = words[1]
        guess = did_you_mean(wrong.text, ("AS",)) if len(words) == 3 else ""
        line.fail(f"FROM takes an image, or an image AS a name, not {wrong.text!r}{guess}", wrong.span)
    return instructions.From(**line.common(), image=words[0], alias=alias, connective=connective, platform=platform)


def _is_stage_name(name: str) -> bool:
    return name[:1].isascii() and name[:1].isalpha() and all(c.isascii() and (c.isalnum() or c in "-_.") for c in name)


def _command(line: _Line, at: int) -> dict[str, Any]:
    words = line.json(at)
    if words is not None:
        return {"shell_form": False, "argv": tuple(words)}
    text = line.text[at:].strip()
    return {"shell_form": True, "argv": (text,) if text else ()}


def _run(line: _Line) -> Instruction:
    mounts = line.flags.mounts()
    network = line.flags.choice("network", ("default", "none", "host"))
    security = line.flags.choice("security", ("sandbox", "insecure"))
    line.flags.reject("device", "devices of the host in RUN are not supported yet")
    command = _command(line, line.rest)
    if not command["argv"]:
        line.fail("RUN needs a command")
    return instructions.Run(
        **line.common(),
        **command,
        heredocs=line.logical.heredocs,
        mounts=mounts,
        network=network or "default",
        security=security or "sandbox",
    )


def _cmd(line: _Line) -> Instruction:
    return instructions.Cmd(**line.common(), **_command(line, line.rest))


def _entrypoint(line: _Line) -> Instruction:
    return instructions.Entrypoint(**line.common(), **_command(line, line.rest))


def _transfer(line: _Line) -> dict[str, Any]:
    """What COPY and ADD share."""
    name = line.written.upper()
    fields: dict[str, Any] = {
        "chown": line.flags.word("chown"),
        "chmod": line.flags.word("chmod"),
        "link": line.flags.boolean("link") or False,
        "excludes": line.flags.words("exclude"),
    }
    listed = line.json(line.rest)
    if listed is None:
        words = [line.word(piece) for piece in forms.blank_words(line.text, line.rest)]
    else:
        words = [Word(text=text, span=line.argument_span()) for text in listed]
    if len(words) < 2:
        line.fail(
            f"{name} needs at least one source and a destination"
            + (f", only {words[0].text!r} is given" if words else ""),
            hint=f"to copy into the working directory: {name} {words[0].text} ." if words else "",
        )
    destination = words[-1]
    if listed is None and parse_heredoc(destination.text):
        line.fail(f"the destination of {name} cannot be a here-document", destination.span)
    bodies = {body.name: body for body in line.logical.heredocs}
    sources, documents = [], []
    for word in words[:-1]:
        announced = parse_heredoc(word.text) if listed is None else None
        if announced and announced.name in bodies:
            documents.append(bodies[announced.name])
        else:
            sources.append(word)
    return fields | {"sources": tuple(sources), "documents": tuple(documents), "destination": destination}


def _copy(line: _Line) -> Instruction:
    origin = line.flags.word("from")
    parents = line.flags.boolean("parents") or False
    if origin is not None and not origin.text:
        line.fail("--from needs a stage or an image", origin.span)
    fields = _transfer(line)
    return instructions.Copy(**line.common(), **fields, origin=origin, parents=parents)


def _add(line: _Line) -> Instruction:
    fields = _transfer(line) | {
        "checksum": line.flags.word("checksum"),
        "unpack": line.flags.boolean("unpack"),
        "keep_git_dir": line.flags.boolean("keep-git-dir"),
    }
    return instructions.Add(**line.common(), **fields)


def _pairs(line: _Line) -> tuple[Pair, ...]:
    """ENV and LABEL: `key=value ...`, or the old `key the rest of the line`."""
    name = line.written.upper()
    words = forms.quoted_words(line.text, line.rest, line.escape)
    if not words:
        line.fail(f"{name} needs a name and a value")
    if "=" not in words[0].text:
        first = forms.blank_words(line.text, line.rest)[0]
        value = line.text[first.end :].strip()
        if not value:
            line.fail(f"{name} needs a name and a value", hint=f"write {name} {first.text}=value")
        return (Pair(key=first.text, value=value, span=line.argument_span(), legacy=True),)
    pairs = []
    for word in words:
        key, equals, value = word.text.partition("=")
        span = line.logical.span(word.start, word.end)
        if not equals:
            line.fail(
                f"{word.text!r} has no = in {name}", span, hint=f'a value with blanks needs quotes: {name} NAME="a b"'
            )
        if not key:
            line.fail(f"{name} needs a name before =", span)
        pairs.append(Pair(key=key, value=value, span=span))
    return tuple(pairs)


def _env(line: _Line) -> Instruction:
    return instructions.Env(**line.common(), pairs=_pairs(line))


def _label(line: _Line) -> Instruction:
    return instructions.Label(**line.common(), pairs=_pairs(line))


def _arg(line: _Line) -> Instruction:
    pairs = []
    for word in forms.quoted_words(line.text, line.rest, line.escape):
        key, equals, value = word.text.partition("=")
        span = line.logical.span(word.start, word.end)
        if not key:
            line.fail("ARG needs a name before =", span)
        pairs.append(Pair(key=key, value=value if equals else None, span=span))
    if not pairs:
        line.fail("ARG needs a name")
    return instructions.Arg(**line.common(), pairs=tuple(pairs))


def _workdir(line: _Line) -> Instruction:
    return instructions.Workdir(**line.common(), path=line.whole_word())


def _user(line: _Line) -> Instruction:
    return instructions.User(**line.common(), user=line.whole_word())


def _maintainer(line: _Line) -> Instruction:
    return instructions.Maintainer(**line.common(), who=line.whole_word().text)


def _stop_signal(line: _Line) -> Instruction:
    return instructions.StopSignal(**line.common(), signal=line.whole_word())


def _expose(line: _Line) -> Instruction:
    ports = tuple(line.word(piece) for piece in forms.blank_words(line.text, line.rest))
    if not ports:
        line.fail("EXPOSE needs a port", hint="for example EXPOSE 80 or EXPOSE 53/udp")
    return instructions.Expose(**line.common(), ports=ports)


def _volume(line: _Line) -> Instruction:
    listed = line.json(line.rest)
    if listed is None:
        paths = tuple(line.word(piece) for piece in forms.blank_words(line.text, line.rest))
    else:
        paths = tuple(Word(text=text.strip(), span=line.argument_span()) for text in listed)
    if not paths or not all(path.text for path in paths):
        line.fail("VOLUME needs a path")
    return instructions.Volume(**line.common(), paths=paths)


def _shell(line: _Line) -> Instruction:
    words = line.json(line.rest)
    if not words:
        line.fail("SHELL needs the JSON form", line.argument_span(), hint='for example SHELL ["/bin/bash", "-c"]')
    return instructions.Shell(**line.common(), argv=tuple(words))


def _healthcheck(line: _Line) -> Instruction:
    words = forms.blank_words(line.text, line.rest)
    if not words:
        line.fail("HEALTHCHECK needs CMD and a command, or NONE")
    kind = words[0].text.upper()
    if kind == "NONE":
        if len(words) > 1:
            line.fail("HEALTHCHECK NONE takes no arguments", line.word(words[1]).span)
        return instructions.Healthcheck(**line.common(), test=("NONE",))
    if kind != "CMD":
        guess = did_you_mean(kind, ("CMD", "NONE"))
        line.fail(f"HEALTHCHECK takes CMD or NONE, not {words[0].text}{guess}", line.word(words[0]).span)
    fields: dict[str, Any] = {
        field: line.flags.duration(flag)
        for flag, field in (
            ("interval", "interval"),
            ("timeout", "timeout"),
            ("start-period", "start_period"),
            ("start-interval", "start_interval"),
        )
    }
    fields["retries"] = line.flags.count("retries")
    command = _command(line, words[0].end)
    if not command["argv"]:
        line.fail("HEALTHCHECK CMD needs a command")
    form = "CMD-SHELL" if command["shell_form"] else "CMD"
    return instructions.Healthcheck(**line.common(), test=(form, *command["argv"]), **fields)


def _onbuild(line: _Line) -> Instruction:
    if not line.argument:
        line.fail("ONBUILD needs an instruction")
    inner = _Line(line.source, line.logical, line.escape, line.findings, start=line.rest, outer="ONBUILD")
    if inner.written.upper() in {"ONBUILD", "FROM", "MAINTAINER"}:
        line.fail(f"ONBUILD {inner.written.upper()} is not allowed", inner.keyword)
    instruction = inner.instruction()
    trigger = line.text[line.rest :].strip()
    for body in line.logical.heredocs:
        trigger += f"\n{body.content}{body.name}"
    return instructions.Onbuild(**line.common(), trigger=trigger, instruction=instruction)


_READERS: dict[str, Callable[[_Line], Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
