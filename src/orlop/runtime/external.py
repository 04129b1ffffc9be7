"""Another OCI runtime in place of ours (crun, runc, youki, kata-runtime, runsc), driven by runc's command line."""

from __future__ import annotations

import os
import select

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unavailable
from orlop.linux import cgroups, namespaces, process, sockets
from orlop.oci import jsontext
from orlop.runtime import hygiene, rootfs, sources
from orlop.runtime import spec as specs
from orlop.runtime import state as states
from orlop.runtime.creation import Created
from orlop.runtime.errors import ProgramNotFound, ProgramRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orlop.runtime.request import RootMount

_LIMIT = 1 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class External:
    """One runtime program. `argv` is its command line so far; its own state goes below `state_root`."""

    def __init__(self, argv: Sequence[str], state_root: str) -> None:
        self._argv = [_find(argv[0]), *argv[1:]]
        self._root = f"{state_root}/@{os.path.basename(argv[0])}"

    def _command(self, *arguments: str) -> list[str]:
        return [*self._argv, "--root", self._root, *arguments]

    def create(
        self,
        bundle: str,
        container_id: str,
        *,
        root: RootMount | None,
        stdio: tuple[int, int, int],
        terminal: bool,
        folder: str,
    ) -> Created:
        """Make a container from a bundle, as `lifecycle.create`; `folder` is ours for a pid file, a log, a socket.

        The caller must be a child subreaper: then init becomes its child when the runtime's own process ends.
        """
        spec = specs.load(bundle)
        os.makedirs(self._root, mode=0o711, exist_ok=True)
        log, pid_file = f"{folder}/runtime.log", f"{folder}/init.pid"
        arguments = ["create", "--bundle", bundle, "--pid-file", pid_file]
        listener = None
        if terminal:
            listener = sockets.unix_listen(f"{folder}/console.sock")
            arguments += ["--console-socket", f"{folder}/console.sock"]
        command = [*self._argv, "--root", self._root, "--log", log, "--log-format", "json", *arguments, container_id]
        pid = os.fork()
        if pid == 0:
            _become(command, spec, bundle, root, stdio)
        master = -1
        try:
            if listener is not None:
                master = _receive_terminal(listener, pid)
            status = os.waitpid(pid, 0)[1] if master >= 0 or listener is None else _end_of(pid)
            if status:
                raise _translated(self._argv[0], _last_message(log))
        finally:
            if listener is not None:
                listener.close()
                os.unlink(f"{folder}/console.sock")
        with open(pid_file, "rb") as file:
            init = int(file.read())
        container = states.Container(
            id=container_id, bundle=bundle, pid=init, ticks=process.start_ticks(init), oci_version=spec["ociVersion"]
        )
        return Created(container=container, terminal=master, oom=_oom(spec))

    def start(self, container_id: str) -> None:
        """Let the container run its program."""
        self.run("start", container_id)

    def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        """Send a signal to init, or to all."""
        self.run("kill", *(["--all"] if everyone else []), container_id, str(signal))

    def pause(self, container_id: str) -> None:
        """Stop all processes where they are."""
        self.run("pause", container_id)

    def resume(self, container_id: str) -> None:
        """Let paused processes go on."""
        self.run("resume", container_id)

    def update(self, container_id: str, resources: dict[str, Any]) -> list[str]:
        """Change the limits."""
        with open(os.memfd_create("orlop-resources"), "wb+") as file:
            file.write(jsontext.dumps(resources))
            file.flush()
            os.set_inheritable(file.fileno(), True)
            self.run("update", "--resources", f"/proc/self/fd/{file.fileno()}", container_id)
        return []

    def state(self, container_id: str) -> dict[str, Any]:
        """The container's state as the runtime-spec has it."""
        return jsontext.load_object(self.run("state", container_id), what=f"the answer of {self._argv[0]} state")

    def processes(self, container_id: str) -> list[int]:
        """The pids of the container's processes."""
        found = jsontext.loads(
            self.run("ps", "--format", "json", container_id), what=f"the answer of {self._argv[0]} ps"
        )
        return [int(pid) for pid in found or ()]

    def delete(self, container_id: str, *, force: bool = False) -> None:
        """Remove a container that has stopped."""
        self.run("delete", *(["--force"] if force else []), container_id)

    def delete_argv(self, container_id: str) -> list[str]:
        """The command line that forgets a container, for the monitor."""
        return self._command("delete", "--force", container_id)

    def run(self, *arguments: str) -> bytes:
        """Run the program to its end: its output. What it complains about is raised."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        said_reader, said_writer = os.pipe2(os.O_CLOEXEC)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, writer, 1),
            (os.POSIX_SPAWN_DUP2, said_writer, 2),
        ]
        try:
            command = self._command(*arguments)
            pid = os.posix_spawn(command[0], command, {"PATH": _PATH}, file_actions=actions)
        finally:
            os.close(writer)
            os.close(said_writer)
        text, said = _read_both(reader, said_reader)
        if os.waitpid(pid, 0)[1]:
            raise _translated(self._argv[0], said.decode("utf-8", "replace").strip())
        return text


def _read_both(first: int, second: int) -> tuple[bytes, bytes]:
    """What comes from two descriptors until both end, read as it comes; they are closed."""
    found = {first: b"", second: b""}
    poll = select.poll()
    for fd in found:
        poll.register(fd, select.POLLIN)
    ended = 0
    while ended < 2:
        for fd, _ in poll.poll():
            data = os.read(fd, 65536)
            if data:
                found[fd] = (found[fd] + data)[-_LIMIT:]
                continue
            poll.unregister(fd)
            os.close(fd)
            ended += 1
    return found[first], found[second]


def _find(name: str) -> str:
    """The program's file: `name` itself when it is a path, else the first one in the usual folders."""
    candidates = [name] if "/" in name else [f"{folder}/{name}" for folder in _PATH.split(":")]
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    raise NotFound(f"the runtime {name} is not installed", hint="install it, or leave --runtime out to use orlop's own")


def _become(
    command: list[str], spec: dict[str, Any], bundle: str, root: RootMount | None, stdio: tuple[int, int, int]
) -> None:
    """In a child: show the runtime (and only it) the root file system where the bundle says, and execute it."""
    try:
        if root is not None:
            path = os.path.join(bundle, spec["root"]["path"])
            fd = sources.open_root(root, path, "")
            namespaces.unshare(namespaces.CLONE_NEWNS)
            from orlop.linux import mounts

            mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_SLAVE)
            rootfs.attach_root(fd, path, shared=False)
        hygiene.take_stdio(stdio)
        os.execve(command[0], command, {"PATH": _PATH})  # noqa: S606  # no shell: on purpose
    finally:
        os._exit(127)


def _receive_terminal(listener: sockets.Socket, pid: int) -> int:
    """The master side that the runtime sends; -1 when it ends before."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        ready = dict(poll.poll())
        if listener.fileno() not in ready:
            return -1
        connection, _ = sockets.accept(listener)
        try:
            _, fds = sockets.receive_with_descriptors(connection, 4096, 1)
        finally:
            connection.close()
        return fds[0] if fds else -1
    finally:
        os.close(pidfd)


def _end_of(pid: int) -> int:
    """The wait status of a runtime that ended without giving us a terminal; success would be a lie."""
    return os.waitpid(pid, 0)[1] or 1


def _last_message(log: str) -> str:
    """What a runtime's JSON log says last."""
    try:
        with open(log, "rb") as file:
            lines = file.read(_LIMIT).splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            return str(jsontext.load_object(line, what="a line of the log").get("msg", ""))
        except InvalidArgument:
            continue
    return ""


def _translated(program: str, said: str) -> OrlopError:
    """A complaint of a runtime as an error. Runtimes have no codes, so this one place reads their words."""
    name = os.path.basename(program)
    text = f"{name}: {said or 'failed without saying why'}"
    lowered = said.lower()
    if "executable file not found" in lowered or ("exec" in lowered and "no such file or directory" in lowered):
        return ProgramNotFound(text)
    if "exec" in lowered and ("permission denied" in lowered or "exec format error" in lowered):
        return ProgramRefused(text)
    if "does not exist" in lowered:
        return NotFound(text)
    return FailedPrecondition(text) if said else Unavailable(text)


def _oom(spec: dict[str, Any]) -> tuple[str, int] | None:
    path = (spec.get("linux") or {}).get("cgroupsPath") or ""
    if not path.startswith("/"):
        return None
    group = cgroups.Cgroup(path)
    for name in ("memory.oom_control", "memory.events"):
        if os.path.exists(f"{group.directory('memory')}/{name}"):
            return f"{group.directory('memory')}/{name}", group.oom_kills()
    return None
