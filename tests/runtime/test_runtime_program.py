"""`orlop-runtime`: runc's command line, as podman and containerd use it, through real processes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE, read_line

from orlop.errors import InvalidArgument, PermissionDenied
from orlop.linux import sockets
from orlop.runtime import execwords, health, lifecycle, program
from orlop.runtime.arguments import Shape, parse
from orlop.runtime.testing import Box, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PROGRAM = [sys.executable, "-m", "orlop.runtime.program"]


class Runtime:
    """The program, with a state root and a bundle."""

    def __init__(self, box: Box) -> None:
        self.box = box

    def __call__(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        more = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": 240} | more
        return subprocess.run([*PROGRAM, "--root", self.box.state_root, *words], check=False, **more)

    def create(self, *argv: str) -> str:
        """Create a container whose streams are null, as a caller does who reads none."""
        name = self.box.new_id()
        made = self(
            "create", "--bundle", self.box.write(*argv), name,
            capture_output=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert made.returncode == 0
        return name

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("state", name).stdout)
        return found


@pytest.fixture
def runtime(box: Box) -> Iterator[Runtime]:
    # created containers lose their maker: we are the one who collects them
    from orlop.linux import process

    before = _children()
    process.set_child_subreaper()
    yield Runtime(box)
    box.close()
    process.set_child_subreaper(False)
    for pid in _children() - before:  # they were killed with their containers
        os.waitpid(pid, 0)


def _children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return {int(word) for word in file.read().split()}


def _collect(pid: int) -> None:
    """End a program of ours and collect it: a PID namespace does not end while one of its zombies waits outside."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_life_by_commands(runtime: Runtime) -> None:
    """create, state, start, list, kill, state, delete: each answers as runc does."""
    name = runtime.create("/bin/sleep", "1000")
    assert runtime.state(name)["status"] == "created"
    assert runtime("start", name).returncode == 0
    state = runtime.state(name)
    assert (state["status"], state["bundle"], state["owner"]) == ("running", str(runtime.box.bundle), "root")
    rows = json.loads(runtime("list", "--format", "json").stdout)
    assert [(row["id"], row["status"]) for row in rows] == [(name, "running")]
    assert runtime("list", "-q").stdout == f"{name}\n"
    assert name in runtime("list").stdout
    assert json.loads(runtime("ps", "--format", "json", name).stdout) == [state["pid"]]
    assert "sleep 1000" in runtime("ps", name).stdout
    assert runtime("delete", name).returncode == 1
    assert runtime("kill", name, "KILL").returncode == 0
    until(lambda: runtime.state(name)["status"] == "stopped")
    assert runtime("delete", name).returncode == 0
    assert runtime("state", name).returncode == 1
    assert runtime("delete", "--force", name).returncode == 0


def test_run_in_the_foreground(runtime: Runtime) -> None:
    """`run` passes streams and the exit code through, and leaves nothing."""
    name = runtime.box.new_id()
    ran = runtime(
        "run", "--bundle", runtime.box.write("/bin/sh", "-c", "cat; echo err >&2; exit 7"), name,
        stdin=None, input="typed\n",
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "typed\n", "err\n")
    assert runtime("list", "-q").stdout == ""


def test_run_detached_and_exec(runtime: Runtime) -> None:
    """`run -d` leaves the container running; `exec` runs in it with options of its own."""
    name = runtime.box.new_id()
    pid_file = runtime.box.folder / "pid"
    ran = runtime(
        "run", "-d", "--pid-file", str(pid_file), "-b", runtime.box.write("/bin/sleep", "1000"), name,
        capture_output=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert ran.returncode == 0
    assert runtime.state(name)["pid"] == int(pid_file.read_text())
    ran = runtime(
        "exec", "-e", "A=b", "--cwd", "/tmp", "-u", "1000:1001", name, "sh", "-c", "echo $A; pwd; id -u; id -g"
    )
    assert ran.stdout.split() == ["b", "/tmp", "1000", "1001"]
    assert runtime("exec", name, "sh", "-c", "exit 9").returncode == 9
    assert runtime("exec", name, "nothing").returncode == 127
    assert runtime("exec", name, "/etc/passwd").returncode == 126
    given_process = runtime.box.process | {"args": ["echo", "from file"]}
    (runtime.box.folder / "process.json").write_text(json.dumps(given_process))
    assert runtime("exec", "--process", str(runtime.box.folder / "process.json"), name).stdout == "from file\n"
    ran = runtime(
        "exec", "--cap", "SYS_ADMIN", "--no-new-privs", name, "grep", "-E", "CapEff|NoNew", "/proc/self/status"
    )
    assert "00000000a82425fb" in ran.stdout
    assert "NoNewPrivs:\t1" in ran.stdout
    assert runtime(
        "exec", "-d", "--pid-file", str(pid_file), name, "sleep", "1000",
        capture_output=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ).returncode == 0  # fmt: skip
    pids = json.loads(runtime("ps", "-f", "json", name).stdout)
    assert int(pid_file.read_text()) in pids
    _collect(int(pid_file.read_text()))


def test_pausing_and_limits(runtime: Runtime) -> None:
    """pause, resume, update and events, on a real cgroup."""
    name = runtime.create("/bin/sleep", "1000")
    runtime("start", name)
    assert runtime("pause", name).returncode == 0
    assert runtime.state(name)["status"] == "paused"
    assert runtime("exec", name, "true").returncode == 1
    assert runtime("resume", name).returncode == 0
    assert runtime("update", "--memory", "64m", "--pids-limit", "33", name).returncode == 0
    stats = json.loads(runtime("events", "--stats", name).stdout)["data"]
    assert stats["memory"]["usage"]["limit"] == 64 << 20
    assert stats["pids"]["limit"] == 33
    resources = runtime("update", "--resources", "-", name, stdin=None, input='{"pids": {"limit": 44}}')
    assert resources.returncode == 0
    assert json.loads(runtime("events", "--stats", name).stdout)["data"]["pids"]["limit"] == 44
    assert runtime("update", name).returncode == 1


def test_events_end_with_the_container(runtime: Runtime) -> None:
    """`events` prints a line at every interval until the container has ended."""
    name = runtime.create("/bin/sleep", "1000")
    runtime("start", name)
    words = [*PROGRAM, "--root", runtime.box.state_root, "events", "--interval", "50ms", name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        lines = [events.stdout.readline(), events.stdout.readline()]
        assert runtime("kill", name, "KILL").returncode == 0
        lines += events.stdout
    assert events.returncode == 0
    assert all(json.loads(line)["type"] == "stats" for line in lines)


def test_spec_makes_a_bundle_that_runs(runtime: Runtime) -> None:
    """`spec` writes a config.json that `run` runs; it does not overwrite one."""
    bundle = str(runtime.box.bundle)
    assert runtime("spec", "--bundle", bundle).returncode == 0
    assert runtime("spec", "--bundle", bundle).returncode == 1
    ran = runtime("run", "--bundle", bundle, runtime.box.new_id(), stdin=None, input="echo in; exit 3\n")
    assert (ran.returncode, ran.stdout) == (3, "in\n")


def test_features_and_versions(runtime: Runtime) -> None:
    """`features` has the shape of the specification, and what it names is true."""
    features = json.loads(runtime("features").stdout)
    assert features["ociVersionMax"] >= features["ociVersionMin"]
    assert {"ro", "rbind", "rro", "tmpcopyup", "idmap"} <= set(features["mountOptions"])
    assert features["linux"]["seccomp"]["enabled"]
    assert features["hooks"][:2] == ["prestart", "createRuntime"]
    assert runtime("--version").stdout.startswith("orlop-runtime version ")
    assert "create" in runtime("--help").stdout
    assert "--bundle" in runtime("create", "--help").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "nonsense"),
        (["create"], "create takes"),
        (["create", "--nonsense", "x"], "--nonsense"),
        (["--systemd-cgroup", "create", "x"], "cgroupfs"),
        (["checkpoint", "x"], "CRIU"),
        (["kill", "x", "NONSENSE"], "NONSENSE"),
        (["state", "../x"], "is not a container id"),
        (["list", "--format", "xml"], "xml"),
        (["create", "--console-socket"], "needs a value"),
    ],
)
def test_what_is_wrong_is_said(runtime: Runtime, words: list[str], said: str) -> None:
    """Every refusal names what was wrong, on standard error and in the log; the exit code is 1."""
    log = runtime.box.folder / "log"
    ran = runtime("--log", str(log), "--log-format", "json", *words)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert ran.stderr.startswith("orlop-runtime: ")
    line = json.loads(log.read_text().splitlines()[-1])
    assert line["level"] == "error"
    assert said in line["msg"]


def test_errors_are_worded_for_podman(runtime: Runtime) -> None:
    """The words that podman and docker look for are there: they have no other way to tell 127 from 126."""
    ran = runtime("create", "--bundle", runtime.box.write("nothing"), runtime.box.new_id())
    assert "executable file not found in $PATH" in ran.stderr
    ran = runtime("create", "--bundle", runtime.box.write("/etc/passwd"), runtime.box.new_id())
    assert "permission denied" in ran.stderr


def test_terminals_go_to_the_console_socket(runtime: Runtime, tmp_path: Path) -> None:
    """With --console-socket the terminal's master side arrives there, for create as for exec."""
    runtime.box.process["terminal"] = True
    path = str(tmp_path / "console")
    listener = sockets.unix_listen(path)
    masters: list[int] = []

    def receive() -> None:
        connection, _ = sockets.accept(listener)
        _, fds = sockets.receive_with_descriptors(connection, 4096)
        masters.extend(fds)
        connection.close()

    name = runtime.box.new_id()
    made = runtime(
        "create", "--console-socket", path, "-b", runtime.box.write("/bin/sh", "-c", "tty; sleep 1000"), name
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    receive()
    assert runtime("start", name).returncode == 0
    pid_file = tmp_path / "pid"
    words = ("exec", "-d", "-t", "--pid-file", str(pid_file), "--console-socket", path, name, "tty")
    assert runtime(*words).returncode == 0
    receive()
    assert [read_line(master) for master in masters] == [b"/dev/pts/0\r\n", b"/dev/pts/1\r\n"]
    assert runtime("create", "-b", str(runtime.box.bundle), runtime.box.new_id()).returncode == 1
    for fd in masters:
        os.close(fd)  # the program on it ends by SIGHUP, or has ended
    _collect(int(pid_file.read_text()))
    listener.close()


def _on_a_terminal(words: Sequence[str], typed: bytes) -> tuple[int, bytes]:
    """Run a program on a terminal of ours; its exit code and what it showed."""
    pid, master = pty.fork()
    if pid == 0:
        os.execv(words[0], list(words))
    os.write(master, typed)
    shown = b""
    while True:
        try:
            data = os.read(master, 4096) if select.select([master], [], [], PATIENCE)[0] else b""
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_a_foreground_terminal(runtime: Runtime) -> None:
    """`run` with a terminal joins ours to the container's: raw, of our size, until the program ends."""
    runtime.box.process["terminal"] = True
    script = "tty; stty size; read line; echo got $line; exit 6"
    words = [*PROGRAM, "--root", runtime.box.state_root, "run", "-b", runtime.box.write("/bin/sh", "-c", script)]
    code, shown = _on_a_terminal([*words, runtime.box.new_id()], b"typed\r")
    assert code == 6
    assert b"/dev/pts/0" in shown
    assert b"got typed" in shown


def test_signals_are_passed_on(runtime: Runtime) -> None:
    """A signal to a foreground `run` is the container's."""
    script = "trap 'exit 21' TERM; echo ready; while :; do sleep 0.01; done"
    words = [*PROGRAM, "--root", runtime.box.state_root, "run", "-b", runtime.box.write("/bin/sh", "-c", script)]
    with subprocess.Popen([*words, runtime.box.new_id()], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == 21


def test_a_killed_creator_leaves_what_can_be_deleted(runtime: Runtime) -> None:
    """SIGKILL to `create`, at whatever moment, leaves at most what `delete --force` clears."""
    for delay in (0.0, 0.03, 0.04, 0.05, 0.06):
        name = runtime.box.new_id()
        words = [*PROGRAM, "--root", runtime.box.state_root, "create", "-b", runtime.box.write("/bin/sleep", "9"), name]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as making:
            try:
                making.wait(delay)
            except subprocess.TimeoutExpired:
                making.kill()
        assert runtime("delete", "--force", name).returncode == 0
        assert lifecycle.list_containers(state_root=runtime.box.state_root) == []


def test_listening_sockets_are_passed_in(runtime: Runtime) -> None:
    """Descriptors of a supervisor (LISTEN_FDS) reach the program, with the variables that announce them."""
    (runtime.box.folder / "given").write_text("content")
    script = "echo $LISTEN_FDS $LISTEN_PID; cat <&3"
    command = f'exec 3<{runtime.box.folder}/given; exec "$@"'
    words = [*PROGRAM, "--root", runtime.box.state_root, "run", "-b", runtime.box.write("/bin/sh", "-c", script)]
    ran = subprocess.run(
        ["/bin/sh", "-c", command, "sh", *words, runtime.box.new_id()],
        capture_output=True, text=True, check=True, env={**os.environ, "LISTEN_FDS": "1"},
    )  # fmt: skip
    assert ran.stdout == "1 1\ncontent"


# words


_SHAPE = Shape(flags={"d": "detach", "detach": "detach"}, options={"b": "bundle", "bundle": "bundle"}, operands=(0, 9))


@given(
    st.lists(
        st.sampled_from(["-d", "--detach", "-b", "--bundle=x", "x", "-", "--", "--nope", "-b=y", "--detach=false"])
    )
)
def test_any_words_are_sorted_or_refused(words: list[str]) -> None:
    """Any row of words is sorted, each exactly once, or refused by InvalidArgument."""
    try:
        found, used = parse("test", words, _SHAPE)
    except InvalidArgument:
        return
    assert used == len(words)
    assert found.flags <= {"detach"}
    assert len(found.operands) <= len(words)


def test_words_after_the_program_are_its_own() -> None:
    """What follows the id and the command of `exec` is the program's, dashes and all."""
    found, _ = parse("exec", ["-t", "id", "ls", "-l", "--", "-t"], execwords.EXEC)
    assert found.flags == {"tty"}
    assert found.operands == ("id", "ls", "-l", "--", "-t")


@given(st.text(max_size=8))
def test_numbers_of_options(text: str) -> None:
    """A limit is a number with a suffix, or refused by name."""
    try:
        assert execwords.number_of("memory", text) >= -1
    except InvalidArgument:
        return


def test_suffixes() -> None:
    """512m is mebibytes, -1 no limit."""
    assert [execwords.number_of("memory", text) for text in ("512m", "1G", "7", "7b", "3kb", "-1")] == [
        512 << 20,
        1 << 30,
        7,
        7,
        3 << 10,
        -1,
    ]


def test_state_is_not_kept_where_others_write(tmp_path: Path) -> None:
    """A folder in /tmp that somebody else has made, or may change, is not used for the states of containers."""
    ours, link, open_to_all, foreign = (str(tmp_path / name) for name in ("ours", "link", "open", "foreign"))
    program._claim(ours)
    program._claim(ours)
    assert os.stat(ours).st_mode & 0o777 == 0o700
    os.symlink(ours, link)
    os.mkdir(open_to_all)
    os.chmod(open_to_all, 0o777)
    os.mkdir(foreign, 0o700)
    os.chown(foreign, 54321, 54321)
    for folder in (link, open_to_all, foreign):
        with pytest.raises(PermissionDenied, match="not a folder of ours alone"):
            program._claim(folder)


def test_probes_leave_the_host_some_time() -> None:
    """An image's health check with an interval of next to nothing rests as long as its probe took, at most a second."""
    for took, rest in ((1000, 1000), (300_000_000, 300_000_000), (60_000_000_000, 1_000_000_000)):
        given = {"argv": ["/bin/true"], "env": {}, "interval": 1, "start_interval": 1, "start_period": 0, "retries": 3}
        watch = health.Health(given | {"timeout": 1_000_000_000}, 0)
        watch.tick(10, 10)
        pid = watch.pid
        os.waitpid(pid, 0)
        watch.ended(0, 10 + took, 10 + took)
        assert watch.next_time == 10 + took + rest
