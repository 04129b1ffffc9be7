"""Without root: one user and mount namespace per user, kept by a holder process and joined by every command.

In it we are root over the ids that /etc/subuid and /etc/subgid grant us, or, where newuidmap is missing, over our own
id alone. Commands that share it share file ownership, mounts and the right to join each other's containers.

    run/holder.json   the holder: {"pid", "ticks", "ids": how many are mapped}
"""

from __future__ import annotations

import os

from orlop.engine.status import read_json, write_json
from orlop.errors import FailedPrecondition
from orlop.linux import mounts, namespaces, process, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.settings import Settings

_BOTH = namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS
_SLEEP = "import signal\nwhile True: signal.pause()"


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
    here = os.getcwd()
    _join(_holder(settings))
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
        pid, ids = _make(settings)
        write_json(path, {"pid": pid, "ticks": process.start_ticks(pid), "ids": ids})
        return pid
    finally:
        os.close(lock)


def _join(pid: int) -> None:
    for name, flag in (("user", namespaces.CLONE_NEWUSER), ("mnt", namespaces.CLONE_NEWNS)):
        descriptor = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(descriptor, flag)
        finally:
            os.close(descriptor)


def id_maps(settings: Settings) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """The (inside, outside, count) maps that this user may have; one entry each where there is but the own id."""
    found = []
    path = dict(settings.environ).get("PATH", "")
    helped = any(os.access(f"{folder}/newuidmap", os.X_OK) for folder in path.split(":") if folder)
    for kind, own in (("uid", settings.uid), ("gid", os.getgid())):
        entries, inside = [(0, own, 1)], 1
        for first, count in users.subordinate_ids(kind, user_name(settings.uid), settings.uid) if helped else ():
            entries.append((inside, first, count))
            inside += count
        found.append(entries)
    uids, gids = found
    if len(uids) == 1 or len(gids) == 1:
        return uids[:1], gids[:1]
    return uids, gids


def user_name(uid: int) -> str:
    """The user's name, from /etc/passwd itself; "" where it is not there."""
    try:
        with open("/etc/passwd", "rb") as file:
            entries = users.parse_passwd(file.read())
    except OSError:
        return ""
    return next((entry.name for entry in entries if entry.uid == uid), "")


def _make(settings: Settings) -> tuple[int, int]:
    """Make the namespaces, and a process that does nothing but keep them; its pid and how many ids it has."""
    uids, gids = id_maps(settings)
    ready, tell_ready = os.pipe2(os.O_CLOEXEC)
    go, tell_go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _hold(tell_ready, go, (ready, tell_go))
    os.close(tell_ready)
    os.close(go)
    try:
        if os.read(ready, 1) != b"n":
            os.waitpid(pid, 0)
            raise FailedPrecondition(
                "this machine does not let ordinary users make user namespaces",
                hint="orlop doctor says why, and how to mend it",
            )
        namespaces.write_id_maps(pid, uids, gids, search=dict(settings.environ).get("PATH", ""))
        os.write(tell_go, b"g")
        if os.read(ready, 1) != b"m":
            os.waitpid(pid, 0)
            raise FailedPrecondition(
                "the mounts of the new user namespace cannot be set up", hint="orlop doctor says what is missing"
            )
    except BaseException:
        process.pidfd_send_signal(process.pidfd_open(pid), 9)
        raise
    finally:
        os.close(ready)
        os.close(tell_go)
    return pid, sum(entry[2] for entry in uids)


def _hold(tell_ready: int, go: int, not_mine: tuple[int, int]) -> None:
    """The holder's life. Never returns."""
    import sys

    try:
        for descriptor in not_mine:
            os.close(descriptor)
        os.setsid()
        namespaces.unshare(_BOTH)
        os.write(tell_ready, b"n")
        if os.read(go, 1) != b"g":
            os._exit(1)
        mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_SLAVE)
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.chdir("/")
        os.write(tell_ready, b"m")
        process.close_fds_except((0, 1, 2))
        os.execv(sys.executable, ["orlop-holder", "-I", "-S", "-c", _SLEEP])  # noqa: S606  # no shell is the point
    except BaseException:  # noqa: BLE001  # a forked child has nobody above it
        os._exit(1)


def tear_down(settings: Settings) -> None:
    """End the holder; the namespaces go when the last container has left them."""
    known = read_json(f"{settings.run_root}/holder.json")
    if known is not None and process.alive(known["pid"], known["ticks"]):
        process.pidfd_send_signal(process.pidfd_open(known["pid"]), 9)
