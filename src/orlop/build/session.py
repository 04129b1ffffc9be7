"""What all stages of one build share: the context, images, the cache, reporting, and stopping together."""

from __future__ import annotations

import os
import threading
import time

from orlop.build import keys
from orlop.build.context import Context
from orlop.build.dockerfile.source import DockerfileError, did_you_mean
from orlop.build.failures import located
from orlop.errors import Cancelled, DataLoss, OrlopError
from orlop.events import Event
from orlop.layers import unpack
from orlop.oci import mediatype
from orlop.oci.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NoReturn

    from orlop.build.context import Cache
    from orlop.build.dockerfile.source import Finding, Source, Span
    from orlop.build.graph import Plan
    from orlop.build.keys import Result
    from orlop.build.protocols import BaseImage, Check, Execute, Resolve
    from orlop.build.solve import BuildRequest
    from orlop.build.stages import StageBuild
    from orlop.build.workspace import Workspace
    from orlop.events import Report
    from orlop.oci.platform import Platform
    from orlop.store.images import LayerRef

LAYER_TYPES = {
    "gzip": mediatype.OCI_LAYER_GZIP,
    "zstd": mediatype.OCI_LAYER_ZSTD,
    "none": mediatype.OCI_LAYER,
}


class Session:
    """One build. Thread-safe."""

    def __init__(
        self,
        request: BuildRequest,
        plan: Plan,
        workspace: Workspace,
        *,
        platform: Platform,
        resolve: Resolve,
        execute: Execute,
        check: Check,
        report: Report,
        epoch: int | None,
    ) -> None:
        self.request = request
        self.plan = plan
        self.workspace = workspace
        self.platform = platform
        self.execute = execute
        self.check = check
        self.epoch = epoch  # seconds: SOURCE_DATE_EPOCH
        self.stages: list[StageBuild] = []
        self.findings: list[Finding] = []
        self.hits: list[str] = []
        self.misses: list[str] = []
        self.media_type = LAYER_TYPES[request.compression]
        self.slots = threading.BoundedSemaphore(max(2, os.cpu_count() or 2))
        self.context_lock = threading.RLock()
        self.place = f"{os.path.realpath(request.context)}\0{request.dockerfile}"
        self._resolve = resolve
        self._report = report
        self._report_lock = threading.RLock()
        self._lock = threading.Lock()
        self._images: dict[tuple[str, str], BaseImage | OrlopError] = {}
        self._image_locks: dict[tuple[str, str], threading.Lock] = {}
        self._context: Context | None = None
        self._started: dict[int, threading.Thread] = {}
        self.failure: BaseException | None = None

    @property
    def cache(self) -> Cache:
        """The store's cache."""
        return self.workspace.root.cache

    # Time

    def now(self) -> str:
        """RFC 3339: the time that things made now get."""
        return moment(time.time_ns() if self.epoch is None else self.epoch * 1_000_000_000)

    @property
    def now_ns(self) -> int:
        """The same in nanoseconds since the epoch."""
        return time.time_ns() if self.epoch is None else self.epoch * 1_000_000_000

    # Reporting

    def report(self, event: Event) -> None:
        """Pass an event on, one at a time. What the face raises (Cancelled) stops all stages."""
        with self._report_lock:
            try:
                self._report(event)
            except BaseException as error:
                self.stop(error)
                raise

    def found(self, findings: Iterable[Finding]) -> None:
        """Keep warnings for the end, each once."""
        with self._lock:
            self.findings += [finding for finding in findings if finding not in self.findings]

    def done(self, subject: str, *, cached: bool) -> None:
        """Count a step."""
        with self._lock:
            (self.hits if cached else self.misses).append(subject)

    # Stopping

    def stop(self, cause: BaseException) -> None:
        """Make all stages end soon. The first cause is the build's error."""
        with self._lock:
            if self.failure is None:
                self.failure = cause

    def check_stopped(self) -> None:
        """Raise Cancelled when another stage failed or the face gave up."""
        if self.failure is not None:
            raise Cancelled("the build was stopped")

    # Stages

    def start(self, index: int) -> None:
        """Build a stage in a thread of its own, if nobody does yet."""
        with self._lock:
            if index in self._started:
                return
            thread = threading.Thread(target=self._in_thread, args=(self.stages[index],), daemon=True)
            self._started[index] = thread
        thread.start()

    def _in_thread(self, stage: StageBuild) -> None:
        try:
            stage.build()
        except BaseException as error:  # noqa: BLE001  # another thread's, raised by the one that waits for this one
            self.stop(error)

    def finish(self) -> None:
        """Wait for all threads."""
        for thread in list(self._started.values()):
            thread.join()

    # The context

    def context(self, source: Source, span: Span) -> Context:
        """The build context; DockerfileError where there is none."""
        with self.context_lock:
            if self._context is None:
                if not self.request.context:
                    raise DockerfileError(
                        "this build has no context to take files from",
                        source=source,
                        span=span,
                        hint="name a folder instead of -",
                    )
                self._context = Context(self.request.context, dockerfile=self.request.ignore_beside, cache=self.cache)
            return self._context

    def close(self) -> None:
        """Keep what was learnt about the context, and let go of it."""
        if self._context is not None:
            self._context.remember()
            self._context.close()
            self._context = None

    # Images and layers

    def image(self, text: str, platform: Platform, source: Source, span: Span, stages: Sequence[str]) -> BaseImage:
        """The image that `text` names; errors show the place and suggest a stage's name."""
        key = (text, str(platform))
        with self._lock:
            lock = self._image_locks.setdefault(key, threading.Lock())
        with lock:
            known = self._images.get(key)
            if known is None:
                try:
                    known = self._resolve(Reference.parse(text), platform)
                except OrlopError as error:
                    known = error
                self._images[key] = known
        if isinstance(known, OrlopError):
            guess = did_you_mean(text, stages)
            with located(source, span, extra=guess.replace("mean ", "mean the stage ")):
                raise known
        self.workspace.lease.hold_all([name for layer in known.layers for name in _names_of(layer)])
        return known

    def ask_for_images(self, indexes: Iterable[int]) -> None:
        """Ask for the base images of stages side by side: bringing one may take long."""
        wanted: dict[tuple[str, str], StageBuild] = {}
        for index in indexes:
            stage = self.stages[index]
            if stage.stage.base is None:
                wanted.setdefault((stage.stage.image, str(stage.platform)), stage)
        if len(wanted) < 2:
            return
        threads = [threading.Thread(target=self._ask, args=(stage,), daemon=True) for stage in wanted.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _ask(self, stage: StageBuild) -> None:
        try:
            stage.base()
        except Cancelled as error:  # the face need not say so twice
            self.stop(error)
        except (OrlopError, OSError):
            return  # whoever needs the image gets the error then
        except BaseException as error:  # noqa: BLE001  # a defect, ours or the face's: not this thread's to judge
            self.stop(error)

    def unpacked(self, layers: tuple[LayerRef, ...]) -> tuple[str, ...]:
        """The keys of the unpacked layers, lowest first."""
        if not layers:
            return ()
        root, lease = self.workspace.root, self.workspace.lease
        ready = unpack.ready(root, layers, lease)
        return ready if ready is not None else unpack.unpack(root, layers, _absent, lease)

    # The cache

    def lookup(self, key: str) -> Result | None:
        """What a step with this key came to, if its layer is still there; held by the lease from now on."""
        data = self.cache.get(keys.STEPS, key)
        result = keys.load(data) if data is not None else None
        if result is None or result.layer is None:
            return result
        self.workspace.lease.hold_all(_names_of(result.layer))
        return result if result.layer.digest in self.workspace.root.content else None

    def keep(self, key: str, result: Result) -> None:
        """Remember what a step came to, and keep its layer from being collected."""
        self.cache.put(keys.STEPS, key, keys.dump(result))
        if result.layer is not None:
            pins = self.workspace.root.state.pins
            pins.put(self.workspace.namespace, f"build:{key}", _names_of(result.layer))


def _names_of(layer: LayerRef) -> tuple[tuple[str, str], ...]:
    """What a lease or pin calls a layer: its blob and its tree."""
    return ("blob", layer.digest), ("layer", layer.diff_id)


def _absent(layer: object, _offset: int) -> NoReturn:
    raise DataLoss(f"a layer is missing here: {layer}", hint="pull the base image again, or build with --no-cache")


def moment(nanoseconds: int) -> str:
    """RFC 3339 in UTC, with nanoseconds only where there are some, as Go writes it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"
