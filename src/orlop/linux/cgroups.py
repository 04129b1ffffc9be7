"""Control groups, version 1, version 2 and the mix of both: making them, limiting, joining, pausing, killing, deleting.

A cgroup is one path, "/orlop/<id>", below the mount of every controller that we need. Each controller is asked where it
lives, so that a host with some controllers on v1 and some on v2 is no special case.
"""

from __future__ import annotations

import errno
import os
import time

from orlop.errors import FailedPrecondition, InvalidArgument, OrlopError, PermissionDenied, ResourceExhausted
from orlop.linux import cgroupstats, limits
from orlop.linux.hierarchy import (
    PARENT,
    V2_FEATURES,
    Hierarchy,
    Place,
    check_path,
    default_parent,
    detect,
    own_path,
    read,
    write,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["PARENT", "Cgroup", "Hierarchy", "Place", "check_path", "default_parent", "detect", "own_path"]

# What a container joins where nothing is limited: statistics, pausing, and systemd's own tree, where being left in
# somebody's service would mean being killed with it.
_STATISTICS = ("memory", "cpu", "cpuacct", "pids", "blkio", "io", "freezer", "name=systemd")
_PATIENCE = 15.0  # seconds until giving up on a cgroup that stays busy or does not freeze


class Cgroup:
    """One cgroup in every hierarchy that it is needed in. Making the object touches nothing."""

    def __init__(self, path: str, hierarchy: Hierarchy | None = None) -> None:
        self.path = check_path(path)
        self.hierarchy = hierarchy or detect()

    def directory(self, controller: str) -> str:
        """The directory that holds `controller`'s files; "" where the host does not have it."""
        place = self.hierarchy.places.get(controller)
        return place.mount + self.path if place else ""

    def _version(self, controller: str) -> int:
        place = self.hierarchy.places.get(controller)
        return place.version if place else self.hierarchy.version

    def directories(self) -> list[str]:
        """The directories that exist, each once, v2's last."""
        mounts = dict.fromkeys(place.mount for place in self.hierarchy.places.values())
        if self.hierarchy.unified:
            mounts.pop(self.hierarchy.unified, None)
            mounts[self.hierarchy.unified] = None
        return [mount + self.path for mount in mounts if os.path.isdir(mount + self.path)]

    # Making

    def create(self, resources: dict[str, Any] | None = None) -> None:
        """Make the cgroup for these limits and for statistics; being there already is fine.

        Missing parents are made; on v1 a new cpuset gets its parent's cpus and mems, on v2 the controllers are enabled
        from the top. PermissionDenied names the directory.
        """
        wanted = set(_STATISTICS)
        for version in (1, 2):
            if version == self.hierarchy.version or self.hierarchy.unified:
                wanted |= self._controllers_on(version, resources or {})
        mounts: dict[str, set[str]] = {}
        for name in wanted:
            place = self.hierarchy.places.get(name)
            if place is not None:
                mounts.setdefault(place.mount, set()).add(name)
        for mount, names in mounts.items():
            try:
                self._make(mount, names)
            except PermissionError as error:
                raise PermissionDenied(
                    f"cannot make the cgroup {self.path} below {mount}",
                    hint="rootless, limits need a delegated cgroup: systemd-run --user --scope -p Delegate=yes",
                ) from error

    def _controllers_on(self, version: int, resources: dict[str, Any]) -> set[str]:
        """The controllers for `resources` that live on `version` here."""
        wanted = dict(resources)
        if version == 1:
            wanted.pop("unified", None)  # `apply` refuses it where it cannot be had
        return {name for name in limits.controllers(wanted, version) if self._version(name) == version}

    def _make(self, mount: str, names: set[str]) -> None:
        directory = mount + self.path
        if mount == self.hierarchy.unified:
            self._make_unified(mount, names)
        elif "cpuset" in names:
            self._make_cpuset(mount)
        else:
            _mkdirs(mount, directory)

    def _make_cpuset(self, mount: str) -> None:
        parent = mount
        for part in self.path[1:].split("/"):
            directory = f"{parent}/{part}"
            _mkdirs(parent, directory)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not read(f"{directory}/{file}").strip():
                    write(f"{directory}/{file}", read(f"{parent}/{file}").strip())
            parent = directory

    def _make_unified(self, mount: str, names: set[str]) -> None:
        enable = sorted(name for name in names if name not in V2_FEATURES)
        parent = mount
        for part in self.path[1:].split("/"):
            _enable(parent, enable)
            parent = f"{parent}/{part}"
            _mkdirs(mount, parent)

    # Limits

    def apply(self, resources: dict[str, Any]) -> list[str]:
        """Set the limits; sentences about those that this host cannot keep and that a container can live without.

        A limit whose controller is missing raises FailedPrecondition, one that the kernel refuses InvalidArgument (or
        ResourceExhausted: more is in use already). Before raising, nothing is undone.
        """
        self._check_before_update(resources)
        warnings = limits.unsupported(resources, 2) if self.hierarchy.version == 2 else []
        refused: list[limits.Write] = []
        for one in self._writes(resources):
            try:
                warnings += self._set(one)
            except OSError as error:
                # EINVAL and EBUSY may come from the order: a new quota that only fits the new period, say
                if error.errno not in (errno.EINVAL, errno.EBUSY):
                    raise self._refusal(one, error) from error
                refused.append(one)
        for one in refused:
            try:
                warnings += self._set(one)
            except OSError as error:
                raise self._refusal(one, error) from error
        if resources.get("devices") and self._version("devices") == 2:
            self._attach_devices(resources)
        return warnings

    def _writes(self, resources: dict[str, Any]) -> Iterator[limits.Write]:
        if self.hierarchy.version == 2:
            yield from limits.writes(resources, 2)
            return
        now = None
        if (resources.get("memory") or {}).get("swap"):
            now = cgroupstats.number(read(f"{self.directory('memory')}/memory.limit_in_bytes"))
        for one in limits.writes(resources, 1, memory_now=now):
            if self._version(one.controller) == 1:
                yield one
        second = dict(resources)
        second.pop("unified", None)
        for one in limits.writes(second, 2):
            place = self.hierarchy.places.get(one.controller)
            if place is not None and place.version == 2:
                yield one

    def _set(self, one: limits.Write) -> list[str]:
        """Make one write or one of its alternatives; the warning, if it had to be left out."""
        directory = self.directory(one.controller) if one.controller else self.hierarchy.unified + self.path
        if directory and not os.path.isdir(directory):
            directory = ""
        for file, value in ((one.file, one.value), *one.otherwise):
            if not directory:
                break
            try:
                write(f"{directory}/{file}", value)
            except FileNotFoundError:
                continue
            except OSError as error:
                if one.optional and error.errno in (errno.EOPNOTSUPP, errno.ENODEV):
                    return [one.optional]
                raise
            return []
        if one.optional:
            return [one.optional]
        if one.controller == "devices":
            return ["this host has no device cgroup: device rules are not enforced"]
        raise FailedPrecondition(
            f"cannot set {one.file}: this host has no {one.controller or 'v2'} cgroup controller for {self.path}",
            hint="enable the controller (kernel command line, or systemd's Delegate=), or leave the limit out",
        )

    def _refusal(self, one: limits.Write, error: OSError) -> OrlopError:
        text = f"cannot set {one.file} of cgroup {self.path} to {one.value!r}: {os.strerror(error.errno or 0)}"
        if error.errno in (errno.EACCES, errno.EPERM):
            return PermissionDenied(text)
        if error.errno == errno.EBUSY:
            return ResourceExhausted(text, hint="more than that is in use already")
        return InvalidArgument(text, hint="the kernel does not take this value here")

    def _check_before_update(self, resources: dict[str, Any]) -> None:
        memory = resources.get("memory") or {}
        limit = memory.get("limit")
        if memory.get("checkBeforeUpdate") and limit and limit > 0:
            usage = self.stats()["memory"]["usage"]
            if usage > limit:
                raise ResourceExhausted(
                    f"the memory limit {limit} is below what {self.path} uses now ({usage})",
                    hint="stop something first",
                )

    def _attach_devices(self, resources: dict[str, Any]) -> None:
        from orlop.linux import bpf, devices  # ctypes, and only v2 needs it

        program = devices.program(devices.parse_rules(resources["devices"]))
        fd = os.open(self.directory("devices"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            bpf.replace_device_program(fd, program)
        except PermissionError:
            # Rootless: programs are root's. Devices cannot be made in a user namespace, which is the same protection.
            if os.geteuid() == 0 and _initial_user_namespace():
                raise
        finally:
            os.close(fd)

    # Members

    def join(self, pid: int) -> None:
        """Move the process into the cgroup, in every hierarchy where it exists; its later children are born there.

        A process that moves itself and has one thread does it through v1's `tasks`: moving any other stops all forks of
        the machine for an RCU grace period (5 to 15 ms), this does not (Linux 5.5).
        """
        alone = pid == os.getpid() and os.stat("/proc/self/task").st_nlink == 3
        for directory in self.directories():
            by_itself = alone and os.path.exists(f"{directory}/tasks")
            try:
                # 0 and not the number is what tells the kernel that it is us
                write(f"{directory}/{'tasks' if by_itself else 'cgroup.procs'}", "0" if by_itself else str(pid))
            except OSError as error:
                raise OSError(
                    error.errno, f"move process {pid} to {directory}: {os.strerror(error.errno or 0)}"
                ) from error

    def open_unified(self) -> int:
        """A descriptor of the v2 directory, for fork_into(cgroup_fd=...)."""
        return os.open(self.hierarchy.unified + self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def pids(self) -> list[int]:
        """The processes in the cgroup and all below it, sorted; empty when it is gone."""
        found: set[int] = set()
        for directory in self.directories():
            found.update(_pids_below(directory))
        return sorted(found)

    def stats(self) -> dict[str, Any]:
        """What has been used: {"memory", "cpu", "pids", "blkio"}, see `cgroupstats` for each."""

        def look(controller: str, file: str) -> str:
            directory = self.directory(controller)
            return read(f"{directory}/{file}") if directory else ""

        usage = 1 if self._version("cpuacct") == 1 and self.directory("cpuacct") else 2
        block = 1 if "blkio" in self.hierarchy.places else 2
        return {
            "memory": cgroupstats.memory(self._version("memory"), look),
            "cpu": cgroupstats.cpu(self._version("cpu"), usage, look),
            "pids": cgroupstats.pids(look),
            "blkio": cgroupstats.block(block, look),
        }

    def oom_kills(self) -> int:
        """How many processes of this cgroup the kernel has killed for want of memory."""
        if self._version("memory") == 1:
            return cgroupstats.flat(read(f"{self.directory('memory')}/memory.oom_control")).get("oom_kill", 0)
        return cgroupstats.flat(read(f"{self.directory('memory')}/memory.events")).get("oom_kill", 0)

    # Stopping

    def freeze(self) -> None:
        """Stop all processes where they are; returns when they stand still. FailedPrecondition without a freezer."""
        self._freezer(True)

    def thaw(self) -> None:
        """Let them go on."""
        self._freezer(False)

    def frozen(self) -> bool:
        """Whether the cgroup stands still (or is about to)."""
        directory = self._freezer_directory()
        if self._version("freezer") == 1:
            return read(f"{directory}/freezer.state").strip() in ("FROZEN", "FREEZING")
        return read(f"{directory}/cgroup.freeze").strip() == "1"

    def _freezer_directory(self) -> str:
        directory = self.directory("freezer")
        if not directory or not os.path.isdir(directory):
            raise FailedPrecondition(f"the processes of {self.path} cannot be paused: there is no freezer cgroup")
        return directory

    def _freezer(self, on: bool) -> None:
        directory = self._freezer_directory()
        version = self._version("freezer")
        deadline = time.monotonic() + _PATIENCE
        pause = 0.0002
        while True:
            if version == 1:
                # Written again each time: a task that forked while being frozen can leave the state at FREEZING
                write(f"{directory}/freezer.state", "FROZEN" if on else "THAWED")
                done = read(f"{directory}/freezer.state").strip() == ("FROZEN" if on else "THAWED")
            else:
                write(f"{directory}/cgroup.freeze", "1" if on else "0")
                done = cgroupstats.flat(read(f"{directory}/cgroup.events")).get("frozen") == int(on)
            if done:
                return
            if time.monotonic() > deadline:
                if on:
                    self._freezer(False)
                raise FailedPrecondition(
                    f"the processes of {self.path} did not {'pause' if on else 'continue'} in {_PATIENCE:g} s",
                    hint="one of them may be stuck in the kernel; look for state D in ps",
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def kill(self, signal: int = 9) -> None:
        """Send `signal` to every process, so that none escapes by forking meanwhile; does not wait for their end."""
        unified = self.hierarchy.unified + self.path
        if signal == 9 and self.hierarchy.unified and os.path.exists(f"{unified}/cgroup.kill"):
            write(f"{unified}/cgroup.kill", "1")
            if self.hierarchy.version == 2:
                return
        freezer = self.directory("freezer")
        can_freeze = bool(freezer) and os.path.isdir(freezer)
        was_frozen = can_freeze and self.frozen()
        if can_freeze and not was_frozen:
            self._try_freeze()
        try:
            self._signal_all(signal)
        finally:
            # A frozen process dies of SIGKILL only once it is thawed (v1)
            if can_freeze and (signal == 9 or not was_frozen):
                self.thaw()
        if signal == 9 and not can_freeze:
            while self._signal_all(signal):  # without a freezer: until nobody is left to fork
                time.sleep(0.0005)

    def _try_freeze(self) -> None:
        try:
            self.freeze()
        except FailedPrecondition:
            return  # what cannot be frozen is signalled as it runs

    def _signal_all(self, signal: int) -> bool:
        any_left = False
        for pid in self.pids():
            try:
                os.kill(pid, signal)
            except ProcessLookupError:
                continue
            any_left = True
        return any_left

    def delete(self) -> None:
        """Remove the cgroup and all below it; being gone is fine. ResourceExhausted when processes stay in it."""
        deadline = time.monotonic() + _PATIENCE
        for directory in self.directories():
            pause = 0.0002
            while not _remove(directory):
                if time.monotonic() > deadline:
                    left = _pids_below(directory)
                    raise ResourceExhausted(
                        f"the cgroup {directory} is still in use by processes {left}", hint="kill them first"
                    )
                time.sleep(pause)
                pause = min(pause * 2, 0.02)


def _initial_user_namespace() -> bool:
    return read("/proc/self/uid_map").split() == ["0", "0", "4294967295"]


def _mkdirs(mount: str, directory: str) -> None:
    """Make `directory` and its missing parents up to the mount point, which must be there."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        parent = os.path.dirname(directory)
        if len(parent) <= len(mount):
            raise
        _mkdirs(mount, parent)
        _mkdirs(mount, directory)


def _enable(directory: str, names: list[str]) -> None:
    """Let children of a v2 directory use these controllers; what the directory has not itself is left out."""
    have = set(read(f"{directory}/cgroup.controllers").split())
    on = set(read(f"{directory}/cgroup.subtree_control").split())
    missing = [name for name in names if name in have and name not in on]
    if not missing:
        return
    value = " ".join(f"+{name}" for name in missing)
    try:
        write(f"{directory}/cgroup.subtree_control", value)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # v2 allows no processes beside children with controllers: those who sit here move to a leaf of their own, as
        # in a container or a delegated scope they must.
        leaf = f"{directory}/orlop-leaf"
        _mkdirs(directory, leaf)
        for pid in read(f"{directory}/cgroup.procs").split():
            try:
                write(f"{leaf}/cgroup.procs", pid)
            except ProcessLookupError:
                continue
        write(f"{directory}/cgroup.subtree_control", value)


def _below(directory: str) -> list[str]:
    """The directory and all below it, deepest last."""
    found = [directory]
    for one in found:
        try:
            with os.scandir(one) as listing:
                found += [entry.path for entry in listing if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
    return found


def _pids_below(directory: str) -> list[int]:
    return [int(pid) for one in _below(directory) for pid in read(f"{one}/cgroup.procs").split() if pid != "0"]


def _remove(directory: str) -> bool:
    """Remove a cgroup tree, deepest first; False while something is still in it."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    else:
        return True
    for one in reversed(_below(directory)):
        try:
            os.rmdir(one)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            return False
    return True
