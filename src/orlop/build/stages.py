"""Stages being built. A stage is looked at without running anything, and built when its files are needed.

A stage that is wholly cached never mounts or unpacks anything, and a stage whose files are only needed by cached steps
is not built at all. Stages that must run, run in parallel.
"""

from __future__ import annotations

import threading
import time

from orlop.build import keys
from orlop.build.dockerfile.lines import source_of
from orlop.build.dockerfile.parser import parse_trigger
from orlop.build.evaluate import Scope, evaluate, scratch
from orlop.build.graph import SCRATCH
from orlop.build.ingredients import Ingredients
from orlop.build.keys import Place
from orlop.build.perform import Perform
from orlop.build.steps import CopyStep, Step
from orlop.events import Event
from orlop.oci.image import History
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.build.dockerfile.instructions import Instruction
    from orlop.build.dockerfile.source import Source
    from orlop.build.evaluate import Evaluated
    from orlop.build.graph import Stage
    from orlop.build.keys import Result
    from orlop.build.protocols import BaseImage
    from orlop.build.session import Session
    from orlop.oci.image import ImageConfig
    from orlop.oci.platform import Platform
    from orlop.store.images import LayerRef

COMMENT = "orlop.dockerfile.v1"


class Outcome(Value):
    """A stage's files: `id` stands for them in keys, `layers` hold them, lowest first."""

    id: str
    layers: tuple[LayerRef, ...]
    history: tuple[History, ...]  # `created` is empty where the image's own time is to be put


class StageBuild:
    """One stage. All methods may be called from any thread; `build` does its work once."""

    def __init__(self, session: Session, stage: Stage) -> None:
        self.session = session
        self.stage = stage
        self.platform: Platform = stage.platform or session.platform
        self.ingredients = Ingredients(session, self)
        self._lock = threading.RLock()  # what the stage consists of
        self._build_lock = threading.RLock()
        self._base: BaseImage | None = None
        self._evaluated: Evaluated | None = None
        self._glance: str | None = None
        self._glanced = False
        self._outcome: Outcome | None = None
        self._error: BaseException | None = None

    @property
    def parent(self) -> StageBuild | None:
        """The stage that this one is built upon."""
        return None if self.stage.base is None else self.session.stages[self.stage.base]

    @property
    def fresh(self) -> bool:
        """Whether the cache must not answer for this stage."""
        request = self.session.request
        return request.no_cache or self.stage.title in request.no_cache_stages

    # What it consists of

    def base(self) -> BaseImage | None:
        """The image that this stage is built upon; None for scratch and for another stage."""
        with self._lock:
            if self._base is None and self.stage.base is None and self.stage.image != SCRATCH:
                plan = self.session.plan
                names = [stage.name for stage in plan.stages[: self.stage.index] if stage.name]
                span = self.stage.head.image.span
                self._base = self.session.image(self.stage.image, self.platform, plan.dockerfile.source, span, names)
            return self._base

    def config(self) -> ImageConfig:
        """The configuration that this stage starts from."""
        parent = self.parent
        if parent is not None:
            return parent.evaluated().config
        base = self.base()
        return scratch(self.platform) if base is None else base.config

    def evaluated(self) -> Evaluated:
        """The stage's steps."""
        with self._lock:
            if self._evaluated is None:
                plan = self.session.plan
                parent = self.parent
                scope = Scope(
                    build_args=self.session.request.build_args,
                    global_args=plan.arguments,
                    find_stage=lambda word: plan.find(word, self.stage.index),
                )
                config = self.config()
                self._evaluated = evaluate(
                    self.stage.instructions,
                    base=config,
                    inherited={} if parent is None else parent.evaluated().args,
                    scope=scope,
                    source=plan.dockerfile.source,
                    escape=plan.dockerfile.escape,
                    triggers=self._triggers(config.on_build),
                )
                self.session.found(self._evaluated.findings)
            return self._evaluated

    def _triggers(self, on_build: tuple[str, ...]) -> tuple[tuple[Instruction, Source], ...]:
        """The ONBUILD instructions that the base left, each with the source to show in its errors."""
        name = f"ONBUILD of {self.stage.image}"
        return tuple((parse_trigger(text, self.stage.image), source_of(text, name)) for text in on_build)

    def file_steps(self) -> list[Step]:
        """The steps that change files, in order."""
        return [step for step in self.evaluated().steps if type(step) is not Step]

    # What is known without running

    def base_id(self) -> str | None:
        """What stands for the files that the stage starts from; None when that is only known by building."""
        parent = self.parent
        return self._own_base_id() if parent is None else parent.glance()

    def _own_base_id(self) -> str:
        base = self.base()
        return keys.key_of({"base": [layer.diff_id for layer in base.layers] if base else []})

    def glance(self) -> str | None:
        """The id of the stage's files as far as the cache and the inputs tell; None when only building tells."""
        with self._lock:
            if self._outcome is not None:
                return self._outcome.id
            if not self._glanced:
                self._glance = self._look([])
                self._glanced = True
            return self._glance

    def _look(self, wanted: list[int]) -> str | None:
        """Follow the keys as far as they go; the stages that steps without a hit take files from go to `wanted`."""
        here = self.base_id()
        for number, step in enumerate(self.file_steps()):
            key = None if here is None or self.fresh else self.ingredients.key(number, step, here)
            result = None if key is None else self.session.lookup(key)
            if result is not None and here is not None:
                here = self.ingredients.chained(step, here, result).id
                continue
            wanted += [index for index in self.ingredients.origins(step) if index not in wanted]
            # What a COPY from elsewhere takes decides, and that is only known when the origin is there.
            here = None if isinstance(step, CopyStep) and step.origin else key
        return here

    # Building

    def build(self) -> Outcome:
        """Build the stage, or find it in the cache. What it raised once it always raises."""
        with self._build_lock:
            if self._error is not None:
                raise self._error
            if self._outcome is None:
                try:
                    outcome = self._build()
                except BaseException as error:
                    self._error = error
                    self.session.stop(error)
                    raise
                with self._lock:
                    self._outcome = outcome
            return self._outcome

    def _start(self) -> Outcome:
        parent = self.parent
        if parent is not None:
            return parent.build()
        base = self.base()
        if base is None:
            return Outcome(id=self._own_base_id(), layers=(), history=())
        return Outcome(id=self._own_base_id(), layers=base.layers, history=base.config.history)

    def _build(self) -> Outcome:
        wanted: list[int] = []
        self._look(wanted)
        for index in wanted:
            self.session.start(index)
        start = self._start()
        here, layers, history = start.id, list(start.layers), list(start.history)
        total = len(self.file_steps())
        number = 0
        for step in self.evaluated().steps:
            if type(step) is Step:
                history.append(History(created_by=step.created_by, comment=COMMENT, empty_layer=True))
                continue
            result = self._step(step, number, total, here, tuple(layers))
            number += 1
            here = result.id
            if result.layer is not None:
                layers.append(result.layer)
            history.append(
                History(
                    created=result.created,
                    created_by=step.created_by,
                    comment=COMMENT,
                    empty_layer=result.layer is None,
                )
            )
        return Outcome(id=here, layers=tuple(layers), history=tuple(history))

    def _step(self, step: Step, number: int, total: int, here: str, layers: tuple[LayerRef, ...]) -> Result:
        session, ingredients = self.session, self.ingredients
        session.check_stopped()
        subject = f"{self.stage.title}/{number + 1}"
        key, found = self._find(step, number, here)
        if found is None:
            readable = ingredients.readable(number, step, here) | {"first": number == 0}
            files = ingredients.files(number, step)
            place = Place(
                session.cache, build=session.place, stage=f"{self.stage.index} {self.stage.name}", number=number
            )
            text = step.instruction.text
            session.report(Event(action="build.step", subject=subject, text=text, current=number + 1, total=total))
            reason = "" if self.fresh else place.explain(readable, files)
            if reason:
                session.report(Event(action="build.miss", subject=subject, text=reason))
            started = time.monotonic()
            found, cached = Perform(self, step, number, subject, key).result(here, layers)
            place.remember(readable, files)
            session.done(subject, cached=cached)
            taken = f"{time.monotonic() - started:.1f}"
            session.report(Event(action="build.done", subject=subject, text=taken, current=number + 1, total=total))
        else:
            text = step.instruction.text
            session.report(Event(action="build.cached", subject=subject, text=text, current=number + 1, total=total))
            session.done(subject, cached=True)
        return ingredients.chained(step, here, found)

    def _find(self, step: Step, number: int, here: str) -> tuple[str, Result | None]:
        """The step's key, and what the cache has under it; origins are built where only that can tell."""
        ingredients, session = self.ingredients, self.session
        key = ingredients.key(number, step, here)
        found = None if key is None or self.fresh else session.lookup(key)
        if found is None and ingredients.origins(step):
            ingredients.build_origins(step)
            key = ingredients.key(number, step, here)
            found = None if key is None or self.fresh else session.lookup(key)
        assert key is not None
        return key, found
