"""What a stage consists of once variables are replaced: steps that change files, or only the configuration."""

from __future__ import annotations

from orlop.build.dockerfile.instructions import Instruction
from orlop.build.dockerfile.lines import Heredoc
from orlop.build.dockerfile.source import Source, Span
from orlop.values import Value


class Step(Value):
    """One instruction, evaluated. `created_by` is what the image's history says of it.

    A plain Step changes the configuration only.
    """

    instruction: Instruction
    source: Source
    created_by: str


class Mount(Value):
    """One RUN --mount, variables replaced. `target` is absolute; `origin` is a stage, an image, or "" for the context.

    `size` is in bytes (0: no limit); `mode` is None where not given.
    """

    kind: str  # bind, cache, tmpfs, secret
    target: str
    span: Span
    source: str = ""
    origin: str = ""
    readonly: bool = False
    size: int = 0
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    env: str = ""  # a secret's variable; with it, and no target asked for, no file is made
    as_file: bool = True


class RunStep(Step):
    """RUN. `env` is complete; `proxies` are added to it at run time, but count for nothing."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    proxies: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    script: Heredoc | None = None  # a here-document with #!, to be put at /dev/pipes/<name>


class CopyStep(Step):
    """COPY and ADD. `destination` is absolute and clean; `into` says that it was written as a directory.

    `origin` is "" for the build context; `stage` is the index of the stage that `origin` names, None for an image.
    """

    name: str
    sources: tuple[str, ...]
    spans: tuple[Span, ...]
    documents: tuple[tuple[str, str], ...]  # (name, content)
    destination: str
    into: bool
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    origin: str = ""
    origin_span: Span | None = None
    stage: int | None = None
    unpack: bool = False


class WorkdirStep(Step):
    """WORKDIR: makes the directory `path`, owned by `user` where it has to be made."""

    path: str
    user: str
