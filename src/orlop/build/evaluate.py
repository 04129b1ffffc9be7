"""A stage's instructions, given its base's configuration -> steps and the resulting configuration. Pure.

Variables are replaced here, in Docker's scopes: ARG before FROM is seen by FROM and by an ARG without a value; ENV
and ARG of a stage are seen from the next instruction on, the later of two wins; a stage built on another inherits both.
"""

from __future__ import annotations

from posixpath import join, normpath

from orlop.build import arguments, lint, modes
from orlop.build.dockerfile import instructions as dockerfile
from orlop.build.dockerfile.instructions import Instruction, Pair, Word
from orlop.build.dockerfile.lines import Heredoc, parse_heredoc
from orlop.build.dockerfile.source import (
    DockerfileError,
    DockerfileUnimplemented,
    Finding,
    Source,
    Span,
    did_you_mean,
)
from orlop.build.dockerfile.words import ExpansionError, Lexer
from orlop.build.steps import CopyStep, RunStep, Step, WorkdirStep
from orlop.errors import InvalidArgument
from orlop.linux import signals
from orlop.oci import jsontext
from orlop.oci.image import Healthcheck, ImageConfig
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from orlop.oci.platform import Platform

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = frozenset(
    name for one in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY") for name in (one, one.lower())
)
_REMOTE = ("http://", "https://", "git://", "git@", "ssh://", "s3://")
_DEFAULT_SHELL = ("/bin/sh", "-c")


def scratch(platform: Platform) -> ImageConfig:
    """The configuration of nothing."""
    return ImageConfig(platform=platform, env=(PATH,), working_dir="/")


class Evaluated(Value):
    """A stage's steps. `config` lacks the history and the layers of its own; `args` are the variables to inherit."""

    steps: tuple[Step, ...]
    config: ImageConfig
    args: dict[str, str]
    findings: tuple[Finding, ...]


class Scope(Value):
    """What is the same for all stages: build arguments, the global ARGs, and how a word names a stage."""

    build_args: dict[str, str]
    global_args: dict[str, str]
    find_stage: Callable[[Word], int | None]


def evaluate(
    stage: tuple[Instruction, ...],
    *,
    base: ImageConfig,
    inherited: Mapping[str, str],
    scope: Scope,
    source: Source,
    escape: str,
    triggers: tuple[tuple[Instruction, Source], ...] = (),
) -> Evaluated:
    """Evaluate `triggers` (a base image's ONBUILD) and then the stage's instructions. Raises DockerfileError."""
    run = _Evaluation(base, inherited, scope, escape)
    for instruction, origin in [*triggers, *((one, source) for one in stage)]:
        run.add(instruction, origin)
    return Evaluated(steps=tuple(run.steps), config=run.config, args=run.args, findings=tuple(run.findings))


class _Evaluation:
    def __init__(self, base: ImageConfig, inherited: Mapping[str, str], scope: Scope, escape: str) -> None:
        self.scope = scope
        self.escape = escape
        self.config = base.replace(on_build=(), created="")
        self.args: dict[str, str] = dict(inherited)
        self.declared: dict[str, None] = {}  # ARG names of this stage, in order, with a value or not
        self.env: dict[str, str] = dict(entry.partition("=")[::2] for entry in base.env or ()) | self.args
        self.steps: list[Step] = []
        self.findings: list[Finding] = []
        self.workdir_set = False
        self.cmd_set = False
        self.source = Source(name="", lines=())

    def add(self, instruction: Instruction, source: Source) -> None:
        self.source = source
        _STEPS[type(instruction)](self, instruction)

    # What the instructions share

    def fail(self, sentence: str, span: Span, hint: str = "") -> NoReturn:
        raise DockerfileError(sentence, source=self.source, span=span, hint=hint)

    def unimplemented(self, sentence: str, span: Span, hint: str = "") -> NoReturn:
        raise DockerfileUnimplemented(sentence, source=self.source, span=span, hint=hint)

    def expand(self, text: str, span: Span, *, raw: bool = False) -> str:
        lexer = Lexer("\\", skip_quotes=True) if raw else Lexer(self.escape)
        try:
            result = lexer.word(text, self.env)
        except ExpansionError as error:
            self.fail(error.message, span, error.hint)
        for name in sorted(lexer.unset):
            if name not in self.declared and name not in self.args:
                self.findings.append(lint.finding("UndefinedVar", span, name, _suggestion(name, self.env)))
        return result

    def word(self, word: Word) -> str:
        return self.expand(word.text, word.span)

    def meta(self, instruction: Instruction, created_by: str) -> None:
        self.steps.append(Step(instruction=instruction, source=self.source, created_by=created_by))

    def set(self, **changes: Any) -> None:
        self.config = self.config.replace(**changes)

    @property
    def cwd(self) -> str:
        return self.config.working_dir or "/"

    def absolute(self, path: str) -> str:
        return _clean(join(self.cwd, path))

    def shell(self, text: str) -> tuple[str, ...]:
        return (*(self.config.shell or _DEFAULT_SHELL), text)

    # The instructions

    def env_(self, one: dockerfile.Env) -> None:
        said = []
        values = []
        for pair in one.pairs:
            key, value = self.expand(pair.key, pair.span), self.expand(pair.value or "", pair.span)
            if not key:
                self.fail("the name is empty once its variables are replaced", pair.span)
            lint.secret("ENV", key, pair.span, self.findings)
            values.append((key, value))
            said.append(f"{key}={value}")
        stored = dict(entry.partition("=")[::2] for entry in self.config.env or ())
        for key, value in values:
            self.env[key] = stored[key] = value
            self.args.pop(key, None)
        self.set(env=tuple(f"{key}={value}" for key, value in stored.items()))
        self.meta(one, "ENV " + " ".join(said))

    def label(self, one: dockerfile.Label) -> None:
        labels = dict(self.config.labels)
        said = []
        for pair in one.pairs:
            key, value = self.expand(pair.key, pair.span), self.expand(pair.value or "", pair.span)
            labels[key] = value
            said.append(f"{key}={value}")
        self.set(labels=labels)
        self.meta(one, "LABEL " + " ".join(said))

    def arg(self, one: dockerfile.Arg) -> None:
        said = []
        for pair in one.pairs:
            lint.secret("ARG", pair.key, pair.span, self.findings)
            value = self._argument(pair)
            self.declared[pair.key] = None
            if value is not None:
                self.args[pair.key] = self.env[pair.key] = value
            said.append(pair.key if value is None else f"{pair.key}={value}")
        self.meta(one, "ARG " + " ".join(said))

    def _argument(self, pair: Pair) -> str | None:
        given = self.scope.build_args.get(pair.key)
        if given is not None:
            return given
        if pair.value is not None:
            return self.expand(pair.value, pair.span)
        return self.scope.global_args.get(pair.key)

    def workdir(self, one: dockerfile.Workdir) -> None:
        path = self.word(one.path)
        if not path:
            self.fail("WORKDIR is empty once its variables are replaced", one.path.span)
        if not path.startswith("/") and not self.workdir_set:
            self.findings.append(lint.finding("WorkdirRelativePath", one.path.span, path))
        self.workdir_set = True
        path = self.absolute(path)
        self.set(working_dir=path)
        created_by = f"WORKDIR {path}"
        if path == "/":
            self.meta(one, created_by)
        else:
            self.steps.append(
                WorkdirStep(
                    instruction=one, source=self.source, created_by=created_by, path=path, user=self.config.user
                )
            )

    def user(self, one: dockerfile.User) -> None:
        user = self.word(one.user)
        if not user:
            self.fail("USER is empty once its variables are replaced", one.user.span)
        self.set(user=user)
        self.meta(one, f"USER {user}")

    def maintainer(self, one: dockerfile.Maintainer) -> None:
        self.set(author=one.who)
        self.meta(one, f"MAINTAINER {one.who}")

    def stop_signal(self, one: dockerfile.StopSignal) -> None:
        text = self.word(one.signal)
        if text.upper() not in signals.NUMBERS:
            self.fail(f"there is no signal {text}{did_you_mean(text, signals.NUMBERS)}", one.signal.span)
        self.set(stop_signal=text)
        self.meta(one, f"STOPSIGNAL {text}")

    def expose(self, one: dockerfile.Expose) -> None:
        ports: list[str] = []
        for word in one.ports:
            try:
                words = Lexer(self.escape).words(word.text, self.env)
                for text in words:
                    ports += arguments.ports(text, word.span, self.findings)
            except InvalidArgument as error:
                self.fail(error.message, word.span, error.hint)
        self.set(exposed_ports=tuple(sorted({*self.config.exposed_ports, *ports})))
        self.meta(one, f"EXPOSE [{' '.join(ports)}]")

    def volume(self, one: dockerfile.Volume) -> None:
        paths = [self.word(path) for path in one.paths]
        if not all(paths):
            self.fail("VOLUME has a path that is empty once its variables are replaced", one.span)
        self.set(volumes=tuple(sorted({*self.config.volumes, *paths})))
        self.meta(one, f"VOLUME [{' '.join(paths)}]")

    def shell_(self, one: dockerfile.Shell) -> None:
        self.set(shell=one.argv)
        self.meta(one, f"SHELL [{' '.join(one.argv)}]")

    def cmd(self, one: dockerfile.Cmd) -> None:
        argv = self._program(one)
        self.cmd_set = True
        self.set(cmd=argv, args_escaped=True)
        self.meta(one, f"CMD {_quoted(argv)}")

    def entrypoint(self, one: dockerfile.Entrypoint) -> None:
        argv = self._program(one)
        self.set(entrypoint=argv or None)
        if not self.cmd_set:
            self.set(cmd=None)
        self.meta(one, f"ENTRYPOINT {_quoted(argv)}")

    def _program(self, one: dockerfile.Command) -> tuple[str, ...]:
        if not one.shell_form or not one.argv:
            return one.argv
        if self.config.shell is None:
            self.findings.append(lint.finding("JSONArgsRecommended", one.span, one.name))
        return self.shell(one.argv[0])

    def healthcheck(self, one: dockerfile.Healthcheck) -> None:
        check = Healthcheck(
            test=one.test,
            interval=one.interval,
            timeout=one.timeout,
            start_period=one.start_period,
            start_interval=one.start_interval,
            retries=one.retries,
        )
        self.set(healthcheck=check)
        self.meta(one, one.text)

    def onbuild(self, one: dockerfile.Onbuild) -> None:
        self.set(on_build=(*self.config.on_build, one.trigger))  # Docker's history does not tell of it

    def run(self, one: dockerfile.Run) -> None:
        argv, script = self._run_command(one)
        if one.security == "insecure":
            self.unimplemented("RUN --security=insecure is not supported", one.span, "run without it, or use docker")
        mounts = tuple(
            arguments.mount(flag, expand=self.expand, cwd=self.cwd, source=self.source) for flag in one.mounts
        )
        env = {"PATH": PATH[5:]} | self.env
        taken = {name for name in PROXIES if name not in self.declared}
        proxies = {name: value for name, value in self.scope.build_args.items() if name in taken and name not in env}
        shown = [f"{name}={self.args.get(name, self.env.get(name, ''))}" for name in self.declared]
        prefix = [f"|{len(shown)}", *shown] if shown else []
        self.steps.append(
            RunStep(
                instruction=one,
                source=self.source,
                created_by=" ".join(["RUN", *prefix, *argv, "# buildkit"]),
                argv=argv,
                env=tuple(f"{key}={value}" for key, value in env.items()),
                proxies=tuple(f"{key}={value}" for key, value in sorted(proxies.items())),
                cwd=self.cwd,
                user=self.config.user,
                mounts=mounts,
                network=one.network,
                security=one.security,
                script=script,
            )
        )

    def _run_command(self, one: dockerfile.Run) -> tuple[tuple[str, ...], Heredoc | None]:
        if not one.shell_form:
            return one.argv, None
        text = one.argv[0]
        if not one.heredocs:
            return self.shell(text), None
        if parse_heredoc(text) is None:  # the shell reads the documents itself
            return self.shell(text + "".join(f"\n{body.content}{body.name}" for body in one.heredocs)), None
        body = one.heredocs[0]
        if body.text.startswith("#!"):
            return self.shell(f"/dev/pipes/{script_name(body.name)}"), body
        return self.shell(body.text), None

    def copy(self, one: dockerfile.Copy) -> None:
        sources = tuple(self.word(word) for word in one.sources)
        for text, word in zip(sources, one.sources, strict=True):
            self._check_source(one, text, word.span)
        documents = tuple(
            (body.name, self.expand(body.text, body.span or one.span, raw=True) if body.expand else body.text)
            for body in one.documents
        )
        written = self.word(one.destination)
        chown = self.word(one.chown) if one.chown else ""
        chmod = self.word(one.chmod) if one.chmod else ""
        if chmod:
            try:
                modes.parse(chmod)
            except InvalidArgument as error:
                assert one.chmod is not None
                self.fail(error.message, one.chmod.span, error.hint)
        stage = self._origin(one)
        flags = [f"--chown={chown}"] * bool(chown) + [f"--chmod={chmod}"] * bool(chmod)
        flags = ["--parents"] * one.parents + flags
        said = [one.name, *flags, *sources, *(f"<<{name}" for name, _ in documents), written, "# buildkit"]
        self.steps.append(
            CopyStep(
                instruction=one,
                source=self.source,
                created_by=" ".join(said),
                name=one.name,
                sources=sources,
                spans=tuple(word.span for word in one.sources),
                documents=documents,
                destination=self.absolute(written),
                into=not written or written.endswith("/") or written.rpartition("/")[2] in {".", ".."},
                chown=chown,
                chmod=chmod,
                link=one.link,
                parents=one.parents,
                excludes=tuple(self.word(word) for word in one.excludes),
                origin=one.origin.text if one.origin else "",
                origin_span=one.origin.span if one.origin else None,
                stage=stage,
                unpack=isinstance(one, dockerfile.Add) and one.unpack is not False,
            )
        )

    def _check_source(self, one: dockerfile.Copy, text: str, span: Span) -> None:
        if not text:
            self.fail(f"a source of {one.name} is empty once its variables are replaced", span)
        if text.startswith(_REMOTE):
            if not isinstance(one, dockerfile.Add):
                self.fail(f"COPY takes files, not {text}", span, "ADD is for addresses")
            self.unimplemented("ADD of an address is not supported yet", span, "fetch the file beforehand, or with RUN")
        if isinstance(one, dockerfile.Add):
            if one.checksum is not None:
                self.fail("--checksum is for addresses only", one.checksum.span)
            if one.keep_git_dir is not None:
                self.fail("--keep-git-dir is for git addresses only", one.span)

    def _origin(self, one: dockerfile.Copy) -> int | None:
        if one.origin is None:
            return None
        if "$" in one.origin.text:
            self.fail(
                "variables are not replaced in --from",
                one.origin.span,
                "name a stage for it: FROM $IMAGE AS name, then --from=name",
            )
        return self.scope.find_stage(one.origin)


def script_name(document: str) -> str:
    """What a here-document that is a script is called where it is run."""
    return document.replace("/", "_")


def _suggestion(name: str, env: Mapping[str, str]) -> str:
    found = did_you_mean(name, env)
    return found.replace("did you mean ", "did you mean $")


def _clean(path: str) -> str:
    """An absolute path without dots and doubled slashes (POSIX lets two leading slashes stand)."""
    return "/" + normpath(path).lstrip("/")


def _quoted(argv: tuple[str, ...]) -> str:
    """An argument list as docker's history shows it."""
    return "[" + " ".join(jsontext.dumps(word).decode() for word in argv) + "]"


_STEPS: dict[type[Instruction], Callable[[_Evaluation, Any], None]] = {
    dockerfile.Add: _Evaluation.copy,
    dockerfile.Arg: _Evaluation.arg,
    dockerfile.Cmd: _Evaluation.cmd,
    dockerfile.Copy: _Evaluation.copy,
    dockerfile.Entrypoint: _Evaluation.entrypoint,
    dockerfile.Env: _Evaluation.env_,
    dockerfile.Expose: _Evaluation.expose,
    dockerfile.Healthcheck: _Evaluation.healthcheck,
    dockerfile.Label: _Evaluation.label,
    dockerfile.Maintainer: _Evaluation.maintainer,
    dockerfile.Onbuild: _Evaluation.onbuild,
    dockerfile.Run: _Evaluation.run,
    dockerfile.Shell: _Evaluation.shell_,
    dockerfile.StopSignal: _Evaluation.stop_signal,
    dockerfile.User: _Evaluation.user,
    dockerfile.Volume: _Evaluation.volume,
    dockerfile.Workdir: _Evaluation.workdir,
}
