"""What hostile images, Dockerfiles and archives say of themselves: configs, words for terminals, modes, appetites."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attack
import pytest
from command import Orlop

_ESCAPES = "\x1b]0;pwned\x07\x1b[2J\x9b31m"

_CONFIGS: dict[str, dict[str, object]] = {
    "NUL in Env": {"Env": ["A=b\0c"]},
    "huge Env": {"Env": ["A=" + "x" * 3_000_000]},
    "Env without a name": {"Env": ["A", "=x", ""]},
    "Env of numbers": {"Env": [1]},
    "NUL in Entrypoint": {"Entrypoint": ["/bin/sh\0x"]},
    "Entrypoint of nothing": {"Entrypoint": [""]},
    "Cmd that is an object": {"Cmd": {}},
    "NUL in WorkingDir": {"WorkingDir": "/a\0b"},
    "WorkingDir that climbs": {"WorkingDir": "../../../../etc"},
    "WorkingDir without end": {"WorkingDir": "/" + "a" * 5000},
    "User with a tail": {"User": "0:0 ;"},
    "User beyond 32 bits (CVE-2024-40635)": {"User": "4294967296:0"},
    "User that is negative": {"User": "-1"},
    "User for the terminal": {"User": _ESCAPES},
    "Labels of numbers": {"Labels": {"a": 1}},
    "Volumes that climb": {"Volumes": {"../../x": {}}},
    "a Volume over the root": {"Volumes": {"/": {}}},
    "NUL in Volumes": {"Volumes": {"/a\0": {}}},
    "ports out of range": {"ExposedPorts": {"99999/tcp": {}}},
    "a Healthcheck that is none": {"Healthcheck": {"Test": "x"}},
}


@pytest.mark.parametrize("config", _CONFIGS.values(), ids=_CONFIGS.keys())
def test_hostile_configs(arena: Orlop, config: dict[str, object]) -> None:
    """An image whose config is wrong is refused, at the latest when it is run: never a defect, never somebody else."""
    name = attack.unique("config")
    archive = attack.image_over(attack.saved(arena, "busybox"), name, [], config)
    done = subprocess.run(
        [*arena.program, "load", "-q"], input=archive, env=arena.environ, capture_output=True, check=False
    )
    said = done.stderr.decode()
    if done.returncode == 0:
        ran = arena.run("run", "--rm", "--network", "none", name, "true")
        arena.run("rmi", "-f", name)
        assert ran.returncode in {125, 126, 127}, ran.stderr
        said = ran.stderr
    assert "orlop: " in said
    assert "internal error" not in said
    assert "\x1b" not in said
    assert "\x9b" not in said


@pytest.mark.parametrize(
    "listed",
    ["x", 1, {"Config": "config.json"}, [1], [{}], [{"Config": 1, "Layers": []}], [{"Config": "config.json", "Layers": 3}],
     [{"Config": "config.json", "Layers": [], "RepoTags": "x"}], [{"Config": "/etc/passwd", "Layers": []}],
     [{"Config": "../../../etc/passwd", "Layers": ["../x"]}], [{"Config": "config.json", "Layers": [], "RepoTags": [7]}]],
)  # fmt: skip
def test_archives_with_odd_lists(arena: Orlop, listed: object) -> None:
    """A manifest.json of another shape, or with paths of the host, is an error that says so."""
    archive = attack.tar(attack.file("config.json", b"{}"), attack.file("manifest.json", json.dumps(listed)))
    done = subprocess.run(
        [*arena.program, "load", "-q"], input=archive, env=arena.environ, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"internal error" not in done.stderr
    assert b"manifest.json" in done.stderr


def on_a_terminal(arena: Orlop, *words: str) -> bytes:
    """What a command writes to a terminal."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.execve(arena.program[0], [*arena.program, *words], {**arena.environ, "TERM": "xterm"})
        finally:
            os._exit(127)
    said = b""
    while select.select([master], [], [], 60)[0]:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        said += data
    os.waitpid(pid, 0)
    os.close(master)
    return said


def test_words_for_the_terminal(arena: Orlop, image: Callable[..., str]) -> None:
    """Labels, history, users and commands of an image reach a terminal without what it would act on."""
    name = image(Labels={"evil": _ESCAPES}, Env=[f"EVIL={_ESCAPES}"], Cmd=["sleep", "1000", _ESCAPES], User="0")
    container = attack.unique("words")
    arena("create", "--network", "none", "--label", f"mine={_ESCAPES}", "--name", container, name)
    try:
        for words in (
            ("inspect", name),
            ("inspect", "-f", "{{.Config.Labels}}", name),
            ("inspect", container),
            ("ps", "-a", "--no-trunc"),
            ("ps", "-a", "--format", '{{.Labels}} {{.Command}} {{.Label "mine"}}'),
            ("ps", "-a", "--format", "table {{.Names}}\t{{.Labels}}"),
            ("history", "--no-trunc", name),
            ("events", "--since", "1h", "--until", "0s", "--filter", f"container={container}"),
        ):
            said = on_a_terminal(arena, *words)
            assert said, words
            assert b"\x1b" not in said, words
            assert b"\xc2\x9b" not in said, words
        # who asks for marks himself, or reads into a pipe, gets what is there
        assert b"\x1b[1m" in on_a_terminal(arena, "ps", "-a", "--format", "\x1b[1m{{.Names}}")
        assert "\x1b" in arena("inspect", "-f", "{{.Config.Labels}}", name)
    finally:
        arena("rm", "-f", container)


def test_a_builds_words_for_the_terminal(arena: Orlop, tmp_path: Path) -> None:
    """Steps and their output reach a terminal without the marks that a Dockerfile put there; ours alone are drawn."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM busybox\nRUN printf '\\033]0;pwned\\007\\n'; echo '{_ESCAPES}'\nENV A={_ESCAPES}\n", newline="\n"
    )
    said = on_a_terminal(arena, "build", "--no-cache", str(tmp_path))
    assert b"\x1b]" not in said
    assert b"\x07" not in said
    assert b"\x1b[2J" not in said
    assert b"\xc2\x9b" not in said


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_modes_do_not_hang_on_the_callers_umask(arena: Orlop, umask: int) -> None:
    """Folders made for a container are its root's to write and everybody's to read, whatever the caller's umask."""
    volume = attack.unique("umask")
    places = ["/", "/data", "/new", "/new/dir", "/new/dir/deep", "/made"]
    words = ["run", "--rm", "--network", "none", "-v", f"{volume}:/data", "-w", "/new/dir/deep", "--tmpfs", "/made/t"]
    words += ["-u", "1000", "busybox", "stat", "-c", "%a %u", *places]
    done = subprocess.run(
        [sys.executable, "-c", f"import os, sys\nos.umask({umask})\nos.execv(sys.argv[1], sys.argv[1:])",
         *arena.program, *words],
        env=arena.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    arena("volume", "rm", "-f", volume)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["755 0"] * 6


def test_volumes_are_filled_from_inside_only(arena: Orlop, image: Callable[..., str], host_file: Path) -> None:
    """Where a volume or tmpfs goes is looked up in the image; links there lead nowhere else (CVE-2022-23648)."""
    folder = host_file.parent
    name = image(
        attack.link("absolute", str(folder)), attack.link("climbing", f"../../../../../../..{folder}"),
        attack.folder("real"), attack.link("real/link", str(host_file)), attack.hard_link("real/hard", "bin/busybox"),
    )  # fmt: skip
    volumes = [attack.unique("fill") for _ in range(3)]
    for place, volume in zip(("/absolute", "/climbing", "/real/../absolute"), volumes, strict=True):
        done = arena.run(
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            f"{volume}:{place}",
            name,
            "sh",
            "-c",
            f"ls -A {place}; > {place}/new",
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        arena("volume", "rm", volume)
    assert [path.name for path in folder.iterdir()] == [host_file.name]
    assert (
        arena.run("run", "--rm", "--network", "none", "--tmpfs", "/climbing", name, "ls", "-A", "/climbing").stdout
        == ""
    )
    listed = arena("run", "--rm", "--network", "none", "-v", "/real", name, "readlink", "/real/link")
    assert listed.strip() == str(host_file)


def test_dockerfiles_do_not_take_the_hosts_network(arena: Orlop, tmp_path: Path) -> None:
    """RUN --network=host is refused until who builds allows it, as BuildKit's entitlement has it."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN --network=host readlink /proc/self/ns/net\n")
    plain = ("build", "--no-cache", "--progress", "plain", str(tmp_path))
    done = arena.run(*plain)
    assert done.returncode == 1
    assert "Dockerfile:2" in done.stderr
    assert "--allow network.host" in done.stderr
    mine = os.readlink("/proc/self/ns/net")
    for allowed in (("--allow", "network.host"), ("--network", "host")):
        assert mine in "".join(part for one in [arena.run(*plain, *allowed)] for part in (one.stdout, one.stderr))
    assert "nothing that can be allowed" in arena.run(*plain, "--allow", "security.insecure").stderr


def test_places_to_mount_at_are_cleaned_up_inside(arena: Orlop, tmp_path: Path) -> None:
    """A step that puts a link where a place to mount at was made for it does not have things of the host removed.

    (CVE-2024-23652)
    """
    host = tmp_path / "host"
    (host / "inner/deep").mkdir(parents=True)
    (host / "empty").touch()
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox\n"
        f"RUN --mount=type=tmpfs,target=/made/inner/deep --mount=type=cache,target=/made/empty mv /made /moved; "
        f"ln -s {host} /made; readlink /made\n"
        f"RUN ln -s {host} /linked\n"
        "RUN --mount=type=tmpfs,target=/linked/inner/deep true\n"
    )
    done = arena.run("build", "--no-cache", "--progress", "plain", str(context))
    assert done.returncode == 0, done.stderr
    assert str(host) in done.stdout + done.stderr
    assert sorted(path.name for path in host.rglob("*")) == ["deep", "empty", "inner"]


def test_caches_and_secrets_are_names(arena: Orlop, tmp_path: Path) -> None:
    """Ids of cache mounts and secrets are names, not paths (CVE-2024-9675); sources stay in their tree (CVE-2024-1753)."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret").write_text("the host's own")
    context = tmp_path / "context"
    context.mkdir()
    (context / "link").symlink_to(host)
    climbing = f"../../../../../../../..{host}"
    for mount, script in (
        (f"type=cache,id={climbing},target=/x", "touch /x/new; cat /x/secret"),
        (f"type=secret,id={climbing}/secret,target=/x", "cat /x"),
        (f"type=bind,source={climbing},target=/x", "cat /x/secret"),
        ("type=bind,source=link,target=/x", "cat /x/secret"),
        (f"type=bind,from={climbing},target=/x", "cat /x/secret"),
        ("type=bind,target=/x,rw,propagation=shared", "true"),
    ):
        (context / "Dockerfile").write_text(f"FROM busybox\nRUN --mount={mount} {script}\n")
        done = arena.run("build", "--no-cache", "--progress", "plain", str(context))
        assert done.returncode == 1, mount
        assert "the host's own" not in done.stdout + done.stderr
        assert "internal error" not in done.stderr
    assert [path.name for path in host.iterdir()] == ["secret"]


def test_an_entry_point_that_is_its_own_starter_ends(arena: Orlop, image: Callable[..., str]) -> None:
    """A program whose interpreter is /proc/self/exe ends at once, in `run` and in `exec`."""
    name = image(attack.file("start", "#!/proc/self/exe\n", 0o755))
    container = attack.unique("circle")
    assert arena.run("run", "--rm", "--network", "none", name, "/start").returncode == 127
    arena("run", "-d", "--network", "none", "--name", container, name, "sleep", "1000")
    try:
        assert arena.run("exec", container, "/start").returncode == 127
    finally:
        arena("rm", "-f", container)


def test_groups_are_complete(arena: Orlop) -> None:
    """A user's own group is among his groups: permissions that deny a group hold after setgid (CVE-2022-36109)."""
    for user, groups in (("1000:5", "5"), ("1000", "0"), ("65534", "65534")):
        said = arena("run", "--rm", "--network", "none", "-u", user, "busybox", "grep", "^Groups:", "/proc/self/status")
        assert groups in said.split()[1:]
