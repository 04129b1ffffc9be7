"""A Dockerfile and a context -> an image in the content store. The way in to this room."""

from __future__ import annotations

import os

from orlop.build import graph, keys, lint
from orlop.build.dockerfile.parser import parse
from orlop.build.dockerfile.source import DockerfileError, Finding
from orlop.build.evaluate import PROXIES
from orlop.build.session import LAYER_TYPES, Session, moment
from orlop.build.stages import StageBuild
from orlop.build.workspace import Workspace
from orlop.errors import InvalidArgument, NotFound
from orlop.events import Event
from orlop.oci import jsontext, mediatype
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.image import ImageConfig
from orlop.oci.manifest import Manifest
from orlop.oci.platform import Platform
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.build.dockerfile.instructions import Dockerfile
    from orlop.build.protocols import Check, Execute, Resolve
    from orlop.events import Report
    from orlop.store.images import LayerRef

EPOCH = "SOURCE_DATE_EPOCH"
MAX_DOCKERFILE = 4 << 20  # bytes
_NAMES = ("Dockerfile", "Containerfile")


class BuildRequest(Value):
    """What to build. `build_args` and `labels` are read-only by agreement.

    `context` is a folder ("" for none). `dockerfile` is a path; "" looks for Dockerfile, then Containerfile, in the
    context. `dockerfile_text` is used instead of a file's content. `platform` None means this machine's. `secrets` are
    contents by id. `network` is what RUN gets unless it says otherwise; the host's own it may only ask for with
    `host_network` (BuildKit's entitlement network.host), or where that is the default. `compression` of layers is
    "gzip", "zstd" or "none".
    """

    _secret = ("secrets",)

    context: str
    dockerfile: str = ""
    dockerfile_text: str | None = None
    target: str = ""
    build_args: dict[str, str] = jsontext.EMPTY
    labels: dict[str, str] = jsontext.EMPTY
    platform: Platform | None = None
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()
    secrets: dict[str, bytes] = jsontext.EMPTY
    network: str = "default"
    host_network: bool = False
    compression: str = "gzip"

    @property
    def ignore_beside(self) -> str:
        """The Dockerfile's path, beside which its own ignore file may lie."""
        return "" if self.dockerfile_text is not None and not self.dockerfile else self.dockerfile


class Built(Value):
    """What was built. It is in the content store, under the lease; nothing names it yet.

    `hits` and `misses` are the subjects ("stage/3") of steps that the cache answered, and that ran.
    """

    manifest: Manifest
    config: ImageConfig
    config_descriptor: Descriptor
    layers: tuple[LayerRef, ...]
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    hits: tuple[str, ...]
    misses: tuple[str, ...]


def no_check(_layer: LayerRef, _created_by: str) -> None:
    """A Check that accepts every layer."""


def solve(
    request: BuildRequest,
    *,
    workspace: Workspace,
    resolve: Resolve,
    execute: Execute,
    check: Check | None = None,
    report: Report,
) -> Built:
    """Build. Raises DockerfileError, BuildFailed, NotFound..., or what `report` raises; nothing is left behind then."""
    if request.compression not in LAYER_TYPES:
        raise InvalidArgument(f"there is no compression {request.compression!r}", hint="gzip, zstd or none")
    request, dockerfile = _read(request)
    machine = Platform.of_machine(os.uname().machine)
    platform = request.platform or machine
    plan = graph.plan(
        dockerfile,
        target=request.target,
        build_args=request.build_args,
        platform=platform,
        build_platform=machine,
    )
    session = Session(
        request,
        plan,
        workspace,
        platform=platform,
        resolve=resolve,
        execute=execute,
        check=check or no_check,
        report=report,
        epoch=_epoch(request, plan),
    )
    session.stages = [StageBuild(session, stage) for stage in plan.stages]
    target = session.stages[plan.target]
    try:
        session.ask_for_images(plan.needed())
        outcome = target.build()
    except BaseException as error:
        session.stop(error)
        if session.failure is None or session.failure is error:
            raise
        raise session.failure from None  # what stopped the others, not that they were stopped
    finally:
        session.finish()
        session.close()
    config = target.evaluated().config
    config = config.replace(
        labels={**config.labels, **request.labels},
        history=outcome.history,
        diff_ids=tuple(layer.diff_id for layer in outcome.layers),
    )
    findings = _findings(session, dockerfile)
    return _publish(session, config, outcome.id, outcome.layers, findings)


def _read(request: BuildRequest) -> tuple[BuildRequest, Dockerfile]:
    if request.dockerfile_text is not None:
        return request, parse(request.dockerfile_text, request.dockerfile or "Dockerfile")
    paths = [request.dockerfile] if request.dockerfile else [os.path.join(request.context, name) for name in _NAMES]
    for path in paths:
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_DOCKERFILE + 1)
        except FileNotFoundError:
            continue
        except (IsADirectoryError, NotADirectoryError) as error:
            raise InvalidArgument(f"{path} is no Dockerfile: {error.strerror}") from error
        if len(data) > MAX_DOCKERFILE:
            raise InvalidArgument(f"{path} is larger than {MAX_DOCKERFILE} bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{path} is not UTF-8 text (byte {error.start})") from error
        name = os.path.relpath(path, request.context) if request.context else path
        return request.replace(dockerfile=path), parse(text, path if name.startswith("..") else name)
    if request.context and not os.path.isdir(request.context):
        raise NotFound(f"the build context {request.context} is not a folder")
    raise NotFound(f"there is no {paths[0]}", hint="name the Dockerfile with -f, or the folder that holds one")


def _epoch(request: BuildRequest, plan: graph.Plan) -> int | None:
    text = request.build_args.get(EPOCH, plan.arguments.get(EPOCH, ""))
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InvalidArgument(f"{EPOCH} is a whole number of seconds since 1970, not {text!r}")
    return int(text)


def _findings(session: Session, dockerfile: Dockerfile) -> list[Finding]:
    """All warnings, in the order of the text. Raises DockerfileError when `# check=error=true` makes them errors."""
    chosen = lint.settings(dockerfile)
    findings = lint.kept([*session.plan.findings, *session.findings], chosen)
    findings.sort(key=lambda finding: (finding.span.line, finding.span.column))
    if chosen.error and findings:
        first = findings[0]
        raise DockerfileError(
            f"{first.text} [{first.rule}]",
            source=dockerfile.source,
            span=first.span,
            hint="check=error=true forbids it",
        )
    return findings


def _unused(session: Session) -> list[str]:
    """Build arguments that no ARG declares."""
    declared = {
        pair.key
        for instruction in session.plan.dockerfile.instructions
        for pair in getattr(instruction, "pairs", ())
        if instruction.name == "ARG"
    }
    known = {*declared, *session.plan.arguments, *PROXIES, EPOCH}
    names = [name for name in session.request.build_args if name not in known and not name.startswith("BUILDKIT_")]
    return [f"the build argument {name} is not used: no ARG declares it" for name in names]


def _publish(
    session: Session, config: ImageConfig, identity: str, layers: tuple[LayerRef, ...], findings: list[Finding]
) -> Built:
    config = _dated(session, config, identity)
    raw = config.to_bytes()
    workspace = session.workspace
    descriptor = Descriptor.of(raw, mediatype.OCI_CONFIG)
    manifest = Manifest.build(
        config=descriptor,
        layers=[Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size) for layer in layers],
    )
    held = [descriptor.digest, manifest.digest, *(layer.digest for layer in layers)]
    workspace.lease.hold_all(("blob", digest) for digest in held)
    content = workspace.root.content
    for data, media_type in ((raw, mediatype.OCI_CONFIG), (manifest.raw, manifest.media_type)):
        if Digest.of(data) not in content:
            content.put(data, media_type)
    source = session.plan.dockerfile.source
    warnings = [f"{source.name}:{one.span.line}: {one.text} [{one.rule}]" for one in findings] + _unused(session)
    for text in warnings:
        session.report(Event(action="warning", text=text))
    return Built(
        manifest=manifest,
        config=config,
        config_descriptor=descriptor,
        layers=layers,
        findings=tuple(findings),
        warnings=tuple(warnings),
        hits=tuple(session.hits),
        misses=tuple(session.misses),
    )


def _dated(session: Session, config: ImageConfig, identity: str) -> ImageConfig:
    """The configuration with its times: what is built again has the time of the first build, hence its digest."""
    key = keys.key_of({"files": identity, "config": config.to_json()})
    if session.epoch is not None:
        created = moment(session.epoch * 1_000_000_000)
    else:
        known = None if session.request.no_cache else session.cache.get(keys.IMAGES, key)
        created = known.decode("ascii", "replace") if known else session.now()
        if known is None:
            session.cache.put(keys.IMAGES, key, created.encode())
    history = tuple(entry if entry.created else entry.replace(created=created) for entry in config.history)
    return config.replace(created=created, history=history)
