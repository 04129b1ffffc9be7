"""What a container's first process does between its birth and the execve of the program.

It is a fork of our own interpreter in the container's new namespaces. It talks to its maker through a channel until the
container is created, then waits at the start barrier, and from then on can only answer there.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os

from orlop.linux import namespaces, process, terminal
from orlop.runtime import cgroupmounts, errors, hooks, hygiene, membership, nodes, rootfs
from orlop.runtime.programs import drop_bounding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from orlop.runtime.barrier import Barrier
    from orlop.runtime.channel import Channel
    from orlop.runtime.launch import Launch

_SIGKILL = 9
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class Init:
    """The first process itself. Made in the child, from what the maker has prepared."""

    __slots__ = ("_barrier", "_channel", "_launch", "_path", "_program")

    def __init__(self, launch: Launch, channel: Channel, barrier: Barrier) -> None:
        self._launch = launch
        self._channel = channel
        self._barrier = barrier
        self._program = launch.program
        self._path: tuple[str, bytes] = ("", b"")

    def run(self) -> NoReturn:
        """Set the container up, wait for the start, execute the program. Never returns."""
        try:
            self._set_up()
            self._channel.send(created=True)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            os._exit(1)  # our maker was killed: so are we
        except Exception as error:  # noqa: BLE001  # nobody above us: it travels to the maker
            self._report(error)
        self._channel.close()
        try:
            self._barrier.wait()
            process.set_dumpable(False)
            self._start()
        except Exception as error:  # noqa: BLE001  # nobody above us: it travels to whoever starts
            os.write(self._barrier.reply_fd, errors.encode(error, "the program cannot be started"))
        finally:
            os._exit(1)

    def _report(self, error: Exception) -> NoReturn:
        try:
            self._channel.send(**errors.to_fields(error, "the container cannot be set up"))
        finally:
            os._exit(1)

    def _warn(self, text: str) -> None:
        self._channel.send(warn=text)

    # --- setting up

    def _set_up(self) -> None:
        launch = self._launch
        os.setsid()
        if launch.dies_with_maker:
            process.set_pdeathsig(_SIGKILL)
        if launch.keyring:
            self._program.join_keyring(launch.container_id, self._warn)
        self._program.set_oom_score(self._warn)
        given = launch.spec.get("hooks") or {}
        self._program.prepare(self._barrier.reply_fd, hooks=bool(given.get("startContainer")))
        keep = (self._channel.fd, self._barrier.start_fd, *self._program.descriptors, *launch.descriptors())
        hygiene.default_signals()
        hygiene.take_stdio(launch.stdio)
        if "user" in launch.namespaces.new:
            self._channel.expect("maps")
        if launch.namespaces.has_own("user"):
            become_root()
        # only now: /proc/<pid> of a process that nobody may look into belongs to root, and the maps come from our maker
        # In a user namespace that our interpreter was not started in, a hidden process is closed to its own maker, who
        # has yet to attach the network. The container's default capabilities are fewer than ours, so none of its
        # programs may look either; before we give them up, we hide.
        hygiene.seal(keep, hidden=launch.hidden)
        launch.namespaces.join(launch.namespaces.rest())
        os.umask(0)
        if launch.dies_with_maker:
            process.set_pdeathsig(_SIGKILL)  # changing credentials has cleared it
        self._name_things()
        self._file_system()
        self._program.set_limits(self._warn)
        self._program.enter_folder(make=True)
        if self._program.argv:
            self._path = self._program.find()

    def _name_things(self) -> None:
        spec = self._launch.spec
        if "network" in self._launch.namespaces.new:
            loopback_up()
        if spec.get("hostname"):
            _socket.sethostname(spec["hostname"])
        if spec.get("domainname"):
            process.set_domainname(spec["domainname"])
        for name, value in self._launch.sysctl.items():
            self._set_sysctl(name, value)

    def _set_sysctl(self, name: str, value: str) -> None:
        # the host's /proc, but the kernel answers by our namespaces
        path = "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise errors.from_os(error, f"sysctl {name} cannot be set to {value!r}") from error

    # --- the file system

    def _file_system(self) -> None:
        launch = self._launch
        own = "mount" in launch.namespaces.new
        if own:
            launch.cut_off()
        else:
            self._await_cgroup()
            launch.namespaces.join(("mount",))
        root = rootfs.attach_root(launch.root_fd, launch.root_path, shared=own and launch.shared, elsewhere=own)
        self._mount_all(root)
        self._await_cgroup()
        if rootfs.needs_devices(launch.sources):
            nodes.make_all(root, launch.nodes)
            nodes.make_links(root, terminals=launch.has_terminals)
        self._create_hooks()
        self._open_terminal(root)
        root.protect(launch.readonly_paths)
        root.mask(launch.masked_paths)
        drop_bounding(self._program.sets.bounding)
        how = "chroot" if not own else "pivot" if launch.pivot else "move"
        root.enter(how)
        root.finish(readonly=launch.root_readonly, propagation=launch.propagation)

    def _mount_all(self, root: rootfs.Root) -> None:
        for source in self._launch.sources:
            try:
                if source.kind == "bind":
                    root.attach(source)
                elif source.kind in ("cgroup", "cgroup2"):
                    self._mount_cgroup(root, source)
                else:
                    self._mount_kernel(root, source)
            except OSError as error:
                what = source.source if source.kind == "bind" else source.kind
                raise errors.from_os(error, f"{what} cannot be mounted on {source.destination}") from error

    def _mount_kernel(self, root: rootfs.Root, source: Any) -> None:
        try:
            root.mount(source)
        except PermissionError:
            # With the host's PID or network namespace a user namespace may not mount a /proc or /sys of its own.
            host = {"proc": "/proc", "sysfs": "/sys"}.get(source.kind)
            if host is None:
                raise
            readonly = source.kind == "sysfs"
            root.bind_host(host, source.destination, readonly=readonly)

    def _mount_cgroup(self, root: rootfs.Root, source: Any) -> None:
        self._await_cgroup()
        launch = self._launch
        path = launch.cgroup.path if launch.cgroup else ""
        view = cgroupmounts.View(launch.hierarchy, path, own_namespace=launch.namespaces.has_own("cgroup"))
        cgroupmounts.mount(root, source, view)

    def _await_cgroup(self) -> None:
        """Our maker has put us into our cgroups: only then may the cgroup namespace be made. Once."""
        if self._launch.cgroup_pending:
            self._launch.cgroup_pending = False
            membership.join(self._channel.expect("cgroup")["cgroup"])
            if "cgroup" in self._launch.namespaces.new:
                namespaces.unshare(namespaces.CLONE_NEWCGROUP)

    def _create_hooks(self) -> None:
        given = self._launch.spec.get("hooks") or {}
        if given.get("prestart") or given.get("createRuntime"):
            self._channel.send(hooks=True)
            self._channel.expect("hooked")
        if given.get("createContainer"):
            hooks.run("createContainer", given["createContainer"], self._launch.oci_state("creating"))

    # --- the terminal

    def _open_terminal(self, root: rootfs.Root) -> None:
        if not self._program.terminal:
            return
        pts = nodes.open_pts(root)
        try:
            master, slave, name = nodes.open_terminal(pts)
            if rootfs.needs_devices(self._launch.sources):
                nodes.bind_console(root, pts, name)
        finally:
            os.close(pts)
        self._use_terminal(master, slave)

    def _use_terminal(self, master: int, slave: int) -> None:
        take_terminal(self._program.size, master, slave)
        os.fchown(0, self._program.uid, -1)
        self._channel.send((master,), terminal=True)
        os.close(master)

    # --- after the start

    def _start(self) -> None:
        launch = self._launch
        process.set_pdeathsig(0)
        given = launch.spec.get("hooks") or {}
        if given.get("startContainer"):
            state = launch.oci_state("created")
            hooks.run("startContainer", given["startContainer"], state, start=self._program.spawn_hook)
        self._program.become()
        self._program.execute(*self._path)


def become_root() -> None:
    """Become the root of the user namespace that we are in, if it has one."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.setgroups([])
    except OSError as error:
        # EINVAL: no root there, so we stay who we are. EPERM: with a single mapped gid the kernel forbids setgroups;
        # our groups mean nothing inside then.
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise


def take_terminal(size: tuple[int, int], master: int, slave: int, *, controlling: bool = True) -> None:
    """Make `slave` our standard streams, of `size` (rows, columns) unless that is (0, 0).

    It becomes our controlling terminal, too, unless `controlling` is off.
    """
    if size != (0, 0):
        terminal.set_window_size(master, *size)
    for number in range(3):
        os.dup2(slave, number)
    if slave > 2:
        os.close(slave)
    if controlling:
        terminal.make_controlling(0)


def loopback_up() -> None:
    """Bring up `lo` of the network namespace that we are in."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
    try:
        request = fcntl.ioctl(sock.fileno(), _SIOCGIFFLAGS, b"lo".ljust(40, b"\0"))
        flags = int.from_bytes(request[16:18], "little") | _IFF_UP
        fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, request[:16] + flags.to_bytes(2, "little") + request[18:])
    finally:
        sock.close()
