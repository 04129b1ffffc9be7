"""Builds: what the build room asks for (images, execution, names) comes from the engine's other nouns."""

from __future__ import annotations

import os

from orlop.engine import journal
from orlop.engine.requests import Built, Prune, Pull, Removed
from orlop.errors import InvalidArgument, NotFound, OrlopError
from orlop.events import Event, ignore, serialised
from orlop.oci.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.build.protocols import BaseImage, Resolve
    from orlop.build.solve import BuildRequest
    from orlop.build.solve import Built as Made
    from orlop.engine.core import Engine
    from orlop.engine.requests import Build
    from orlop.events import Report
    from orlop.oci.platform import Platform
    from orlop.store.images import ImageRecord


class Builds:
    """The verbs on builds and their cache."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._namespace = engine.settings.namespace

    def build(self, request: Build, report: Report = ignore) -> Built:
        """Build an image and name it. Afterwards all tags point at it; the image that had one may dangle."""
        from orlop.build.solve import solve
        from orlop.build.workspace import Workspace
        from orlop.engine.steps import Steps

        engine, report = self._engine, serialised(report)
        tags = [Reference.parse(tag) for tag in request.tags]
        for tag in tags:
            if tag.digest:
                raise InvalidArgument(f"-t {tag.familiar} names a digest, which is not a tag", hint="use NAME[:TAG]")
        with (
            engine.root.lease() as lease,
            Workspace(engine.root, engine.snapshotter, lease, namespace=self._namespace) as workspace,
        ):
            steps = Steps(engine, lease, memory=request.memory, add_hosts=request.add_hosts, report=report)
            built = solve(
                self._request(request),
                workspace=workspace,
                resolve=self._resolver(request, report),
                execute=steps,
                report=report,
            )
            record = self._record(built)
            engine.images.add(record, tags)
        if built.misses:
            self._trim(report)
        journal.record(engine.root, "image", "build", record.config, {"name": tags[0].familiar if tags else ""})
        return Built(
            id=record.config,
            target=record.manifest,
            tags=tuple(tag.familiar for tag in tags),
            warnings=built.warnings,
        )

    def _record(self, built: Made) -> ImageRecord:
        """The image's record; its size is that of the layers' trees, where they are unpacked."""
        from orlop.engine.storage import image_record

        record = image_record(self._namespace, built.manifest, built.config)
        known = {layer.diff_id: layer.size for layer in self._engine.root.state.layers.all()}
        return record.replace(size=sum(known.get(layer.diff_id, layer.size) for layer in record.layers))

    def _request(self, request: Build) -> BuildRequest:
        """The build room's request: secrets read, arguments and labels as mappings."""
        from orlop.build.solve import BuildRequest
        from orlop.oci.platform import Platform

        arguments = {name: value for name, value in request.build_args if value is not None}
        epoch = dict(self._engine.settings.environ).get("SOURCE_DATE_EPOCH")
        if epoch:
            arguments.setdefault("SOURCE_DATE_EPOCH", epoch)
        return BuildRequest(
            context=os.path.abspath(request.context) if request.context else "",
            dockerfile=request.dockerfile,
            dockerfile_text=request.dockerfile_text,
            target=request.target,
            build_args=arguments,
            labels=dict(text.partition("=")[::2] for text in request.labels),
            platform=Platform.parse(request.platform) if request.platform else None,
            no_cache=request.no_cache,
            secrets=dict(_secret(text) for text in request.secrets),
            network=request.network or "default",
            host_network=_host_network(request.allow),
        )

    def _resolver(self, request: Build, report: Report) -> Resolve:
        """Images by reference: the local one, or pulled; with --pull always pulled first."""
        images = self._engine.images

        def resolve(reference: Reference, platform: Platform) -> BaseImage:
            wanted = Pull(
                reference=str(reference), platform=str(platform), policy="always" if request.pull else "missing"
            )
            found = images.obtain(wanted, report)
            if found.platform != str(platform.normalized()) and request.platform:
                found = images.obtain(wanted.replace(policy="always"), report)
            return self._base(found, reference)

        return resolve

    def _base(self, record: ImageRecord, reference: Reference) -> BaseImage:
        from orlop.build.protocols import BaseImage
        from orlop.oci.image import ImageConfig

        return BaseImage(
            reference=str(reference),
            config=ImageConfig.from_json(record.config_json),
            layers=record.layers,
            manifest=record.manifest,
        )

    def cache_size(self) -> tuple[int, int]:
        """Entries of the build cache, and the bytes that only it keeps (what a prune of it would free)."""
        from orlop.engine import buildcache

        return buildcache.size(self._engine)

    def prune(self, request: Prune = Prune()) -> Removed:
        """Forget the build cache, as far as `request` asks; what only it kept is freed."""
        from orlop.engine import buildcache

        return buildcache.prune(self._engine, request)

    def _trim(self, report: Report) -> None:
        """Keep the cache small. The image is built: what goes wrong here is a warning."""
        from orlop.engine import buildcache

        try:
            buildcache.trim(self._engine)
        except OrlopError as error:
            report(Event(action="warning", subject="build cache", text=f"the build cache was not trimmed: {error}"))


def _secret(text: str) -> tuple[str, bytes]:
    """`--secret id=NAME,src=FILE`."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    name, source = fields.get("id", ""), fields.get("src") or fields.get("source", "")
    if not name or not source:
        raise InvalidArgument(f"--secret {text!r} is not id=NAME,src=FILE", hint="e.g. --secret id=token,src=token.txt")
    try:
        with open(source, "rb") as file:
            return name, file.read()
    except OSError as error:
        raise NotFound(f"secret {name}: {source} cannot be read: {error.strerror}") from error


def _host_network(allowed: tuple[str, ...]) -> bool:
    """Whether RUN may use the host's network, by BuildKit's names of entitlements."""
    for name in allowed:
        if name != "network.host":
            raise InvalidArgument(f"--allow {name!r} is nothing that can be allowed", hint="network.host is")
    return bool(allowed)
