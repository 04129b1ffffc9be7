"""What the keys of a stage's steps are made of. Nothing is run or mounted here; the context is read."""

from __future__ import annotations

import hashlib

from orlop.build import keys
from orlop.build.dockerfile.instructions import Word
from orlop.build.dockerfile.source import DockerfileError
from orlop.build.select import Root, Selection, fingerprint, select
from orlop.build.steps import CopyStep, RunStep, Step, WorkdirStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.build.dockerfile.source import Source, Span
    from orlop.build.session import Session
    from orlop.build.stages import StageBuild
    from orlop.build.steps import Mount
    from orlop.build.tree import Tree
    from orlop.store.images import LayerRef


class Ingredients:
    """For one stage. Steps are known by their number among those that change files."""

    def __init__(self, session: Session, stage: StageBuild) -> None:
        self.session = session
        self.stage = stage
        self._selections: dict[int, tuple[Selection, bytes, list[str]]] = {}
        self._mounted: dict[int, list[Any]] = {}

    def key(self, number: int, step: Step, here: str) -> str | None:
        """The step's key when it starts from the files that `here` stands for; None while an origin's id is unknown.

        A linked COPY does not depend on what it is put upon: `chained` puts it there.
        """
        parts = self._parts(number, step, readable=False)
        if parts is None:
            return None
        if isinstance(step, CopyStep) and step.link:
            return keys.key_of(parts)
        return keys.key_of({"parent": here} | parts)

    @staticmethod
    def chained(step: Step, here: str, result: keys.Result) -> keys.Result:
        """`result` as what the files are after the step: for a linked COPY its id takes up what it was put upon."""
        if isinstance(step, CopyStep) and step.link:
            return result.replace(id=keys.key_of({"parent": here, "link": result.id}))
        return result

    def readable(self, number: int, step: Step, here: str) -> dict[str, Any]:
        """The same ingredients for people and for the disk: values of variables are only hashed."""
        return {"parent": here} | (self._parts(number, step, readable=True) or {})

    def files(self, number: int, step: Step) -> list[str]:
        """The lines that describe the files a COPY from the context takes."""
        if isinstance(step, CopyStep) and not step.origin and step.sources:
            return self._selected(number, step)[2]
        return []

    def selection(self, number: int, step: CopyStep) -> Selection:
        """What a COPY from the context takes."""
        return self._selected(number, step)[0]

    def content_key(self, step: CopyStep, here: str, selection: Selection, tree: Tree) -> str:
        """The key of a COPY from a stage or image by what it takes, wherever that came from."""
        digest, _ = fingerprint(selection, tree)
        parts = self._copy_parts(step) | {"origin": "content", "files": digest.hex()}
        return keys.key_of(parts if step.link else {"parent": here} | parts)

    def origins(self, step: Step) -> list[int]:
        """The stages that the step takes files from."""
        if isinstance(step, CopyStep):
            return [] if step.stage is None else [step.stage]
        if isinstance(step, RunStep):
            found = (self._stage_of(mount.origin, mount.span) for mount in step.mounts if mount.origin)
            return [index for index in found if index is not None]
        return []

    def build_origins(self, step: Step) -> None:
        """Build the stages that the step takes files from."""
        for index in self.origins(step):
            self.session.stages[index].build()

    def origin_layers(self, origin: str, stage: int | None, span: Span, source: Source) -> tuple[LayerRef, ...]:
        """The layers of a stage (built now if need be) or image that files are taken from."""
        if stage is not None:
            return self.session.stages[stage].build().layers
        names = [one.name for one in self.session.plan.stages if one.name]
        return self.session.image(origin, self.stage.platform, source, span, names).layers

    def mount_layers(self, mount: Mount, source: Source) -> tuple[LayerRef, ...]:
        """The layers that a mount's `from` means."""
        return self.origin_layers(mount.origin, self._stage_of(mount.origin, mount.span), mount.span, source)

    # Making them

    def _parts(self, number: int, step: Step, *, readable: bool) -> dict[str, Any] | None:
        """All but the parent; None while an origin's id is unknown."""
        common: dict[str, Any] = {} if self.session.epoch is None else {"epoch": self.session.epoch}
        if isinstance(step, WorkdirStep):
            return {"kind": "workdir", "path": step.path, "user": step.user} | common
        if isinstance(step, RunStep):
            mounts = self._mounts(number, step)
            if mounts is None:
                return None
            return {
                "kind": "run",
                "text": list(step.argv),
                "env": keys.hashed(step.env) if readable else list(step.env),
                "working directory": step.cwd,
                "user": step.user,
                "network": step.network,
                "mounts": mounts,
                "platform": str(self.stage.platform),
                "script": step.script.text if step.script else "",
            } | common
        assert isinstance(step, CopyStep)
        parts = self._copy_parts(step) | common
        if step.origin:
            origin = self._origin_id(step)
            if origin is None:
                return None
            return parts | {"origin": origin, "sources": list(step.sources)}
        return parts | {"files": self._selected(number, step)[1].hex() if step.sources else ""}

    @staticmethod
    def _copy_parts(step: CopyStep) -> dict[str, Any]:
        return {
            "kind": "add" if step.unpack else "copy",
            "text": [step.destination, step.into, step.parents, list(step.excludes) if step.origin else []],
            "owner": step.chown,
            "mode": step.chmod,
            "documents": [
                [name, hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()]
                for name, content in step.documents
            ],
        }

    def _selected(self, number: int, step: CopyStep) -> tuple[Selection, bytes, list[str]]:
        with self.session.context_lock:
            known = self._selections.get(number)
            if known is None:
                tree = self.session.context(step.source, step.spans[0])
                selection = select(step, tree, where="the build context")
                known = self._selections[number] = (selection, *fingerprint(selection, tree))
            return known

    def _origin_id(self, step: CopyStep) -> str | None:
        if step.stage is not None:
            return self.session.stages[step.stage].glance()
        assert step.origin_span is not None
        layers = self.origin_layers(step.origin, None, step.origin_span, step.source)
        return keys.key_of({"image": [layer.diff_id for layer in layers]})

    def _stage_of(self, origin: str, span: Span) -> int | None:
        return self.session.plan.find(Word(text=origin, span=span), self.stage.stage.index)

    def _mounts(self, number: int, step: RunStep) -> list[Any] | None:
        """The mounts as far as they count; None while the id of a stage is unknown."""
        with self.session.context_lock:
            known = self._mounted.get(number)
        if known is not None:
            return known
        found: list[Any] = []
        for mount in step.mounts:
            parts: list[Any] = [mount.kind, mount.target, mount.readonly]
            if mount.kind == "bind":
                content = self._bind(mount, step.source)
                if content is None:
                    return None
                parts += [content, mount.source if mount.origin else ""]
            elif mount.kind == "cache":
                parts += [mount.id, mount.sharing]
            elif mount.kind == "secret":
                parts += [mount.id, mount.env, mount.as_file]
            found.append(parts)
        with self.session.context_lock:
            self._mounted[number] = found
        return found

    def _bind(self, mount: Mount, source: Source) -> str | None:
        if not mount.origin:
            return self._context_content(mount, source)
        stage = self._stage_of(mount.origin, mount.span)
        if stage is not None:
            return self.session.stages[stage].glance()
        layers = self.origin_layers(mount.origin, None, mount.span, source)
        return keys.key_of({"image": [layer.diff_id for layer in layers]})

    def _context_content(self, mount: Mount, source: Source) -> str:
        with self.session.context_lock:
            tree = self.session.context(source, mount.span)
            path = tree.resolve(mount.source)
            node = None if path is None else tree.node(path)
            if path is None or node is None:
                raise DockerfileError(f"the build context has no {mount.source}", source=source, span=mount.span)
            skip = len(path) + 1 if path else 0
            below = [(full[skip:], full, inner) for full, inner in tree.walk(path)] if node.is_dir else []
            root = Root(path, path.rpartition("/")[2], node, below)
            return fingerprint(Selection(roots=(root,)), tree)[0].hex()
