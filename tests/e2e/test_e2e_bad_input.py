"""Bad input, typed as a person would: what is wrong is said, with the way out, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest
from command import Orlop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def foreign(orlop: Orlop) -> Path:
    """A program of another machine."""
    with open(str(shutil.which("busybox")), "rb") as file:
        image = bytearray(file.read(4096))
    image[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    path = orlop.folder / "foreign"
    path.write_bytes(image)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("line", "told", "marked"),
    [
        ("RUNN echo hi", "unknown instruction RUNN (did you mean RUN?)", "^^^^"),
        ("COPY --chwon=1 a b", "COPY has no flag --chwon", "     ^^^^^^^^^"),
        ("RUN --monut=type=tmpfs,target=/x true", "RUN has no flag --monut", "    ^"),
        ("COPY gone /x", "the build context has no gone", "     ^^^^"),
        ("COPY a.key /x", "a.key is hidden from the build by .dockerignore:2 (*.key)", "     ^^^^^"),
        ("ADD sub/b.key /x", "sub/b.key is hidden from the build by .dockerignore:3 (sub)", "    ^^^^^^^^^"),
    ],
)
def test_a_wrong_line_is_shown_and_pointed_at(
    orlop: Orlop, busybox: str, context: Callable[..., Path], line: str, told: str, marked: str
) -> None:
    """Unknown instruction, unknown flag, missing and hidden sources: the line's number, its text, and a caret below."""
    folder = context(f"FROM {busybox}\n{line}\n", a="x", **{"a.key": "x", "sub__b.key": "x"})
    (folder / ".dockerignore").write_text("# not for images\n*.key\nsub\n")

    error = orlop.fails("build", str(folder), code=1)

    first, shown, pointer = error.splitlines()[:3]
    assert first.startswith(f"orlop: Dockerfile:2: {told}")
    assert shown == f"   2 | {line}"
    assert pointer.startswith(f"       {marked}")


def test_an_unknown_option_is_named(orlop: Orlop) -> None:
    """A mistyped option or command gets the nearest one that there is; docker's exit codes."""
    assert "unknown option --nmae\n  hint: did you mean --name?" in orlop.fails("run", "--nmae", "x", "y", code=125)
    assert "did you mean orlop run?" in orlop.fails("rnu", code=1)


def test_why_an_image_was_not_found_is_said_apart(orlop: Orlop, busybox: str, registry: str) -> None:
    """Missing, private, nobody there, no such host, no network: five sentences, and no image appears."""
    assert f"{registry}/team/none:1 not found\n" in orlop.fails("pull", f"{registry}/team/none:1", code=1)

    stranger = Orlop(orlop.folder, DOCKER_CONFIG=str(orlop.folder / "nobody"))
    error = stranger.fails("pull", f"{registry}/team/none:1", code=1)
    assert "not found: or private and you are not logged in" in error
    assert f"orlop login {registry}" in error
    error = stranger.fails("run", "--rm", f"{registry}/team/none:1", "true", code=125)
    assert "not found: or private and you are not logged in" in error

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listened on: nobody else gets the port
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"{closed} refuses connections: nothing listens there" in orlop.fails("pull", f"{closed}/none", code=1)

    alone = Orlop(orlop.folder)
    alone.program = ["unshare", "--net", *orlop.program]
    error = alone.fails("pull", "registry.example/none", code=1)
    assert "cannot find registry.example: its name has no address" in error
    assert "that there is a network" in error
    assert alone("images", "-q").split() == orlop("images", "-q", busybox).split()


def test_a_program_of_another_machine_is_named_in_every_verb(
    orlop: Orlop, busybox: str, context: Callable[..., Path], foreign: Path
) -> None:
    """run, exec and RUN say which machine the binary is for and which this is, not "exec format error"."""
    told = "the binary is arm64, the host is amd64" if os.uname().machine == "x86_64" else "the binary is arm64"
    assert told in orlop.fails("run", "--rm", "-v", f"{foreign}:/foreign", busybox, "/foreign", code=126)
    orlop("run", "-d", "--name", "still", "-v", f"{foreign}:/foreign", busybox, "sleep", "1000")
    assert told in orlop.fails("exec", "still", "/foreign", code=126)
    folder = context(f'FROM {busybox}\nCOPY --chmod=755 foreign /foreign\nRUN ["/foreign"]\n')
    shutil.copy(foreign, folder / "foreign")
    error = orlop.fails("build", str(folder))
    assert "Dockerfile:3" in error
    assert told in error


def test_a_command_that_is_not_there_is_explained(orlop: Orlop, busybox: str) -> None:
    """A shell builtin, a name that PATH does not have, a path that is not there, a folder: 127 or 126, and why."""
    orlop("run", "-d", "--name", "still", busybox, "sleep", "1000")
    for verb in (["run", "--rm", busybox], ["exec", "still"]):
        assert "cd is a shell builtin: use sh -c 'cd ...'" in orlop.fails(*verb, "cd", "/tmp", code=127)
        error = orlop.fails(*verb, "nosuch", code=127)
        assert '"nosuch": executable file not found in $PATH' in error
        assert "the container's PATH is" in error
        assert '"/bin/nosuch": no such file or directory' in orlop.fails(*verb, "/bin/nosuch", code=127)
        assert '"/etc": is a directory' in orlop.fails(*verb, "/etc", code=126)
    assert orlop("exec", "still", "echo", "here") == "here\n"


def test_who_has_a_port_or_a_name_is_said(orlop: Orlop, busybox: str) -> None:
    """A port of another container, a port of a program of the host, a name: each with who has it, and all go on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = orlop.fails("run", "--rm", "-p", f"{port}:80", busybox, "true", code=125)
        assert f"port {port} is in use by " in error
        assert f"(pid {os.getpid()})" in error
    orlop("run", "-d", "--name", "first", "-p", "127.0.0.1::80", busybox, "sleep", "1000")
    port = int(orlop("port", "first", "80").strip().rpartition(":")[2])

    error = orlop.fails("run", "-d", "--name", "second", "-p", f"127.0.0.1:{port}:80", busybox, "true", code=125)
    assert f"port 127.0.0.1:{port} is in use by container first" in error

    identity = orlop("inspect", "-f", "{{.Id}}", "first")[:12]
    error = orlop.fails("run", "-d", "--name", "first", busybox, "true", code=125)
    assert f"the name first is in use by container {identity}" in error
    assert "orlop rm first" in error
    assert orlop("inspect", "-f", "{{.State.Status}}", "first") == "running\n"


def test_a_corrupted_blob_is_named(orlop: Orlop, busybox: str, registry: str) -> None:
    """A blob that the disk changed is not pushed and not saved: the error has its digest; the registry gets no image."""
    name = f"{registry}/team/spoilt:1"
    orlop("tag", busybox, name)
    blobs = orlop.folder / "root/content/blobs/sha256"
    spoilt = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt.chmod(0o600)
    spoilt.write_bytes(data)

    for verb in (["push", name], ["save", "-o", str(orlop.folder / "out.tar"), busybox]):
        error = orlop.fails(*verb, code=1)
        assert spoilt.name[:12] in error, error
    assert not (orlop.folder / "out.tar").exists()
    assert f"{name} not found" in orlop.fails("pull", name, code=1)


@pytest.mark.parametrize("way", ["../../escaped", "/../escaped", "link/escaped"])
def test_an_archive_that_leaves_its_root_writes_nothing_outside(
    orlop: Orlop, busybox: str, context: Callable[..., Path], way: str
) -> None:
    """ADD of a tar whose members climb or go through a link: refused or kept inside, never followed."""
    outside = orlop.folder / "outside"
    outside.mkdir()
    folder = context(f"FROM {busybox}\nADD bad.tar /in/\nRUN ls /in\n")
    with tarfile.open(folder / "bad.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo(way))

    done = orlop.run("build", "-q", str(folder))
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or way in done.stderr, done.stderr
    assert list(outside.iterdir()) == []
    assert not list(orlop.folder.rglob("escaped")) or all(
        path.is_relative_to(orlop.folder / "root") for path in orlop.folder.rglob("escaped")
    )


def test_a_store_of_a_newer_version_is_left_alone(orlop: Orlop, busybox: str) -> None:
    """Every verb refuses it, naming both layouts, and not a byte of it changes."""
    version = orlop.folder / "root/VERSION"
    version.write_text("99\n")
    database = (orlop.folder / "root/state.db").read_bytes()
    for verb in (["images"], ["run", "--rm", busybox, "true"], ["system", "prune", "-f"]):
        error = orlop.fails(*verb)
        assert "was written by a newer orlop (layout 99" in error
        assert "--root" in error
    assert (version.read_text(), (orlop.folder / "root/state.db").read_bytes()) == ("99\n", database)
    version.write_text("1\n")


@pytest.mark.parametrize(("kind", "name"), [("nfs4", "NFS"), ("cifs", "SMB"), ("9p", "9p")])
def test_a_store_on_a_network_file_system_is_refused(orlop: Orlop, kind: str, name: str) -> None:
    """The mount table says what the root lies on. This kernel has none of them: a tmpfs is called one in the table."""
    script = (
        'mount -t tmpfs tmpfs "$1" && sed "\\\\# $1 #s/ - tmpfs / - $2 /" /proc/self/mountinfo > "$1/table" && '
        'mount --bind "$1/table" /proc/$$/mountinfo && shift 2 && exec "$@"'
    )
    place = orlop.folder / "far"
    place.mkdir()
    far = Orlop(orlop.folder, ORLOP_ROOT=f"{place}/root")
    far.program = ["unshare", "--mount", "sh", "-c", script, "sh", str(place), kind, sys.executable, "-m", "orlop"]

    error = far.fails("images", code=1)

    assert f"{place}/root is on {name}, where locks do not hold" in error
    assert "--root or ORLOP_ROOT" in error
