"""Without root: which ids, which limits, and what one id is told. The whole is in tests/e2e."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.engine import limiting, oneid, pasta, rootless
from orlop.engine.requests import Limits
from orlop.errors import PermissionDenied
from orlop.linux import cgroups, process, seccomp
from orlop.linux.hierarchy import Hierarchy
from orlop.linux.users import Identity
from orlop.network import ports

_NETWORK = {"mode": "bridge", "ip": "", "mac": ""}


@given(st.integers(0, 1 << 31), st.lists(st.tuples(st.integers(0, 1 << 31), st.integers(1, 1 << 20)), max_size=8))
def test_ids_are_laid_out_without_gaps_or_overlaps(own: int, granted: list[tuple[int, int]]) -> None:
    """Inside, ids go from 0 (ourselves) up without a gap; outside, none is mapped twice: the kernel refuses that."""
    entries = rootless.laid_out(own, granted)
    assert entries[0] == (0, own, 1)
    after = 0
    for inside, _, count in entries:
        assert inside == after
        after += count
    outside = sorted((first, first + count) for _, first, count in entries)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(outside))


def _limits(**given: int | str | bool) -> dict[str, object]:
    limits = Limits(**given)  # type: ignore[arg-type]  # any field
    return {name: getattr(limits, name) for name in limits._fields}


def test_no_limits_no_words() -> None:
    """Who asks for nothing hears nothing, whatever the machine has."""
    assert limiting.usable(_limits(), frozenset(), reason="because") == (_limits(), ())


def test_each_lost_limit_is_one_sentence() -> None:
    """A limit without its controller is left out and named with its option; the others are kept as they were."""
    kept, lost = limiting.usable(
        _limits(memory=1 << 26, nano_cpus=5, pids=9, shm_size=3), frozenset({"cpu"}), reason="because"
    )
    assert lost == ("--memory has no effect: because", "--pids-limit has no effect: because")
    assert kept == _limits(nano_cpus=5, shm_size=3)


def test_version_1_delegates_nothing() -> None:
    """On cgroup v1 a user has no cgroup, and the reason says so."""
    config = {"cgroup_parent": "", "limits": _limits(memory=1 << 26)}
    given_ = limiting.share(config, "c1", rootless=True, found=Hierarchy(version=1, places={}))
    assert given_.path == ""
    assert "version 1" in given_.lost[0]


def test_delegated_cgroup_is_used_and_left(tmp_path: Path) -> None:
    """On v2 containers go beside us, below the cgroup that was handed to us, which we leave ourselves."""
    unified = cgroups.detect().unified
    assert unified, "this machine has a v2 hierarchy"
    found = Hierarchy(version=2, places={}, unified=unified)
    place = Path(unified) / f"orlop-test-{os.getpid()}"
    place.mkdir()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            (place / "cgroup.procs").write_text("0")
            before = limiting.share({"cgroup_parent": "", "limits": _limits()}, "c1", rootless=True, found=found)
            limiting.make_room(found)
            after = limiting.share({"cgroup_parent": "", "limits": _limits()}, "c1", rootless=True, found=found)
            limiting.make_room(found)
            own = Path("/proc/self/cgroup").read_text()
            assert before.path == after.path == f"/{place.name}/orlop/c1"
            assert f"/{place.name}/orlop-commands" in own
            assert (place / "cgroup.procs").read_text() == ""
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    (place / "orlop-commands").rmdir()
    place.rmdir()
    assert status == 0


@pytest.mark.parametrize(
    ("network", "publish", "word"),
    [
        (_NETWORK | {"mode": "harbour"}, "", "bridge"),
        (_NETWORK | {"ip": "10.0.0.9"}, "", "--ip"),
        (_NETWORK | {"mac": "02:42:00:00:00:01"}, "", "--mac-address"),
        (_NETWORK, "1:80", "port 1 "),
    ],
)
def test_what_takes_root_is_refused(network: dict[str, str], publish: str, word: str) -> None:
    """Bridges, addresses of one's own and low ports are refused with a hint."""
    bindings = ports.parse(publish) if publish else ()
    with pytest.raises(PermissionDenied, match=word) as caught:
        pasta.check(network, tuple(bindings))
    assert caught.value.hint


def test_what_needs_no_root_passes() -> None:
    """High ports, ports that the kernel chooses, and ports that mean nothing with the host's network."""
    pasta.check(_NETWORK, (*ports.parse("8080:80"), *ports.parse("80")))
    pasta.check(_NETWORK | {"mode": "host"}, tuple(ports.parse("80:80")))
    pasta.check(_NETWORK | {"mode": "container:abc"}, ())


@pytest.mark.parametrize("profile", [None, seccomp.default_profile()], ids=["unconfined", "default"])
def test_one_id_is_answered_by_the_kernel_itself(tmp_path: Path, profile: dict[str, object] | None) -> None:
    """Under the filter, changes of owner and user and device nodes succeed without effect; the rest really happens."""
    program = seccomp.compile_profile(oneid.pretending(profile))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chdir(tmp_path)
            process.set_no_new_privs()
            seccomp.install(program)
            Path("file").write_text("x")
            os.chown("file", 5, 6)
            os.setgroups([7])
            os.setresgid(8, 8, 8)
            os.setresuid(9, 9, 9)
            os.mknod("device", 0o020600, os.makedev(1, 3))
            os.mknod("block", 0o060600, os.makedev(7, 0))
            os.mkfifo("pipe")
            os.mknod("plain", 0o100600)
            assert (os.stat("file").st_uid, os.getuid(), os.getgid()) == (0, 0, 0)
            assert sorted(os.listdir(".")) == ["file", "pipe", "plain"]
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_everybody_is_the_only_user() -> None:
    """Whoever was asked for, the program is root, and a sentence says who it is not; root itself needs no word."""
    same, told = oneid.only_user(Identity(uid=0, gid=0, groups=(1, 2), home="/root", name="root"))
    assert (same.uid, same.groups, told) == (0, (), "")
    other, told = oneid.only_user(Identity(uid=5, gid=6, home="/home/mate", name="mate"))
    assert (other.uid, other.gid, other.home) == (0, 0, "/home/mate")
    assert "not as mate" in told
