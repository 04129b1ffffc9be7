"""Builds of hostile contexts and images: nothing of the host gets in, nothing gets out, no secret stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import attack
import pytest
from command import Orlop

_SECRET = "s3cr3t-of-the-attacked"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An empty build context."""
    folder = tmp_path / "context"
    folder.mkdir()
    return folder


def _build(arena: Orlop, context: Path, dockerfile: str, *more: str) -> subprocess.CompletedProcess[str]:
    (context / "Dockerfile").write_text(dockerfile)
    return arena.run("build", "--progress", "plain", "--no-cache", *more, str(context))


@pytest.mark.parametrize(
    "instruction",
    [
        "COPY link /x", "COPY folder/host-secret /x", "COPY folder /x", "COPY climb /x", "COPY f*/host-secret /x",
        "COPY ../host-secret /x", "COPY /../../host-secret /x", "ADD link /x", "ADD folder/ /x", "COPY --from=here link /x",
        "COPY proc/self/root{host} /x", "RUN --mount=type=bind,source=folder,target=/x cat /x/host-secret",
        "RUN --mount=type=bind,source=link,target=/x cat /x",
        "RUN --mount=type=bind,source=folder/host-secret,target=/x cat /x",
        "RUN --mount=type=bind,target=/x cat /x/link /x/folder/host-secret /x/climb",
        "RUN --mount=type=bind,source=../,target=/x cat /x/host-secret",
        "RUN --mount=type=bind,from=here,source=/link,target=/x cat /x",
        "RUN --mount=type=cache,id=../../../evil,target=/x cat /x/host-secret /x/../host-secret",
    ],
)  # fmt: skip
def test_context_links_do_not_leak(arena: Orlop, context: Path, host_file: Path, instruction: str) -> None:
    """Symlinks and climbing paths in a context, whoever names them, never bring in a file of the host."""
    (context / "link").symlink_to(host_file)
    (context / "climb").symlink_to("../host-secret")
    (context / "folder").symlink_to(host_file.parent)
    (context / "proc").symlink_to("/proc")
    done = _build(
        arena, context,
        f"FROM busybox AS here\nRUN ln -s {host_file} /link\nFROM busybox\n{instruction.format(host=host_file)}\n"
        "RUN find /x -type f -exec cat {} + ; cat /x; true\n",
    )  # fmt: skip

    assert "the host's own" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_copies_into_linked_folders_stay_inside(
    arena: Orlop, image: Callable[..., str], context: Path, tmp_path: Path
) -> None:
    """COPY, ADD and WORKDIR through the image's symlinks write below the image's root."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    climb = "../" * 30 + str(outside).lstrip("/")
    base = image(
        attack.link("a", str(outside)), attack.link("b", climb), attack.link("c", "/proc/1/cwd"), attack.link("etc/d", "/a"),
        attack.link("file", f"{outside}/kept"),
    )  # fmt: skip
    (context / "one").write_text("evil")
    (context / "many").mkdir()
    (context / "many/kept").write_text("evil")
    (context / "archive.tar").write_bytes(attack.tar(attack.file("kept", "evil"), attack.file("sub/new", "evil")))
    done = _build(
        arena, context,
        f"FROM {base}\nCOPY one /a/one\nCOPY one /b/\nCOPY many /etc/d\nCOPY many /a/\nADD archive.tar /a/\n"
        f"COPY --chown=1:1 --chmod=777 one /b/x/y\nWORKDIR {outside}/made\nCOPY one /file\nCOPY one ../../b/rel\n"
        "RUN test -e /file && cat /file\n",
    )  # fmt: skip

    assert "Traceback" not in done.stderr
    assert os.listdir(outside) == ["kept"]
    assert (outside / "kept").read_text() == "kept"


@pytest.mark.parametrize("compressed", [False, True])
def test_archives_stay_inside(arena: Orlop, context: Path, tmp_path: Path, compressed: bool) -> None:
    """ADD of an archive with climbing names, absolute names and links through which it writes: nothing lands outside."""
    import gzip

    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    attacks = {
        "climb": [attack.file("../" * 30 + f"{outside}/evil".lstrip("/"), "evil")],
        "absolute": [attack.file(f"{outside}/evil", "evil")],
        "link": [attack.link("l", str(outside)), attack.file("l/evil", "evil")],
        "hard": [attack.hard_link("h", f"{outside}/kept"), attack.file("h", "evil")],
        "hard-climb": [attack.hard_link("h", "../" * 30 + f"{outside}/kept".lstrip("/"))],
        "link-over": [attack.folder("d"), attack.link("d", str(outside)), attack.file("d/evil", "evil")],
        "whiteout": [attack.link("l", str(outside)), attack.file("l/.wh.kept"), attack.file("l/.wh..wh..opq")],
    }
    for name, members in attacks.items():
        data = attack.tar(*members)
        (context / f"{name}.tar").write_bytes(gzip.compress(data) if compressed else data)
        done = _build(arena, context, f"FROM busybox\nADD {name}.tar /x/\nRUN cat /x/h; true\n")
        assert "Traceback" not in done.stderr
        assert "kept" not in done.stdout.replace(".wh.kept", "")
        assert os.listdir(outside) == ["kept"], name
        assert (outside / "kept").read_text() == "kept", name


def test_ignored_files_stay_out(arena: Orlop, context: Path) -> None:
    """What .dockerignore hides is not reached by another spelling, a link, a wildcard, a mount or a rename."""
    (context / "private").mkdir()
    (context / "private/key").write_text(_SECRET)
    (context / ".env").write_text(_SECRET)
    (context / ".dockerignore").write_text("private\n**/.env\n")
    (context / "way").symlink_to("private")
    (context / "way2").symlink_to("private/key")
    (context / "way3").symlink_to("./../context/.env")
    for instruction in (
        "COPY private/key /x", "COPY ./private/../private/key /x", "COPY way/key /x", "COPY way2 /x", "COPY way3 /x",
        "COPY . /x", "COPY way /x", "COPY p*/k* /x", "COPY .en[v] /x", "ADD private /x",
        "RUN --mount=type=bind,target=/x cat /x/private/key /x/way/key /x/way2 /x/.env",
        "RUN --mount=type=bind,source=private,target=/x cat /x/key",
        "RUN --mount=type=bind,source=way,target=/x cat /x/key",
        "RUN --mount=type=bind,source=way2,target=/x cat /x",
    ):  # fmt: skip
        done = _build(arena, context, f"FROM busybox\n{instruction}\nRUN grep -r s3cr3t /x; true\n")
        assert _SECRET not in done.stdout + done.stderr, instruction


def _everywhere(folder: Path, needle: bytes) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and needle in path.read_bytes():
            found.append(str(path))
    return found


def test_secrets_leave_no_trace(arena: Orlop, context: Path, tmp_path: Path) -> None:
    """A secret that RUN mounted is in no layer, config, history, cache, log, error or file of the store afterwards."""
    own = Orlop(tmp_path / "own")
    own.folder.mkdir()
    own("load", "-q", stdin=attack.saved(arena, "busybox"))
    (tmp_path / "secret").write_text(_SECRET)
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=key,target=/run/key cat /run/key | wc -c\n"
        'RUN --mount=type=secret,id=key,env=KEY test -n "$KEY"\n'
        "RUN --mount=type=secret,id=key ls /run/secrets && echo made > /made\n"
    )
    given = ("--secret", f"id=key,src={tmp_path}/secret")
    done = own.run("build", "--progress", "plain", "-t", "made", *given, str(context))
    assert done.returncode == 0, done.stderr
    (context / "Dockerfile").write_text("FROM busybox\nRUN --mount=type=secret,id=key test ! -s /run/secrets/key\n")
    failed = own.run("build", "--progress", "plain", *given, str(context))
    own("save", "-o", str(tmp_path / "own/made.tar"), "made")
    history = (
        own("history", "--no-trunc", "made") + own("inspect", "made") + own("events", "--since", "1h", "--until", "0s")
    )

    assert failed.returncode != 0
    assert _SECRET not in done.stdout + done.stderr + failed.stdout + failed.stderr + history
    assert _everywhere(own.folder, _SECRET.encode()) == []
    left = own(
        "run", "--rm", "--network", "none", "made", "sh", "-c", "find /run -type f -o -type d -name secrets; true"
    )
    assert left == ""
    own("internal", "teardown")


def test_a_watchdog_for_a_passwd_is_not_opened(arena: Orlop, image: Callable[..., str], context: Path) -> None:
    """COPY --chown and `exec -u` with an /etc/passwd that is a device, a pipe or kernel log: it is not even opened."""
    (context / "file").write_text("x")
    for member in (
        attack.device("etc/passwd", "c", 1, 11), attack.fifo("etc/passwd"), attack.link("etc/passwd", "/proc/kmsg"),
        attack.link("etc/passwd", "/dev/zero"), attack.device("etc/passwd", "c", 1, 5),
    ):  # fmt: skip
        hostile = image(member)
        done = _build(arena, context, f"FROM {hostile}\nCOPY --chown=evil file /x\n")
        assert "no user 'evil'" in done.stderr
        name = attack.unique("passwd")
        arena("run", "-d", "--network", "none", "--name", name, hostile, "sleep", "1000")
        try:
            assert arena.run("exec", "-u", "evil", name, "true").returncode != 0
            assert arena.run("exec", name, "true").returncode == 0
        finally:
            arena("rm", "-f", name)


def test_build_arguments_are_not_told_by_errors(arena: Orlop, context: Path) -> None:
    """A RUN that fails shows the Dockerfile's line, not the values of build arguments, nor proxies' passwords."""
    done = _build(
        arena, context, 'FROM busybox\nARG TOKEN\nRUN test -z "$TOKEN"\n',
        "--build-arg", f"TOKEN={_SECRET}", "--build-arg", f"HTTP_PROXY=http://user:{_SECRET}@proxy",
    )  # fmt: skip

    assert done.returncode != 0
    assert _SECRET not in done.stdout + done.stderr
