"""What the build room's tests share: a root, a base image of this machine's programs, and a small Execute by chroot."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from orlop.build import host
from orlop.build.protocols import BaseImage, ExecStep
from orlop.build.solve import BuildRequest, Built, solve
from orlop.build.workspace import Workspace
from orlop.errors import NotFound
from orlop.events import Event
from orlop.layers import snapshots, unpack
from orlop.oci import mediatype
from orlop.oci.digest import Digest
from orlop.oci.image import ImageConfig
from orlop.oci.platform import Platform
from orlop.store.images import LayerRef
from orlop.store.root import Root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orlop.oci.reference import Reference

PROGRAMS = ("sh", "cat", "ls", "mkdir", "rm", "id", "stat", "touch", "chmod", "chown", "find", "cp", "test", "ln", "sleep")


class Kitchen:
    """A root with one base image ("base"), and everything that `solve` wants."""

    def __init__(self, root: Root, where: Path) -> None:
        self.root = root
        self.where = where
        self.context = where / "context"
        self.context.mkdir()
        self.events: list[Event] = []
        self.executed: list[ExecStep] = []
        self.resolved: list[str] = []
        self.images: dict[str, BaseImage] = {}
        self.lease = root.lease()
        self.lease.__enter__()
        self.snapshotter = snapshots.choose(root)

    def close(self) -> None:
        self.lease.close()

    def add_base(self, name: str, **config: Any) -> BaseImage:
        """A base image made of this machine's programs."""
        out = io.BytesIO()
        packed = host.pack(host.PackRequest(programs=PROGRAMS, name_service=False), out.write)
        del packed
        data = out.getvalue()
        self.root.content.put(data, mediatype.OCI_LAYER)
        digest = Digest.of(data)
        layer = LayerRef(diff_id=digest, digest=digest, size=len(data), media_type=mediatype.OCI_LAYER)
        base = BaseImage(
            reference=name,
            config=ImageConfig(
                platform=Platform.of_machine(os.uname().machine), diff_ids=(digest,), **({"env": ("PATH=/usr/bin:/bin",)} | config)
            ),
            layers=(layer,),
            manifest=Digest.of(b"manifest of " + name.encode()),
        )
        self.images[name] = base
        return base

    def resolve(self, reference: Reference, platform: Platform) -> BaseImage:
        del platform
        self.resolved.append(reference.familiar_name)
        found = self.images.get(reference.familiar_name)
        if found is None:
            raise NotFound(f"there is no image {reference.familiar_name}")
        return found

    def execute(self, step: ExecStep, output: Callable[[bytes], None]) -> int:
        """Run a step in a chroot with mounts of its own. Fork is fine: tests start no threads but the build's."""
        self.executed.append(step)
        target = self.where / f"run-{len(self.executed)}-{step.snapshot.short}"
        target.mkdir()
        try:
            with self.snapshotter.mounted(step.snapshot, str(target), volatile=True):
                return _chrooted(step, str(target), output)
        finally:
            target.rmdir()

    def write(self, files: dict[str, str | bytes], *, mode: int = 0o644) -> None:
        for name, content in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            path.chmod(mode)

    def build(self, dockerfile: str, **fields: Any) -> Built:
        """Build; the events of this build are in `events` afterwards."""
        self.events = []
        self.executed = []
        request = BuildRequest(context=str(self.context), dockerfile_text=dockerfile, **fields)
        with Workspace(self.root, self.snapshotter, self.lease) as workspace:
            return solve(
                request, workspace=workspace, resolve=self.resolve, execute=self.execute, report=self.events.append
            )

    def output(self) -> str:
        """What the RUN steps of the last build wrote."""
        return b"".join(event.data for event in self.events if event.action == "build.output").decode()

    def texts(self, action: str) -> list[str]:
        return [event.text for event in self.events if event.action == action]

    def tree(self, built: Built) -> Tree:
        """The image's merged files, unpacked; call `close` on it."""
        return Tree(self, built)


class Tree:
    """An image's files, mounted read-only while in use."""

    def __init__(self, kitchen: Kitchen, built: Built) -> None:
        def absent(*_: object) -> Any:
            raise AssertionError("a layer of the built image is missing")

        self.kitchen = kitchen
        keys = unpack.unpack(kitchen.root, built.layers, absent, kitchen.lease)
        self.key = f"look-{os.urandom(4).hex()}"
        kitchen.lease.hold("snapshot", self.key)
        self.snapshot = kitchen.snapshotter.prepare(keys, self.key)
        self.path = kitchen.where / self.key
        self.path.mkdir()
        self.mounted = kitchen.snapshotter.mounted(self.snapshot, str(self.path), readonly=True)

    def __enter__(self) -> Path:
        self.mounted.__enter__()
        return self.path

    def __exit__(self, *_: object) -> None:
        self.mounted.__exit__(None, None, None)
        self.path.rmdir()
        self.kitchen.snapshotter.remove(self.key)


_CHILD = """
import os, sys, json
step = json.load(sys.stdin)
from orlop.linux import mounts, namespaces
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
uid = gid = 0
if step["user"]:
    user, _, group = step["user"].partition(":")
    if user.isdigit():
        uid = int(user)
    else:
        for line in open("/etc/passwd"):
            fields = line.split(":")
            if fields[0] == user:
                uid, gid = int(fields[2]), int(fields[3])
    if group.isdigit():
        gid = int(group)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
env = dict(entry.partition("=")[::2] for entry in step["env"])
os.dup2(os.open("/dev/null", os.O_RDONLY) if os.path.exists("/dev/null") else os.open("/", os.O_RDONLY), 0)
try:
    os.execvpe(step['argv'][0], step['argv'], env)
except FileNotFoundError:
    os._exit(127)
"""


def _chrooted(step: ExecStep, root: str, output: Callable[[bytes], None]) -> int:
    import json

    asked = {
        "root": root,
        "argv": step.argv,
        "env": step.env,
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
        child.stdin.write(json.dumps(asked).encode())
        child.stdin.close()
        try:
            while data := os.read(child.stdout.fileno(), 65536):
                output(data)
        except BaseException:
            os.kill(child.pid, signal.SIGKILL)
            raise
        code = child.wait()
    return code if code >= 0 else 128 - code


