"""Without root: one user and mount namespace per user, kept by a holder process and joined by every command.

In it we are root over the ids that /etc/subuid and /etc/subgid grant us, or, where newuidmap is missing, over our own
id alone. Commands that share it share file ownership, mounts and the right to join each other's containers.

    run/holder.json   the holder: {"pid", "ticks", "ids": how many are mapped, "why": not more, "user", "mnt":
                      inodes of its namespaces}

A holder that was killed is replaced. While any process of the namespaces lives (a container, its shim), the new holder
joins them; only then are containers that still run reachable for `exec`: rights over a user namespace go to its parent,
not to its siblings.
"""

from __future__ import annotations

import errno
import os

from orlop.engine.status import read_json, write_json
from orlop.errors import FailedPrecondition
from orlop.linux import mounts, namespaces, process, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from orlop.engine.settings import Settings

    IdMap = list[tuple[int, int, int]]  # (inside, outside, count)

_BOTH = namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS
_FLAGS = {"user": namespaces.CLONE_NEWUSER, "mnt": namespaces.CLONE_NEWNS}
_SLEEP = "import _signal\nwhile True: _signal.pause()"
_TRIES = 3


def enter(settings: Settings) -> None:
    """Join the user's namespaces, making them if need be. Afterwards this process is root in them.

    FailedPrecondition in a process with threads (the kernel cannot move them), or where the machine forbids it.
    """
    if process.thread_count() != 1:
        raise FailedPrecondition(
            "without root, the first verb must run before the program starts threads",
            hint="call a verb (engine.images.list()) once, early",
        )
    os.makedirs(settings.run_root, mode=0o700, exist_ok=True)
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = "/"  # the folder we were in is gone
    for attempt in range(_TRIES):
        try:
            _join(_holder(settings))
            break
        except (FileNotFoundError, ProcessLookupError) as error:  # it was killed under our eyes
            if attempt == _TRIES - 1:
                raise FailedPrecondition("the process that keeps your namespaces is killed again and again") from error
    os.chdir(here)  # joining a mount namespace moves us to its root


def _holder(settings: Settings) -> int:
    """The pid of the living holder."""
    import fcntl

    path = f"{settings.run_root}/holder.json"
    lock = os.open(f"{settings.run_root}/holder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_json(path)
        if known is not None and process.alive(known["pid"], known["ticks"]):
            return int(known["pid"])
        pid, ids, why = _made_again(known) or _made(settings)
        found = {name: os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in _FLAGS}
        write_json(path, {"pid": pid, "ticks": process.start_ticks(pid), "ids": ids, "why": why, **found})
        return pid
    finally:
        os.close(lock)


def _join(pid: int) -> None:
    for name, flag in _FLAGS.items():
        descriptor = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(descriptor, flag)
        finally:
            os.close(descriptor)


# --- which ids


def id_maps(settings: Settings) -> tuple[IdMap, IdMap]:
    """The (inside, outside, count) maps that this user may have; one entry each where there is but the own id."""
    found = []
    path = dict(settings.environ).get("PATH", "")
    helped = all(
        any(os.access(f"{folder}/{program}", os.X_OK) for folder in path.split(":") if folder)
        for program in ("newuidmap", "newgidmap")
    )
    for kind, own in (("uid", settings.uid), ("gid", os.getgid())):
        granted = users.subordinate_ids(kind, user_name(settings.uid), settings.uid) if helped else []
        found.append(laid_out(own, granted))
    uids, gids = found
    if len(uids) == 1 or len(gids) == 1:
        return uids[:1], gids[:1]
    return uids, gids


def laid_out(own: int, granted: list[tuple[int, int]]) -> IdMap:
    """Our own id as 0, the granted ranges (first, count) from 1 on; what overlaps an earlier one is left out. Pure."""
    entries, inside = [(0, own, 1)], 1
    for first, count in granted:
        if all(first + count <= taken or taken + size <= first for _, taken, size in entries):
            entries.append((inside, first, count))
            inside += count
    return entries


def user_name(uid: int) -> str:
    """The user's name, from /etc/passwd itself; "" where it is not there."""
    try:
        with open("/etc/passwd", "rb") as file:
            entries = users.parse_passwd(file.read())
    except OSError:
        return ""
    return next((entry.name for entry in entries if entry.uid == uid), "")


# --- making the holder


class _Making:
    """A child on its way to become the holder: it makes the namespaces, we map its ids, it says when all is done."""

    def __init__(self, survivor: tuple[int, ...] | None = None) -> None:
        self._ready, tell_ready = os.pipe2(os.O_CLOEXEC)
        go, self._go = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._ready)
            os.close(self._go)
            _hold(tell_ready, go, survivor)
        os.close(tell_ready)
        os.close(go)

    def expect(self, word: bytes) -> None:
        """Wait for the child to say `word` (b"": to hang up); OSError with what it met instead."""
        said = os.read(self._ready, 16)
        if said != word:
            number = int(said) if said.isdigit() else errno.EIO
            raise OSError(number, os.strerror(number))

    def go_on(self) -> None:
        """Let the child take its next step."""
        os.write(self._go, b"g")

    def give_up(self) -> None:
        """End the child, if it is there."""
        try:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return

    def close(self) -> None:
        """Hang up; the holder lives on."""
        os.close(self._ready)
        os.close(self._go)


def _made(settings: Settings) -> tuple[int, int, str]:
    """Make the namespaces, and a process that does nothing but keep them; its pid, how many ids it has, why not more.

    Where newuidmap does not work (without its set-uid bit, under no_new_privs) our own id alone is mapped: `doctor`
    says so.
    """
    uids, gids = id_maps(settings)
    why = ""
    if len(uids) > 1:
        try:
            return _made_with(settings, uids, gids), sum(entry[2] for entry in uids), ""
        except FailedPrecondition as error:
            why = error.message
    return _made_with(settings, uids[:1], gids[:1]), 1, why


def _made_with(settings: Settings, uids: IdMap, gids: IdMap) -> int:
    making = _Making()
    try:
        making.expect(b"n")
        namespaces.write_id_maps(making.pid, uids, gids, search=dict(settings.environ).get("PATH", ""))
        making.go_on()
        making.expect(b"m")
        making.expect(b"")  # it has executed what it will be
    except OSError as error:
        making.give_up()
        raise _refused(error) from error
    except BaseException:
        making.give_up()
        raise
    finally:
        making.close()
    return making.pid


def _refused(error: OSError) -> FailedPrecondition:
    """Why the machine does not let us, as `doctor` sees it."""
    from orlop.engine import doctor

    for finding in doctor.user_namespaces():
        if finding.state != "ok":
            return FailedPrecondition(
                f"without root, orlop needs a user namespace, and cannot have one: {finding.detail}",
                hint=finding.remedy,
            )
    return FailedPrecondition(
        f"without root, orlop needs a user namespace, and the machine refuses it: {error.strerror}",
        hint="inside a container, that container must allow it (docker: --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined); orlop doctor says more",
    )


def _made_again(known: dict[str, Any] | None) -> tuple[int, int, str] | None:
    """A new holder for namespaces whose holder was killed, if anything that lives in them can still be joined."""
    if known is None or "user" not in known:
        return None
    survivors = [int(name) for name in os.listdir("/proc") if name.isdigit() and _inode(name, "user") == known["user"]]
    if not survivors:
        return None
    best = next((pid for pid in survivors if _inode(str(pid), "mnt") == known["mnt"]), 0)
    try:
        making = _Making(_opened(best or survivors[0], both=best != 0))
    except OSError:
        return None  # it has just ended
    try:
        making.expect(b"m")
        making.expect(b"")
    except OSError:
        making.give_up()
        return None
    finally:
        making.close()
    return making.pid, int(known["ids"]), str(known.get("why", ""))


def _inode(pid: str, name: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/{name}").st_ino
    except OSError:
        return 0  # gone, or somebody else's


def _opened(pid: int, *, both: bool) -> tuple[int, ...]:
    """Descriptors of a process' user namespace and, with `both`, its mount namespace."""
    return tuple(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in list(_FLAGS)[: 1 + both])


def _hold(tell_ready: int, go: int, survivor: tuple[int, ...] | None) -> NoReturn:
    """The holder's life."""
    import sys

    try:
        os.setsid()
        if survivor is None:
            namespaces.unshare(_BOTH)
            os.write(tell_ready, b"n")
            if os.read(go, 1) != b"g":
                os._exit(1)
        else:
            for descriptor, flag in zip(survivor, _FLAGS.values(), strict=False):
                namespaces.setns(descriptor, flag)
            if len(survivor) == 1:
                namespaces.unshare(namespaces.CLONE_NEWNS)
        if survivor is None or len(survivor) == 1:
            mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_SLAVE)
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.chdir("/")
        process.close_fds_except((0, 1, 2, tell_ready))
        os.write(tell_ready, b"m")
        argv = [sys.executable, "-I", "-S", "-c", _SLEEP, "orlop-holder"]
        os.execve(sys.executable, argv, {})  # noqa: S606  # no shell is the point
    except OSError as error:
        os.write(tell_ready, b"%d" % (error.errno or 0))
    finally:
        os._exit(1)


def tear_down(settings: Settings) -> None:
    """End the holder; the namespaces go when the last container has left them."""
    known = read_json(f"{settings.run_root}/holder.json")
    if known is None or not process.alive(known["pid"], known["ticks"]):
        return
    try:
        process.pidfd_send_signal(process.pidfd_open(known["pid"]), 9)
        process.wait_gone(known["pid"], known["ticks"])
    except ProcessLookupError:
        return
