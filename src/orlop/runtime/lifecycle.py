"""The verbs on a container after it was made (runtime-spec, "Operations"), by id below a state root.

Every verb works from any process: what it needs is in the container's folder, and what is true is asked of the kernel.
"""

from __future__ import annotations

import os
import select
import time

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.linux import cgroups, process
from orlop.runtime import barrier, hooks
from orlop.runtime import state as states
from orlop.runtime.creation import Created, create, ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "Created",
    "create",
    "delete",
    "kill",
    "list_containers",
    "pause",
    "processes",
    "resume",
    "start",
    "state",
    "stats",
    "update",
]

_SIGKILL = 9
_PATIENCE = 30.0  # seconds for a killed container to be gone


def start(container_id: str, *, state_root: str, warn: Callable[[str], None] = ignore) -> None:
    """Let a created container run its program; returns once the program is executed, or raises why it cannot be."""
    with states.lock(state_root, container_id, wait=True) as directory:
        container = directory.read()
        word = states.status(container, directory.path)
        if word != states.CREATED:
            raise FailedPrecondition(
                f"container {container_id} is {word}, only a created one can be started", hint="create it again"
            )
        config = states.config(directory.path)
        if not config.get("process"):
            raise FailedPrecondition(
                f"container {container_id} has no process to start", hint="see the bundle's config"
            )
        pidfd = process.pidfd_open(container.pid)
        try:
            barrier.release(directory.path, pidfd)
        finally:
            os.close(pidfd)
    given = config.get("hooks") or {}
    if given.get("poststart"):
        hooks.run_all("poststart", given["poststart"], states.oci_state(container, states.RUNNING), warn)


def state(container_id: str, *, state_root: str) -> dict[str, Any]:
    """The container's state as the runtime-spec has it, by evidence; NotFound."""
    container, path = states.load(state_root, container_id)
    return states.oci_state(container, _status(container, path))


def _status(container: states.Container, path: str) -> str:
    word = states.status(container, path)
    if word == states.RUNNING and container.cgroup and _is_frozen(container):
        return states.PAUSED
    return word


def _is_frozen(container: states.Container) -> bool:
    try:
        return cgroups.Cgroup(container.cgroup).frozen()
    except FailedPrecondition:
        return False  # no freezer here: nothing can be paused


def list_containers(*, state_root: str) -> list[dict[str, Any]]:
    """Every container's state, with `created` (nanoseconds since the epoch), `rootfs` and `owner` (a uid), by id."""
    try:
        names = sorted(os.listdir(state_root))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        try:
            container, path = states.load(state_root, name)
            owner = os.stat(path).st_uid
        except (OrlopError, FileNotFoundError):
            continue  # it went away while we looked, or was never ours
        word = _status(container, path)
        found.append(
            states.oci_state(container, word)
            | {"created": container.created, "rootfs": container.rootfs, "owner": owner}
        )
    return found


def kill(container_id: str, signal: int, *, state_root: str, everyone: bool = False) -> None:
    """Send a signal to init, or with `everyone` to all processes. FailedPrecondition unless it is created or running.

    SIGKILL reaches all also where the container shares its PID namespace, and a paused container too.
    """
    container, path = states.load(state_root, container_id)
    word = _status(container, path)
    if word in (states.STOPPED, states.CREATING):
        if everyone and container.cgroup and word == states.STOPPED:
            cgroups.Cgroup(container.cgroup).kill(signal)
            return
        raise FailedPrecondition(f"container {container_id} is not running: it is {word}")
    if container.cgroup and (everyone or (signal == _SIGKILL and not container.own_pids)):
        cgroups.Cgroup(container.cgroup).kill(signal)
        return
    pidfd = process.pidfd_open(container.pid)
    try:
        # the pid could have been reused since we looked: the pidfd cannot
        if process.alive(container.pid, container.ticks):
            process.pidfd_send_signal(pidfd, signal)
    finally:
        os.close(pidfd)
    if signal == _SIGKILL and word == states.PAUSED:
        cgroups.Cgroup(container.cgroup).thaw()  # on cgroup v1 the frozen do not even die


def delete(container_id: str, *, state_root: str, force: bool = False, warn: Callable[[str], None] = ignore) -> None:
    """Remove a stopped container: cgroup, folder; then the poststop hooks run. `force` kills it first.

    FailedPrecondition while it lives. What a killed maker left is removed as well. With `force`, no container is fine.
    """
    try:
        directory = states.lock(state_root, container_id, wait=force)
    except NotFound:
        if force:
            return
        raise
    with directory:
        container, _ = states.load(state_root, container_id)
        if container.alive:
            word = _status(container, directory.path)
            if not force:
                raise FailedPrecondition(
                    f"container {container_id} is {word}, only a stopped one can be deleted",
                    hint="kill it first, or use --force",
                )
            _end(container)
        group = cgroups.Cgroup(container.cgroup) if container.cgroup else None
        if group is not None:
            if group.pids():
                group.kill()
            group.delete()
        states.take_down(container)
        try:
            given = states.config(directory.path).get("hooks") or {}
        except FileNotFoundError:
            given = {}  # its maker was killed before it had kept the config
        directory.remove()
    if given.get("poststop"):
        hooks.run_all("poststop", given["poststop"], states.oci_state(container, states.STOPPED), warn)


def _end(container: states.Container) -> None:
    """Kill init and wait until it is gone (or a zombie that its parent will collect)."""
    pidfd = process.pidfd_open(container.pid)
    try:
        if container.alive:
            process.pidfd_send_signal(pidfd, _SIGKILL)
        if container.cgroup and _is_frozen(container):
            cgroups.Cgroup(container.cgroup).thaw()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_PATIENCE * 1000):
            raise FailedPrecondition(
                f"container {container.id} does not die", hint="a process may be stuck in the kernel (state D in ps)"
            )
    finally:
        os.close(pidfd)
    try:
        os.waitpid(container.pid, os.WNOHANG)  # it may be our own child
    except ChildProcessError:
        return


def _running(container_id: str, state_root: str, *words: str) -> tuple[states.Container, cgroups.Cgroup]:
    container, path = states.load(state_root, container_id)
    word = _status(container, path)
    if word not in words:
        raise FailedPrecondition(f"container {container_id} is {word}, not {' or '.join(words)}")
    if not container.cgroup:
        raise FailedPrecondition(
            f"container {container_id} has no cgroup of its own", hint="rootless containers need a delegated cgroup"
        )
    return container, cgroups.Cgroup(container.cgroup)


def pause(container_id: str, *, state_root: str) -> None:
    """Stop all processes where they are."""
    _running(container_id, state_root, states.RUNNING, states.CREATED)[1].freeze()


def resume(container_id: str, *, state_root: str) -> None:
    """Let paused processes go on."""
    _running(container_id, state_root, states.PAUSED)[1].thaw()


def update(container_id: str, resources: dict[str, Any], *, state_root: str) -> list[str]:
    """Change the limits of a living container; sentences about those that this host cannot keep."""
    if not isinstance(resources, dict):
        raise InvalidArgument("the resources to update are not a JSON object")
    _, group = _running(container_id, state_root, states.RUNNING, states.CREATED, states.PAUSED)
    group.create(resources)
    return group.apply(resources)


def processes(container_id: str, *, state_root: str) -> list[int]:
    """The pids of a living container's processes, as we see them."""
    container, path = states.load(state_root, container_id)
    if _status(container, path) in (states.STOPPED, states.CREATING):
        raise FailedPrecondition(f"container {container_id} is not running")
    return cgroups.Cgroup(container.cgroup).pids() if container.cgroup else [container.pid]


def stats(container_id: str, *, state_root: str) -> dict[str, Any]:
    """What the container has used so far, as `linux.cgroups.Cgroup.stats` has it."""
    return _running(container_id, state_root, states.RUNNING, states.CREATED, states.PAUSED)[1].stats()


def wait(container: states.Container, timeout: float | None = None) -> bool:
    """Wait until the container's init is dead, at most `timeout` seconds; whether it is."""
    until = None if timeout is None else time.monotonic() + timeout
    try:
        pidfd = process.pidfd_open(container.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if container.alive:
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            return bool(poll.poll(left))
        return True
    finally:
        os.close(pidfd)
