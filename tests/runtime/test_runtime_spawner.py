"""Spawners and shims: one contract for both ways of starting them, and what survives the death of each part."""

from __future__ import annotations

import _socket
import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from patience import read_line

from orlop.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, InvalidArgument, OrlopError, Unavailable
from orlop.linux import cgroups, process
from orlop.oci import jsontext
from orlop.runtime import attach, frames, lifecycle
from orlop.runtime import exit as exits
from orlop.runtime.attach import Session
from orlop.runtime.errors import ProgramNotFound
from orlop.runtime.request import ExecRequest, HealthProbe, RootMount, ShimRequest
from orlop.runtime.spawner import DirectSpawner, ProcessSpawner
from orlop.runtime.testing import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.runtime.records import ExitRecord
    from orlop.runtime.spawner import Handle, Spawner
    from orlop.runtime.testing import Box


class Dock:
    """A spawner and a box, and the shims started from them."""

    def __init__(self, box: Box, spawner: Spawner) -> None:
        self.box = box
        self.spawner = spawner
        self.shims: list[int] = []

    def request(self, *argv: str, **fields: Any) -> ShimRequest:
        name = self.box.new_id()
        folder = f"{self.box.folder}/shim-{name}"
        os.mkdir(folder, 0o700)
        fields = {"log_path": f"{folder}/log"} | fields
        return ShimRequest(
            id=name, bundle=self.box.write(*argv), state_root=self.box.state_root, shim_dir=folder, **fields
        )

    def begin(self, request: ShimRequest, **more: Any) -> Handle:
        handle = self.spawner.spawn(request, **more)
        self.shims.append(handle.shim_pid)
        return handle

    def start(self, request: ShimRequest, **more: Any) -> int:
        """Start a container to its end of starting; its first process' pid."""
        with self.begin(request, **more) as handle:
            first = handle.wait_namespaces()
            handle.wait_created()
            handle.start()
        return first.pid

    def session(self, request: ShimRequest, **more: Any) -> Session:
        """Start it with a foreground client."""
        mine, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        found = Session(mine.detach(), **more)
        self.start(request, attach=other.fileno())
        other.close()
        return found

    def record(self, request: ShimRequest) -> ExitRecord:
        """Wait for the exit record."""
        found: ExitRecord = until(lambda: exits.read(request.shim_dir))
        return found

    def gone(self, pid: int) -> bool:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        return not os.path.exists(f"/proc/{pid}")


@pytest.fixture(params=[DirectSpawner, ProcessSpawner])
def dock(box: Box, request: pytest.FixtureRequest) -> Iterator[Dock]:
    spawner = request.param(warn=box.warnings.append)
    found = Dock(box, spawner)
    try:
        yield found
    finally:
        box.close()
        for pid in found.shims:
            until(lambda pid=pid: found.gone(pid))  # type: ignore[misc]  # a lambda with a default
        spawner.close()


def _text(path: str) -> str:
    """What is in a file; nothing while it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _dead(pid: int) -> bool:
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] in ([], ["Z"])


def _output(read: int) -> str:
    with open(read, "rb") as file:
        return file.read().decode()


# one contract for both spawners


def test_a_container_is_started_watched_and_recorded(dock: Dock) -> None:
    """Its steps are told in order, the output is logged, and the end recorded."""
    request = dock.request("/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    with dock.begin(request) as handle:
        first = handle.wait_namespaces()
        assert process.start_ticks(first.pid) == first.ticks
        assert os.readlink(f"/proc/{first.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        handle.wait_created()
        assert lifecycle.state(request.id, state_root=dock.box.state_root)["status"] == "created"
        handle.start()
    record = dock.record(request)

    assert (record.id, record.code, record.signal, record.oom_killed) == (request.id, 3, 0, False)
    assert record.started <= record.finished
    until(lambda: dock.gone(handle.shim_pid))
    with open(request.log_path, "rb") as log:
        lines = [jsontext.loads(line, what="log") for line in log]
    assert {(line["stream"], line["log"]) for line in lines} == {("stdout", "out\n"), ("stderr", "err\n")}
    assert cgroups.Cgroup(f"/orlop/{request.id}").directories() == []


def test_errors_arrive_as_they_were(dock: Dock) -> None:
    """What fails in another process is raised here, with its class, kind, hint and exit code; nothing is left."""
    request = dock.request("nothing")
    with pytest.raises(ProgramNotFound) as caught:
        dock.start(request)
    assert caught.value.hint
    assert not os.path.exists(f"{dock.box.state_root}/{request.id}")

    dock.box.spec["mounts"].append({"destination": "/x", "type": "bind", "source": "/not/there"})
    with pytest.raises(OrlopError, match="/not/there"), dock.begin(dock.request("/bin/true")) as handle:
        handle.wait_namespaces()


def test_a_failing_start_is_told(dock: Dock) -> None:
    """What only execve finds out is raised by `start`, and the container is undone."""
    (dock.box.rootfs / "bin/odd").write_bytes(b"#!/bin/nothing\n")
    (dock.box.rootfs / "bin/odd").chmod(0o755)
    request = dock.request("odd")
    with pytest.raises(ProgramNotFound, match="no such interpreter"):
        dock.start(request)
    assert not os.path.exists(f"{dock.box.state_root}/{request.id}")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_hanging_up_undoes(dock: Dock, steps: int) -> None:
    """Leaving the handle before `start`, at whatever point, undoes the container before the next line runs."""
    request = dock.request("/bin/sleep", "1000")
    with dock.begin(request) as handle:
        if steps > 0:
            handle.wait_namespaces()
        if steps > 1:
            handle.wait_created()
    assert not os.path.exists(f"{dock.box.state_root}/{request.id}")
    assert cgroups.Cgroup(f"/orlop/{request.id}").directories() == []


def test_an_id_in_use_is_told(dock: Dock) -> None:
    """Two containers cannot have one id, and the first is not harmed."""
    request = dock.request("/bin/sleep", "1000")
    dock.start(request)
    with pytest.raises(AlreadyExists), dock.begin(request.replace(shim_dir=f"{dock.box.folder}/other")) as handle:
        handle.wait_namespaces()
    assert lifecycle.state(request.id, state_root=dock.box.state_root)["status"] == "running"


def test_the_root_is_mounted_for_the_container_alone(dock: Dock) -> None:
    """An overlay in the request becomes the root, and is gone with the container."""
    upper, work = dock.box.folder / "upper", dock.box.folder / "work"
    upper.mkdir()
    work.mkdir()
    root = RootMount(fstype="overlay", lowers=(str(dock.box.rootfs),), upper=str(upper), work=str(work))
    request = dock.request("/bin/sh", "-c", "echo new > /new", root=root)
    dock.start(request)
    dock.record(request)
    assert (upper / "new").read_text() == "new\n"


def test_streams_can_be_the_askers(dock: Dock) -> None:
    """With inherit_stdio the container writes to the asker's own descriptor."""
    reader, writer = os.pipe()
    request = dock.request("/bin/sh", "-c", "cat; echo $0", inherit_stdio=True, log_path="", log_format="none")
    with open("/dev/null", "rb") as null:
        dock.start(request, stdio=(null.fileno(), writer, writer))
    os.close(writer)
    assert _output(reader) == "/bin/sh\n"
    assert dock.record(request).code == 0


@pytest.mark.parametrize("terminal", [False, True])
def test_a_foreground_client(dock: Dock, terminal: bool) -> None:
    """The first client gets all output, even of a program that ends at once, gives input, and is told the end."""
    dock.box.process["terminal"] = terminal
    reader, writer = os.pipe()
    typed_reader, typed_writer = os.pipe()
    os.write(typed_writer, b"typed\n")
    os.close(typed_writer)
    request = dock.request(
        "/bin/sh", "-c", "echo first; read line; echo got $line; exit 4", open_stdin=True, terminal=terminal
    )
    session = dock.session(request, stdin=typed_reader, stdout=writer, stderr=writer, terminal=terminal)
    record = session.run()
    session.close()
    os.close(writer)
    os.close(typed_reader)

    assert record is not None
    assert record.code == 4
    said = _output(reader).replace("\r\n", "\n")
    assert "first\n" in said
    assert "got typed\n" in said


def test_much_goes_through(dock: Dock) -> None:
    """More than any buffer holds goes in and comes out whole, both ways at once, and to the log."""
    size = 8 << 20
    reader, writer = os.pipe()
    source = dock.box.folder / "source"
    source.write_bytes(b"0123456789abcde\n" * (size // 16))
    request = dock.request("/bin/cat", open_stdin=True, stdin_once=True)
    found: list[bytes] = []

    def drain() -> None:
        with open(reader, "rb") as file:
            found.append(file.read())

    with open(source, "rb") as stdin:
        session = dock.session(request, stdin=stdin.fileno(), stdout=writer, stderr=writer)
        thread = threading.Thread(target=drain)
        thread.start()
        record = session.run()
        session.close()
        os.close(writer)
        thread.join()
    assert record is not None
    assert record.code == 0
    assert found[0] == source.read_bytes()
    with open(request.log_path, "rb") as log:
        assert sum(1 for _ in log) == size // 16


def _settling(dock: Dock) -> tuple[ShimRequest, str]:
    flag = f"{dock.box.folder}/settled"
    request = dock.request("/bin/sh", "-c", "exit 5", exit_argv=("/bin/sh", "-c", f"echo $WHO > {flag}"))
    return request.replace(environment=(("WHO", "exit command"),)), flag


def test_the_exit_command_runs(dock: Dock) -> None:
    """Without a client that settles, the shim becomes the exit command, with the environment of the request."""
    request, flag = _settling(dock)
    dock.start(request)
    until(lambda: _text(flag))
    assert _text(flag) == "exit command\n"


def test_a_client_that_settles_spares_it(dock: Dock) -> None:
    """A client that promised to settle and did spares the exit command."""
    request, flag = _settling(dock)
    session = dock.session(request, settles=True)
    assert session.run() is not None
    session.settled()
    session.close()
    until(lambda: dock.gone(dock.shims[-1]))
    assert not os.path.exists(flag)


def test_a_client_that_breaks_its_promise_does_not(dock: Dock) -> None:
    """A client that promised to settle and went away does not spare it."""
    request, flag = _settling(dock)
    session = dock.session(request, settles=True)
    assert session.run() is not None
    session.close()
    until(lambda: os.path.exists(flag))


def test_signals_go_through_the_shim(dock: Dock) -> None:
    """A client's SIGNAL frame reaches the first process."""
    request = dock.request("/bin/sh", "-c", "trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.01; done")
    dock.start(request)
    until(lambda: _text(request.log_path))
    fd = attach.connect(request.shim_dir)
    os.write(fd, frames.hello() + frames.encode(frames.SIGNAL, bytes((signal.SIGUSR1,))))
    assert dock.record(request).code == 9
    os.close(fd)


# what survives what


def _slim(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return b"resume(int" in file.read()


def test_the_shim_becomes_small(dock: Dock) -> None:
    """A shim turns into a bare interpreter that goes on where it was: output, input, clients, the end; in 8 MB."""
    request = dock.request("/bin/sh", "-c", "echo before; read line; echo $line; exit 6", open_stdin=True)
    dock.start(request)
    pid = dock.shims[-1]
    until(lambda: _slim(pid))
    until(lambda: "before" in _text(request.log_path))  # what is logged by now no later client is told
    with open(f"/proc/{pid}/smaps_rollup") as file:
        pss = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    assert pss <= 8 * 1024
    fd = attach.connect(request.shim_dir)
    reader, writer = os.pipe()
    session = Session(fd, stdout=writer, stderr=writer)
    os.write(fd, frames.encode(frames.STDIN, b"after\n"))
    record = session.run()
    session.close()
    os.close(writer)
    assert record is not None
    assert record.code == 6
    assert _output(reader) == "after\n"
    with open(request.log_path) as log:
        assert [jsontext.loads(line, what="log")["log"] for line in log] == ["before\n", "after\n"]


def test_a_client_lives_through_the_change(dock: Dock) -> None:
    """A client that was there before is served after, without noticing."""
    reader, writer = os.pipe()
    request = dock.request("/bin/sh", "-c", "echo one; read line; echo $line", open_stdin=True)
    session = dock.session(request, stdout=writer, stderr=writer)
    until(lambda: _slim(dock.shims[-1]))
    typist = attach.connect(request.shim_dir)
    os.write(typist, frames.hello() + frames.encode(frames.STDIN, b"two\n"))
    record = session.run()
    os.close(typist)
    session.close()
    os.close(writer)
    assert record is not None
    assert _output(reader) == "one\ntwo\n"


@pytest.mark.parametrize("slim", [False, True])
def test_a_killed_shim_harms_no_container(dock: Dock, slim: bool) -> None:
    """SIGKILL to the shim leaves the container running; its state is told truthfully, its end is not known."""
    request = dock.request("/bin/sleep", "1000")
    first = dock.start(request)
    if slim:
        until(lambda: _slim(dock.shims[-1]))
    os.kill(dock.shims[-1], signal.SIGKILL)
    until(lambda: dock.gone(dock.shims[-1]))

    assert lifecycle.state(request.id, state_root=dock.box.state_root)["status"] == "running"
    with pytest.raises(Unavailable):
        attach.connect(request.shim_dir)
    os.kill(first, signal.SIGKILL)
    until(lambda: lifecycle.state(request.id, state_root=dock.box.state_root)["status"] == "stopped")
    assert exits.read(request.shim_dir) is None


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_shim_killed_while_making_leaves_nothing_running(dock: Dock, steps: int) -> None:
    """SIGKILL to the shim before the start takes the container with it; `delete` clears the rest."""
    request = dock.request("/bin/sleep", "1000")
    with dock.begin(request) as handle:
        first = handle.wait_namespaces().pid if steps > 0 else 0
        if steps > 1:
            handle.wait_created()
        os.kill(handle.shim_pid, signal.SIGKILL)
    until(lambda: dock.gone(handle.shim_pid))
    if first:
        until(lambda: _dead(first))
    lifecycle.delete(request.id, state_root=dock.box.state_root, force=True)


def test_signals_to_the_shim_are_ignored(dock: Dock) -> None:
    """SIGTERM to everybody, as at shutdown, does not keep the shim from recording the end."""
    request = dock.request("/bin/sleep", "1000")
    first = dock.start(request)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(dock.shims[-1], number)
    os.kill(first, signal.SIGKILL)
    record = dock.record(request)
    assert (record.code, record.signal) == (137, signal.SIGKILL)


def test_running_out_of_memory_is_recorded(dock: Dock) -> None:
    """A program killed for want of memory has that in its record."""
    dock.box.linux["resources"] |= {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    request = dock.request("/bin/sh", "-c", "x=a; while :; do x=$x$x; done")
    dock.start(request)
    record = dock.record(request)
    assert record.code == 137
    assert record.oom_killed


def test_orphans_are_collected(dock: Dock) -> None:
    """Without a PID namespace orphans fall to the shim, which makes no zombies of them, and kills them at the end."""
    dock.box.without("pid")
    request = dock.request("/bin/sh", "-c", "(sleep 0.01 &); (sleep 1000 &); sleep 0.3; exit 2")
    dock.start(request)
    assert dock.record(request).code == 2
    until(lambda: cgroups.Cgroup(f"/orlop/{request.id}").pids() == [])


def test_held_output_does_not_hold_up_the_end(dock: Dock) -> None:
    """Somebody outside who holds the container's output open does not keep the end from being recorded."""
    request = dock.request("/bin/sleep", "1000")
    first = dock.start(request)
    pidfd = process.pidfd_open(first)
    held = process.pidfd_getfd(pidfd, 1)
    os.kill(first, signal.SIGKILL)
    try:
        assert dock.record(request).code == 137
    finally:
        os.close(held)
        os.close(pidfd)


def test_programs_beside_the_container(dock: Dock) -> None:
    """A client can have the shim start a program that outlives the client; its end is recorded by name."""
    request = dock.request("/bin/sleep", "1000", environment=(("PATH", "/bin"),))
    first = dock.start(request)
    pid = attach.request_program(request.shim_dir, "job1", ["/bin/sh", "-c", "exit 8"])
    assert pid > 0
    until(lambda: os.path.exists(f"{request.shim_dir}/exec-job1.json"))
    with open(f"{request.shim_dir}/exec-job1.json", "rb") as file:
        assert exits.decode(file.read()).code == 8
    with pytest.raises(Unavailable):
        attach.request_program(request.shim_dir, "job2", ["/not/there"])
    os.kill(first, signal.SIGKILL)
    dock.record(request)


def test_health_probes(dock: Dock) -> None:
    """Probes run again and again; their results are in health.json, in docker's shape."""
    probe = HealthProbe(
        argv=("/bin/sh", "-c", f"echo looked; test -e {dock.box.folder}/healthy"),
        interval=20_000_000,
        timeout=60_000_000_000,
        retries=2,
    )
    request = dock.request("/bin/sleep", "1000", health=probe, environment=(("PATH", "/bin"),))
    first = dock.start(request)

    def status() -> dict[str, Any]:
        try:
            with open(f"{request.shim_dir}/health.json", "rb") as file:
                return jsontext.load_object(file.read(), what="health")
        except FileNotFoundError:
            return {}

    until(lambda: status().get("Status") == "unhealthy")
    assert status()["Log"][0]["Output"] == "looked\n"
    assert status()["FailingStreak"] >= 2
    (dock.box.folder / "healthy").touch()
    until(lambda: status().get("Status") == "healthy")
    assert status()["FailingStreak"] == 0
    os.kill(first, signal.SIGKILL)
    dock.record(request)


def test_a_moved_log(dock: Dock) -> None:
    """After REOPEN_LOG the log goes on at its path."""
    request = dock.request("/bin/sh", "-c", "echo a; read x; echo b", open_stdin=True)
    dock.start(request)
    until(lambda: _text(request.log_path))
    os.rename(request.log_path, request.log_path + ".old")
    fd = attach.connect(request.shim_dir)
    os.write(fd, frames.hello() + frames.encode(frames.REOPEN_LOG) + frames.encode(frames.STDIN, b"\n"))
    dock.record(request)
    os.close(fd)
    with open(request.log_path) as log:
        assert jsontext.loads(log.read(), what="log")["log"] == "b\n"


def test_foreign_clients_are_dropped(dock: Dock) -> None:
    """A client that speaks another protocol, or version, is dropped; the container and others do not notice."""
    request = dock.request("/bin/sleep", "1000")
    first = dock.start(request)
    for words in (b"GET / HTTP/1.1\r\n\r\n", frames.encode(frames.STDIN, b"x"), frames.encode(frames.HELLO, b"\x63\0")):
        fd = attach.connect(request.shim_dir)
        os.write(fd, words)
        said = b""
        while data := os.read(fd, 4096):
            said += data
        os.close(fd)
        assert said.startswith(frames.hello())
    os.kill(first, signal.SIGKILL)
    assert dock.record(request).code == 137


# executing through a spawner


def _exec(dock: Dock, request: ShimRequest, *argv: str, **changes: Any) -> ExecRequest:
    timeout = changes.pop("timeout", 0.0)
    given = dock.box.process | {"args": list(argv), "terminal": False} | changes
    return ExecRequest(
        container_id=request.id, state_root=dock.box.state_root, process=jsontext.dumps(given), timeout=timeout
    )


def test_programs_are_executed_by_runners(dock: Dock) -> None:
    """A runner executes a program for us: our descriptors, its exit code, its errors."""
    request = dock.request("/bin/sleep", "1000")
    first = dock.start(request)
    reader, writer = os.pipe()
    with dock.spawner.execute(_exec(dock, request, "sh", "-c", "echo hi; exit 7"), stdio=(-1, writer, writer)) as ran:
        os.close(writer)
        assert ran.wait() == 7
        assert ran.wait() == 7
    assert _output(reader) == "hi\n"
    with pytest.raises(ProgramNotFound):
        dock.spawner.execute(_exec(dock, request, "nothing"))
    with (
        dock.spawner.execute(_exec(dock, request, "sleep", "1000", timeout=0.05)) as ran,
        pytest.raises(DeadlineExceeded),
    ):
        ran.wait()
    with dock.spawner.execute(_exec(dock, request, "tty", terminal=True)) as ran:
        assert read_line(ran.terminal).startswith(b"/dev/pts/0")
        assert ran.wait() == 0
    os.kill(first, signal.SIGKILL)
    dock.record(request)


# what is special to each


def test_direct_forks_need_one_thread(box: Box) -> None:
    """A direct spawner refuses to fork a process with threads."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    dock = Dock(box, DirectSpawner())
    try:
        with pytest.raises(FailedPrecondition, match="threads"):
            dock.begin(dock.request("/bin/true"))
    finally:
        stop.set()
        thread.join()


def test_direct_forks_close_the_databases_first(box: Box) -> None:
    """`before_fork` is called before every fork."""
    called: list[int] = []
    dock = Dock(box, DirectSpawner(before_fork=lambda: called.append(1)))
    request = dock.request("/bin/true")
    dock.start(request)
    dock.record(request)
    until(lambda: dock.gone(dock.shims[0]))
    assert called == [1]


def test_many_threads_share_a_spawner(box: Box) -> None:
    """A process spawner serves many threads at once, and is replaced when it was killed."""
    spawner = ProcessSpawner()
    dock = Dock(box, spawner)
    requests = [dock.request("/bin/true") for _ in range(4)]
    threads = [threading.Thread(target=dock.start, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [dock.record(request).code for request in requests] == [0, 0, 0, 0]

    os.kill(spawner._pid, signal.SIGKILL)
    until(lambda: _dead(spawner._pid))
    last = dock.request("/bin/true")
    dock.start(last)
    assert dock.record(last).code == 0
    spawner.close()
    for pid in dock.shims:
        until(lambda pid=pid: dock.gone(pid))  # type: ignore[misc]  # a lambda with a default


def test_a_spawner_that_dies_harms_nobody(box: Box) -> None:
    """Closing a process spawner, or killing its user, leaves shims and containers alone."""
    spawner = ProcessSpawner()
    dock = Dock(box, spawner)
    request = dock.request("/bin/sleep", "1000")
    first = dock.start(request)
    spawner.close()
    assert lifecycle.state(request.id, state_root=box.state_root)["status"] == "running"
    os.kill(first, signal.SIGKILL)
    assert dock.record(request).code == 137


def test_requests_travel() -> None:
    """A request is the same after its way through JSON, and one of another version is refused."""
    request = ShimRequest(
        id="x",
        bundle="/b",
        state_root="/s",
        shim_dir="/d",
        root=RootMount(fstype="overlay", lowers=("/a", "/b"), options=("volatile",)),
        console_size=(3, 4),
        environment=(("A", "b"),),
        health=HealthProbe(argv=("x",)),
    )
    assert ShimRequest.from_json(request.to_json()) == request
    assert ShimRequest.from_json(request.replace(root=None, health=None).to_json()).root is None
    with pytest.raises(InvalidArgument):
        ShimRequest.from_json(request.to_json().replace(b'"version":1', b'"version":9'))
    with pytest.raises(InvalidArgument):
        ShimRequest.from_json(b'{"version":1,"root":null,"health":null,"nonsense":1}')


def test_the_hot_path_is_light() -> None:
    """What a start loads holds none of the modules that DESIGN bans from it."""
    code = "import orlop.runtime.spawner, orlop.runtime.shim, orlop.runtime.attach, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()  # without our environment: what measures coverage would be in there, too
    banned = {
        "asyncio",
        "socket",
        "subprocess",
        "argparse",
        "dataclasses",
        "logging",
        "tempfile",
        "urllib",
        "json",
        "typing",
    }
    assert not banned & set(loaded)


def test_the_monitor_is_bare() -> None:
    """The monitor needs nothing but built-in modules and its own few."""
    code = "import sys; sys.path[:0] = sys.argv[1:]; import orlop.runtime.monitor; print(*sys.modules)"
    home = os.path.dirname(sys.modules["orlop"].__path__[0])
    out = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, home], capture_output=True, text=True, check=True
    ).stdout
    ours = {name for name in out.split() if name.startswith("orlop.")}
    names = ("monitor", "clients", "exit", "frames", "health", "logfile", "remains")
    assert ours == {
        "orlop.linux",
        "orlop.linux.wholefile",
        "orlop.runtime",
        *(f"orlop.runtime.{name}" for name in names),
    }
    assert not {"re", "json", "enum", "typing", "ctypes", "socket", "collections"} & set(out.split())


def test_a_helper_for_one_start_becomes_its_shim(box: Box) -> None:
    """Begun with `once`, the helper is the shim of the first container and forks none; a second one finds another."""
    spawner = ProcessSpawner(warn=box.warnings.append)
    found = Dock(box, spawner)
    try:
        spawner.begin(once=True)
        mine = _children()
        first = found.request("/bin/sh", "-c", "exit 3")
        found.start(first)
        assert found.shims[0] in mine
        assert found.record(first).code == 3
        second = found.request("/bin/sh", "-c", "exit 4")
        found.start(second)
        assert found.shims[1] not in mine
        assert found.record(second).code == 4
    finally:
        box.close()
        for pid in found.shims:
            until(lambda pid=pid: found.gone(pid))  # type: ignore[misc]  # a lambda with a default
        spawner.close()


def test_a_helper_that_is_asked_nothing_ends(box: Box) -> None:
    """Closing a spawner whose helper waits for its one request leaves no process."""
    before = _children()
    spawner = ProcessSpawner(warn=box.warnings.append)
    spawner.begin(once=True)
    spawner.close()
    assert _children() == before


def _children() -> set[int]:
    """The pids of this process' children."""
    with open("/proc/thread-self/children") as file:
        return {int(pid) for pid in file.read().split()}
