"""A container about to be made: the spec turned into open descriptors and plain values, before anything is forked."""

from __future__ import annotations

import os

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.linux import cgroups, mounts, users
from orlop.linux import hierarchy as hierarchies
from orlop.runtime import idmaps, nodes, rootfs, sources
from orlop.runtime import spec as specs
from orlop.runtime import state as states
from orlop.runtime.nsplan import NamespacePlan
from orlop.runtime.programs import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.runtime.request import RootMount

_PRIVATE = ("private", "rprivate")
SECCOMP_CACHE = "@seccomp"
"""Folder below a state root with compiled filters; no container id has an @."""


class Launch:
    """What init and its maker both know. Owns descriptors: `close` in the maker once init has its copies."""

    __slots__ = (
        "bundle",
        "cgroup",
        "cgroup_pending",
        "container_id",
        "dies_with_maker",
        "extra_fds",
        "has_terminals",
        "hidden",
        "hierarchy",
        "keyring",
        "masked_paths",
        "namespaces",
        "nodes",
        "pivot",
        "program",
        "propagation",
        "readonly_paths",
        "resources",
        "root_fd",
        "root_path",
        "root_readonly",
        "shared",
        "sources",
        "spec",
        "stdio",
        "sysctl",
        "warn",
    )

    def __init__(
        self,
        spec: dict[str, Any],
        *,
        bundle: str,
        container_id: str,
        state_root: str,
        root: RootMount | None,
        stdio: tuple[int, int, int],
        extra_fds: tuple[int, ...],
        pivot: bool,
        dies_with_maker: bool,
        keyring: bool,
        environment: tuple[str, ...],
        warn: Callable[[str], None],
    ) -> None:
        linux = spec.get("linux") or {}
        self.spec = spec
        self.bundle = bundle
        self.container_id = container_id
        self.stdio = stdio
        self.extra_fds = extra_fds
        self.pivot = pivot
        self.dies_with_maker = dies_with_maker
        self.keyring = keyring
        self.warn = warn
        self.cgroup_pending = True
        self.root_path = os.path.join(bundle, (spec.get("root") or {}).get("path") or "rootfs")
        self.root_readonly: bool = (spec.get("root") or {}).get("readonly") or False
        self.masked_paths: list[str] = linux.get("maskedPaths") or []
        self.readonly_paths: list[str] = linux.get("readonlyPaths") or []
        self.sysctl: dict[str, str] = linux.get("sysctl") or {}
        propagation = linux.get("rootfsPropagation") or ""
        self.propagation = rootfs.propagation_of(propagation)
        self.shared = propagation in ("shared", "rshared")
        self.root_fd = -1
        self.sources: list[sources.Source] = []
        self.nodes: list[nodes.Node] = []
        self.program = Program(spec.get("process") or {"cwd": "/"}, linux, cache=f"{state_root}/{SECCOMP_CACHE}")
        self.program.environment += environment
        self.program.state = self.oci_state("creating")
        self.namespaces = NamespacePlan(specs.namespaces(spec), linux)
        try:
            self.hidden = self.namespaces.has_own("user") or users.in_initial_namespace()
            self._check_user()
            self._open(spec, root, propagation)
            self.hierarchy = hierarchies.detect()
            self.resources = self._resources(linux.get("resources") or {})
            self.cgroup = self._cgroup(linux.get("cgroupsPath") or "")
        except BaseException:
            self.close()
            raise

    def _open(self, spec: dict[str, Any], root: RootMount | None, propagation: str) -> None:
        """Open the root and the sources of mounts."""
        own = "mount" in self.namespaces.new
        if not own and (self.masked_paths or self.readonly_paths):
            raise InvalidArgument(
                "masked and read-only paths need a mount namespace of the container's own",
                hint='add {"type": "mount"} to linux.namespaces',
            )
        self.root_fd = sources.open_root(root, self.root_path, propagation)
        self.sources = sources.prepare(spec, self.bundle, late=own and not self.namespaces.has_own("user"))
        self.nodes = nodes.prepare(spec, bind=self.namespaces.has_own("user"))
        self.has_terminals = any(source.destination == "/dev/pts" for source in self.sources)

    @property
    def mounts_outside(self) -> bool:
        """Whether the root is mounted in the namespace that we are in ourselves: then `delete` takes it down."""
        return not self.namespaces.has_own("mount")

    def _check_user(self) -> None:
        if "user" not in self.namespaces.new:
            return
        for name, ids, entries in (
            ("user", [self.program.uid], self.namespaces.uid_map),
            ("group", [self.program.gid, *self.program.groups], self.namespaces.gid_map),
        ):
            for one in ids:
                if not idmaps.maps_id(entries, one):
                    raise InvalidArgument(
                        f"{name} {one} is not mapped in the container's user namespace",
                        hint="give the user namespace more ids, or run as another user",
                    )

    def _resources(self, given: dict[str, Any]) -> dict[str, Any]:
        """The limits, with the default devices allowed after all rules, as runc has it: no container works without."""
        rules = given.get("devices")
        default = specs.device_rules()[1:]
        if rules and rules[-len(default) :] != default:
            return given | {"devices": [*rules, *default]}
        return given

    def _cgroup(self, wanted: str) -> cgroups.Cgroup | None:
        """The container's cgroup, not made yet; None where we may make none and nothing asks for one."""
        parent = hierarchies.default_parent(self.hierarchy)
        if wanted.startswith("/"):
            return cgroups.Cgroup(wanted, self.hierarchy)
        if parent:
            return cgroups.Cgroup(f"{parent}/{wanted or self.container_id}", self.hierarchy)
        limits = sorted(name for name, value in self.resources.items() if value and name != "devices")
        if limits:
            raise FailedPrecondition(
                f"limits ({', '.join(limits)}) need cgroups, and this user may not make any here",
                hint="run as root, or in a delegated scope: systemd-run --user --scope -p Delegate=yes",
            )
        if wanted:
            self.warn(f"the cgroup {wanted} cannot be made by this user: the container stays in ours")
        return None

    def cut_off(self) -> None:
        """In init: stop our copy of the host's mounts from changing the host's."""
        word = (self.spec.get("linux") or {}).get("rootfsPropagation")
        flag = mounts.MS_PRIVATE if word in _PRIVATE else mounts.MS_SLAVE
        mounts.mount("", "/", "", mounts.MS_REC | flag)

    def descriptors(self) -> list[int]:
        """What init needs beyond its channel and its barrier."""
        found = [0, 1, 2, *self.extra_fds, self.root_fd, *self.namespaces.joins.values()]
        found += [source.fd for source in self.sources]
        found += [node.host_fd for node in self.nodes]
        return [fd for fd in found if fd >= 0]

    def oci_state(self, word: str, pid: int = 1) -> dict[str, Any]:
        """The state for a hook. Inside, init is process 1 of its own PID namespace, or what we see."""
        container = states.Container(
            id=self.container_id,
            bundle=self.bundle,
            pid=pid,
            oci_version=self.spec["ociVersion"],
            annotations=self.spec.get("annotations") or {},
        )
        return states.oci_state(container, word)

    def close(self) -> None:
        """Close every descriptor we own; the caller's standard streams and extra ones stay open."""
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1
        sources.close(self.sources)
        nodes.close(self.nodes)
        self.namespaces.close()
