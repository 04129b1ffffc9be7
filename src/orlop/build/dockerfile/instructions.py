"""Dockerfile instructions as typed values. Variables are not expanded yet; every word knows where it stands."""

from __future__ import annotations

from orlop.build.dockerfile.lines import Directive, Heredoc
from orlop.build.dockerfile.source import Finding, Source, Span
from orlop.values import Value


class Word(Value):
    """A piece of text and its place."""

    text: str
    span: Span


class Pair(Value):
    """`key=value` of ENV, LABEL or ARG; `value` is None for an ARG without a default."""

    key: str
    value: str | None
    span: Span
    legacy: bool = False  # written as `ENV key value`


class Option(Value):
    """One `key=value` (or bare `key`) of a RUN --mount; `value` is None when bare."""

    key: str
    value: str | None


class MountFlag(Value):
    """RUN --mount as written: options in order, variables not expanded."""

    options: tuple[Option, ...]
    span: Span

    def get(self, *keys: str) -> str | None:
        """The last value given under any of `keys`; None when there is none."""
        for option in reversed(self.options):
            if option.key in keys:
                return option.value
        return None


class Instruction(Value):
    """What all instructions have: the keyword as `written`, the joined `text`, where it stands, comments above it."""

    written: str
    text: str
    span: Span
    keyword: Span
    comments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The keyword in capitals."""
        return self.written.upper()


class From(Instruction):
    """FROM [--platform=...] image [AS name]."""

    image: Word
    alias: Word | None = None
    connective: str = ""  # AS as written
    platform: Word | None = None


class Command(Instruction):
    """What RUN, CMD, ENTRYPOINT share: in shell form `argv` is one string for the shell; else the argument list."""

    shell_form: bool
    argv: tuple[str, ...]


class Run(Command):
    """RUN [--mount] [--network] [--security] command."""

    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[MountFlag, ...] = ()
    network: str = "default"  # default, none, host
    security: str = "sandbox"  # sandbox, insecure


class Cmd(Command):
    """CMD."""


class Entrypoint(Command):
    """ENTRYPOINT."""


class Copy(Instruction):
    """COPY: `sources` are paths, `documents` here-documents, `destination` a path."""

    sources: tuple[Word, ...]
    documents: tuple[Heredoc, ...]
    destination: Word
    chown: Word | None = None
    chmod: Word | None = None
    link: bool = False
    excludes: tuple[Word, ...] = ()
    origin: Word | None = None  # --from
    parents: bool = False


class Add(Copy):
    """ADD: COPY that also unpacks archives."""

    checksum: Word | None = None
    unpack: bool | None = None
    keep_git_dir: bool | None = None


class Env(Instruction):
    """ENV."""

    pairs: tuple[Pair, ...]


class Label(Instruction):
    """LABEL."""

    pairs: tuple[Pair, ...]


class Arg(Instruction):
    """ARG."""

    pairs: tuple[Pair, ...]


class Workdir(Instruction):
    """WORKDIR."""

    path: Word


class User(Instruction):
    """USER."""

    user: Word


class Maintainer(Instruction):
    """MAINTAINER."""

    who: str


class StopSignal(Instruction):
    """STOPSIGNAL."""

    signal: Word


class Expose(Instruction):
    """EXPOSE."""

    ports: tuple[Word, ...]


class Volume(Instruction):
    """VOLUME."""

    paths: tuple[Word, ...]


class Shell(Instruction):
    """SHELL."""

    argv: tuple[str, ...]


class Healthcheck(Instruction):
    """HEALTHCHECK. Durations are nanoseconds, 0 where not given; `test` starts with NONE, CMD or CMD-SHELL."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Onbuild(Instruction):
    """ONBUILD: `trigger` is the text kept in the image, `instruction` the same, parsed."""

    trigger: str
    instruction: Instruction


class Dockerfile(Value):
    """A parsed Dockerfile: all instructions in order, those before the first FROM included."""

    source: Source
    escape: str
    directives: tuple[Directive, ...]
    instructions: tuple[Instruction, ...]
    findings: tuple[Finding, ...] = ()

    def directive(self, name: str) -> Directive | None:
        """The parser directive of that name."""
        return next((one for one in self.directives if one.name == name), None)
