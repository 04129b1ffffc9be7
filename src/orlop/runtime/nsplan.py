"""Which namespaces a container gets new, which it joins, and how its first process comes to live in them.

One clone call is enough for nearly every container. A process in between is needed only where a namespace must be
entered before the others are made (a user namespace that exists, a PID or time namespace, which only take effect
for children); it makes init its sibling (CLONE_PARENT), so that init is always the caller's child.
"""

from __future__ import annotations

import os

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop.linux import namespaces, process
from orlop.runtime import errors, idmaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_CLONE_PARENT = 0x8000
_STAGED = ("user", "pid", "time")
# the order matters: rights over the others come with the user namespace, paths end with the mount namespace
_JOIN_ORDER = ("user", "network", "ipc", "uts", "pid", "time", "cgroup", "mount")


class NamespacePlan:
    """The namespaces of one container. `joins` holds open descriptors by kind; `new` are the kinds to be made."""

    __slots__ = ("gid_map", "joins", "new", "offsets", "uid_map")

    def __init__(self, wanted: dict[str, str], linux: dict[str, Any]) -> None:
        self.new = frozenset(kind for kind, path in wanted.items() if not path)
        self.joins: dict[str, int] = {}
        self.uid_map = idmaps.of_entries(linux, "uidMappings") if "user" in self.new else []
        self.gid_map = idmaps.of_entries(linux, "gidMappings") if "user" in self.new else []
        self.offsets = {
            clock: (given.get("secs") or 0, given.get("nanosecs") or 0)
            for clock, given in (linux.get("timeOffsets") or {}).items()
        }
        try:
            for kind in _JOIN_ORDER:
                if wanted.get(kind):
                    self._open(kind, wanted[kind])
        except BaseException:
            self.close()
            raise

    def _open(self, kind: str, path: str) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(
                f"the {kind} namespace {path} cannot be joined: {error.strerror}",
                hint="the container or process that it belonged to may be gone",
            ) from error
        found, own = os.fstat(fd), os.stat(f"/proc/self/ns/{namespaces.TYPES[kind][1]}")
        if kind == "user" and (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
            os.close(fd)  # the kernel refuses to join what one is in
            return
        self.joins[kind] = fd

    def close(self) -> None:
        """Close the descriptors of namespaces to join."""
        for fd in self.joins.values():
            os.close(fd)
        self.joins.clear()

    def has_own(self, kind: str) -> bool:
        """Whether the container does not share this namespace with us."""
        return kind in self.new or kind in self.joins

    @property
    def clone_flags(self) -> int:
        """What the clone call itself makes: a time namespace and the cgroup namespace are made by their own steps."""
        kinds = self.new - {"time", "cgroup"}
        return sum(namespaces.TYPES[kind][0] for kind in kinds)

    @property
    def staged(self) -> bool:
        """Whether a process in between is needed."""
        if "time" in self.new or any(kind in self.joins for kind in _STAGED):
            return True
        return "user" in self.new and bool(self.joins)

    def join(self, kinds: tuple[str, ...]) -> None:
        """Join those of `kinds` that are to be joined, in the order that works."""
        for kind in _JOIN_ORDER:
            if kind in kinds and kind in self.joins:
                try:
                    namespaces.setns(self.joins[kind], namespaces.TYPES[kind][0])
                except OSError as error:
                    raise errors.from_os(error, f"cannot join the {kind} namespace") from error

    def start(self, body: Callable[[], NoReturn]) -> int:
        """Start a child that runs `body` in the new namespaces; its pid as we see it.

        Of those to be joined, the ones that take effect only for children are joined; `body` joins the `rest`.
        """
        try:
            if self.staged:
                return self._start_staged(body)
            pid = process.fork_into(self.clone_flags)
        except OSError as error:
            hint = ""
            if "user" in self.new:
                hint = (
                    "see user.max_user_namespaces, kernel.unprivileged_userns_clone and AppArmor's userns restriction"
                )
            raise errors.from_os(error, "the container's namespaces cannot be made").__class__(
                f"the container's namespaces cannot be made: {error.strerror}", hint=hint
            ) from error
        if pid == 0:
            _run(body)
        return pid

    def rest(self) -> tuple[str, ...]:
        """The kinds that init must join at once; the mount namespace comes when nothing of ours is needed."""
        return () if self.staged else ("network", "ipc", "uts", "cgroup")

    def _start_staged(self, body: Callable[[], NoReturn]) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        stage = os.fork()
        if stage == 0:
            _run(lambda: self._stage(body, writer))
        os.close(writer)
        said = b""
        while data := os.read(reader, 65536):
            said += data
        os.close(reader)
        os.waitpid(stage, 0)
        if said.startswith(b"{"):
            raise errors.decode(said)
        if not said:
            raise FailedPrecondition("the process that joins the container's namespaces died")
        return int(said)

    def _stage(self, body: Callable[[], NoReturn], writer: int) -> NoReturn:
        try:
            self.join(("user", "network", "ipc", "uts", "pid", "time", "cgroup"))
            if "time" in self.new:
                namespaces.unshare(namespaces.CLONE_NEWTIME)
                self._set_offsets()
            pid = process.fork_into(self.clone_flags | _CLONE_PARENT)
        except Exception as error:  # noqa: BLE001  # a forked process must not unwind into its caller's code
            os.write(writer, errors.encode(error, "the container's namespaces cannot be made"))
            os._exit(1)
        if pid == 0:
            os.close(writer)
            body()
        os.write(writer, b"%d" % pid)
        os._exit(0)

    def _set_offsets(self) -> None:
        if not self.offsets:
            return
        lines = "".join(f"{clock} {seconds} {ns}\n" for clock, (seconds, ns) in self.offsets.items())
        fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, lines.encode())
        except OSError as error:
            raise InvalidArgument(f"linux.timeOffsets {self.offsets} cannot be set: {error.strerror}") from error
        finally:
            os.close(fd)


def _run(body: Callable[[], NoReturn]) -> NoReturn:
    """Run a forked child's code; whatever happens, it never returns into the parent's."""
    try:
        body()
    finally:
        os._exit(70)
