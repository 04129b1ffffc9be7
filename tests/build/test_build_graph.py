"""Stages, arguments, evaluation and lint: all without running anything."""

from __future__ import annotations

from typing import Any

import pytest

from orlop.build import lint
from orlop.build.dockerfile.parser import parse
from orlop.build.dockerfile.source import DockerfileError, DockerfileUnimplemented, Finding
from orlop.build.evaluate import Evaluated, Scope, evaluate, scratch
from orlop.build.graph import Plan, plan
from orlop.build.steps import CopyStep, RunStep, WorkdirStep
from orlop.errors import NotFound
from orlop.oci.image import ImageConfig
from orlop.oci.platform import Platform

AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")


def planned(
    text: str, arguments: dict[str, str] | None = None, *, target: str = "", platform: Platform = AMD64
) -> Plan:
    return plan(parse(text), target=target, build_args=arguments or {}, platform=platform, build_platform=AMD64)


def evaluated(text: str, arguments: dict[str, str] | None = None, *, base: ImageConfig | None = None) -> Evaluated:
    """All stages but images, as if built upon each other in order; the last one's evaluation."""
    found = planned(text, arguments)
    results: list[Evaluated] = []
    for stage in found.stages:
        below = results[stage.base] if stage.base is not None else None
        scope = Scope(
            build_args=arguments or {},
            global_args=found.arguments,
            find_stage=lambda word, index=stage.index: found.find(word, index),  # type: ignore[misc]  # bound now
        )
        results.append(
            evaluate(
                stage.instructions,
                base=below.config if below else base or scratch(AMD64),
                inherited=below.args if below else {},
                scope=scope,
                source=found.dockerfile.source,
                escape=found.dockerfile.escape,
            )
        )
    return results[-1]


def rules(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.rule for finding in findings]


def test_stages_are_found_by_name_and_number() -> None:
    """FROM an earlier stage's name builds on it, case aside; numbers work for --from only."""
    found = planned("FROM x AS One\nFROM one AS two\nCOPY --from=0 a b\nFROM TWO\n")

    assert [(stage.name, stage.base) for stage in found.stages] == [("one", None), ("two", 0), ("", 1)]
    assert found.needed() == (0, 1, 2)


def test_only_what_the_target_needs_is_needed() -> None:
    """Stages count through FROM, COPY --from and RUN --mount=from."""
    found = planned(
        "FROM x AS a\nFROM x AS b\nFROM x AS c\nFROM x AS unused\n"
        "FROM a\nCOPY --from=b / /\nRUN --mount=from=c,target=/c ls\nCOPY --from=busybox / /\n"
    )

    assert found.needed() == (0, 1, 2, 4)
    assert planned("FROM x AS a\nFROM x AS b\n", target="a").needed() == (0,)
    assert planned("FROM x AS a\nFROM x AS b\n", target="0").target == 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("RUN x\nFROM a", "RUN comes before the first FROM"),
        ("ARG A\n", "has no FROM"),
        ("", "is empty"),
        ("FROM $NOPE\n", "is empty once its variables"),
        ("FROM --platform=what/is/this/then a\n", "platform"),
        ("FROM x\nCOPY --from=3 a b\n", "there is no stage 3"),
        ("FROM x AS a\nCOPY --from=a a b\n", "cannot take files from itself"),
        ("FROM x AS a\nCOPY --from=b a b\nFROM x AS b\nFROM a\n", "comes after this instruction"),
        ("FROM x AS a\nCOPY --from=b a b\nFROM a AS b\n", "and is itself built from this one"),
    ],
)
def test_impossible_stages_are_named(text: str, match: str) -> None:
    """References that cannot be are errors with a place, before anything runs."""
    with pytest.raises(DockerfileError, match=match):
        planned(text)


def test_other_frontends_are_refused() -> None:
    """`# syntax=` may name Docker's own language, in any version, and nothing else."""
    planned("# syntax=docker/dockerfile:1.7-labs\nFROM x")
    with pytest.raises(DockerfileUnimplemented, match="not the Dockerfile language"):
        planned("# syntax=example.com/frontend\nFROM x")


def test_targets_must_exist() -> None:
    """An unknown target is not found."""
    with pytest.raises(NotFound, match="no stage 'x'"):
        planned("FROM a\n", target="x")


@pytest.mark.parametrize(
    ("text", "arguments", "image"),
    [
        ("ARG V=1\nFROM a:$V", {}, "a:1"),
        ("ARG V=1\nFROM a:$V", {"V": "2"}, "a:2"),
        ("ARG V\nFROM a:${V:-3}", {}, "a:3"),
        ("ARG A=x\nARG B=$A-y\nFROM $B", {}, "x-y"),
        ("ARG A=x\nARG B=$A-y\nFROM $B", {"A": "z"}, "z-y"),
        ("FROM a:$TARGETARCH", {}, "a:arm64"),
        ("FROM a:$BUILDARCH-$TARGETVARIANT", {}, "a:amd64-"),
        ("FROM a:$V", {"V": "undeclared"}, "a:"),
    ],
)
def test_arguments_before_from(text: str, arguments: dict[str, str], image: str) -> None:
    """FROM sees ARGs before it, their defaults, given values, and the platforms."""
    assert planned(text, arguments, platform=ARM64).stages[0].image == image


def env_of(result: Evaluated) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in result.config.env or ())


@pytest.mark.parametrize(
    ("text", "arguments", "value"),
    [
        ("ENV X=$V", {"V": "1"}, ""),
        ("ARG V\nENV X=$V", {"V": "1"}, "1"),
        ("ARG V=d\nENV X=$V", {}, "d"),
        ("ARG V=d\nENV X=$V", {"V": ""}, ""),
        ("ENV V=e\nARG V=a\nENV X=$V", {}, "a"),
        ("ARG V=a\nENV V=e\nENV X=$V", {}, "e"),
        ("ENV A=1\nENV A=2 X=$A", {}, "1"),
        ("ARG A=1\nARG B=$A$A\nENV X=$B", {}, "11"),
        ("ARG G\nENV X=$G", {}, "global"),
        ("ARG G=own\nENV X=$G", {}, "own"),
        ("ENV X='$V'", {}, "$V"),
        ("ENV X a  b", {}, "a  b"),
    ],
)
def test_arg_and_env_scopes(text: str, arguments: dict[str, str], value: str) -> None:
    """Each instruction sees the variables before it, the later of ARG and ENV, and global ARGs only once declared."""
    assert env_of(evaluated(f"ARG G=global\nFROM scratch\n{text}\n", arguments))["X"] == value


def test_run_sees_env_and_args_but_the_image_keeps_only_env() -> None:
    """ARG is in RUN's environment and history, not in the image's."""
    result = evaluated("FROM scratch\nARG A=1 B\nENV E=2\nRUN x\n")

    (run,) = result.steps[2:]
    assert isinstance(run, RunStep)
    assert "A=1" in run.env
    assert "E=2" in run.env
    assert run.created_by == "RUN |2 A=1 B= /bin/sh -c x # buildkit"
    assert set(env_of(result)) == {"PATH", "E"}


def test_configuration_instructions() -> None:
    """Every instruction that only configures ends up in the image's configuration as Docker has it."""
    result = evaluated(
        'FROM scratch\nENV D=/d\nWORKDIR $D\nWORKDIR e/../f\nUSER 1:2\nLABEL "a b"=c\n'
        'EXPOSE 80 1-2/udp $NOPE\nVOLUME ["/v", "/w"]\n'
        'STOPSIGNAL SIGQUIT\nMAINTAINER me <m@e>\nSHELL ["/bin/bash", "-c"]\nCMD one two\nENTRYPOINT ["x"]\n'
        "HEALTHCHECK --retries=2 CMD probe\n"
    )

    config = result.config
    assert config.working_dir == "/d/f"
    assert config.user == "1:2"
    assert config.labels == {"a b": "c"}
    assert config.exposed_ports == ("1/udp", "2/udp", "80/tcp")
    assert config.volumes == ("/v", "/w")
    assert config.stop_signal == "SIGQUIT"
    assert config.author == "me <m@e>"
    assert config.cmd == ("/bin/bash", "-c", "one two")
    assert config.entrypoint == ("x",)
    assert config.healthcheck is not None
    assert config.healthcheck.test == ("CMD-SHELL", "probe")
    assert [type(step) for step in result.steps].count(WorkdirStep) == 2


def test_entrypoint_clears_an_inherited_cmd_only() -> None:
    """ENTRYPOINT drops the base's CMD, but not one set in the same stage."""
    base = scratch(AMD64).replace(cmd=("base",))

    assert evaluated('FROM base\nENTRYPOINT ["x"]\n', base=base).config.cmd is None
    assert evaluated('FROM base\nCMD ["y"]\nENTRYPOINT ["x"]\n', base=base).config.cmd == ("y",)


@pytest.mark.parametrize(
    ("written", "destination", "into"),
    [
        ("x", "/w/x", False),
        ("x/", "/w/x", True),
        (".", "/w", True),
        ("/a//b/../c", "/a/c", False),
        ("..", "/", True),
        ("$D", "/dir", False),
    ],
)
def test_destinations(written: str, destination: str, *, into: bool) -> None:
    """A destination is relative to WORKDIR; a slash or dot at its end says that it is a directory."""
    step = evaluated(f"FROM scratch\nENV D=/dir\nWORKDIR /w\nCOPY a {written}\n").steps[-1]

    assert isinstance(step, CopyStep)
    assert (step.destination, step.into) == (destination, into)


def test_history_of_copies() -> None:
    """The history shows what was copied as Docker writes it."""
    steps = evaluated("FROM scratch\nCOPY --chown=1:2 --chmod=755 --parents a b /c/\nADD x /y\nCOPY <<E /z\nE\n").steps

    assert [step.created_by for step in steps] == [
        "COPY --parents --chown=1:2 --chmod=755 a b /c/ # buildkit",
        "ADD x /y # buildkit",
        "COPY <<E /z # buildkit",
    ]


def test_here_documents_expand_variables_only() -> None:
    """In a copied document variables are replaced, quotes stay; a quoted terminator keeps everything."""
    steps = evaluated("FROM scratch\nENV A=1\nCOPY <<E <<'F' /d/\n\"$A\" '$A' \\$A\nE\n$A\nF\n").steps

    copy = steps[-1]
    assert isinstance(copy, CopyStep)
    assert copy.documents == (("E", "\"1\" '1' $A\n"), ("F", "$A\n"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("STOPSIGNAL SIGNOPE", "there is no signal"),
        ("EXPOSE 80/tpc", "unknown protocol .did you mean tcp"),
        ("EXPOSE 99999", "no port"),
        ("EXPOSE 9-8", "backwards"),
        ("COPY --chmod=9 a b", "no mode"),
        ("COPY https://x/y z", "COPY takes files"),
        ("COPY $NOPE x", "is empty once"),
        ("COPY --from=$A x y", "not replaced in --from"),
        ("ADD --checksum=sha256:x a b", "for addresses only"),
        ("WORKDIR $NOPE", "is empty"),
        ("USER $NOPE", "is empty"),
        ("VOLUME $NOPE", "is empty"),
        ('ENV A="${B:?must be set}"', "B: must be set"),
        ("RUN --mount=type=cache x", "needs a target"),
        ("RUN --mount=type=bnid,target=/x x", "did you mean bind"),
        ("RUN --mount=type=tmpfs,target=/x,size=lots x", "size is no size"),
        ("RUN --mount=type=bind,target=/x,mode=1 x", "does not go with type=bind"),
        ("RUN --mount=type=cache,target=/x,sharing=no x", "sharing is"),
        ("RUN --mount=type=cache,target=/x,ro=perhaps x", "true or false"),
        ("RUN --mount=type=secret x", "needs an id"),
        ("RUN --mount=type=bind,target=/ x", "cannot have /"),
    ],
)
def test_evaluation_errors_have_a_place(text: str, match: str) -> None:
    """What is wrong only once variables are replaced is reported at its line, too."""
    with pytest.raises(DockerfileError, match=match) as caught:
        evaluated(f"FROM scratch\n{text}\n")

    assert caught.value.span.line == 2


@pytest.mark.parametrize(
    "text",
    ["RUN --security=insecure x", "RUN --mount=type=ssh x", "ADD https://x/y z", "ADD git@github.com:a/b.git /x"],
)
def test_what_is_not_supported_says_so(text: str) -> None:
    """Understood, but refused, with the line."""
    with pytest.raises(DockerfileUnimplemented) as caught:
        evaluated(f"FROM scratch\n{text}\n")

    assert caught.value.span.line == 2


def test_mounts_get_their_defaults() -> None:
    """Mounts know their targets, ids and whether they are read-only without being told."""
    step = evaluated(
        "FROM scratch\nWORKDIR /w\nENV T=tmp\nRUN --mount=type=cache,target=c --mount=type=secret,id=d/tok"
        " --mount=type=tmpfs,target=/$T,size=2m"
        " --mount=target=/b --mount=type=secret,id=e,env=E x\n"
    ).steps[-1]

    assert isinstance(step, RunStep)
    seen = [(mount.kind, mount.target, mount.id, mount.readonly) for mount in step.mounts]
    assert seen == [
        ("cache", "/w/c", "/w/c", False),
        ("secret", "/run/secrets/tok", "d/tok", True),
        ("tmpfs", "/tmp", "", False),
        ("bind", "/b", "", True),
        ("secret", "/run/secrets/e", "e", True),
    ]
    assert step.mounts[2].size == 2 << 20
    assert (step.mounts[4].env, step.mounts[4].as_file) == ("E", False)


LINT: list[tuple[str, str, dict[str, Any]]] = [
    ("StageNameCasing", "FROM a AS Big", {}),
    ("FromAsCasing", "FROM a as b", {}),
    ("ConsistentInstructionCasing", "FROM a\nRUN x\ncmd []", {}),
    ("DuplicateStageName", "FROM a AS x\nFROM b AS x", {}),
    ("ReservedStageName", "FROM a AS scratch", {}),
    ("MaintainerDeprecated", "FROM a\nMAINTAINER me", {}),
    ("LegacyKeyValueFormat", "FROM a\nENV a b", {}),
    ("MultipleInstructionsDisallowed", "FROM a\nCMD []\nCMD []", {}),
    ("UndefinedArgInFrom", "FROM a:$X", {}),
    ("InvalidDefaultArgInFrom", "ARG V\nFROM a:$V", {"V": "1"}),
    ("RedundantTargetPlatform", "FROM --platform=$TARGETPLATFORM a", {}),
    ("FromPlatformFlagConstDisallowed", "FROM --platform=linux/amd64 a", {}),
    ("JSONForm", "FROM a\nCMD ['a']", {}),
]


@pytest.mark.parametrize(("rule", "text", "arguments"), LINT, ids=[case[0] for case in LINT])
def test_static_lint(rule: str, text: str, arguments: dict[str, str]) -> None:
    """Each check finds its example; the finding has a sentence and, for BuildKit's, a page."""
    findings = planned(text, arguments).findings

    found = [finding for finding in findings if finding.rule == rule]
    assert found
    assert "{" not in found[0].text
    assert lint.RULES[rule].page == "" or found[0].url.endswith(f"{lint.RULES[rule].page}/")


EVALUATED_LINT = [
    ("JSONArgsRecommended", "CMD x"),
    ("UndefinedVar", "ENV A=$NOPE"),
    ("WorkdirRelativePath", "WORKDIR x"),
    ("SecretsUsedInArgOrEnv", "ENV API_TOKEN=x"),
    ("SecretsUsedInArgOrEnv", "ARG DB_PASSWORD"),
    ("ExposeProtoCasing", "EXPOSE 80/TCP"),
    ("ExposeInvalidFormat", "EXPOSE 127.0.0.1:80:80"),
]


@pytest.mark.parametrize(("rule", "text"), EVALUATED_LINT)
def test_evaluated_lint(rule: str, text: str) -> None:
    """Checks that need variables or the base find their example."""
    assert rules(evaluated(f"FROM scratch\n{text}\n").findings) == [rule]


@pytest.mark.parametrize(
    "text",
    [
        "FROM a AS b",
        "from a as b",
        "FROM a\nENV PUBLIC_KEY=x TOKEN_FILE=y MONKEY=z",
        "FROM --platform=linux/arm64 a AS build-arm64",
        'FROM a\nCMD ["x"]\nFROM b\nCMD ["y"]',
        "ARG V=1\nFROM a:$V",
        'FROM a\nSHELL ["x"]\nARG DECLARED\nENV A=$DECLARED\nWORKDIR /a\nWORKDIR b\nCMD y',
    ],
)
def test_lint_is_quiet_about_good_files(text: str) -> None:
    """Nothing is found where nothing is wrong."""
    assert not planned(text).findings
    assert not evaluated(text).findings


def test_the_check_directive() -> None:
    """Skip and error are read; anything else is an error."""
    assert lint.settings(parse("# check=skip=A,B;error=true\nFROM a")) == lint.Settings(
        skip=frozenset({"A", "B"}), error=True
    )
    with pytest.raises(DockerfileError, match="check has no setting"):
        lint.settings(parse("# check=skipp=A\nFROM a"))
    finding = lint.finding("StageNameCasing", parse("FROM a").instructions[0].span, "X")
    assert lint.kept([finding, finding], lint.Settings()) == [finding]
    assert lint.kept([finding], lint.Settings(skip=frozenset({"all"}))) == []
