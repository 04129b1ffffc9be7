"""Carries out one RUN: what its --mount flags ask for, the run itself, and removing the traces that mounts leave.

The isolation is the engine's (`Execute`); here lies what a Dockerfile's RUN means.
"""

from __future__ import annotations

import contextlib
import os
import stat
from posixpath import dirname

from orlop.build.caches import CacheMounts
from orlop.build.evaluate import script_name
from orlop.build.protocols import ExecStep, StepMount
from orlop.build.stubs import Stubs
from orlop.linux import files, mounts, owners, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from orlop.build.protocols import Execute
    from orlop.build.steps import Mount, RunStep
    from orlop.build.tree import Tree
    from orlop.build.workspace import Workspace
    from orlop.layers.snapshots import Snapshot

# Runtimes mount these, and leave the places where they did.
_RUNTIME_PLACES = ("/dev", "/proc", "/sys", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")
_TAIL = 16 << 10  # bytes of output kept for an error


class Tail:
    """Passes output on and keeps its end."""

    def __init__(self, onward: Callable[[bytes], None]) -> None:
        self._onward = onward
        self._kept = b""

    def __call__(self, data: bytes) -> None:
        """Take what the program wrote."""
        self._kept = (self._kept + data)[-_TAIL:]
        self._onward(data)

    def lines(self, count: int) -> list[str]:
        """The last lines, safe for a terminal."""
        text = self._kept.decode("utf-8", "replace").rstrip()
        shown = []
        for line in text.split("\n")[-count:]:
            plain = line.rsplit("\r", 1)[-1].expandtabs()
            shown.append("".join(letter if letter.isprintable() else "?" for letter in plain))
        return shown if text else []


class Runner:
    """Runs RUN steps of one build. `secrets` are by id; `open_tree` gives the tree and folder that `from=` names."""

    def __init__(
        self,
        workspace: Workspace,
        execute: Execute,
        secrets: dict[str, bytes],
        open_tree: Callable[[RunStep, Mount, ExitStack], tuple[Tree, str]],
        *,
        network: str = "default",
    ) -> None:
        self.workspace = workspace
        self.execute = execute
        self.secrets = secrets
        self.open_tree = open_tree
        self.network = network

    def run(self, step: RunStep, snapshot: Snapshot, name: str, output: Callable[[bytes], None]) -> int:
        """Run `step` in `snapshot`, which must not be mounted. The exit code."""
        with contextlib.ExitStack() as stack:
            prepared, env = self._mounts(step, stack)
            targets = [*_RUNTIME_PLACES, *(mount.target for mount in prepared)]
            stubs = Stubs((snapshot.upper, *snapshot.lowers), targets)
            try:
                return self.execute(
                    ExecStep(
                        snapshot=snapshot,
                        argv=step.argv,
                        env=(*step.env, *step.proxies, *env),
                        cwd=step.cwd,
                        user=step.user,
                        mounts=tuple(prepared),
                        network=self.network if step.network == "default" else step.network,
                        name=name,
                    ),
                    output,
                )
            finally:
                stubs.remove()

    def _mounts(self, step: RunStep, stack: ExitStack) -> tuple[list[StepMount], list[str]]:
        """What to mount, and the variables that secrets asked for."""
        prepared: list[StepMount] = []
        env: list[str] = []
        if step.script is not None:
            folder = stack.enter_context(self.workspace.scratch())
            path = os.path.join(folder, script_name(step.script.name))
            _write(path, step.script.text.encode("utf-8", "surrogateescape"), 0o755)
            os.chmod(folder, 0o755)  # noqa: S103  # read by whichever user the step runs as
            prepared.append(StepMount(kind="bind", source=folder, target="/dev/pipes", readonly=True))
        for mount in step.mounts:
            if mount.kind == "tmpfs":
                prepared.append(StepMount(kind="tmpfs", target=mount.target, size=mount.size))
            elif mount.kind == "secret":
                self._secret(step, mount, stack, prepared, env)
            elif mount.kind == "cache":
                source = self._cache_folder(step, mount, stack)
                prepared.append(StepMount(kind="bind", source=source, target=mount.target, readonly=mount.readonly))
            else:
                prepared.append(self._bind(step, mount, stack))
        return prepared, env

    def _secret(
        self,
        step: RunStep,
        mount: Mount,
        stack: ExitStack,
        prepared: list[StepMount],
        env: list[str],
    ) -> None:
        content = self.secrets.get(mount.id)
        if content is None:
            if mount.required:
                from orlop.build.dockerfile.source import DockerfileError

                raise DockerfileError(
                    f"the secret {mount.id!r} is required and was not given",
                    source=step.source,
                    span=mount.span,
                    hint=f"build with --secret id={mount.id},src=FILE",
                )
            return
        if mount.env:
            env.append(f"{mount.env}={content.decode('utf-8', 'surrogateescape')}")
        if mount.as_file:
            folder = stack.enter_context(self.workspace.scratch())
            path = os.path.join(folder, "secret")
            _write(path, content, 0o400 if mount.mode is None else mount.mode)
            owners.give(path, mount.uid, mount.gid)
            prepared.append(StepMount(kind="bind", source=path, target=mount.target, readonly=True))

    def _cache_folder(self, step: RunStep, mount: Mount, stack: ExitStack) -> str:
        """The folder of a cache mount; a new one is filled from `from=` where that is given."""

        def fill(folder: str) -> None:
            if mount.origin:
                tree, source = self.open_tree(step, mount, stack)
                _fill(tree, source, folder)

        return CacheMounts(root=self.workspace.root).use(
            mount.id,
            mount.sharing,
            stack,
            fill=fill,
            owner=(mount.uid, mount.gid),
            mode=0o755 if mount.mode is None else mount.mode,
        )

    def _bind(self, step: RunStep, mount: Mount, stack: ExitStack) -> StepMount:
        tree, path = self.open_tree(step, mount, stack)
        node = tree.node(path)
        assert node is not None
        source = os.path.join(tree.root, path) if path else tree.root
        if tree.matcher is not None and node.is_dir:
            source = self._without_hidden(tree, path, stack)
        elif not mount.readonly and node.is_dir:
            source = self._overlay([source], stack)
        elif not mount.readonly:
            copy = os.path.join(stack.enter_context(self.workspace.scratch()), "file")
            fd = tree.open(path, node)
            try:
                _write(copy, b"", stat.S_IMODE(node.found.st_mode))
                with open(copy, "r+b") as out:
                    files.copy_range(fd, out.fileno(), 1 << 62)
            finally:
                os.close(fd)
            source = copy
        return StepMount(kind="bind", source=source, target=mount.target, readonly=mount.readonly)

    def _without_hidden(self, tree: Tree, path: str, stack: ExitStack) -> str:
        """A view of a context's folder in which what .dockerignore hides is missing: an overlay with whiteouts.

        The context itself stays untouched; what is written goes away with the view.
        """
        for _ in tree.walk(path):
            pass  # so that all hidden paths are known
        prefix = f"{path}/" if path else ""
        hidden = sorted(name for name in tree.hidden if name.startswith(prefix))
        veil = stack.enter_context(self.workspace.scratch())
        veiled: set[str] = set()
        for name in hidden:
            node = tree.node(name)
            relative = name[len(prefix) :]
            if node is not None or any(relative.startswith(f"{above}/") for above in veiled):
                continue  # a folder that is partly hidden, or something in a wholly hidden one
            os.makedirs(os.path.join(veil, dirname(relative)), exist_ok=True)
            os.mknod(os.path.join(veil, relative), stat.S_IFCHR, 0)
            veiled.add(relative)
        _copy_folder_modes(os.path.join(tree.root, path), veil)
        return self._overlay([veil, os.path.join(tree.root, path)], stack)

    def _overlay(self, lowers: list[str], stack: ExitStack) -> str:
        folder = stack.enter_context(self.workspace.scratch())
        upper, work, target = (os.path.join(folder, name) for name in ("upper", "work", "view"))
        for one in (upper, work, target):
            os.mkdir(one, 0o755)
        options = () if users.in_initial_namespace() else ("userxattr",)
        mounts.overlay(lowers, upper, work, target, options=options)
        stack.callback(mounts.unmount, target, mounts.MNT_DETACH)
        return target


def _copy_folder_modes(source: str, veil: str) -> None:
    """Give the folders of a veil the modes and owners of those they lie upon: the uppermost ones are seen."""
    for folder, _, _ in os.walk(veil):
        found = os.stat(os.path.join(source, os.path.relpath(folder, veil)))
        owners.give(folder, found.st_uid, found.st_gid)
        os.chmod(folder, stat.S_IMODE(found.st_mode))


def _fill(tree: Tree, source: str, target: str) -> None:
    from orlop.build.select import Root
    from orlop.build.transfer import Manner, Target, copy_contents

    node = tree.node(source)
    assert node is not None
    skip = len(source) + 1 if source else 0
    below = [(full[skip:], full, inner) for full, inner in tree.walk(source)] if node.is_dir else []
    with Target(target) as place:
        copy_contents(Root(source, "", node, below), tree, place, Manner())


def _write(path: str, content: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        files.write_all(fd, content)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
