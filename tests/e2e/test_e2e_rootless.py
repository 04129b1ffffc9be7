"""Without root, as an ordinary user: with the ids of /etc/subuid, and with one's own id alone."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from command import Orlop
from patience import free_port, until, until_equal
from rootless_user import UserOrlop, first_id, installed, make_user, remove_user

EPOCH = "1000000000"
_TUN = Path("/dev/net/tun")


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    """An interpreter with orlop that every user may run; /dev/net/tun is open meanwhile, and no other session's."""
    lock = os.open("/run/lock/orlop-test-tun", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = Path(tempfile.mkdtemp(prefix="orlop-rootless-", dir="/var/tmp"))  # pytest's own are closed to other users
    folder.chmod(0o755)
    mode = stat.S_IMODE(_TUN.stat().st_mode)
    _TUN.chmod(0o666)
    try:
        yield installed(folder)
    finally:
        _TUN.chmod(mode)
        shutil.rmtree(folder)
        os.close(lock)


def _of(kind: str, python: Path, archive: Path) -> Iterator[UserOrlop]:
    """A user's orlop with the image `busybox`; the user is gone afterwards, with all processes."""
    user, uid = make_user(kind, ranges=kind == "many")
    folder = Path(f"/home/{user}")
    orlop = UserOrlop(folder, python, user, uid)
    try:
        shutil.copy(archive, folder / "busybox.tar")
        (folder / "busybox.tar").chmod(0o644)
        orlop("load", "-q", "-i", str(folder / "busybox.tar"))
        yield orlop
        names = orlop.run("ps", "-aq").stdout.split()
        if names:
            orlop.run("rm", "-f", *names)
        orlop("internal", "teardown")
        until_equal(lambda: _processes(uid), [], f"the processes of {user} to end")
    finally:
        remove_user(user)


@pytest.fixture(scope="module")
def many(python: Path, busybox_archive: Path) -> Iterator[UserOrlop]:
    """A user with subordinate ids."""
    yield from _of("many", python, busybox_archive)


@pytest.fixture(scope="module")
def one(python: Path, busybox_archive: Path) -> Iterator[UserOrlop]:
    """A user without."""
    yield from _of("one", python, busybox_archive)


@pytest.fixture(params=["many", "one"])
def user(request: pytest.FixtureRequest) -> UserOrlop:
    """Both in turn."""
    found: UserOrlop = request.getfixturevalue(request.param)
    return found


def _processes(uid: int) -> list[str]:
    """What runs as this user, or as one of its subordinate ids; the dead that nobody has collected do not count."""
    found = []
    for name in os.listdir("/proc"):
        try:
            own = name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid
            if own and Path(f"/proc/{name}/stat").read_text().rpartition(") ")[2][0] != "Z":
                found.append(Path(f"/proc/{name}/cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def _fetched(port: int) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return str(answer.read().decode())
    except (URLError, OSError, HTTPException):
        return ""


def _holder(orlop: UserOrlop) -> int:
    return int(json.loads((orlop.folder / "run/holder.json").read_text())["pid"])


def _context(orlop: UserOrlop, dockerfile: str) -> Path:
    """A build context of the user's with all kinds of files."""
    folder = orlop.folder / "context"
    shutil.rmtree(folder, ignore_errors=True)
    _fill(folder, dockerfile)
    for place, folders, names in os.walk(folder):
        for name in ("", *folders, *names):
            os.chown(os.path.join(place, name), orlop.uid, orlop.uid, follow_symlinks=False)
    return folder


def _fill(folder: Path, dockerfile: str) -> None:
    (folder / "sub").mkdir(parents=True)
    (folder / "Dockerfile").write_text(dockerfile)
    (folder / "a").write_text("a\n")
    (folder / "sub/b").write_text("b\n")
    (folder / "sub/link").symlink_to("b")
    inner = folder / "t"
    inner.mkdir()
    (inner / "x").write_text("x\n")
    os.chown(inner / "x", 55, 66)
    (inner / "l").symlink_to("x")
    os.chown(inner / "l", 77, 78, follow_symlinks=False)
    os.mkfifo(inner / "pipe")
    os.chown(inner / "pipe", 8, 9)
    os.mknod(inner / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(inner / "null", 5, 6)
    os.chown(inner, 70001, 70002)  # beyond what 65536 subordinate ids map
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names, ""):
            os.utime(os.path.join(place, name), (int(EPOCH), int(EPOCH)), follow_symlinks=False)
    subprocess.run(["tar", "--numeric-owner", "-cf", folder / "t.tar", "-C", inner, "."], check=True)
    os.utime(folder / "t.tar", (int(EPOCH), int(EPOCH)))
    shutil.rmtree(inner)


# --- what everybody has


def test_default_run_is_root_inside_and_nobody_outside(user: UserOrlop) -> None:
    """A program is root in its container, and the user on the host; nothing is warned of."""
    done = user.run("run", "--rm", "--network", "none", "busybox", "sh", "-c", "id -u; cat /proc/self/uid_map")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "0"
    assert lines[1].split() == ["0", str(user.uid), "1"]


def test_host_network_is_the_hosts(user: UserOrlop) -> None:
    """--network host shares the host's links, and /sys is there though no fresh one may be mounted."""
    script = "ls /sys/class/net; readlink /proc/self/ns/net"
    said = user("run", "--rm", "--network", "host", "busybox", "sh", "-c", script).split()
    assert "lo" in said
    assert said[-1] == os.readlink("/proc/self/ns/net")


def test_whole_life_of_a_detached_container(user: UserOrlop) -> None:
    """Run -d -p, ps, exec, logs, top, stats, stop, rm: as for root, the port served by pasta."""
    port = free_port()
    script = "mkdir /www; echo aboard >/www/index.html; echo serving; exec httpd -f -p 80 -h /www"
    user("run", "-d", "--name", "web", "-p", f"{port}:80", "busybox", "sh", "-c", script)
    until_equal(lambda: _fetched(port), "aboard\n", "an answer of the published port")
    assert f":{port}->80/tcp" in user("ps")
    assert user("port", "web", "80").strip().endswith(f":{port}")
    assert "httpd" in user("exec", "web", "ps")
    assert user.run("exec", "web", "sh", "-c", "exit 7").returncode == 7
    assert user("exec", "-i", "web", "cat", stdin=b"through").strip() == "through"
    assert "serving" in user("logs", "web")
    assert "httpd" in user("top", "web")
    assert "web" in user("stats", "--no-stream", "web")
    user("exec", "-d", "web", "sleep", "600")
    until(lambda: "sleep 600" in user("top", "web"), "a detached exec to run")
    user("stop", "-t", "0", "web")
    assert "Exited" in user("ps", "-a")
    assert _fetched(port) == ""
    user("start", "web")
    until(lambda: _fetched(port) == "aboard\n" or "Exited" in user("ps", "-a"), "it to start again")
    user("rm", "-f", "web")
    assert user("ps", "-aq") == ""


def test_run_rm_settles_by_itself_when_detached(user: UserOrlop) -> None:
    """The shim's exit command works inside the user's namespaces: `--rm -d` leaves nothing."""
    user("run", "-d", "--rm", "--network", "none", "--name", "brief", "busybox", "true")
    until_equal(lambda: user("ps", "-aq"), "", "the container to go")
    until_equal(lambda: os.listdir(user.folder / "run/containers"), [])


def test_names_are_asked_through_pasta(user: UserOrlop) -> None:
    """A container asks pasta's address for names, and knows its own."""
    said = user("run", "--rm", "--hostname", "mate", "busybox", "cat", "/etc/resolv.conf", "/etc/hosts")
    assert "nameserver 169.254.1.1" in said or "nameserver 10.0.2.3" in said
    assert "mate" in said


def test_slirp4netns_does_where_pasta_is_not(many: UserOrlop) -> None:
    """With slirp4netns alone ports are published all the same."""
    folder = many.folder / "bin"
    folder.mkdir()
    for name in ("newuidmap", "newgidmap", "slirp4netns"):
        (folder / name).symlink_to(str(shutil.which(name)))
    environ, port = many.environ, free_port()
    many.environ = environ | {"PATH": str(folder)}
    try:
        script = "mkdir /www; echo astern >/www/index.html; exec httpd -f -p 80 -h /www"
        many("run", "-d", "--name", "web", "-p", f"{port}:80", "busybox", "sh", "-c", script)
        until_equal(lambda: _fetched(port), "astern\n", "an answer of the published port")
        assert "nameserver 10.0.2.3" in many("exec", "web", "cat", "/etc/resolv.conf")
    finally:
        many("rm", "-f", "web")
        many.environ = environ


def test_working_folder_is_kept(user: UserOrlop) -> None:
    """Relative paths of a command mean what they meant outside of the namespace."""
    shutil.rmtree(user.folder / "here", ignore_errors=True)
    (user.folder / "here").mkdir()
    (user.folder / "here/file").write_text("found\n")
    os.chown(user.folder / "here", user.uid, user.uid)
    assert user("run", "--rm", "--network", "none", "-v", "./here:/h", "busybox", "cat", "/h/file") == "found\n"


def test_push_and_pull(user: UserOrlop, registry: str) -> None:
    """An image goes to a registry and comes back the same."""
    environ = user.environ
    user.environ = environ | {"ORLOP_INSECURE_REGISTRIES": registry}
    try:
        user("login", "-u", "sailor", "--password-stdin", registry, stdin=b"hunter2hunter2")
        user("tag", "busybox", f"{registry}/busybox")
        user("push", "-q", f"{registry}/busybox")
        before = user("inspect", "-f", "{{.Id}}", "busybox")
        user("rmi", f"{registry}/busybox")
        user("pull", "-q", f"{registry}/busybox")
        assert user("inspect", "-f", "{{.Id}}", f"{registry}/busybox") == before
        user("rmi", f"{registry}/busybox")
    finally:
        user.environ = environ


_OWNERS = """
FROM busybox AS first
COPY --chown=1000:1001 a /a
COPY --chown=7 sub /sub
COPY --chown=70000:5 sub /far
COPY --chmod=4755 a /suid
ADD --chown=3:4 t.tar /tar/
ADD t.tar /tar2/
WORKDIR /w/x
RUN rm /a && touch -d @1000000000 / /w/x/../x
FROM scratch
COPY --from=first /tar2 /tar2
COPY --from=first --chown=9:9 /sub /sub9
COPY --from=first /sub /sub
"""


@pytest.mark.parametrize(("name", "snapshotter"), [("many", "overlay"), ("one", "overlay"), ("one", "native")])
def test_images_come_out_as_roots(
    request: pytest.FixtureRequest, orlop: Orlop, busybox: str, tmp_path: Path, name: str, snapshotter: str
) -> None:
    """Owners, set-id bits, devices and symlinks of others: every layer has the digest that root's has."""
    user: UserOrlop = request.getfixturevalue(name)
    _fill(tmp_path / "rootctx", _OWNERS)
    context = _context(user, _OWNERS)
    environ = user.environ
    user.environ = environ | {"ORLOP_SNAPSHOTTER": snapshotter, "SOURCE_DATE_EPOCH": EPOCH}
    orlop.environ |= {"ORLOP_SNAPSHOTTER": snapshotter, "SOURCE_DATE_EPOCH": EPOCH}
    try:
        for target in ("first", ""):
            wanted = _layers(orlop, tmp_path / "rootctx", target)
            assert _layers(user, context, target) == wanted
    finally:
        user.environ = environ


def _layers(orlop: Orlop, context: Path, target: str) -> list[str]:
    more = ("--target", target) if target else ()
    orlop("build", "-q", "--no-cache", "--network", "none", "-t", "owned", *more, str(context))
    found: list[str] = json.loads(orlop("inspect", "-f", "{{json .RootFS.Layers}}", "owned"))
    orlop("rmi", "owned")
    return found


def test_layer_of_others_comes_back_whole(user: UserOrlop, tmp_path: Path, orlop: Orlop, busybox: str) -> None:
    """What root built and saved loads, is changed by a step, and keeps every owner that the step did not touch."""
    _fill(tmp_path / "rootctx", _OWNERS)
    orlop("build", "-q", "-t", "owned", "--target", "first", str(tmp_path / "rootctx"))
    orlop("save", "-o", str(user.folder / "owned.tar"), "owned")
    (user.folder / "owned.tar").chmod(0o644)
    user("load", "-q", "-i", str(user.folder / "owned.tar"))
    context = _context(user, "FROM owned\nRUN echo more >> /sub/b && rm /tar/x")
    user("build", "-q", "--network", "none", "-t", "changed", str(context))
    user("save", "-o", str(user.folder / "changed.tar"), "changed")
    orlop("load", "-q", "-i", str(user.folder / "changed.tar"))
    said = orlop(
        "run", "--rm", "changed", "stat", "-c", "%u:%g %n", "/sub/b", "/sub/link", "/tar2/x", "/tar2/null", "/far"
    )
    assert said.splitlines() == ["7:7 /sub/b", "7:7 /sub/link", "55:66 /tar2/x", "5:6 /tar2/null", "70000:5 /far"]
    user("rmi", "-f", "owned", "changed")


def test_limits_that_cannot_be_kept_are_said(user: UserOrlop) -> None:
    """Each limit that this machine does not let a user set is warned of by name, with the reason; the program runs."""
    done = user.run(
        "run", "--rm", "--network", "none", "--memory", "64m", "--pids-limit", "50", "busybox", "echo", "on"
    )
    assert done.stdout == "on\n"
    for option in ("--memory", "--pids-limit"):
        assert f"{option} has no effect: " in done.stderr
    assert "--cpus" not in done.stderr


def test_pausing_needs_a_cgroup(user: UserOrlop) -> None:
    """Where the container has no cgroup of its own it cannot be paused, and that is said."""
    user("run", "-d", "--network", "none", "--name", "still", "busybox", "sleep", "600")
    try:
        assert "cgroup" in user.fails("pause", "still")
    finally:
        user("rm", "-f", "still")


def test_what_takes_root_is_refused_with_a_way_out(user: UserOrlop) -> None:
    """Low ports, bridges and addresses of one's own: refused before anything is made."""
    least = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    said = user.fails("run", "--rm", "-p", f"{least - 1}:80", "busybox", "true")
    assert f"port {least - 1}" in said
    assert "ip_unprivileged_port_start" in said
    assert "bridge" in user.fails("run", "--rm", "--network", "harbour", "busybox", "true")
    assert "bridge" in user.fails("network", "create", "harbour")
    assert "--ip" in user.fails("run", "--rm", "--ip", "10.0.0.9", "busybox", "true")
    assert user("ps", "-aq") == ""


def test_port_in_use_is_refused_by_name(user: UserOrlop) -> None:
    """A port of the host that somebody serves already is a conflict, and nothing is left of the container."""
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))  # as a published port does
        sock.listen()
        port = sock.getsockname()[1]
        assert str(port) in user.fails("run", "-d", "--rm", "-p", f"{port}:80", "busybox", "sleep", "9")
    assert user.run("ps", "-q").stdout == ""
    user("rm", "-f", *user("ps", "-aq").split()) if user("ps", "-aq") else None


# --- the holder


def test_commands_share_one_holder(user: UserOrlop) -> None:
    """However many commands start at once, one process keeps the namespaces, and it has nothing but /dev/null open."""
    user("internal", "teardown")
    running = [
        subprocess.Popen([*user.program, "images", "-q"], env=user.environ, stdout=subprocess.DEVNULL, cwd="/")
        for _ in range(4)
    ]
    assert [one.wait(timeout=60) for one in running] == [0, 0, 0, 0]
    until_equal(lambda: len([line for line in _processes(user.uid) if "orlop-holder" in line]), 1, "one holder")
    folder = f"/proc/{_holder(user)}/fd"
    until_equal(lambda: {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}, {"/dev/null"})


def test_killed_holder_is_replaced(user: UserOrlop) -> None:
    """Without its holder the next command makes another, and all images are there."""
    user("images")
    os.kill(_holder(user), 9)
    assert "busybox" in user("images")


@pytest.mark.parametrize("shim_too", [False, True])
def test_containers_survive_their_holder(many: UserOrlop, shim_too: bool) -> None:
    """A container whose holder (and shim) was killed is shown as running, can be entered and stopped."""
    many("run", "-d", "--network", "none", "--name", "afloat", "busybox", "sleep", "600")
    try:
        (record,) = (many.folder / "run/containers").glob("*/launch.json")
        os.kill(_holder(many), 9)
        if shim_too:
            os.kill(json.loads(record.read_text())["shim_pid"], 9)
        assert "Up" in many("ps")
        assert many("exec", "afloat", "id", "-u") == "0\n"
        many("stop", "-t", "0", "afloat")
        assert "Exited" in many("ps", "-a")
    finally:
        many("rm", "-f", "afloat")


def test_teardown_ends_everything(user: UserOrlop) -> None:
    """`internal teardown` stops containers and the holder: no process of the user is left."""
    user("run", "-d", "--name", "left", "busybox", "sleep", "600")
    user("internal", "teardown")
    until_equal(lambda: _processes(user.uid), [])
    assert "Exited" in user("ps", "-a")
    user("rm", "left")


# --- many ids


def test_users_of_a_container_are_subordinate_ids(many: UserOrlop) -> None:
    """With ranges, programs run as any user, files belong to them, and rm takes them all away again."""
    script = "touch /data/mine && chown 1000:1001 /data/mine && stat -c %u:%g /data/mine && chmod 700 /data"
    assert many("run", "--rm", "--network", "none", "-v", "cargo:/data", "busybox", "sh", "-c", script) == "1000:1001\n"
    assert many("run", "--rm", "--network", "none", "-u", "nobody", "busybox", "id", "-u") == "65534\n"
    (file,) = (many.folder / "root/volumes").glob("*/cargo/_data/mine")
    assert file.stat().st_uid == first_id(many.uid) + 999
    many("volume", "rm", "cargo")
    assert not file.exists()


def test_trees_of_subordinate_ids_are_removed(many: UserOrlop) -> None:
    """A container's files that the user itself could not remove go with the container."""
    script = "mkdir -p /x/y && chown 33:33 /x/y /x && chmod 000 /x"
    before = set(os.listdir(many.folder / "root/snapshots"))
    many("run", "--network", "none", "--name", "heavy", "busybox", "sh", "-c", script)
    (made,) = set(os.listdir(many.folder / "root/snapshots")) - before
    many("rm", "heavy")
    assert made not in os.listdir(many.folder / "root/snapshots")
    until_equal(lambda: os.listdir(many.folder / "root/trash"), [])  # an earlier container may still be settled


# --- one id


def test_one_id_answers_what_more_users_would(one: UserOrlop) -> None:
    """chown, setuid and mknod of devices succeed and do nothing; pipes are made; set-id programs still start."""
    script = (
        "touch /f && chown 5:6 /f && chgrp 7 /f && mknod /dev0 c 1 3 && mknod /pipe p && mkfifo /pipe2 && "
        "test -p /pipe && test -p /pipe2 && test ! -e /dev0 && stat -c %u:%g /f"
    )
    assert one("run", "--rm", "--network", "none", "busybox", "sh", "-c", script) == "0:0\n"
    assert (
        one("run", "--rm", "--network", "none", "busybox", "su", "nobody", "-s", "/bin/sh", "-c", "echo on") == "on\n"
    )


def test_one_id_says_whom_the_program_is(one: UserOrlop) -> None:
    """A USER that is not mapped: the program runs as the only one there is, which is said."""
    done = one.run("run", "--rm", "--network", "none", "-u", "nobody", "busybox", "id", "-u")
    assert done.stdout == "0\n"
    assert "not as nobody" in done.stderr


def test_many_ids_answer_nothing_falsely(many: UserOrlop) -> None:
    """With real ids the kernel answers: a chown to nobody that exists fails."""
    assert "nvalid argument" in many.fails("run", "--rm", "--network", "none", "busybox", "chown", "3000000", "/bin/sh")


def test_steps_that_change_owners_build(one: UserOrlop) -> None:
    """RUN chown and USER work as far as they can, and the result runs."""
    context = _context(
        one, "FROM busybox\nRUN echo mate:x:5:5::/: >>/etc/passwd && chown mate /bin\nUSER mate\nRUN touch /tmp/x\n"
    )
    done = one.run("build", "--network", "none", "-t", "mates", str(context))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not as mate") == 1
    one("rmi", "mates")


# --- doctor


def test_doctor_tells_the_two_apart(many: UserOrlop, one: UserOrlop) -> None:
    """With ranges the ids are fine; without, the remedy is a command that gives them."""
    assert "65536 subordinate ids" in many("doctor")
    said = one.run("doctor").stdout
    assert "only your own id" in said
    assert "usermod --add-subuids" in said


def test_without_a_tun_device_the_way_out_is_named(many: UserOrlop) -> None:
    """A closed /dev/net/tun: doctor and the failed run both say how to open it, and --network none works."""
    _TUN.chmod(0o600)
    try:
        assert "chmod 0666 /dev/net/tun" in many.run("doctor").stdout
        assert "chmod 0666 /dev/net/tun" in many.fails("run", "--rm", "busybox", "true")
        many("run", "--rm", "--network", "none", "busybox", "true")
    finally:
        _TUN.chmod(0o666)


def test_python_api_enters_by_itself(many: UserOrlop) -> None:
    """`orlop.open()` in a program of an ordinary user works like the command."""
    text = "import orlop\nwith orlop.open() as e:\n    print(len(e.images.list()) > 0, e.system.info()['Rootless'])"
    program = [*many.program[:-2], "-c", text]
    done = subprocess.run(program, env=many.environ, capture_output=True, check=True, cwd=many.folder)
    assert done.stdout == b"True True\n", sys.version
