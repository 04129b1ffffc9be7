"""The same Dockerfiles built by BuildKit (in a private dockerd) and by us: the same files and configurations."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from orlop.build import testing
from orlop.build.testing import Kitchen
from orlop.store.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peer, pytest.mark.root]

STAMP = 1234567  # seconds: the time of everything in the context
CASES = {
    "plain": "COPY a.txt /x\nCOPY a.txt /y/\nCOPY d /z\nCOPY d/ /zz/\nCOPY d/* /glob/\nCOPY . /all\n",
    "existing": (
        "RUN mkdir -p /exist/e && chmod 700 /exist && chmod 777 /exist/e\nCOPY d /exist\n"
        "COPY --chown=5:6 d /owned/deep\n"
        "COPY --chown=7 a.txt /own7\nCOPY --chown=nobody a.txt /named\nCOPY --chmod=711 d /modes\n"
    ),
    "links": (
        "RUN ln -s /real /link && mkdir /real && ln -s /no/file /dangling\nCOPY a.txt /link/\nCOPY a.txt /link/sub/b\n"
        "COPY d /link\nCOPY a.txt /dangling\nCOPY lnk /l1\nCOPY lnkdir /l2\nCOPY lnkdir/f1 /l3\nCOPY nod[a] /nod\n"
    ),
    "workdir": (
        "WORKDIR /w/x\nWORKDIR y\nCOPY a.txt .\nCOPY a.txt ./\nCOPY a.txt sub/\nCOPY a.txt new\nCOPY d .\n"
        'COPY ["a.txt", "sp ace"]\nENV P=c\nWORKDIR ../$P/${P}\nRUN pwd > /o\n'
    ),
    "stages": (
        "RUN echo hi > /f && chown 3:4 /f && mkdir -p /dir/in && chown 8:9 /dir/in && chmod 1770 /dir/in"
        " && ln -s ../f /dir/l && ln /f /dir/h && touch -d @1000 /dir/in/t\nFROM base\n"
        "COPY --from=0 /f /f\nCOPY --from=0 /dir /copied\n"
        "COPY --from=0 /f /dir/ /both/\nCOPY --from=0 --chown=1:2 /dir /given\n"
    ),
    "archives": "ADD x.tar /t/\nADD x.tgz /t2\nADD x.tar a.txt /t3/\nADD a.gz /t4/\n",
    "configuration": (
        'ARG A=1\nARG B\nENV C=$A-${B:-none} D="q $A" E=\'$A\' F=a\\ b\nENV old way of $A\nLABEL l1=$C "l 2"="x y"\n'
        'EXPOSE 80 443/tcp 53/udp\nEXPOSE 8000-8002\nVOLUME /v /w\nVOLUME ["/j"]\nUSER 10:20\nSTOPSIGNAL SIGTERM\n'
        'SHELL ["/bin/sh", "-ec"]\nCMD echo $HOME\nENTRYPOINT ["/bin/sh"]\nMAINTAINER someone\n'
        "ONBUILD RUN echo trigger\n"
        "HEALTHCHECK --interval=5s --timeout=3s --retries=2 CMD test -f /x\n"
    ),
    "paths": (
        "COPY a.txt /usr/bin/../../tmp/./x\nCOPY d/sub/../f1 /r1\nCOPY ./d/./f1 /r2/\nCOPY /d /r3\n"
        "COPY ../../a.txt /r4\n"
        "COPY a.txt d/f1 /multi/\nCOPY d d/sub /multi2\nRUN rm -rf /r3/sub && echo x > /r3/f1\n"
    ),
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dockerd of our own, without network; gives its socket."""
    where = tmp_path_factory.mktemp("dockerd")
    socket = f"{where}/d.sock"
    with open(where / "log", "wb") as log:
        running = subprocess.Popen(
            [
                *("dockerd", "--data-root", f"{where}/data", "--exec-root", f"{where}/exec", "-p", f"{where}/pid"),
                *("-H", f"unix://{socket}", "--bridge=none", "--iptables=false", "--ip-forward=false"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(
            ["docker", "-H", f"unix://{socket}", "version"], capture_output=True, check=False
        ).returncode:
            assert running.poll() is None, (where / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield socket
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)
        subprocess.run(["umount", "-R", f"{where}/data"], capture_output=True, check=False)
        shutil.rmtree(where, ignore_errors=True)


def docker(socket: str, *words: str, **more: Any) -> bytes:
    command = ["docker", "-H", f"unix://{socket}", *words]
    output: bytes = subprocess.run(command, capture_output=True, check=True, **more).stdout
    return output


def fill(context: Path) -> None:
    (context / "d/sub").mkdir(parents=True)
    for name in ("a.txt", "d/f1", "d/sub/f2", "noda"):
        (context / name).write_text(name)
    (context / "d/sub").chmod(0o710)
    (context / "d/f1").chmod(0o640)
    for name, target in (("d/ln", "f1"), ("lnk", "a.txt"), ("lnkdir", "d")):
        (context / name).symlink_to(target)
    for name, mode in (("x.tar", "w"), ("x.tgz", "w:gz")):
        with tarfile.open(context / name, mode) as file:  # type: ignore[call-overload]  # two literals
            for inner, kind in (("in", tarfile.DIRTYPE), ("in/f", tarfile.REGTYPE), ("in/l", tarfile.SYMTYPE)):
                entry = tarfile.TarInfo(inner)
                entry.type, entry.mode, entry.mtime, entry.uid, entry.linkname = kind, 0o715, 77, 9, "f"
                entry.size = 3 if kind == tarfile.REGTYPE else 0
                file.addfile(entry, io.BytesIO(b"abc"))
    import gzip

    (context / "a.gz").write_bytes(gzip.compress(b"plain", mtime=0))
    for path in [*context.rglob("*"), context]:
        os.utime(path, (STAMP, STAMP), follow_symlinks=False)


def theirs(socket: str, context: Path, text: str) -> tuple[dict[str, Any], dict[str, tuple[object, ...]]]:
    """BuildKit's configuration and files. The context goes over the API: the command line wants a plug-in."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as file:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size, entry.mtime, entry.mode = len(text), STAMP, 0o644
        file.addfile(entry, io.BytesIO(text.encode()))
        for path in sorted(context.iterdir()):
            if path.name != "Dockerfile":
                file.add(path, path.name)
    answer = subprocess.run(
        [
            *("curl", "-sS", "--unix-socket", socket, "-X", "POST", "-H", "Content-Type: application/x-tar"),
            *("--data-binary", "@-", "http://d/v1.41/build?version=2&t=built&nocache=1&networkmode=none"),
        ],
        input=out.getvalue(),
        capture_output=True,
        check=True,
    ).stdout
    assert b"errorDetail" not in answer, answer[-600:]
    with tarfile.open(fileobj=io.BytesIO(docker(socket, "save", "built"))) as file:
        index = file.extractfile("manifest.json")
        assert index is not None
        inner = file.extractfile(json.load(index)[0]["Config"])
        assert inner is not None
        config = json.load(inner)
    container = docker(socket, "create", "--network", "none", "built", "/x").decode().strip()
    exported = docker(socket, "export", container)
    docker(socket, "rm", container)
    return config, in_archive(exported)


def in_archive(data: bytes) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        for named in file:
            member = file.getmember(named.linkname) if named.islnk() else named
            reader = file.extractfile(member) if member.isreg() else None
            kind = "dir" if member.isdir() else "link" if member.issym() else "file"
            found[named.name.rstrip("/")] = (
                kind,
                oct(member.mode & 0o7777) if kind != "link" else "",
                member.uid,
                member.gid,
                member.linkname if kind == "link" else "",
                reader.read() if reader else b"",
                int(member.mtime),
            )
    return found


def in_folder(place: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in place.rglob("*"):
        info = path.lstat()
        kind = "dir" if path.is_dir() and not path.is_symlink() else "link" if path.is_symlink() else "file"
        found[str(path.relative_to(place))] = (
            kind,
            oct(stat.S_IMODE(info.st_mode)) if kind != "link" else "",
            info.st_uid,
            info.st_gid,
            os.readlink(path) if kind == "link" else "",
            path.read_bytes() if kind == "file" else b"",
            int(info.st_mtime),
        )
    return found


def same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Equal, where times made during the builds may differ by the minute that these took."""
    times = [found[-1] for found in (one, other)]
    assert isinstance(times[0], int)
    assert isinstance(times[1], int)
    return one[:-1] == other[:-1] and abs(times[0] - times[1]) < 120


MADE_BY_DOCKER = {
    ".dockerenv",
    "dev",
    "dev/console",
    "dev/pts",
    "dev/shm",
    "proc",
    "sys",
    "etc",
    "etc/hosts",
    "etc/hostname",
}
MADE_BY_DOCKER |= {"etc/mtab", "etc/resolv.conf"}


@pytest.fixture(scope="module")
def shared(daemon: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kitchen]:
    """A kitchen whose base image dockerd has, too."""
    where = tmp_path_factory.mktemp("peer")
    (where / "kitchen").mkdir()
    with Root.open(str(where / "root"), str(where / "run")) as root:
        kitchen = Kitchen(root, where / "kitchen")
        base = kitchen.add_base("base", programs=(*testing.PROGRAMS, "ln", "env"))
        data = root.content.read(base.layers[0].digest, 1 << 30)
        docker(daemon, "import", "-c", "ENV PATH=/usr/bin:/bin", "-", "base", input=data)
        fill(kitchen.context)
        yield kitchen
        kitchen.close()


@pytest.mark.parametrize("case", CASES)
def test_buildkit_builds_the_same(daemon: str, shared: Kitchen, case: str) -> None:
    """Files with kind, mode, owner, target, content and time, and the whole configuration, are BuildKit's."""
    text = "FROM base\n" + CASES[case]
    their_config, their_files = theirs(daemon, shared.context, text)

    built = shared.build(text)

    with shared.tree(built) as place:
        our_files = in_folder(place)
    for name in MADE_BY_DOCKER:
        their_files.pop(name, None)
        our_files.pop(name, None)
    their_files.pop("all/Dockerfile", None)
    assert sorted(our_files) == sorted(their_files)
    assert {
        name: (found, their_files[name]) for name, found in our_files.items() if not same(found, their_files[name])
    } == {}
    ours = built.config.to_json()["config"]
    kept = {key for key in {*ours, *their_config["config"]} if ours.get(key) or their_config["config"].get(key)}
    assert {key: ours.get(key) for key in kept} == {key: their_config["config"].get(key) for key in kept}
