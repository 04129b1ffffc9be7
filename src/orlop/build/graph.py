"""Instructions -> stages: which there are, what each is built upon, and which ones the target needs. Pure."""

from __future__ import annotations

from orlop.build import lint
from orlop.build.dockerfile.instructions import Arg, Copy, Dockerfile, From, Instruction, Run, Word
from orlop.build.dockerfile.source import (
    DockerfileError,
    DockerfileUnimplemented,
    Finding,
    Source,
    Span,
    did_you_mean,
)
from orlop.build.dockerfile.words import ExpansionError, Lexer
from orlop.errors import InvalidArgument, NotFound
from orlop.oci.platform import Platform
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCRATCH = "scratch"
_FRONTENDS = ("docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream")


class Stage(Value):
    """One FROM and what follows it. `base` is the index of the stage it is built upon; where None, `image` counts."""

    index: int
    name: str  # lower case; "" where it has none
    image: str  # as expanded; "scratch" is no image
    base: int | None
    platform: Platform | None  # from --platform; None: the target's
    head: From
    instructions: tuple[Instruction, ...]

    @property
    def title(self) -> str:
        """What to call it in messages."""
        return self.name or f"stage-{self.index}"


class Plan(Value):
    """All stages in order, the target's index, the global arguments, and the warnings so far."""

    dockerfile: Dockerfile
    stages: tuple[Stage, ...]
    target: int
    arguments: dict[str, str]
    findings: tuple[Finding, ...]

    def find(self, word: Word, stage: int) -> int | None:
        """The stage that `word` (a name or an index) means for an instruction of `stage`; None: an image.

        Raises DockerfileError for a stage that comes too late.
        """
        source = self.dockerfile.source
        text = word.text.lower()
        if text.isascii() and text.isdigit():
            index = int(text)
            if index >= len(self.stages):
                raise DockerfileError(
                    f"there is no stage {index}; the last one is {len(self.stages) - 1}", source=source, span=word.span
                )
        else:
            named = [other.index for other in self.stages if other.name == text]
            if not named:
                return None
            index = max((one for one in named if one < stage), default=min(named))
        if index < stage:
            return index
        if index == stage:
            raise DockerfileError(f"stage {word.text} cannot take files from itself", source=source, span=word.span)
        circle = " and is itself built from this one" if stage in self.needed(index, upto=True) else ""
        raise DockerfileError(
            f"stage {word.text} comes after this instruction{circle}",
            source=source,
            span=word.span,
            hint="move that stage up" if not circle else "break the circle: put what both need into a third stage",
        )

    def needed(self, target: int | None = None, *, upto: bool = False) -> tuple[int, ...]:
        """The stages that `target` (default: the plan's) cannot be built without, itself included, in order.

        With `upto` references are followed without a check of their order (to name a circle).
        """
        pending = [self.target if target is None else target]
        seen: set[int] = set()
        while pending:
            index = pending.pop()
            if index in seen:
                continue
            seen.add(index)
            stage = self.stages[index]
            if stage.base is not None:
                pending.append(stage.base)
            for instruction in stage.instructions:
                for word in origins(instruction):
                    found = self._anywhere(word) if upto else self.find(word, index)
                    if found is not None:
                        pending.append(found)
        return tuple(sorted(seen))

    def _anywhere(self, word: Word) -> int | None:
        return next((stage.index for stage in self.stages if word.text.lower() in {stage.name, str(stage.index)}), None)


def origins(instruction: Instruction) -> list[Word]:
    """The stages or images an instruction takes files from."""
    if isinstance(instruction, Copy):
        return [instruction.origin] if instruction.origin is not None else []
    if isinstance(instruction, Run):
        return [
            Word(text=origin, span=mount.span) for mount in instruction.mounts if (origin := mount.get("from") or "")
        ]
    return []


def plan(
    dockerfile: Dockerfile,
    *,
    target: str = "",
    build_args: Mapping[str, str],
    platform: Platform,
    build_platform: Platform,
) -> Plan:
    """The stages of a Dockerfile. Raises DockerfileError; NotFound for a target that is no stage."""
    _check_syntax(dockerfile)
    findings = list(dockerfile.findings)
    metas, stages = _grouped(dockerfile)
    arguments = _predefined(platform, build_platform, target or "default")
    defaults = dict(arguments)
    for arg in metas:
        for pair in arg.pairs:
            if pair.key in build_args:
                arguments[pair.key] = build_args[pair.key]
            elif pair.value is not None:
                arguments[pair.key] = expand(pair.value, arguments, dockerfile, pair.span)
            if pair.value is not None:
                defaults[pair.key] = expand(pair.value, defaults, dockerfile, pair.span)
    found: list[Stage] = []
    for head, body in stages:
        found.append(_stage(head, body, found, arguments, dockerfile, findings))
        lint.default_base(head, defaults, dockerfile.escape, findings)
    result = Plan(
        dockerfile=dockerfile,
        stages=tuple(found),
        target=_target(target, found),
        arguments=arguments,
        findings=(),
    )
    lint.static(dockerfile, [stage.head for stage in found], findings)
    result.needed()  # so that a reference that cannot be is reported before anything runs
    return result.replace(findings=tuple(findings))


def expand(
    text: str, env: Mapping[str, str], dockerfile: Dockerfile, span: Span, *, source: Source | None = None
) -> str:
    """`text` with variables replaced; DockerfileError names the place."""
    try:
        return Lexer(dockerfile.escape).word(text, env)
    except ExpansionError as error:
        raise DockerfileError(error.message, source=source or dockerfile.source, span=span, hint=error.hint) from error


def _check_syntax(dockerfile: Dockerfile) -> None:
    directive = dockerfile.directive("syntax")
    if directive is None:
        return
    name = directive.value.partition("@")[0].partition(":")[0].strip()
    if name not in _FRONTENDS:
        raise DockerfileUnimplemented(
            f"the frontend {directive.value!r} is not the Dockerfile language",
            source=dockerfile.source,
            span=directive.span,
            hint="orlop reads docker/dockerfile itself and runs no other frontends",
        )


def _grouped(dockerfile: Dockerfile) -> tuple[list[Arg], list[tuple[From, list[Instruction]]]]:
    metas: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for instruction in dockerfile.instructions:
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            metas.append(instruction)
        else:
            raise DockerfileError(
                f"{instruction.name} comes before the first FROM",
                source=dockerfile.source,
                span=instruction.keyword,
                hint="only ARG may stand there; FROM scratch starts from nothing",
            )
    if not stages:
        span = Span(line=1, column=1, end_line=1, end_column=2)
        what = "has no FROM" if dockerfile.instructions else "is empty"
        raise DockerfileError(
            f"the Dockerfile {what}", source=dockerfile.source, span=span, hint="it needs at least one FROM"
        )
    return metas, stages


def _predefined(platform: Platform, build_platform: Platform, target: str) -> dict[str, str]:
    """The arguments that exist in the global scope without being declared."""
    found = {"TARGETSTAGE": target}
    for prefix, one in (("BUILD", build_platform), ("TARGET", platform)):
        found |= {
            f"{prefix}PLATFORM": str(one),
            f"{prefix}OS": one.os,
            f"{prefix}OSVERSION": one.os_version,
            f"{prefix}ARCH": one.architecture,
            f"{prefix}VARIANT": one.variant,
        }
    return found


def _stage(
    head: From,
    body: Iterable[Instruction],
    earlier: list[Stage],
    arguments: Mapping[str, str],
    dockerfile: Dockerfile,
    findings: list[Finding],
) -> Stage:
    image = _expanded(head.image, arguments, dockerfile, findings)
    if not image:
        raise DockerfileError(
            f"the image {head.image.text} is empty once its variables are replaced",
            source=dockerfile.source,
            span=head.image.span,
            hint="give it a default (ARG NAME=value before FROM) or a value (--build-arg NAME=value)",
        )
    base = next((stage.index for stage in reversed(earlier) if stage.name and stage.name == image.lower()), None)
    platform = None
    if head.platform is not None:
        text = _expanded(head.platform, arguments, dockerfile, findings)
        try:
            platform = Platform.parse(text)
        except InvalidArgument as error:
            raise DockerfileError(
                error.message, source=dockerfile.source, span=head.platform.span, hint=error.hint
            ) from error
    return Stage(
        index=len(earlier),
        name=head.alias.text.lower() if head.alias else "",
        image=image,
        base=base,
        platform=platform,
        head=head,
        instructions=tuple(body),
    )


def _expanded(word: Word, env: Mapping[str, str], dockerfile: Dockerfile, findings: list[Finding]) -> str:
    lexer = Lexer(dockerfile.escape)
    try:
        result = lexer.word(word.text, env)
    except ExpansionError as error:
        raise DockerfileError(error.message, source=dockerfile.source, span=word.span, hint=error.hint) from error
    findings.extend(
        lint.finding("UndefinedArgInFrom", word.span, name, did_you_mean(name, env)) for name in sorted(lexer.unset)
    )
    return result


def _target(target: str, stages: list[Stage]) -> int:
    if not target:
        return len(stages) - 1
    for stage in reversed(stages):
        if stage.name and stage.name == target.lower():
            return stage.index
    if target.isascii() and target.isdigit() and int(target) < len(stages):
        return int(target)
    names = [stage.name for stage in stages if stage.name]
    raise NotFound(
        f"there is no stage {target!r}{did_you_mean(target, names)}",
        hint=f"the stages are: {', '.join(names)}" if names else "no stage has a name: write FROM image AS name",
    )
