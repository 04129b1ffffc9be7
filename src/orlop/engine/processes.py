"""The processes of a container, as `top` lists them."""

from __future__ import annotations

import os
import time

from orlop.engine import status
from orlop.engine.measuring import members
from orlop.errors import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.store.containers import ContainerRecord


def listing(engine: Engine, record: ContainerRecord, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The processes, oldest first, a dict each with ps' titles as keys.

    UID, PID, PPID, C, STIME, TTY, TIME and CMD, as `docker top` has them; or what this machine's ps(1) says with
    `options`, which must have its PID column. Pids are this machine's.
    """
    status.require_running(status.status_of(engine.root, record), record.name, "list")
    started = status.launch_record(engine.root, record.id)
    if started is None:
        return []  # it ended while we looked
    if options:
        return chosen(_ps(options), {str(pid) for pid in members(started)})
    users = _users()
    found = []
    for pid in members(started):
        try:
            found.append(_process(pid, users))
        except OSError:
            continue  # it ended while we looked
    return found


def _ps(options: Sequence[str]) -> str:
    import subprocess

    try:
        done = subprocess.run(
            ["ps", *options], capture_output=True, text=True, errors="replace", check=False
        )  # whichever ps is here
    except FileNotFoundError as error:
        raise FailedPrecondition(
            "options are for ps, which this machine does not have", hint="apt install procps, or leave the options out"
        ) from error
    if done.returncode != 0:
        raise InvalidArgument(f"ps does not take {' '.join(options)!r}: {done.stderr.strip().partition(chr(10))[0]}")
    return done.stdout


def chosen(shown: str, pids: set[str]) -> list[dict[str, Any]]:
    """The rows of what ps printed that are about `pids`. InvalidArgument where there is no PID column."""
    header, *lines = shown.splitlines() or [""]
    titles = header.split()
    if "PID" not in titles:
        raise InvalidArgument("ps was asked for no column PID, which tells whose process it is", hint="add pid to -o")
    place = titles.index("PID")
    found = []
    for line in lines:
        fields = line.split(maxsplit=len(titles) - 1)
        if len(fields) == len(titles) and fields[place] in pids:
            found.append(dict(zip(titles, fields, strict=True)))
    return found


def _users() -> dict[int, str]:
    """This machine's names of users, as ps shows them."""
    from orlop.linux import users

    try:
        with open("/etc/passwd", "rb") as file:
            return {entry.uid: entry.name for entry in reversed(users.parse_passwd(file.read()))}
    except FileNotFoundError:
        return {}


def _process(pid: int, users: dict[int, str]) -> dict[str, Any]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        name = file.read().strip()
    ticks = os.sysconf("SC_CLK_TCK")
    with open("/proc/uptime", encoding="ascii") as file:
        age = max(0.0, float(file.read().split()[0]) - int(fields[19]) / ticks)
    spent = (int(fields[11]) + int(fields[12])) / ticks
    uid = os.stat(f"/proc/{pid}").st_uid
    return {
        "UID": users.get(uid, str(uid)),
        "PID": str(pid),
        "PPID": fields[1].decode(),
        "C": str(min(99, int(100 * spent / age)) if age else 0),
        "STIME": time.strftime("%H:%M", time.localtime(time.time() - age)),
        "TTY": "?" if fields[4] == b"0" else f"pts/{int(fields[4]) & 0xFF}",
        "TIME": f"{int(spent) // 3600:02d}:{int(spent) // 60 % 60:02d}:{int(spent) % 60:02d}",
        "CMD": command or f"[{name}]",
    }
