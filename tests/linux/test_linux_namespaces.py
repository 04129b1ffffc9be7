"""Namespaces: making, joining, and mapping ids from outside."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.linux import namespaces, process
from orlop.linux.namespaces import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.linux.conftest import InChild


def test_unshare_changes_only_what_is_named(in_child: InChild) -> None:
    """After unshare(CLONE_NEWUTS) the UTS namespace is new and the IPC one is the parent's."""

    def body() -> list[bool]:
        paths = ("/proc/self/ns/uts", "/proc/self/ns/ipc")
        before = [namespaces.identity(path) for path in paths]
        namespaces.unshare(CLONE_NEWUTS)
        return [namespaces.identity(path) == was for path, was in zip(paths, before, strict=True)]

    assert in_child(body) == [False, True]


def test_setns_joins_by_file_and_by_pidfd(in_child: InChild) -> None:
    """A child is joined through its namespace file, or through its pidfd and flags."""
    reader, writer = os.pipe()
    pid = process.fork_into(CLONE_NEWUTS | CLONE_NEWIPC)
    if pid == 0:
        os.close(writer)
        socket.sethostname("joined")
        os.read(reader, 1)
        os._exit(0)
    try:

        def body() -> str:
            pidfd = os.pidfd_open(pid)
            namespaces.setns(pidfd, CLONE_NEWUTS | CLONE_NEWIPC)
            while socket.gethostname() != "joined":
                os.sched_yield()
            return os.uname().nodename

        assert in_child(body) == "joined"
        fd = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY)

        def by_file() -> str:
            namespaces.setns(fd, CLONE_NEWUTS)
            return os.uname().nodename

        assert in_child(by_file) == "joined"
        os.close(fd)
    finally:
        os.close(reader)
        os.close(writer)
        os.waitpid(pid, 0)


def test_a_refused_namespace_is_named(in_child: InChild) -> None:
    """The error says which namespace could not be had."""

    def body() -> None:
        os.setresuid(12345, 12345, 12345)
        namespaces.unshare(CLONE_NEWNET | CLONE_NEWUTS)

    with pytest.raises(PermissionError, match="new uts, network namespace: Operation not permitted"):
        in_child(body)
    assert namespaces.names_of(0) == "nothing"


def mapped(in_child: InChild, uid: int, maps: Callable[[int], None]) -> tuple[str, str, str]:
    """What a child in a new user namespace sees as its maps, after `maps` was called on it by a process of `uid`."""

    def body() -> tuple[str, str, str]:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        process.set_dumpable(True)
        go, went = os.pipe()
        answer, answered = os.pipe()
        pid = process.fork_into(CLONE_NEWUSER)
        if pid == 0:
            os.close(went)
            os.read(go, 1)
            texts = []
            for name in ("uid_map", "gid_map", "setgroups"):
                with open(f"/proc/self/{name}") as file:
                    texts.append(" ".join(file.read().split()))
            os.write(answered, "|".join(texts).encode())
            os._exit(0)
        try:
            maps(pid)
        finally:
            os.close(went)
            os.waitpid(pid, 0)
        uids, gids, setgroups = os.read(answer, 1000).decode().split("|")
        return uids, gids, setgroups

    found: tuple[str, str, str] = in_child(body)
    return found


def test_root_writes_any_map(in_child: InChild) -> None:
    """A privileged process writes several ranges at once, and setgroups stays allowed."""
    ranges = [(0, 100000, 1000), (1000, 0, 1)]
    found = mapped(in_child, 0, lambda pid: namespaces.write_id_maps(pid, ranges, ranges))
    assert found == ("0 100000 1000 1000 0 1", "0 100000 1000 1000 0 1", "allow")


def test_anybody_maps_himself(in_child: InChild) -> None:
    """An ordinary user maps his own ids without any program; setgroups is denied, as the kernel demands."""
    one = [(0, 54321, 1)]
    found = mapped(in_child, 54321, lambda pid: namespaces.write_id_maps(pid, one, one, search="/nowhere"))
    assert found == ("0 54321 1", "0 54321 1", "deny")


def test_subordinate_ids_go_through_the_program(in_child: InChild, tmp_path: Path) -> None:
    """More than oneself is asked of newuidmap and newgidmap, with the ranges as arguments, found in the search path."""
    tmp_path.chmod(0o755)
    for directory in [*tmp_path.parents][:3]:
        directory.chmod(directory.stat().st_mode | 0o011)
    for name in ("newuidmap", "newgidmap"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho $0 refuses $* >&2\nexit 1\n")
        program.chmod(0o755)
    ranges = [(0, 54321, 1), (1, 100000, 65536)]
    with pytest.raises(
        FailedPrecondition, match=r"newuidmap refused .*: .*refuses \d+ 0 54321 1 1 100000 65536"
    ) as caught:
        mapped(in_child, 54321, lambda pid: namespaces.write_id_maps(pid, ranges, ranges, search=str(tmp_path)))
    assert "/etc/subuid" in caught.value.hint


def test_the_real_programs_write_what_subuid_grants(in_child: InChild, tmp_path: Path) -> None:
    """With ranges granted in /etc/subuid and /etc/subgid, newuidmap and newgidmap map them; setgroups stays allowed."""
    from orlop.linux import mounts

    grants = {
        "passwd": "tester:x:54321:54321::/:/bin/sh\n",
        "subuid": "tester:700000:65536\n",
        "subgid": "tester:800000:10\n",
    }
    uids, gids = [(0, 54321, 1), (1, 700000, 65536)], [(0, 54321, 1), (1, 800000, 10)]

    def body() -> tuple[str, str, str]:
        for name, text in grants.items():
            (tmp_path / name).write_text(text)
            mounts.bind(f"{tmp_path}/{name}", f"/etc/{name}")
        return mapped(in_child, 54321, lambda pid: namespaces.write_id_maps(pid, uids, gids))

    found = in_child(body, flags=CLONE_NEWNS)
    assert found == ("0 54321 1 1 700000 65536", "0 54321 1 1 800000 10", "allow")


def test_a_missing_program_is_named(in_child: InChild) -> None:
    """Without newuidmap the error says which program is missing and what to install."""
    ranges = [(0, 54321, 1), (1, 100000, 65536)]
    with pytest.raises(FailedPrecondition, match="newuidmap is not installed") as caught:
        mapped(in_child, 54321, lambda pid: namespaces.write_id_maps(pid, ranges, ranges, search="/nowhere"))
    assert "uidmap" in caught.value.hint


@pytest.mark.parametrize("entries", [[], [(0, 0, 0)], [(-1, 0, 1)]])
def test_an_impossible_map_is_refused(entries: list[tuple[int, int, int]]) -> None:
    """No entries, empty ranges and negative ids are invalid before anything is written."""
    with pytest.raises(InvalidArgument, match="id map needs entries"):
        namespaces.write_id_maps(1, entries, [(0, 0, 1)])
