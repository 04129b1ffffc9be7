"""A program to be run in a container: read from the spec's `process` outside, put into force inside, executed.

The order of the last steps is the one that runtimes have agreed on: limits, working folder, seccomp (early, when only
privilege may install it), groups and ids, capabilities, no_new_privs, seccomp (late, when it needs none), execve.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from orlop.linux import capabilities, process, seccomp, sockets, syscalls, users
from orlop.oci import jsontext
from orlop.runtime import barrier, executable, trampoline, verdicts
from orlop.runtime.errors import ProgramRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any, NoReturn

_SET_NAMES = ("bounding", "effective", "permitted", "inheritable", "ambient")
# linux/sched.h
_POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}
_POLICY_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1,
    "SCHED_FLAG_RECLAIM": 2,
    "SCHED_FLAG_DL_OVERRUN": 4,
    "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 32,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_DOMAINS = {"LINUX": 0, "LINUX32": 8}
_PASSWD_LIMIT = 1 << 20
_PR_CAPBSET_DROP = 24
_JOIN_SESSION_KEYRING = 1


class Program:
    """Everything about one program that the spec states, checked and turned into what system calls take."""

    __slots__ = (
        "argv",
        "by_proc",
        "cwd",
        "entered",
        "environment",
        "exe",
        "forks",
        "gid",
        "groups",
        "hook_fd",
        "hook_memfd",
        "label",
        "label_fd",
        "listener",
        "listener_socket",
        "memfd",
        "no_new_privs",
        "oom_score_adj",
        "personality",
        "process",
        "reply_fd",
        "report_fd",
        "rlimits",
        "seccomp",
        "seccomp_flags",
        "sets",
        "size",
        "state",
        "terminal",
        "uid",
        "umask",
    )

    def __init__(self, given: dict[str, Any], linux: dict[str, Any], *, cache: str) -> None:
        """`given`: the process object; `linux`: the spec's; compiled seccomp filters are kept in the folder `cache`."""
        self.process = given
        self.argv: list[str] = given.get("args") or []
        self.environment: list[str] = list(given.get("env") or ())
        self.cwd: str = given["cwd"]
        user = given.get("user") or {}
        self.uid: int = user.get("uid") or 0
        self.gid: int = user.get("gid") or 0
        self.groups: list[int] = user.get("additionalGids") or []
        self.umask: int = 0o022 if user.get("umask") is None else user["umask"]
        self.sets = _sets(given.get("capabilities") or {})
        self.no_new_privs: bool = given.get("noNewPrivileges") or False
        self.oom_score_adj: int | None = given.get("oomScoreAdj")
        self.rlimits = [(one["type"], one["soft"], one["hard"]) for one in given.get("rlimits") or ()]
        if self.rlimits:
            import resource  # noqa: F401  # what sets limits loads it, and inside nothing can be loaded
        self.terminal: bool = given.get("terminal") or False
        size = given.get("consoleSize") or {}
        self.size: tuple[int, int] = (size.get("height") or 0, size.get("width") or 0)
        self.state: dict[str, Any] = {}
        self.label = _label(given)
        self.label_fd = -1
        self.personality = _personality(linux.get("personality"))
        _scheduling(given)
        self.seccomp = b""
        self.seccomp_flags = 0
        self.listener: dict[str, Any] = {}
        self.listener_socket: _socket.socket | None = None
        self.by_proc = self.entered = False
        # A scheduling policy may forbid to fork, or be reset by it
        self.forks = trampoline.supported() and self.label is None and not given.get("scheduler")
        self.memfd = self.reply_fd = self.report_fd = self.hook_memfd = self.hook_fd = -1
        self.exe: tuple[int, int] = (0, 0)
        profile = linux.get("seccomp")
        if profile:
            self._compile(profile, cache)

    def _compile(self, profile: dict[str, Any], cache: str) -> None:
        self.seccomp = seccomp.cached(profile, cache)
        self.seccomp_flags = seccomp.flags_of(profile)
        if self.seccomp_flags & seccomp.NEW_LISTENER:
            if not profile.get("listenerPath"):
                raise InvalidArgument("a seccomp profile that notifies needs a listenerPath")
            self.listener = {"path": profile["listenerPath"], "metadata": profile.get("listenerMetadata") or ""}
        self.by_proc = not verdicts.allows(profile, "execveat")
        if self.listener or not (self.no_new_privs or verdicts.allows_forking(profile, terminal=self.terminal)):
            self.forks = False

    # --- outside

    def stage(self, report_fd: int) -> bool:
        """Make the trampoline that forks: `execute` will report to `report_fd` as `arrival` says.

        False where that cannot be. The program must be prepared and executed by a child of the caller, for whose
        children the PID namespace is set; the caller closes `memfd`.
        """
        if not self.forks:
            return False
        late = self.seccomp if self.no_new_privs else b""
        flags = self.seccomp_flags if late else 0
        image = trampoline.image(
            report_fd, seccomp=late, seccomp_flags=flags, fork=trampoline.INTO, terminal=self.terminal
        )
        try:
            self.memfd = trampoline.sealed(image)
        except OSError:
            return False  # this host forbids executable memfds
        self.report_fd = report_fd
        return True

    def prepare(self, reply_fd: int, *, hooks: bool = False) -> None:
        """Make the trampoline and remember our interpreter: call before entering the container.

        `reply_fd` is where a failed execve is reported. `hooks`: `spawn_hook` will be used. With a security
        module's label there is no trampoline: it would take the label, and the module itself protects the host's
        files.
        """
        self.reply_fd = reply_fd
        own = os.stat("/proc/self/exe")
        self.exe = (own.st_dev, own.st_ino)
        if self.listener:
            self.listener_socket = _connect(self.listener["path"])
        if self.label is not None:
            self.label_fd = os.open(self.label[0], os.O_WRONLY | os.O_CLOEXEC)
        elif self.memfd < 0 and trampoline.supported():
            late = self.seccomp if self.no_new_privs and not self.listener else b""
            try:
                self.memfd = trampoline.sealed(
                    trampoline.image(reply_fd, seccomp=late, seccomp_flags=self.seccomp_flags if late else 0)
                )
            except OSError:
                return  # this host forbids executable memfds: `_refuse_interpreter` stands in
            if hooks:
                self.hook_fd = os.dup(reply_fd)  # a number that is ours; the pipe comes later
                self.hook_memfd = trampoline.sealed(trampoline.image(self.hook_fd))

    @property
    def descriptors(self) -> list[int]:
        """What must stay open until execve."""
        listener = self.listener_socket.fileno() if self.listener_socket is not None else -1
        return [
            fd
            for fd in (
                listener, self.memfd, self.reply_fd, self.report_fd, self.label_fd, self.hook_fd, self.hook_memfd,
            )
            if fd >= 0
        ]  # fmt: skip

    def set_oom_score(self, warn: Callable[[str], None]) -> None:
        """How eagerly the kernel kills us for memory; call while our own /proc is the host's and open to us."""
        if self.oom_score_adj is None:
            return
        try:
            _write("/proc/self/oom_score_adj", str(self.oom_score_adj))
        except PermissionError:
            with open("/proc/self/oom_score_adj", "rb") as file:
                now = int(file.read())
            warn(f"oomScoreAdj {self.oom_score_adj} is lower than this user may set: it stays at {now}")

    def join_keyring(self, name: str, warn: Callable[[str], None]) -> None:
        """Leave the session keyring of whoever made us for one of the container's own (keyrings(7))."""
        try:
            syscalls.call("keyctl", _JOIN_SESSION_KEYRING, os.fsencode(f"_ses.{name}") + b"\0", doing="join a keyring")
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):  # no keyrings here, or a seccomp filter around us
                warn(f"the container shares our session keyring: {error.strerror}")

    # --- inside, as root

    def find(self) -> tuple[str, bytes]:
        """The file to execute and its first bytes; the working folder must be set already."""
        path = executable.find(self.argv[0] if self.argv else "", executable.search_path(self.environment))
        return path, executable.head_of(path)

    def enter_folder(self, *, make: bool) -> None:
        """Go to the working folder, made when `make`; it must lie inside this root (CVE-2024-21626)."""
        if make:
            before = os.umask(0o022)  # makedirs gives its mode to the last folder only; the others get 0777
            try:
                os.makedirs(self.cwd, mode=0o755, exist_ok=True)
            except FileExistsError as error:
                raise FailedPrecondition(f"the working folder {self.cwd} is no folder in the image") from error
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
            finally:
                os.umask(before)
        self.entered = False
        try:
            os.chdir(self.cwd)
        except PermissionError:
            return  # perhaps only the user itself may: `become` tries again
        except OSError as error:
            raise FailedPrecondition(
                f"the working folder {self.cwd} cannot be entered: {error.strerror}",
                hint="make it in the image, or choose another (--workdir)",
            ) from error
        self._check_folder()
        self.entered = True

    def _check_folder(self) -> None:
        try:
            inside = os.getcwd().startswith("/")
        except FileNotFoundError:
            inside = False
        if not inside:
            raise PermissionDenied(f"the working folder {self.cwd} is outside of the container's root file system")

    def set_limits(self, warn: Callable[[str], None]) -> None:
        """Resource limits; those we may not raise are cut to what we may."""
        for kind, soft, hard in self.rlimits:
            said = process.set_rlimit_clamped(kind, soft, hard)
            if said:
                warn(said)

    def become(self) -> list[str]:
        """Turn from root into who the spec says; the names of capabilities that could not be given."""
        self._schedule()
        if self.personality is not None:
            syscalls.call("personality", self.personality, doing="set the personality")
        os.umask(self.umask)
        if self.label is not None:
            os.write(self.label_fd, self.label[1].encode())
        if self.seccomp and (self.listener or not self.no_new_privs):
            if self.no_new_privs:
                process.set_no_new_privs()
            self._install()
        missing = capabilities.become(self.uid, self.gid, self.groups, self.sets)
        if self.no_new_privs:
            process.set_no_new_privs()
        if not self.entered:
            self._enter_as_user()
        return missing

    def _enter_as_user(self) -> None:
        """Go to the working folder that was closed to root: one of a network file system, say."""
        try:
            os.chdir(self.cwd)
        except OSError as error:
            raise PermissionDenied(
                f"the working folder {self.cwd} cannot be entered by user {self.uid}: {error.strerror}"
            ) from error
        self._check_folder()

    def execute(self, path: str, head: bytes) -> NoReturn:
        """Execute the file. A failure is raised or, once the trampoline runs, written to the reply descriptor."""
        environment = self._environment()
        os.write(self.reply_fd, barrier.prelude(path, head))
        if self.report_fd >= 0:
            # Only the trampoline may go on: we are outside of the container's PID namespace
            os.set_inheritable(self.report_fd, True)
            os.execve(self.memfd, [path, *self.argv], environment)  # noqa: S606  # no shell: on purpose
        if self.memfd >= 0:
            os.set_inheritable(self.reply_fd, True)
            place: int | str = self._by_name() if self.by_proc else self.memfd
            try:
                os.execve(place, [path, *self.argv], environment)  # noqa: S606  # no shell: on purpose
            except OSError:
                os.set_inheritable(self.reply_fd, False)
        if self.seccomp and self.no_new_privs and not self.listener:
            self._install()
        self._refuse_interpreter(path, head)
        try:
            os.execve(path, self.argv, environment)  # noqa: S606  # no shell: on purpose
        except OSError as error:
            raise executable.explain(path, error.errno or errno.EIO, head) from error

    def spawn_hook(self, path: str, argv: list[str], environment: dict[str, str], stdin: int, stderr: int) -> int:
        """Start a startContainer hook: a file of the container, so through a trampoline as well."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                for fd, number in ((stdin, 0), (stderr, 1), (stderr, 2)):
                    os.dup2(fd, number)
                if self.hook_memfd >= 0:
                    os.dup2(writer, self.hook_fd)
                    os.close(writer)
                    os.execve(self.hook_memfd, [path, *argv], environment)  # noqa: S606  # no shell: on purpose
                os.execve(path, argv, environment)  # noqa: S606  # no shell: on purpose
            except OSError as error:
                os.write(writer, (error.errno or errno.EIO).to_bytes(4, "little"))
            finally:
                os._exit(127)
        os.close(writer)
        failed = os.read(reader, 4)
        os.close(reader)
        if failed:
            os.waitpid(pid, 0)
            code = int.from_bytes(failed, "little")
            raise OSError(code, os.strerror(code), path)
        return pid

    # --- the parts

    def _by_name(self) -> int | str:
        """A name for the trampoline, for seccomp profiles without execveat; the descriptor where there is none."""
        name = f"/proc/self/fd/{self.memfd}"
        try:
            found, own = os.stat(name), os.fstat(self.memfd)
        except OSError:
            return self.memfd
        return name if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino) else self.memfd

    def _environment(self) -> dict[str, str]:
        found = {name: value for name, _, value in (entry.partition("=") for entry in self.environment) if name}
        if "HOME" not in found:
            found["HOME"] = _home_of(self.uid)
        return found

    def _install(self) -> None:
        listener = seccomp.install(self.seccomp, self.seccomp_flags)
        if self.listener_socket is not None:
            state = self.state | {"pid": os.getpid()}
            message = {
                "ociVersion": state.get("ociVersion", ""),
                "fds": ["seccompFd"],
                "pid": os.getpid(),
                "metadata": self.listener["metadata"],
                "state": state,
            }
            sockets.send_with_descriptors(self.listener_socket, jsontext.dumps(message), [listener])
            self.listener_socket.close()
            os.close(listener)

    def _refuse_interpreter(self, path: str, head: bytes) -> None:
        """Without a trampoline, at least never execute our own interpreter for the container."""
        names = [path]
        if head.startswith(b"#!"):
            words = head[2:].split(b"\n", 1)[0].split(None, 1)
            names += [os.fsdecode(words[0])] if words else []
        loader = executable.elf_loader(head)
        names += [loader] if loader else []
        for name in names:
            try:
                found = os.stat(name)
            except OSError:
                continue  # execve will say what is wrong
            if (found.st_dev, found.st_ino) == self.exe:
                raise ProgramRefused(f'exec: "{path}": it would run the host\'s own interpreter')

    def _schedule(self) -> None:
        chosen = self.process.get("scheduler")
        if chosen:
            flags = sum(_POLICY_FLAGS[name] for name in chosen.get("flags") or ())
            attributes = (48).to_bytes(4, "little") + _POLICIES[chosen["policy"]].to_bytes(4, "little")
            attributes += flags.to_bytes(8, "little")
            attributes += (chosen.get("nice") or 0).to_bytes(4, "little", signed=True)
            attributes += (chosen.get("priority") or 0).to_bytes(4, "little")
            for name in ("runtime", "deadline", "period"):
                attributes += (chosen.get(name) or 0).to_bytes(8, "little")
            syscalls.call("sched_setattr", 0, attributes, 0, doing=f"set the scheduler to {chosen['policy']}")
        io_priority = self.process.get("ioPriority")
        if io_priority:
            value = _IO_CLASSES[io_priority["class"]] << 13 | (io_priority.get("priority") or 0)
            syscalls.call("ioprio_set", 1, 0, value, doing=f"set the I/O priority to {io_priority['class']}")


def drop_bounding(keep: frozenset[str]) -> None:
    """Take everything but `keep` out of the bounding set, for good, without asking any file how many there are."""
    kept = capabilities.mask_of(keep)
    for number in range(64):
        if not kept >> number & 1:
            try:
                process.prctl(_PR_CAPBSET_DROP, number, doing=f"drop capability {number} from the bounding set")
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return  # beyond the last one of this kernel
                raise


def _connect(path: str) -> _socket.socket:
    try:
        return sockets.unix_connect(path)
    except OSError as error:
        raise FailedPrecondition(
            f"nobody listens for seccomp notifications at {path}: {error.strerror}", hint="start the agent first"
        ) from error


def _sets(given: dict[str, list[str]]) -> capabilities.Sets:
    return capabilities.Sets(**{name: frozenset(given.get(name) or ()) for name in _SET_NAMES})


def _label(given: dict[str, Any]) -> tuple[str, str] | None:
    """Where a security module takes the label of the next execve, and the text; None without one."""
    apparmor, selinux = given.get("apparmorProfile"), given.get("selinuxLabel")
    if apparmor:
        if not os.path.isdir("/sys/kernel/security/apparmor"):
            raise FailedPrecondition(
                f"the AppArmor profile {apparmor} cannot be used: this kernel runs without AppArmor",
                hint="leave apparmorProfile out",
            )
        place = "/proc/self/attr/apparmor/exec"
        return (place if os.path.exists(place) else "/proc/self/attr/exec", f"exec {apparmor}")
    if selinux:
        if not os.path.isdir("/sys/fs/selinux"):
            raise FailedPrecondition(
                f"the SELinux label {selinux} cannot be used: this kernel runs without SELinux",
                hint="leave selinuxLabel out",
            )
        return ("/proc/self/attr/exec", selinux)
    return None


def _personality(given: dict[str, Any] | None) -> int | None:
    if not given:
        return None
    if given.get("flags"):
        raise InvalidArgument(f"linux.personality has the flags {given['flags']}; the specification defines none")
    return _DOMAINS[given["domain"]]


def _scheduling(given: dict[str, Any]) -> None:
    """Check the words of scheduler and ioPriority before anything is made."""
    chosen, io_priority = given.get("scheduler"), given.get("ioPriority")
    if chosen and chosen["policy"] not in _POLICIES:
        raise InvalidArgument(f"{chosen['policy']!r} is not a scheduler policy", hint=f"one of {', '.join(_POLICIES)}")
    for name in (chosen or {}).get("flags") or ():
        if name not in _POLICY_FLAGS:
            raise InvalidArgument(f"{name!r} is not a scheduler flag", hint=f"one of {', '.join(_POLICY_FLAGS)}")
    if io_priority and io_priority["class"] not in _IO_CLASSES:
        raise InvalidArgument(
            f"{io_priority['class']!r} is not an I/O priority class", hint=f"one of {', '.join(_IO_CLASSES)}"
        )


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _home_of(uid: int) -> str:
    """The home folder that the container's /etc/passwd states; "/" without one."""
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return "/"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "/"
        data = os.read(fd, _PASSWD_LIMIT)
    finally:
        os.close(fd)
    for entry in users.parse_passwd(data):
        if entry.uid == uid:
            return entry.home or "/"
    return "/"
