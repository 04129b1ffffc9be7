"""Our own interpreter among the image's files: it loads nothing of them, is not reachable from them, and hands on nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attack
import pytest
from command import Orlop
from patience import until, until_equal

import orlop as api

_RUN = ("run", "--rm", "--network", "none")
_TRAP = "import os\nos.write(2, b'LOADED FROM THE IMAGE')\nopen('/tmp/loaded', 'w').close()\n"
_NOT_A_LIBRARY = b"\x7fELF\x02\x01\x01" + bytes(200)


def _traps() -> list[attack.Member]:
    """Modules and libraries where an interpreter, or libc, would look for them."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    standard = Path(os.__file__).parent
    names = ["encodings/__init__.py", "encodings/idna.py", "encodings/utf_8.py", "sitecustomize.py", "usercustomize.py"]
    names += ["orlop/__init__.py", "json/__init__.py", "struct.py", "traceback.py", "re/__init__.py", "pwd.py"]
    places = [str(standard).lstrip("/"), f"usr/lib/{version}", f"usr/lib/{version}/site-packages"]
    places += [f"usr/local/lib/{version}", str(Path(api.__file__).parent.parent).lstrip("/"), "", "tmp"]
    found = [attack.file(f"{place}/{name}".lstrip("/"), _TRAP, 0o755) for place in places for name in names]
    libraries = ("libnss_files.so.2", "libnss_compat.so.2", "libc.so.6", "libgcc_s.so.1", "libnss_evil.so.2")
    for place in ("lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        found += [attack.file(f"{place}/{name}", _NOT_A_LIBRARY, 0o755) for name in libraries]
    return [
        *found,
        attack.file("etc/ld.so.preload", "/lib/libnss_evil.so.2\n"),
        attack.file("etc/nsswitch.conf", "passwd: evil files\ngroup: evil files\nhosts: evil\n"),
        attack.file("etc/passwd", "root:x:0:0::/:/bin/sh\nsailor:x:1234:1234::/home:/bin/sh\n"),
        attack.file("etc/group", "root:x:0:\nsailor:x:1234:\n"),
    ]


@pytest.fixture
def trapped(image: Callable[..., str]) -> str:
    """An image full of traps for an interpreter."""
    return image(*_traps(), Env=["PYTHONPATH=/tmp:/", "PYTHONHOME=/", "PYTHONSTARTUP=/tmp/orlop/__init__.py"])


def test_nothing_of_the_image_is_loaded(arena: Orlop, trapped: str) -> None:
    """`run`, `exec`, their errors, users by name, terminals: no module and no library of the image is loaded."""
    name = attack.unique("trapped")
    arena("run", "-d", "--network", "none", "-u", "sailor", "--name", name, trapped, "sleep", "1000")
    try:
        results = [
            arena.run(*_RUN, "-u", "sailor:sailor", "-w", "/new/folder", trapped, "sh", "-c", "id -u; ls /tmp"),
            arena.run(*_RUN, trapped, "no-such-program"),
            arena.run(*_RUN, "-u", "nobody-known", trapped, "true"),
            arena.run(*_RUN, "-w", "/etc/passwd", trapped, "true"),
            arena.run(*_RUN, trapped, "\udcff\udcfe"),
            arena.run("exec", "-u", "sailor", name, "sh", "-c", "id -u; ls /tmp"),
            arena.run("exec", name, "no-such-\u00fc"),
            arena.run("exec", "-d", name, "true"),
            arena.run("exec", "-u", "nobody-known", name, "true"),
            arena.run("top", name),
        ]
        assert "loaded" not in arena("exec", name, "ls", "/tmp")
    finally:
        arena("rm", "-f", name)

    for done in results:
        assert "LOADED" not in done.stderr + done.stdout, done.args
        assert "Traceback" not in done.stderr, done.args
    assert results[0].stdout.split()[0] == results[5].stdout.split()[0] == "1234"


def test_nothing_of_the_image_is_loaded_by_a_build(arena: Orlop, trapped: str, tmp_path: Path) -> None:
    """COPY --chown by name, RUN, and a program of the image that fails, among the same traps."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {trapped}\nCOPY --chown=sailor:sailor file /copied\nUSER sailor\nRUN id -u && ls -n /copied && ls /tmp\n"
        "RUN test ! -e /tmp/loaded\n"
    )
    done = arena.run("build", "--no-cache", "--progress", "plain", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "LOADED" not in done.stdout + done.stderr
    assert "1234     1234" in done.stdout + done.stderr


def test_nothing_of_the_working_folder_is_loaded(arena: Orlop, tmp_path: Path) -> None:
    """Called in a folder of traps (somebody's checkout), orlop's own later processes load none of them."""
    for info, data in _traps()[:20]:
        path = (
            tmp_path / Path(info.name).name if "/" not in info.name else tmp_path / "/".join(info.name.split("/")[-2:])
        )
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(data)
    for name in ("json.py", "os.py", "struct.py", "traceback.py", "sitecustomize.py", "orlop.py", "threading.py"):
        (tmp_path / name).write_text(_TRAP)
    name = attack.unique("cwd")
    program = str(Path(sys.executable).with_name("orlop"))
    outputs = []
    for words in (
        ["run", "-d", "--network", "none", "--name", name, "busybox", "sleep", "1000"],
        ["exec", name, "true"],
        ["exec", "-d", name, "true"],
        ["kill", name],
        ["wait", name],
        ["rm", "-f", name],
    ):
        done = subprocess.run([program, *words], cwd=tmp_path, env=arena.environ, capture_output=True, check=False)
        outputs.append(done.stderr)
    script = (
        "import threading, os, orlop\n"
        "e = threading.Event(); threading.Thread(target=e.wait, daemon=True).start()\n"
        f"with orlop.open(root={arena.environ['ORLOP_ROOT']!r}, run_root={arena.environ['ORLOP_RUN_ROOT']!r}) as engine:\n"
        f"    i = engine.containers.run(orlop.CreateContainer(image='busybox', command=('sleep', '99'), name={name!r},\n"
        "        network='none'), None).id\n"
        "    print(engine.containers.exec(orlop.Exec(container=i, command=('true',)), orlop.Stdio(stdin=-1, stdout=1, stderr=2)))\n"
        "    engine.containers.remove(i, force=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, env=arena.environ, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr.decode()
    assert b"LOADED" not in b"".join([*outputs, done.stderr])


def test_descriptors(arena: Orlop, target: str, tmp_path: Path) -> None:
    """A program sees 0, 1 and 2 and nothing else, whatever its caller left open: folders, files, sockets, pipes."""
    opened = [
        os.open(path, os.O_RDONLY) for path in ("/", "/etc", tmp_path, "/etc/passwd", "/proc/self/ns/mnt", "/proc")
    ]
    opened += [os.dup2(opened[0], number) for number in (40, 99, 250, 900)]
    opened += os.pipe()
    script = "ls /proc/$$/fd; true"  # the shell's own: what it was given, while `ls` opens more
    try:
        for fd in opened:
            os.set_inheritable(fd, True)
        for words in (
            [*_RUN, "busybox", "sh", "-c", script],
            [*_RUN, "-i", "busybox", "sh", "-c", script],
            ["exec", target, "sh", "-c", script],
            ["exec", "-i", target, "sh", "-c", script],
        ):
            done = subprocess.run(
                [*arena.program, *words], env=arena.environ, capture_output=True, check=True, close_fds=False
            )
            assert done.stdout.split() == [b"0", b"1", b"2"], words
    finally:
        for fd in opened:
            os.close(fd)


def test_descriptors_of_a_detached_container(arena: Orlop, tmp_path: Path) -> None:
    """Neither a detached program nor its monitor keeps anything of the caller's open."""
    name = attack.unique("fds")
    folder = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        subprocess.run(
            [*arena.program, "run", "-d", "--network", "none", "--name", name, "busybox", "sleep", "1000"],
            env=arena.environ, capture_output=True, check=True, close_fds=False,
        )  # fmt: skip
        pid = int(arena("inspect", "-f", "{{.State.Pid}}", name))
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            shim = int(file.read().rsplit(")", 1)[1].split()[1])

        def foreign() -> list[str]:
            held = []
            for fd in os.listdir(f"/proc/{shim}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    held.append(os.readlink(f"/proc/{shim}/fd/{fd}"))
            return [
                path for path in held if (path.startswith("/") and not path.startswith(("/dev/", ours))) or path == mine
            ]

        # what a monitor reads while it becomes small it lets go again; what it inherited it would keep
        ours, mine = str(arena.folder), str(tmp_path)
        until_equal(foreign, [], "the monitor to let go of files")
    finally:
        os.close(folder)
        arena("rm", "-f", name)


_OVERWRITE = (
    # every process that appears is tried: its program opened for writing, truncated, through all its names
    "#!/bin/sh\n"
    "echo up\n"
    "while :; do for p in /proc/[0-9]*; do\n"
    "  case $p in /proc/1|/proc/$$) continue ;; esac\n"
    "  (echo evil > $p/exe) 2>/dev/null && echo WRITTEN $p\n"
    "  (cat $p/exe | head -c 0) 2>/dev/null\n"
    "  for f in $p/fd/[3-9] $p/fd/1[0-9]; do case $(readlink $f) in pipe:*|socket:*|'') ;; "
    "*) (echo evil > $f) 2>/dev/null && echo WRITTEN $f ;; esac; done\n"
    "  case $(readlink $p/exe 2>/dev/null) in *python*) echo SEEN $p ;; esac\n"
    "done; done\n"
)


@pytest.fixture
def interpreter() -> Iterator[Path]:
    """The host's interpreter, which must be the same afterwards."""
    path = Path(os.path.realpath(sys.executable))
    before = hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns
    yield path
    assert (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("right", ["NET_RAW", "SYS_PTRACE"])
def test_interpreter_cannot_be_overwritten(
    arena: Orlop, image: Callable[..., str], interpreter: Path, right: str
) -> None:
    """A container that races every `exec` for a writable /proc/<pid>/exe never gets one (CVE-2019-5736).

    With CAP_SYS_PTRACE nothing hides a process but having no number in the container's PID namespace.
    """
    hostile = image(attack.file("attack", _OVERWRITE, 0o755))
    name = attack.unique("exe")
    arena("run", "-d", "--network", "none", "--cap-add", right, "--name", name, hostile, "/attack")
    try:
        until(lambda: "up" in arena("logs", name), "the attacker to start")
        for _ in range(20):
            done = arena.run("exec", name, "true")
            assert (done.returncode, done.stderr) == (0, "")  # nor can it make a start look failed
        said = arena("logs", name)
    finally:
        arena("rm", "-f", name)

    assert "WRITTEN" not in said
    assert "SEEN" not in said


@pytest.mark.parametrize(
    "line",
    ["#!/proc/self/exe", "#!/proc/self/exe -c 1", "#!/proc/1/exe", "#!/proc/self/fd/3", "#!/proc/thread-self/exe"],
)
def test_interpreter_as_the_program(arena: Orlop, image: Callable[..., str], interpreter: Path, line: str) -> None:
    """An entry point whose interpreter is /proc/self/exe does not become a handle on ours, in `run` or `exec`."""
    evil = "open('/tmp/loaded', 'w').write('x')"
    hostile = image(
        attack.file("start", f"{line}\n{evil}\n", 0o755), attack.link("loop", "/proc/self/exe"),
        attack.file("late", "#!/loop\n", 0o755),
    )  # fmt: skip
    name, detached = attack.unique("exe"), attack.unique("exe")
    arena("run", "-d", "--network", "none", "--name", name, hostile, "sleep", "1000")
    try:
        for program in ("/start", "/loop", "/late", "/proc/self/exe"):
            # an image that starts its starter goes round in circles: it may, inside, until it is killed
            started = arena.run("run", "-d", "--network", "none", "--name", detached, hostile, program, "--version")
            entered = arena.run("exec", "-d", name, program, "--version")
            assert "Traceback" not in started.stderr + entered.stderr
            shown = arena.run("top", detached).stdout + arena.run("logs", detached).stdout
            assert "python" not in shown.lower()
            arena.run("rm", "-f", detached)
        seen = arena("exec", name, "sh", "-c", "for p in /proc/[0-9]*; do readlink $p/exe; done; ls /tmp")
    finally:
        arena.run("rm", "-f", name, detached)
    assert "python" not in seen
    assert "loaded" not in seen
