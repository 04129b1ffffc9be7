"""Another program in a running container (runc's `exec`; the runtime-spec leaves it to runtimes).

The caller, which must have one thread, forks a child that joins the container's cgroups and, in one setns call on a
pidfd, its namespaces. The PID namespace it joins for its children only: it gives up its rights outside, where nobody of
the container can reach an interpreter of ours (CAP_SYS_PTRACE would open it, dumpable or not), and the trampoline forks
the program into it, as the caller's own child (see `arrival`).

Where the trampoline cannot fork (a seccomp profile or a scheduling policy forbids it, a security module's label leaves
no room for a trampoline, memfds cannot be executed) the caller joins the PID namespace for the moment of the fork and
goes back, and the interpreter that enters is only hidden by not being dumpable.
"""

from __future__ import annotations

import os
import select

from orlop.errors import DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, NotFound
from orlop.linux import cgroups, namespaces, process, users
from orlop.oci import runtime_spec
from orlop.runtime import arrival, barrier, channel, errors, hygiene, lifecycle, membership, nodes
from orlop.runtime import exit as exits
from orlop.runtime import state as states
from orlop.runtime.creation import ignore
from orlop.runtime.init import become_root, take_terminal
from orlop.runtime.launch import SECCOMP_CACHE
from orlop.runtime.programs import Program, drop_bounding
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_SIGKILL = 9
_CLONE_PARENT = 0x8000


class Started(Value):
    """A program in a container, a child of the caller. `terminal` is its master side (now the caller's), or -1."""

    pid: int
    terminal: int = -1


def execute(
    container_id: str,
    given: dict[str, Any],
    *,
    state_root: str,
    stdio: tuple[int, int, int] = (0, 1, 2),
    preserve_fds: int = 0,
    timeout: float | None = None,
    warn: Callable[[str], None] = ignore,
) -> int:
    """Run the program that the process object `given` describes, and wait for its end: its exit code (128 + signal).

    DeadlineExceeded after `timeout` seconds; the program (its whole process group) is killed then.
    """
    if given.get("terminal"):
        raise InvalidArgument("a program with a terminal needs somebody who serves it: use `begin`")
    started = begin(container_id, given, state_root=state_root, stdio=stdio, preserve_fds=preserve_fds, warn=warn)
    return wait(started.pid, timeout)


def wait(pid: int, timeout: float | None = None) -> int:
    """Wait for a program that `begin` started: its exit code. DeadlineExceeded after `timeout` seconds, killing it."""
    if timeout is not None:
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(timeout * 1000):
                os.killpg(pid, _SIGKILL)
                os.waitpid(pid, 0)
                raise DeadlineExceeded(f"the program did not end within {timeout:g} seconds and was killed")
        finally:
            os.close(pidfd)
    return exit_code(os.waitpid(pid, 0)[1])


def exit_code(status: int) -> int:
    """A wait status as a shell reports it: 128 + signal for a program that a signal ended."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def begin(
    container_id: str,
    given: dict[str, Any],
    *,
    state_root: str,
    stdio: tuple[int, int, int] = (0, 1, 2),
    preserve_fds: int = 0,
    console: Callable[[int], None] | None = None,
    pid_file: str = "",
    cgroup: str = "",
    ignore_paused: bool = False,
    warn: Callable[[str], None] = ignore,
) -> Started:
    """Start a program in a container; returns once it is executed, raises why it cannot be.

    `given` is a runtime-spec process object. `stdio`, `console`, `preserve_fds` as for `creation.create`. `cgroup`
    is the name of a group inside the container's, which must be there. With `ignore_paused` a paused container is
    entered, where the program waits with the others.
    """
    process.require_one_thread()
    runtime_spec.validate_process(given)
    container, path = states.load(state_root, container_id)
    word = lifecycle.state(container_id, state_root=state_root)["status"]
    if word not in (states.RUNNING, states.CREATED) and not (word == states.PAUSED and ignore_paused):
        hint = "unpause it first" if word == states.PAUSED else "start it first"
        raise FailedPrecondition(f"container {container_id} is {word}, nothing can be executed in it", hint=hint)
    linux = states.config(path).get("linux") or {}
    program = Program(given, linux, cache=f"{state_root}/{SECCOMP_CACHE}")
    program.state = states.oci_state(container, word)
    joining = _Joining(container, program, stdio, tuple(range(3, 3 + preserve_fds)), cgroup)
    try:
        started = joining.run(console, warn)
    except OSError as error:
        raise errors.from_os(error, f"container {container_id} cannot be entered") from error
    if pid_file:
        folder, name = os.path.split(os.path.abspath(pid_file))
        exits.write(folder, name, b"%d" % started.pid)
    return started


class _Joining:
    """One program on its way into a container."""

    def __init__(
        self,
        container: states.Container,
        program: Program,
        stdio: tuple[int, int, int],
        extra: tuple[int, ...],
        cgroup: str,
    ) -> None:
        self._container = container
        self._program = program
        self._stdio = stdio
        self._extra = extra
        self._groups = _groups(container, cgroup)
        affinity = program.process.get("execCPUAffinity") or {}
        self._first_cpus = cpu_set(affinity.get("initial") or "")
        self._last_cpus = cpu_set(affinity.get("final") or "")

    def run(self, console: Callable[[int], None] | None, warn: Callable[[str], None]) -> Started:
        """Fork the child into the container and wait until it executes the program."""
        container = self._container
        pidfd = process.pidfd_open(container.pid)
        try:
            if not container.alive:  # checked after the pidfd is ours: from now on it is this process or none
                raise FailedPrecondition(f"container {container.id} has just stopped")
            flags = _foreign(container.pid)
            news = self._stage(flags)
            ours, theirs = channel.pair()
            reader, writer = os.pipe2(os.O_CLOEXEC)
            try:
                pid = self._fork(flags, lambda: self._enter(pidfd, flags, theirs, writer))
            finally:
                theirs.close()
                os.close(writer)
                if news:
                    news.entrust()
                    os.close(self._program.memfd)
        finally:
            os.close(pidfd)
        try:
            return self._await(pid, ours, reader, news, console, warn)
        finally:
            ours.close()
            os.close(reader)
            if news:
                news.close()

    def _await(
        self,
        pid: int,
        ours: channel.Channel,
        reader: int,
        news: arrival.Arrival | None,
        console: Callable[[int], None] | None,
        warn: Callable[[str], None],
    ) -> Started:
        """Wait until our child `pid` has executed the program, or had it executed; on failure nothing of it is left."""
        master = -1
        try:
            master = self._listen(ours, console, warn)
            said = _read_all(reader)
            barrier.check(said)
            if news:
                child, pid = pid, -1  # from here on it is reaped by `wait`
                pid, code = news.wait(child, self._container)
                barrier.check(said + code)
        except BaseException as error:
            if master >= 0:
                os.close(master)
            if pid >= 0:
                os.kill(pid, _SIGKILL)  # not reaped yet, so it is still ours
                os.waitpid(pid, 0)
            if isinstance(error, EOFError):
                raise Internal("the process that enters the container died") from None
            raise
        return Started(pid=pid, terminal=master)

    def _stage(self, flags: int) -> arrival.Arrival | None:
        """Have the trampoline fork into the PID namespace; None where it cannot, or where that is ours as well."""
        if not flags & namespaces.CLONE_NEWPID or not self._program.forks:
            return None
        news = arrival.Arrival()
        if self._program.stage(news.fd):
            return news
        news.close()
        return None

    def _fork(self, flags: int, body: Callable[[], NoReturn]) -> int:
        into = flags & namespaces.CLONE_NEWPID and self._program.report_fd < 0
        if into and not users.in_initial_namespace():
            return self._fork_staged(body)
        home = -1
        if into:
            home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            target = os.open(f"/proc/{self._container.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            namespaces.setns(target, namespaces.CLONE_NEWPID)
            os.close(target)
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    body()
                finally:
                    os._exit(70)
        finally:
            if home >= 0:
                namespaces.setns(home, namespaces.CLONE_NEWPID)
                os.close(home)
        return pid

    def _fork_staged(self, body: Callable[[], NoReturn]) -> int:
        """Without rights over the PID namespace that we are in there is no way back into it: another one joins."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        stage = os.fork()
        if stage == 0:
            try:
                target = os.open(f"/proc/{self._container.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
                namespaces.setns(target, namespaces.CLONE_NEWPID)
                pid = process.fork_into(_CLONE_PARENT)
                if pid == 0:
                    os.close(writer)
                    body()
                os.write(writer, b"%d" % pid)
            except OSError as error:
                os.write(writer, errors.encode(error, "the container's PID namespace cannot be joined"))
            finally:
                os._exit(0)
        os.close(writer)
        said = _read_all(reader)
        os.close(reader)
        os.waitpid(stage, 0)
        if not said:
            raise FailedPrecondition(f"the process that joins container {self._container.id} died")
        if not said.isdigit():
            raise errors.decode(said)
        return int(said)

    def _listen(self, ours: channel.Channel, console: Callable[[int], None] | None, warn: Callable[[str], None]) -> int:
        master = -1
        while True:
            message, fds = ours.receive()
            if "error" in message:
                raise errors.of_fields(message)
            if "terminal" in message:
                master = fds[0]
                if console is not None:
                    console(master)
                    os.close(master)
                    master = -1
            elif "warn" in message:
                warn(message["warn"])
            else:
                return master

    # --- the child

    def _enter(self, pidfd: int, flags: int, theirs: channel.Channel, reply: int) -> NoReturn:
        program = self._program
        try:
            path, head = self._set_up(pidfd, flags, theirs, reply)
            theirs.send(ready=True)
            theirs.close()
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)
        except Exception as error:  # noqa: BLE001  # nobody above us: it travels to our maker
            theirs.send(**errors.to_fields(error, "the container cannot be entered"))
            os._exit(1)
        try:
            program.become()
            program.execute(path, head)
        except Exception as error:  # noqa: BLE001  # nobody above us: it travels to our maker
            os.write(reply, errors.encode(error, "the program cannot be started"))
        finally:
            os._exit(1)

    def _set_up(self, pidfd: int, flags: int, theirs: channel.Channel, reply: int) -> tuple[str, bytes]:
        program = self._program
        os.setsid()
        program.join_keyring(self._container.id, lambda text: theirs.send(warn=text))
        program.set_oom_score(lambda text: theirs.send(warn=text))
        program.prepare(reply)
        hygiene.default_signals()
        hygiene.take_stdio(self._stdio)
        if self._first_cpus:
            os.sched_setaffinity(0, self._first_cpus)
        membership.join(self._groups)
        root = -1
        if not self._container.own_mounts:
            root = os.open(f"/proc/{self._container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        hygiene.seal((0, 1, 2, *self._extra, pidfd, root, theirs.fd, *program.descriptors))
        # with a trampoline that forks this is where the PID namespace of its child is set; else we are in it already
        namespaces.setns(pidfd, flags if program.report_fd >= 0 else flags & ~namespaces.CLONE_NEWPID)
        os.close(pidfd)
        if root >= 0:
            os.fchdir(root)
            os.chroot(".")
            os.close(root)
        if flags & namespaces.CLONE_NEWUSER:
            become_root()
            process.set_dumpable(False)
        if self._last_cpus:
            os.sched_setaffinity(0, self._last_cpus)
        os.umask(0o022)
        drop_bounding(program.sets.bounding)
        program.set_limits(lambda text: theirs.send(warn=text))
        program.enter_folder(make=False)
        found = program.find()
        if program.terminal:
            self._open_terminal(theirs)
        return found

    def _open_terminal(self, theirs: channel.Channel) -> None:
        try:
            pts = os.open("/dev/pts", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise FailedPrecondition(f"the container has no /dev/pts: {error.strerror}") from error
        master, slave, _ = nodes.open_terminal(pts)
        os.close(pts)
        # a trampoline that forks makes it the controlling terminal of its child's session
        take_terminal(self._program.size, master, slave, controlling=self._program.report_fd < 0)
        os.fchown(0, self._program.uid, -1)
        theirs.send((master,), terminal=True)
        os.close(master)


def _groups(container: states.Container, inner: str) -> list[str]:
    """The cgroup directories for a program: the container's, or those of `inner` below it."""
    if not container.cgroup:
        return []
    found = cgroups.Cgroup(f"{container.cgroup}/{inner}" if inner else container.cgroup).directories()
    if inner and not found:
        raise NotFound(f"container {container.id} has no cgroup {inner}", hint="make it below /sys/fs/cgroup first")
    return found


def _foreign(pid: int) -> int:
    """The namespaces of process `pid` that are not ours, as CLONE_NEW* flags."""
    flags = 0
    for flag, name in namespaces.TYPES.values():
        try:
            if namespaces.identity(f"/proc/{pid}/ns/{name}") != namespaces.identity(f"/proc/self/ns/{name}"):
                flags |= flag
        except FileNotFoundError:
            continue  # a kind of namespace that this kernel does not have
    return flags


def _read_all(fd: int) -> bytes:
    """All that is said, up to a limit: a process of the container can get hold of the other end."""
    said = b""
    while len(said) < barrier.LIMIT and (data := os.read(fd, 65536)):
        said += data
    return said


def cpu_set(text: str) -> set[int]:
    """A list of CPUs as the kernel writes it ("0-3,7"); InvalidArgument for anything else."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) > 4096:
            raise InvalidArgument(f"{text!r} is not a list of CPUs", hint="e.g. 0-3,7")
        found.update(range(int(low), int(high or low) + 1))
    return found
