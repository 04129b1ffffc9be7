"""Checks that warn: a table of rules. Their names are BuildKit's, so that `# check=skip=...` works as it does there."""

from __future__ import annotations

from orlop.build.dockerfile.instructions import (
    Cmd,
    Dockerfile,
    Entrypoint,
    Env,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
)
from orlop.build.dockerfile.source import DockerfileError, Finding, Span
from orlop.build.dockerfile.words import ExpansionError, Lexer
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DOCS = "https://docs.docker.com/reference/build-checks/"
_SECRET_WORDS = frozenset({
    "apikey", "auth", "credential", "credentials", "key", "passphrase", "password", "passwd", "pword", "secret",
    "token", "pwd",
})  # fmt: skip
_PUBLIC_WORDS = frozenset({"public", "pub"})


class Rule(Value):
    """One check. `format` takes the arguments of `finding` in order."""

    name: str
    description: str
    format: str
    page: str = ""  # on docs.docker.com; "" for checks of our own

    @property
    def url(self) -> str:
        """Where the rule is explained at length."""
        return f"{_DOCS}{self.page}/" if self.page else ""


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            name="ConsistentInstructionCasing",
            description="All keywords are written in the same case",
            format="{0} is written differently from most keywords here ({1} case)",
            page="consistent-instruction-casing",
        ),
        Rule(
            name="CopyIgnoredFile",
            description="A source of COPY or ADD is hidden by .dockerignore",
            format="{0} would take {1}, but {2} hides it",
            page="copy-ignored-file",
        ),
        Rule(
            name="DuplicateStageName",
            description="Two stages have the same name",
            format="a stage {0} exists already; the later one hides it",
            page="duplicate-stage-name",
        ),
        Rule(
            name="EmptyMatch",
            description="A wildcard of COPY or ADD matches nothing",
            format="{0} matches no file, so nothing is copied for it",
        ),
        Rule(
            name="ExposeInvalidFormat",
            description="EXPOSE names an address or a port of the host",
            format="EXPOSE takes only ports of the container; the rest of {0} is not used",
            page="expose-invalid-format",
        ),
        Rule(
            name="ExposeProtoCasing",
            description="The protocol of EXPOSE is written in capitals",
            format="the protocol in {0} should be in lower case",
            page="expose-proto-casing",
        ),
        Rule(
            name="FromAsCasing",
            description="FROM and AS are written in different case",
            format="{0} and {1} are written in different case",
            page="from-as-casing",
        ),
        Rule(
            name="FromPlatformFlagConstDisallowed",
            description="FROM --platform has a fixed value",
            format="the platform {0} is fixed; it should come from a variable such as $BUILDPLATFORM",
            page="from-platform-flag-const-disallowed",
        ),
        Rule(
            name="InvalidDefaultArgInFrom",
            description="Without --build-arg the name of a base image is empty or malformed",
            format="{0} names no image unless a build argument is given",
            page="invalid-default-arg-in-from",
        ),
        Rule(
            name="JSONArgsRecommended",
            description="CMD and ENTRYPOINT in shell form do not pass signals to the program",
            format="{0} in shell form starts the program below a shell that passes no signals: use the JSON form",
            page="json-args-recommended",
        ),
        Rule(
            name="JSONForm",
            description="Something that looks like the JSON form is not valid JSON",
            format="{0}",
        ),
        Rule(
            name="LegacyKeyValueFormat",
            description="ENV and LABEL written with a blank instead of =",
            format="{0} {1} should be written with =",
            page="legacy-key-value-format",
        ),
        Rule(
            name="MaintainerDeprecated",
            description="MAINTAINER is deprecated",
            format='MAINTAINER is deprecated: use LABEL org.opencontainers.image.authors="..."',
            page="maintainer-deprecated",
        ),
        Rule(
            name="MultipleInstructionsDisallowed",
            description="An instruction of which only the last counts is given more than once in a stage",
            format="only the last {0} of a stage counts; this one has no effect",
            page="multiple-instructions-disallowed",
        ),
        Rule(
            name="NoEmptyContinuation",
            description="An empty line inside a continued instruction",
            format="an empty line inside a continued instruction; docker will refuse it one day",
            page="no-empty-continuation",
        ),
        Rule(
            name="RedundantTargetPlatform",
            description="FROM --platform=$TARGETPLATFORM says what is so anyway",
            format="--platform={0} is what is used anyway",
            page="redundant-target-platform",
        ),
        Rule(
            name="ReservedStageName",
            description="A stage has a name with a meaning of its own",
            format="a stage cannot be reached by the name {0}, which has a meaning of its own",
            page="reserved-stage-name",
        ),
        Rule(
            name="SecretsUsedInArgOrEnv",
            description="A secret in ARG or ENV stays in the image for everybody to read",
            format="{0} {1} looks like a secret, and would stay in the image: use RUN --mount=type=secret",
            page="secrets-used-in-arg-or-env",
        ),
        Rule(
            name="StageNameCasing",
            description="Names of stages are lower case",
            format="the stage name {0} should be in lower case",
            page="stage-name-casing",
        ),
        Rule(
            name="UndefinedArgInFrom",
            description="FROM uses an argument that no ARG before it declares",
            format="the argument {0} is not declared before FROM{1}",
            page="undefined-arg-in-from",
        ),
        Rule(
            name="UndefinedVar",
            description="A variable is used that is not set",
            format="the variable ${0} is not set{1}",
            page="undefined-var",
        ),
        Rule(
            name="WorkdirRelativePath",
            description="A relative WORKDIR depends on the base image",
            format="the relative WORKDIR {0} depends on the base image's; start with an absolute one",
            page="workdir-relative-path",
        ),
    )
}


class Settings(Value):
    """What a `# check=` directive or the caller asks for. `skip` may hold "all"."""

    skip: frozenset[str] = frozenset()
    error: bool = False


def settings(dockerfile: Dockerfile) -> Settings:
    """The `# check=skip=Rule,Rule;error=true` directive. Raises DockerfileError for what it cannot mean."""
    directive = dockerfile.directive("check")
    skip: set[str] = set()
    error = False
    for part in directive.value.split(";") if directive else ():
        key, _, value = part.strip().partition("=")
        if key == "skip":
            skip |= {word.strip() for word in value.split(",")}
        elif key == "error" and value.lower() in {"true", "false"}:
            error = value.lower() == "true"
        elif key != "experimental":  # names checks that this table does not have
            assert directive is not None
            raise DockerfileError(
                f"check has no setting {part.strip()!r}",
                source=dockerfile.source,
                span=directive.span,
                hint="for example # check=skip=JSONArgsRecommended;error=true",
            )
    return Settings(skip=frozenset(skip), error=error)


def kept(findings: Iterable[Finding], chosen: Settings) -> list[Finding]:
    """The findings that are not to be skipped, in order, each once."""
    if "all" in chosen.skip:
        return []
    return [one for one in dict.fromkeys(findings) if one.rule not in chosen.skip]


def finding(rule: str, span: Span, *arguments: str) -> Finding:
    """A warning by `rule`."""
    found = RULES[rule]
    return Finding(rule=rule, text=found.format.format(*arguments), span=span, url=found.url)


def static(dockerfile: Dockerfile, heads: list[From], findings: list[Finding]) -> None:
    """All checks that need nothing but the text."""
    _casing(dockerfile.instructions, findings)
    names: set[str] = set()
    for head in heads:
        _head(head, names, findings)
    last: dict[type[Instruction], Instruction] = {}
    for instruction in dockerfile.instructions:
        if isinstance(instruction, From):
            last = {}
        elif isinstance(instruction, Maintainer):
            findings.append(finding("MaintainerDeprecated", instruction.keyword))
        elif isinstance(instruction, (Env, Label)):
            legacy = [pair for pair in instruction.pairs if pair.legacy]
            findings += [finding("LegacyKeyValueFormat", pair.span, instruction.name, pair.key) for pair in legacy]
        elif isinstance(instruction, (Cmd, Entrypoint, Healthcheck)):
            if (earlier := last.get(type(instruction))) is not None:
                findings.append(finding("MultipleInstructionsDisallowed", earlier.keyword, earlier.name))
            last[type(instruction)] = instruction


def _head(head: From, names: set[str], findings: list[Finding]) -> None:
    if head.alias is not None:
        name = head.alias.text
        if name != name.lower():
            findings.append(finding("StageNameCasing", head.alias.span, name))
        if name.lower() in names:
            findings.append(finding("DuplicateStageName", head.alias.span, name))
        if name.lower() in {"scratch", "context"}:
            findings.append(finding("ReservedStageName", head.alias.span, name))
        names.add(name.lower())
        if head.connective.isupper() != head.written.isupper() and (head.written.isupper() or head.written.islower()):
            findings.append(finding("FromAsCasing", head.span, head.written, head.connective))
    if head.platform is not None:
        text = head.platform.text
        if text in {"$TARGETPLATFORM", "${TARGETPLATFORM}"}:
            findings.append(finding("RedundantTargetPlatform", head.platform.span, text))
        elif "$" not in text and (head.alias is None or not _mentions(head.alias.text, text)):
            findings.append(finding("FromPlatformFlagConstDisallowed", head.platform.span, text))


def _mentions(name: str, platform: str) -> bool:
    """A stage that is named for its platform means it."""
    return any(part and part in name.lower() for part in platform.lower().split("/"))


def _casing(instructions: Iterable[Instruction], findings: list[Finding]) -> None:
    keywords = list(instructions)
    upper = sum(one.written.isupper() for one in keywords)
    lower = sum(one.written.islower() for one in keywords)
    wanted = "upper" if upper >= lower else "lower"
    odd = [one for one in keywords if one.written != (one.name if wanted == "upper" else one.name.lower())]
    findings += [finding("ConsistentInstructionCasing", one.keyword, one.written, wanted) for one in odd]


def default_base(head: From, defaults: Mapping[str, str], escape: str, findings: list[Finding]) -> None:
    """Whether FROM names an image when no build argument is given."""
    if "$" not in head.image.text:
        return
    lexer = Lexer(escape)
    try:
        image = lexer.word(head.image.text, defaults)
    except ExpansionError:
        image = ""
    malformed = not image or image[0] in ":@/" or image[-1] in ":@/" or "//" in image or any(c.isspace() for c in image)
    if malformed:
        findings.append(finding("InvalidDefaultArgInFrom", head.image.span, head.image.text))


def secret(instruction: str, name: str, span: Span, findings: list[Finding]) -> None:
    """Whether the name of a variable says that it holds a secret."""
    words = [word for word in name.lower().replace("-", "_").split("_") if word]
    if _PUBLIC_WORDS.intersection(words) or words[-1:] in (["file"], ["path"], ["url"], ["id"]):
        return
    if _SECRET_WORDS.intersection(words):
        findings.append(finding("SecretsUsedInArgOrEnv", span, instruction, name))
