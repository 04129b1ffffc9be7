"""For tests of builds: a kitchen with a base image of this machine's programs, and a small Execute by chroot.

Needs root, as mounting does. Nothing here is isolation: the engine's Execute is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from orlop.build import host
from orlop.build.protocols import BaseImage
from orlop.build.solve import BuildRequest, solve
from orlop.build.workspace import Workspace
from orlop.errors import NotFound
from orlop.layers import snapshots, unpack
from orlop.oci import jsontext, mediatype
from orlop.oci.digest import Digest
from orlop.oci.image import ImageConfig
from orlop.oci.platform import Platform
from orlop.store.images import LayerRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from orlop.build.protocols import ExecStep
    from orlop.build.solve import Built
    from orlop.events import Event
    from orlop.oci.reference import Reference
    from orlop.store.root import Root

PROGRAMS = ("sh", "cat", "ls", "mkdir", "rm", "id", "stat", "touch", "chmod", "chown", "find", "cp", "test", "sleep")


class Kitchen:
    """A root with images to build upon, a context folder, and everything that `solve` wants.

    `events` and `executed` are of the last build, `resolved` are the names of all images asked for.
    """

    def __init__(self, root: Root, where: Path) -> None:
        self.root = root
        self.where = where
        self.context = where / "context"
        self.context.mkdir(exist_ok=True)
        self.events: list[Event] = []
        self.executed: list[ExecStep] = []
        self.resolved: list[str] = []
        self.images: dict[str, BaseImage] = {}
        self.lease = root.lease()
        self.lease.__enter__()
        self.snapshotter = snapshots.choose(root)
        self.execute: Callable[[ExecStep, Callable[[bytes], None]], int] = self.chrooted

    def close(self) -> None:
        """Let go of all that was built."""
        self.lease.close()

    def add_base(self, name: str, *, programs: tuple[str, ...] = PROGRAMS, **config: Any) -> BaseImage:
        """A base image made of this machine's programs."""
        pieces: list[bytes] = []
        host.pack(host.PackRequest(programs=programs, name_service=False), lambda piece: pieces.append(bytes(piece)))
        data = b"".join(pieces)
        self.root.content.put(data, mediatype.OCI_LAYER)
        digest = Digest.of(data)
        layer = LayerRef(diff_id=digest, digest=digest, size=len(data), media_type=mediatype.OCI_LAYER)
        fields: dict[str, Any] = {"env": ("PATH=/usr/bin:/bin",)} | config
        self.images[name] = BaseImage(
            reference=name,
            config=ImageConfig(platform=Platform.of_machine(os.uname().machine), diff_ids=(digest,), **fields),
            layers=(layer,),
            manifest=Digest.of(b"manifest of " + name.encode()),
        )
        return self.images[name]

    def resolve(self, reference: Reference, platform: Platform) -> BaseImage:
        """The images that were added."""
        del platform
        self.resolved.append(reference.familiar_name)
        found = self.images.get(reference.familiar_name)
        if found is None:
            raise NotFound(f"there is no image {reference.familiar_name}")
        return found

    def chrooted(self, step: ExecStep, output: Callable[[bytes], None]) -> int:
        """Run a step in a chroot with a mount namespace of its own."""
        self.executed.append(step)
        target = self.where / f"run-{step.snapshot.short}"
        target.mkdir()
        try:
            with self.snapshotter.mounted(step.snapshot, str(target), volatile=True):
                return _chrooted(step, str(target), output)
        finally:
            target.rmdir()

    def write(self, files: dict[str, str | bytes]) -> None:
        """Put files into the context."""
        for name, content in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def build(self, dockerfile: str, **fields: Any) -> Built:
        """Build a Dockerfile given as text."""
        return self.solve(BuildRequest(context=str(self.context), dockerfile_text=dockerfile, **fields))

    def solve(self, request: BuildRequest, **others: Any) -> Built:
        """Build; `others` go to `solve` in place of the kitchen's own."""
        self.events = []
        self.executed = []
        given: dict[str, Any] = {"resolve": self.resolve, "execute": self.execute, "report": self.events.append}
        with Workspace(self.root, self.snapshotter, self.lease) as workspace:
            return solve(request, workspace=workspace, **(given | others))

    def output(self) -> str:
        """What the RUN steps of the last build wrote."""
        return b"".join(event.data for event in self.events if event.action == "build.output").decode()

    def texts(self, action: str) -> list[str]:
        """The texts of the last build's events of one kind."""
        return [event.text for event in self.events if event.action == action]

    def tree(self, built: Built) -> Look:
        """The image's merged files, to be looked at in a `with`."""
        return Look(self, built)


class Look:
    """An image's files, mounted read-only while in use."""

    def __init__(self, kitchen: Kitchen, built: Built) -> None:
        def absent(*_: object) -> AbstractContextManager[Any]:
            raise AssertionError("a layer of the built image is missing")

        self.kitchen = kitchen
        self.key = f"look-{os.urandom(4).hex()}"
        kitchen.lease.hold("snapshot", self.key)
        keys = unpack.unpack(kitchen.root, built.layers, absent, kitchen.lease)
        self.path = kitchen.where / self.key
        self.path.mkdir()
        self.mounted = kitchen.snapshotter.mounted(
            kitchen.snapshotter.prepare(keys, self.key), str(self.path), readonly=True
        )

    def __enter__(self) -> Path:
        self.mounted.__enter__()
        return self.path

    def __exit__(self, *_: object) -> None:
        self.mounted.__exit__(None, None, None)
        self.path.rmdir()
        self.kitchen.snapshotter.remove(self.key)


_CHILD = """
import json, os, sys
from orlop.linux import mounts, namespaces
step = json.load(sys.stdin)
namespaces.unshare(namespaces.CLONE_NEWNS)
mounts.make_private("/")
for kind, source, target, readonly in step["mounts"]:
    place = step["root"] + target
    if kind == "bind" and not os.path.isdir(source):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        open(place, "a").close()
    else:
        os.makedirs(place, exist_ok=True)
    if kind == "tmpfs":
        mounts.mount("tmpfs", place, "tmpfs")
    else:
        mounts.bind(source, place)
        if readonly:
            mounts.remount_readonly(place)
os.chroot(step["root"])
os.chdir(step["cwd"])
if step["user"]:
    user, _, group = step["user"].partition(":")
    os.setgroups([])
    os.setgid(int(group or 0))
    os.setuid(int(user))
env = dict(entry.partition("=")[::2] for entry in step["env"])
try:
    os.execvpe(step["argv"][0], step["argv"], env)
except FileNotFoundError:
    os._exit(127)
"""


def _chrooted(step: ExecStep, root: str, output: Callable[[bytes], None]) -> int:
    asked = {
        "root": root,
        "argv": list(step.argv),
        "env": list(step.env),
        "cwd": step.cwd,
        "user": step.user,
        "mounts": [[mount.kind, mount.source, mount.target, mount.readonly] for mount in step.mounts],
    }
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin, child.stdout:
        child.stdin.write(jsontext.dumps(asked))
        child.stdin.close()
        try:
            while data := os.read(child.stdout.fileno(), 65536):
                output(data)
        except BaseException:
            os.kill(child.pid, signal.SIGKILL)
            raise
        code = child.wait()
    return code if code >= 0 else 128 - code
