"""What state a container is in, by evidence.

The database knows what was made and how it last ended. That it runs is never written there: it is read off the run
directory (which dies at boot) and checked against the process itself, so that no crash can leave a lie behind.

    run/containers/<id>/launch.json   by the engine at start: pids with their start ticks, what the network lent
    run/containers/<id>/exit.json     by the shim at exit (by rename)
    run/containers/<id>/paused        by `pause`, removed by `unpause`
    run/restarting/<id>.json  by who waits to start it again, as the restart policy says
    run/containers/<id>/health.json   by the shim, after every probe
"""

from __future__ import annotations

import os
import time

from orlop.errors import FailedPrecondition, OrlopError
from orlop.linux import process, wholefile
from orlop.oci import jsontext
from orlop.runtime import exit as exit_record
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.store.containers import ContainerRecord
    from orlop.store.root import Root

UNKNOWN_EXIT = 255  # the shim was killed and nobody saw how the program ended


class Status(Value):
    """One container's state now. Times are Unix nanoseconds, 0 for never."""

    word: str  # created | running | paused | restarting | exited
    pid: int = 0
    started: int = 0
    finished: int = 0
    exit_code: int = 0
    oom: bool = False
    error: str = ""
    settled: bool = True  # False: it ended, and what it was lent is still to be given back
    restarts: int = 0
    health: str = ""  # starting | healthy | unhealthy; "" without a health check

    @property
    def running(self) -> bool:
        """Whether its first process lives (a paused one does)."""
        return self.word in {"running", "paused"}

    @property
    def active(self) -> bool:
        """Whether it runs or is about to run again by its restart policy: what `ps` shows, and `rm` needs force for."""
        return self.running or self.word == "restarting"

    def sentence(self) -> str:
        """The STATUS column of `ps`: "Up 5 minutes", "Exited (0) 3 seconds ago"."""
        from orlop.engine import moments  # for lists only

        now = time.time()
        if self.running:
            up = f"Up {moments.ago(now - self.started / 1e9)}"
            if self.word == "paused":
                return f"{up} (Paused)"
            if self.health:
                return f"{up} ({'health: starting' if self.health == 'starting' else self.health})"
            return up
        if self.word == "restarting":
            return f"Restarting ({self.exit_code}) {moments.ago(now - self.finished / 1e9)} ago"
        if self.word == "exited":
            return f"Exited ({self.exit_code}) {moments.ago(now - self.finished / 1e9)} ago"
        return "Created"


def run_dir(root: Root, container: str) -> str:
    """Where a running container's files are."""
    return f"{root.run_path}/containers/{container}"


def data_dir(root: Root, container: str) -> str:
    """Where a container's lasting files are: its log."""
    return f"{root.path}/containers/{container}"


def read_json(path: str) -> dict[str, Any] | None:
    """A small JSON file of ours, None if it is not there."""
    try:
        with open(path, "rb") as file:
            found = jsontext.loads(file.read(), what=path)
    except FileNotFoundError:
        return None
    return found if isinstance(found, dict) else None


def write_json(path: str, value: dict[str, Any]) -> None:
    """What `read_json` reads: the old or the new, never half. Not durable: run files die at boot."""
    wholefile.write(path, jsontext.dumps(value))


def launch_record(root: Root, container: str) -> dict[str, Any] | None:
    """What `start` left: {"pid", "ticks", "shim_pid", "shim_ticks", "started", "network"}; None when not started."""
    return read_json(f"{run_dir(root, container)}/launch.json")


def lives(launch: dict[str, Any]) -> bool:
    """Whether the program of a launch record runs, or its shim, which has its ports until it has tidied up."""
    return process.alive(launch["pid"], launch["ticks"]) or process.alive(launch["shim_pid"], launch["shim_ticks"])


def status_of(root: Root, record: ContainerRecord) -> Status:
    """The state of one container, from its record, its run files and its process."""
    state = record.state
    launch = launch_record(root, record.id)
    if launch is None:
        resting = _at_rest(state)
        return resting.replace(word="restarting") if _is_restarting(root, record) else resting
    ended = exit_record.read(run_dir(root, record.id))
    if ended is not None:
        return Status(
            word="restarting" if _will_restart(record, launch, ended.code) else "exited",
            started=launch["started"],
            finished=ended.finished,
            exit_code=ended.code,
            oom=ended.oom_killed,
            settled=False,
            restarts=state.get("restarts", 0),
        )
    if process.alive(launch["pid"], launch["ticks"]):
        paused = os.path.exists(paused_file(root, record.id)) and _stands_still(launch)
        return Status(
            word="paused" if paused else "running",
            pid=launch["pid"],
            started=launch["started"],
            restarts=state.get("restarts", 0),
            health=health["Status"] if (health := health_of(root, record)) else "",
        )
    if process.alive(launch["shim_pid"], launch["shim_ticks"]):
        _await_exit_file(root, record.id, launch)
        if os.path.exists(f"{run_dir(root, record.id)}/exit.json"):
            return status_of(root, record)
    return _ended_unseen(launch, state)


def health_of(root: Root, record: ContainerRecord) -> dict[str, Any] | None:
    """What the probes found so far, in docker's shape; None for a container without a health check."""
    check = record.config.get("health")
    if not check or check["Test"][0] == "NONE":
        return None
    found = read_json(f"{run_dir(root, record.id)}/health.json")
    return found or {"Status": "starting", "FailingStreak": 0, "Log": []}


def paused_file(root: Root, container: str) -> str:
    """There from before a container is paused until after it goes on; whether it stands still, its cgroup knows."""
    return f"{run_dir(root, container)}/paused"


def _stands_still(launch: dict[str, Any]) -> bool:
    from orlop.linux.cgroups import Cgroup

    try:
        return Cgroup(launch["cgroup"]).frozen()
    except (OSError, OrlopError):
        return False  # it ends just now


def restarting_file(root: Root, container: str) -> str:
    """Says who waits to start the container again."""
    return f"{root.run_path}/restarting/{container}.json"


def _is_restarting(root: Root, record: ContainerRecord) -> bool:
    return record.config["restart"]["name"] != "no" and awaited(root, record.id)


def awaited(root: Root, container: str) -> bool:
    """Whether somebody who lives has said that he will start the container again."""
    waiting = read_json(restarting_file(root, container))
    return waiting is not None and process.alive(waiting["pid"], waiting["ticks"])


def _will_restart(record: ContainerRecord, launch: dict[str, Any], exit_code: int) -> bool:
    """Whether the exit command, which the shim becomes, is about to record the end and wait to start it again."""
    if record.config["restart"]["name"] == "no":
        return False
    from orlop.engine import restartpolicy

    return restartpolicy.wanted(record, exit_code) and process.alive(launch["shim_pid"], launch["shim_ticks"])


def _at_rest(state: dict[str, Any]) -> Status:
    if not state.get("finished"):
        return Status(word="created", error=state.get("error", ""), exit_code=state.get("exit_code", 0))
    return Status(
        word="exited",
        started=state.get("started", 0),
        finished=state["finished"],
        exit_code=state.get("exit_code", 0),
        oom=state.get("oom", False),
        error=state.get("error", ""),
        restarts=state.get("restarts", 0),
    )


def _ended_unseen(launch: dict[str, Any], state: dict[str, Any]) -> Status:
    return Status(
        word="exited",
        started=launch["started"],
        finished=time.time_ns(),
        exit_code=UNKNOWN_EXIT,
        error="its monitor was killed, so how the program ended is unknown",
        settled=False,
        restarts=state.get("restarts", 0),
    )


def _await_exit_file(root: Root, container: str, launch: dict[str, Any]) -> None:
    """The program is gone and its shim lives: it is about to write the exit record. Wait for that, not for long."""
    deadline = time.monotonic() + 30.0
    path = f"{run_dir(root, container)}/exit.json"
    while time.monotonic() < deadline and not os.path.exists(path):
        if not process.alive(launch["shim_pid"], launch["shim_ticks"]):
            return
        time.sleep(0.002)


def wait(root: Root, record: ContainerRecord) -> Status:
    """Wait until the container does not run, and return how it ended. At once if it never started."""
    kept = f"{root.run_path}/exits/{record.id}.json"
    launch = launch_record(root, record.id)
    if launch is not None:
        process.wait_gone(launch["pid"], launch["ticks"])
    status = status_of(root, record)
    ended = read_json(kept)  # an auto-removed container leaves only this
    if ended is not None and (not status.finished or status.exit_code == UNKNOWN_EXIT):
        return Status(
            word="exited", exit_code=ended["exit_code"], finished=ended["finished"], oom=ended.get("oom", False)
        )
    return status


def require_running(status: Status, name: str, verb: str) -> None:
    """FailedPrecondition unless the container runs; `verb` says what was wanted of it."""
    if not status.running:
        raise FailedPrecondition(
            f"container {name} is not running, so there is nothing to {verb}",
            hint=f"start it first: orlop start {name}",
        )
