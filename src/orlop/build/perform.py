"""Carries out one step that the cache does not answer: snapshot, work, layer."""

from __future__ import annotations

import contextlib
import os

from orlop.build import archives, keys
from orlop.build.dockerfile.source import DockerfileError
from orlop.build.failures import BuildFailed, located
from orlop.build.keys import Result
from orlop.build.runner import Runner, Tail
from orlop.build.select import Selection, select
from orlop.build.steps import CopyStep, RunStep, WorkdirStep
from orlop.build.transfer import Manner, Target, manner_of
from orlop.build.tree import Tree
from orlop.events import Event
from orlop.store.faults import FULL, explained

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.build.stages import StageBuild
    from orlop.build.steps import Mount, Step
    from orlop.layers.snapshots import Snapshot
    from orlop.store.images import LayerRef

_TAIL_LINES = 20
# The tar without entries: two blocks of zeros.
_EMPTY_DIFF = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


class Perform:
    """One step, about to be carried out; `key` is what its result is kept under."""

    def __init__(self, stage: StageBuild, step: Step, number: int, subject: str, key: str) -> None:
        self.stage = stage
        self.session = stage.session
        self.step = step
        self.number = number
        self.subject = subject
        self.key = key

    def result(self, here: str, layers: tuple[LayerRef, ...]) -> tuple[Result, bool]:
        """Do it on top of `layers`, and keep the result. True: what it takes turned out to be known already."""
        step = self.step
        if isinstance(step, CopyStep):
            return self._copy(step, here, layers)
        with self.session.slots, self._snapshot(layers) as snapshot:
            if isinstance(step, RunStep):
                self._run(step, snapshot)
            else:
                assert isinstance(step, WorkdirStep)
                self._workdir(step, snapshot)
            return self._commit(snapshot, self.key), False

    @contextlib.contextmanager
    def _snapshot(self, layers: tuple[LayerRef, ...]) -> Iterator[Snapshot]:
        """A snapshot on `layers`; what is left of it is removed when something fails."""
        workspace = self.session.workspace
        snapshot = workspace.prepare(self.session.unpacked(layers))
        try:
            yield snapshot
        except BaseException:
            workspace.snapshotter.remove(snapshot.key)
            raise

    def _commit(self, snapshot: Snapshot, key: str) -> Result:
        """The snapshot as a layer, kept under `key`; a step that wrote nothing makes none."""
        session = self.session
        workspace = session.workspace
        layer: LayerRef | None = None
        if _untouched(snapshot.upper):
            workspace.snapshotter.remove(snapshot.key)
        else:
            if session.epoch is not None:
                _clamp(snapshot.upper, session.epoch * 1_000_000_000)
            layer = workspace.snapshotter.commit(snapshot, session.media_type, workspace.lease)
            if layer.diff_id == _EMPTY_DIFF:
                layer = None
            else:
                session.check(layer, self.step.created_by)
        identity = key
        if self.stage.fresh:  # the same inputs, but not the same run: nothing later may take the old one's place
            identity = keys.key_of({"key": key, "layer": layer.diff_id if layer else ""})
        result = Result(id=identity, layer=layer, created=session.now())
        session.keep(key, result)
        return result

    def _workdir(self, step: WorkdirStep, snapshot: Snapshot) -> None:
        with (
            located(step.source, step.instruction.span),
            self.session.workspace.mounted(snapshot) as rootfs,
            Target(rootfs) as target,
        ):
            manner = Manner(owner=target.owner(step.user) if step.user else None)
            os.close(target.make(step.path, manner))

    # RUN

    def _run(self, step: RunStep, snapshot: Snapshot) -> None:
        session = self.session
        wanted = session.request
        if step.network == "host" and wanted.network != "host" and not wanted.host_network:
            raise DockerfileError(
                "this RUN wants the host's network, where it can reach what only this machine may",
                source=step.source,
                span=step.instruction.span,
                hint="if you trust this Dockerfile: orlop build --allow network.host",
            )

        def onward(data: bytes) -> None:
            session.check_stopped()
            session.report(Event(action="build.output", subject=self.subject, data=data))

        tail = Tail(onward)
        runner = Runner(
            session.workspace,
            session.execute,
            session.request.secrets,
            self._mount_tree,
            network=session.request.network,
        )
        with located(step.source, step.instruction.span):
            code = runner.run(step, snapshot, self.subject, tail)
        if code:
            raise BuildFailed(step=step, exit_code=code, output=tail.lines(_TAIL_LINES))

    def _mount_tree(self, step: RunStep, mount: Mount, stack: contextlib.ExitStack) -> tuple[Tree, str]:
        """The tree that a mount's `from` names, and the path in it that `source` means."""
        session = self.session
        tree: Tree
        if mount.origin:
            layers = self.stage.ingredients.mount_layers(mount, step.source)
            root = stack.enter_context(session.workspace.view(session.unpacked(layers)))
            tree, where = stack.enter_context(Tree(root, owned=True)), mount.origin
        else:
            tree, where = session.context(step.source, mount.span), "the build context"
        with session.context_lock:
            path = tree.resolve(mount.source)
        if path is None:
            raise DockerfileError(f"{where} has no {mount.source}", source=step.source, span=mount.span)
        return tree, path

    # COPY and ADD

    def _copy(self, step: CopyStep, here: str, layers: tuple[LayerRef, ...]) -> tuple[Result, bool]:
        session, ingredients = self.session, self.stage.ingredients
        key = self.key
        with contextlib.ExitStack() as stack:
            tree: Tree | None = None
            selection = Selection(roots=())
            if step.origin:
                assert step.origin_span is not None
                origin = ingredients.origin_layers(step.origin, step.stage, step.origin_span, step.source)
                root = stack.enter_context(session.workspace.view(session.unpacked(origin)))
                tree = stack.enter_context(Tree(root, owned=True))
                selection = select(step, tree, where=step.origin)
                key = ingredients.content_key(step, here, selection, tree)
                found = None if self.stage.fresh else session.lookup(key)
                if found is not None:  # the origin changed, but not what is taken from it
                    session.keep(self.key, found)
                    return found, True
            elif step.sources:
                tree = session.context(step.source, step.spans[0])
                selection = ingredients.selection(self.number, step)
            session.found(selection.findings)
            with session.slots, self._snapshot(() if step.link else layers) as snapshot:
                with session.workspace.mounted(snapshot) as rootfs, Target(rootfs) as target:
                    self._fill(step, target, tree, selection, snapshot.upper)
                result = self._commit(snapshot, key)
        if key != self.key:
            session.keep(self.key, result)
        return result, False

    def _fill(self, step: CopyStep, target: Target, tree: Tree | None, selection: Selection, upper: str) -> None:
        with located(step.source, step.instruction.span), _room(upper):
            manner = manner_of(target, step.chown, step.chmod)
            if tree is not None:
                if step.unpack:
                    selection = archives.unpack(selection, tree, target, step.destination, manner)
                target.put(selection, tree, step.destination, into=step.into, manner=manner)
            for name, content in step.documents:
                target.write(
                    name,
                    content.encode("utf-8", "surrogateescape"),
                    step.destination,
                    into=step.into or len(step.documents) > 1,
                    manner=manner,
                    mtime=self.session.now_ns,
                )


@contextlib.contextmanager
def _room(path: str) -> Iterator[None]:
    """A full disk is said to be that, with its place; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise explained(error, "write what is copied", path) from error


def _untouched(upper: str) -> bool:
    """Whether nothing was written: an overlay's upper folder is empty then, but for changes to / itself."""
    with os.scandir(upper) as listing:
        if next(listing, None) is not None:
            return False
    return True


def _clamp(upper: str, latest: int) -> None:
    """Nothing in `upper` is younger than `latest` (nanoseconds since the epoch) afterwards."""
    for folder, folders, names in os.walk(upper):
        for path in [folder, *(os.path.join(folder, name) for name in (*names, *folders))]:
            found = os.lstat(path)
            if found.st_mtime_ns > latest:
                os.utime(path, ns=(min(found.st_atime_ns, latest), latest), follow_symlinks=False)
