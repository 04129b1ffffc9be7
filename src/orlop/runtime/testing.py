"""Real containers for tests: a busybox bundle, made, run and looked after. For orlop's own tests and for others'."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

from orlop.errors import DeadlineExceeded, FailedPrecondition
from orlop.linux import cgroups, mounts
from orlop.oci import jsontext
from orlop.runtime import execute, lifecycle
from orlop.runtime import spec as specs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BUSYBOX = "/bin/busybox"
_numbers = itertools.count()


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Poll until `condition` gives something true, and return that. DeadlineExceeded after `seconds`.

    Only a failure waits that long: the time is for machines with more to do than tests.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"the condition did not come true in {seconds:g} seconds: at last it gave {found!r}")
        time.sleep(0.005)


def make_rootfs(path: Path) -> Path:
    """A small root file system below `path`: busybox under all its names, two users, the usual folders."""
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root"):
        (path / name).mkdir(parents=True)
    if not os.path.exists(BUSYBOX):
        raise FailedPrecondition(f"there is no {BUSYBOX}", hint="apt install busybox-static")
    shutil.copy(BUSYBOX, path / "bin/busybox")
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (path / "tmp").chmod(0o1777)
    return path


class Result:
    """What a program did: its exit code and all it wrote."""

    def __init__(self, code: int, out: str) -> None:
        self.code = code
        self.out = out

    def __repr__(self) -> str:
        return f"Result({self.code}, {self.out!r})"


class Box:
    """One bundle in `folder`, and the containers made of it. Change `spec` before making one; `close` removes all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = folder / "bundle"
        self.rootfs = make_rootfs(self.bundle / "rootfs")
        self.state_root = str(folder / "state")
        self.spec = specs.default_spec()
        self.ids: list[str] = []
        self.warnings: list[str] = []

    @property
    def linux(self) -> dict[str, Any]:
        """The spec's `linux`."""
        found: dict[str, Any] = self.spec["linux"]
        return found

    @property
    def process(self) -> dict[str, Any]:
        """The spec's `process`."""
        found: dict[str, Any] = self.spec["process"]
        return found

    def bind(self, source: object, destination: str, *options: str) -> None:
        """Add a bind mount to the spec."""
        chosen = list(options or ("rbind", "rprivate"))
        self.spec["mounts"].append(
            {"destination": destination, "type": "bind", "source": str(source), "options": chosen}
        )

    def without(self, kind: str) -> None:
        """Share a kind of namespace with the host."""
        self.linux["namespaces"] = [entry for entry in self.linux["namespaces"] if entry["type"] != kind]

    def with_namespace(self, kind: str, path: str = "") -> None:
        """Give the container a namespace of its own, or the one at `path`."""
        self.without(kind)
        self.linux["namespaces"].append({"type": kind, "path": path} if path else {"type": kind})

    def with_users(self, first: int = 100_000, size: int = 65_536) -> None:
        """Give it a user namespace, and its files to that namespace's root."""
        self.with_namespace("user")
        for key in ("uidMappings", "gidMappings"):
            self.linux[key] = [{"containerID": 0, "hostID": first, "size": size}]
        for path in [self.rootfs, *self.rootfs.rglob("*")]:
            os.chown(path, first, first, follow_symlinks=False)
        for path in [self.folder, *self.folder.parents]:
            if path.stat().st_mode & 0o001 == 0 and path.stat().st_uid == os.geteuid():
                path.chmod(path.stat().st_mode | 0o001)

    def write(self, *argv: str) -> str:
        """Write config.json; the bundle's path."""
        if argv:
            self.process["args"] = list(argv)
        (self.bundle / "config.json").write_bytes(jsontext.dumps(self.spec))
        return str(self.bundle)

    def new_id(self) -> str:
        """An id that is removed with the box."""
        name = f"box{os.getpid()}-{next(_numbers)}"
        self.ids.append(name)
        return name

    def create(self, *argv: str, **more: Any) -> lifecycle.Created:
        """A created container; its streams are null unless given."""
        name = more.pop("name", "") or self.new_id()
        more.setdefault("warn", self.warnings.append)
        if "stdio" in more:
            return lifecycle.create(self.write(*argv), name, state_root=self.state_root, **more)
        with open("/dev/null", "rb+") as null:
            streams = (null.fileno(),) * 3
            return lifecycle.create(self.write(*argv), name, state_root=self.state_root, stdio=streams, **more)

    def start(self, created: lifecycle.Created) -> None:
        """Let it go."""
        lifecycle.start(created.container.id, state_root=self.state_root, warn=self.warnings.append)

    def running(self, *argv: str, **more: Any) -> lifecycle.Created:
        """A container that runs."""
        created = self.create(*argv, **more)
        self.start(created)
        return created

    def status(self, created: lifecycle.Created) -> str:
        """Its status word."""
        return str(lifecycle.state(created.container.id, state_root=self.state_root)["status"])

    def end(self, created: lifecycle.Created) -> int:
        """Wait for the end; the exit code."""
        return execute.exit_code(os.waitpid(created.container.pid, 0)[1])

    def kill(self, created: lifecycle.Created) -> int:
        """Kill it and wait; the exit code."""
        lifecycle.kill(created.container.id, 9, state_root=self.state_root)
        return self.end(created)

    def run(self, *argv: str, **more: Any) -> Result:
        """Create, start, read all output, wait, delete."""
        reader, writer = os.pipe()
        with open("/dev/null", "rb") as null, open(reader, "rb") as output:
            try:
                created = self.create(*argv, stdio=(null.fileno(), writer, writer), **more)
            finally:
                os.close(writer)
            self.start(created)
            said = output.read().decode(errors="replace")
        code = self.end(created)
        lifecycle.delete(created.container.id, state_root=self.state_root)
        return Result(code, said)

    def sh(self, script: str, **more: Any) -> Result:
        """Run a shell script."""
        return self.run("/bin/sh", "-c", script, **more)

    def execute(self, created: lifecycle.Created, *argv: str, **changes: Any) -> Result:
        """Run a program in a container and read its output; `changes` to the process object."""
        reader, writer = os.pipe()
        given = self.process | {"args": list(argv), "terminal": False} | changes
        with open("/dev/null", "rb") as null, open(reader, "rb") as output:
            try:
                started = execute.begin(
                    created.container.id,
                    given,
                    state_root=self.state_root,
                    stdio=(null.fileno(), writer, writer),
                    warn=self.warnings.append,
                )
            finally:
                os.close(writer)
            said = output.read().decode(errors="replace")
        return Result(execute.wait(started.pid), said)

    def close(self) -> None:
        """Remove every container that was made."""
        for name in self.ids:
            lifecycle.delete(name, state_root=self.state_root, force=True)

    def leftovers(self) -> list[str]:
        """What of the containers is left on the machine: cgroups, mounts, state folders."""
        found = [directory for name in self.ids for directory in cgroups.Cgroup(f"/orlop/{name}").directories()]
        found += [entry.target for entry in mounts.mountinfo() if str(self.folder) in entry.target]
        return found + [name for name in self.ids if os.path.exists(f"{self.state_root}/{name}")]
