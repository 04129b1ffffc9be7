"""Making a container: from a bundle to an init that waits at the start barrier.

The maker must have one thread: it forks, and the child goes on in Python. Whatever fails, nothing is left: no
process, no cgroup, no folder. A maker that is killed leaves a folder that the next `create` or `delete` clears.
"""

from __future__ import annotations

import os
import time

from orlop.errors import FailedPrecondition, Internal, OrlopError
from orlop.linux import capabilities, cgroups, mounts, namespaces, process
from orlop.runtime import barrier, channel, errors, hooks
from orlop.runtime import exit as exits
from orlop.runtime import spec as specs
from orlop.runtime import state as states
from orlop.runtime.init import Init
from orlop.runtime.launch import Launch
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.runtime.request import RootMount

_SIGKILL = 9


class Created(Value):
    """A container that waits to be started. `terminal` is its master side, which the caller now owns, or -1."""

    container: states.Container
    terminal: int = -1
    oom: tuple[str, int] | None = None  # (file with the count of OOM kills, the count now)
    cgroups: tuple[str, ...] = ()  # its directories, one in each hierarchy


def ignore(text: str) -> None:
    """The `warn` of a caller who does not want to know."""


def create(
    bundle: str,
    container_id: str,
    *,
    state_root: str,
    root: RootMount | None = None,
    stdio: tuple[int, int, int] = (0, 1, 2),
    console: Callable[[int], None] | None = None,
    preserve_fds: int = 0,
    pivot: bool = True,
    pid_file: str = "",
    dies_with_maker: bool = False,
    keyring: bool = True,
    environment: tuple[str, ...] = (),
    on_namespaces: Callable[[int], None] | None = None,
    warn: Callable[[str], None] = ignore,
) -> Created:
    """Make the container `container_id` from the bundle in the folder `bundle`; afterwards its state is "created".

    `root` is mounted as the spec's root.path, in the container's mount namespace only. `stdio` are its standard
    streams unless it has a terminal; the terminal's master goes to `console` as soon as it is there, else it is
    returned. `preserve_fds` descriptors from 3 on are passed in. `dies_with_maker`: until it is started, init dies
    with the calling thread. `on_namespaces(pid)` is called as soon as the namespaces can be seen in /proc/<pid>/ns:
    the network may be attached while the file system is put together. `keyring`: it gets a session keyring of its own.
    `environment` (NAME=value) comes after the spec's. Raises what failed, also what failed inside.
    """
    process.require_one_thread()
    states.check_id(container_id)
    bundle = os.path.abspath(bundle)
    config = specs.raw(bundle)
    spec = specs.parse(config, f"{bundle}/config.json")
    if not spec.get("process"):
        warn("the bundle has no process: the container can be created but not started")
    directory, old = states.claim(state_root, container_id)
    try:
        if old is not None:
            if old.cgroup:
                _clear(cgroups.Cgroup(old.cgroup))
            states.take_down(old)
        launch = Launch(
            spec,
            bundle=bundle,
            container_id=container_id,
            state_root=state_root,
            root=root,
            stdio=stdio,
            extra_fds=tuple(range(3, 3 + preserve_fds)),
            pivot=pivot,
            dies_with_maker=dies_with_maker,
            keyring=keyring,
            environment=environment,
            warn=warn,
        )
        directory.keep_config(config)
        making = _Making(launch, directory, console, on_namespaces)
        created = making.run()
        if pid_file:
            folder, name = os.path.split(os.path.abspath(pid_file))
            exits.write(folder, name, b"%d" % created.container.pid)
    except BaseException as error:
        directory.remove()
        if isinstance(error, OSError):
            raise errors.from_os(error, f"container {container_id} cannot be created") from error
        raise
    directory.close()
    return created


class _Making:
    """One container in the making, in the maker."""

    def __init__(
        self,
        launch: Launch,
        directory: states.StateDirectory,
        console: Callable[[int], None] | None,
        on_namespaces: Callable[[int], None] | None,
    ) -> None:
        self._launch = launch
        self._directory = directory
        self._console = console
        self._on_namespaces = on_namespaces
        self._terminal = -1
        self._own_users = launch.namespaces.has_own("user")
        spec = launch.spec
        self._container = states.Container(
            id=launch.container_id,
            bundle=launch.bundle,
            created=time.time_ns(),
            rootfs=launch.root_path,
            oci_version=spec["ociVersion"],
            cgroup=launch.cgroup.path if launch.cgroup else "",
            mounted=os.path.realpath(launch.root_path) if launch.mounts_outside else "",
            mount_id=mounts.id_of(launch.root_fd) if launch.mounts_outside else 0,
            own_mounts="mount" in launch.namespaces.new,
            own_pids="pid" in launch.namespaces.new,
            annotations=spec.get("annotations") or {},
        )

    def run(self) -> Created:
        """Fork init, do the maker's part, wait until init is ready."""
        launch = self._launch
        try:
            self._warn_of_capabilities()
            self._directory.write(self._container)
            gate = barrier.make(self._directory.path)
            try:
                ours, theirs = channel.pair()
                pid = launch.namespaces.start(Init(launch, theirs, gate).run)
                theirs.close()
            finally:
                gate.close()
        finally:
            launch.close()
        try:
            return self._accompany(ours, pid)
        except BaseException as error:
            self._undo(pid)
            if isinstance(error, (EOFError, BrokenPipeError, ConnectionResetError)):
                self._raise_last_words(ours)
                raise Internal(
                    f"the first process of container {launch.container_id} died while being set up"
                ) from None
            raise
        finally:
            ours.close()

    def _accompany(self, ours: channel.Channel, pid: int) -> Created:
        launch = self._launch
        if "user" in launch.namespaces.new:
            namespaces.write_id_maps(pid, launch.namespaces.uid_map, launch.namespaces.gid_map)
            ours.send(maps=True)
        if self._on_namespaces is not None:
            self._on_namespaces(pid)
        ours.send(cgroup=self._make_cgroup(pid))
        self._listen(ours, pid)
        container = self._container.replace(pid=pid, ticks=process.start_ticks(pid))
        self._directory.write(container)
        return Created(
            container=container,
            terminal=self._terminal,
            oom=self._oom(),
            cgroups=tuple(launch.cgroup.directories()) if launch.cgroup else (),
        )

    def _make_cgroup(self, pid: int) -> list[str]:
        """Make and limit the cgroup; its directories, for init to join, unless it had to be moved there by us."""
        group = self._launch.cgroup
        if group is None:
            return []
        group.create(self._launch.resources)
        for text in group.apply(self._launch.resources):
            self._launch.warn(text)
        if not self._own_users:
            return group.directories()
        group.join(pid)  # the root of a user namespace may not write there itself
        return []

    def _oom(self) -> tuple[str, int] | None:
        group = self._launch.cgroup
        if group is None:
            return None
        folder = group.directory("memory")
        for name in ("memory.oom_control", "memory.events"):
            if folder and os.path.exists(f"{folder}/{name}"):
                return f"{folder}/{name}", group.oom_kills()
        return None

    def _listen(self, ours: channel.Channel, pid: int) -> None:
        """Serve init until it says that it is ready."""
        while True:
            message, fds = ours.receive()
            if "warn" in message:
                self._launch.warn(message["warn"])
            elif "terminal" in message:
                self._terminal = fds.pop()
                if self._console is not None:
                    self._console(self._terminal)
                    os.close(self._terminal)
                    self._terminal = -1
            elif "hooks" in message:
                self._run_hooks(pid)
                ours.send(hooked=True)
            elif "created" in message:
                return
            elif "error" in message:
                raise errors.of_fields(message)
            for fd in fds:
                os.close(fd)

    @staticmethod
    def _raise_last_words(ours: channel.Channel) -> None:
        """Raise the error that init told before it died, when we were about to send and not to listen."""
        ends = 0
        while ends < 2:  # the first may be a reset that stands before what is left to read
            try:
                message, fds = ours.receive()
            except EOFError:
                ends += 1
                continue
            for fd in fds:
                os.close(fd)
            if "error" in message:
                raise errors.of_fields(message) from None

    def _run_hooks(self, pid: int) -> None:
        given: dict[str, Any] = self._launch.spec.get("hooks") or {}
        container = self._container.replace(pid=pid)
        # prestart is from when the specification had no hooks within create: it expects the container to be created
        hooks.run("prestart", given.get("prestart") or (), states.oci_state(container, states.CREATED))
        hooks.run("createRuntime", given.get("createRuntime") or (), states.oci_state(container, states.CREATING))

    def _undo(self, pid: int) -> None:
        """Init and its cgroup must not outlive a failure."""
        try:
            os.kill(pid, _SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.waitpid(pid, 0)
        if self._terminal >= 0:
            os.close(self._terminal)
        states.take_down(self._container)
        if self._launch.cgroup is not None:
            _clear(self._launch.cgroup)

    def _warn_of_capabilities(self) -> None:
        launch = self._launch
        asked = launch.program.sets.bounding | launch.program.sets.permitted
        known = frozenset(capabilities.known())
        missing = sorted(asked - known)
        if not missing and not self._own_users:
            held = _permitted()
            missing = sorted(name for name in launch.program.sets.permitted if name not in held)
        if missing:
            launch.warn(f"these capabilities cannot be given to the container: {', '.join(missing)}")


def _permitted() -> frozenset[str]:
    """The capabilities we may pass on."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"CapPrm:"):
                return frozenset(capabilities.names_in(int(line.split()[1], 16)))
    return frozenset()


def _clear(group: cgroups.Cgroup) -> None:
    """End what runs in a cgroup that nobody watches, and remove it."""
    try:
        group.kill()
        group.delete()
    except (OSError, OrlopError) as error:
        raise FailedPrecondition(f"the cgroup {group.path} of an earlier attempt cannot be removed: {error}") from error
