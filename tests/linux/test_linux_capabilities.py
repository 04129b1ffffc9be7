"""Capabilities: from root to exactly the sets that were asked for."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.linux import capabilities
from orlop.linux.capabilities import DEFAULT, NAMES, Sets
from orlop.linux.namespaces import CLONE_NEWUSER

if TYPE_CHECKING:
    from tests.linux.conftest import InChild

HELD = capabilities.current()
_SETS = st.frozensets(st.sampled_from([*NAMES, "CAP_UNHEARD_OF"]), max_size=8)


def status(pid: int | str = "self") -> dict[str, int]:
    """The capability masks of /proc/<pid>/status."""
    with open(f"/proc/{pid}/status", "rb") as file:
        pairs = (line.split(b":\t") for line in file.read().splitlines() if line.startswith(b"Cap"))
        return {name.decode(): int(value, 16) for name, value in pairs}


def test_names_are_the_kernels() -> None:
    """Every capability this kernel has is known by name, at its number."""
    assert capabilities.known() == NAMES[: capabilities.last_cap() + 1]
    assert (NAMES.index("CAP_SYS_ADMIN"), NAMES.index("CAP_CHECKPOINT_RESTORE")) == (21, 40)
    assert len(DEFAULT) == len(set(DEFAULT)) == 14
    assert set(DEFAULT) < set(NAMES)


@given(st.frozensets(st.sampled_from(NAMES)))
def test_masks_and_names_round_trip(names: frozenset[str]) -> None:
    """Names become bits and bits the same names, in the kernel's order."""
    assert frozenset(capabilities.names_in(capabilities.mask_of(names))) == names
    assert list(capabilities.names_in(capabilities.mask_of(names))) == sorted(names, key=NAMES.index)


def test_current_is_what_status_says() -> None:
    """The five sets read by system calls are those of /proc/self/status."""
    masks = status()
    wanted = (masks["CapBnd"], masks["CapEff"], masks["CapPrm"], masks["CapInh"], masks["CapAmb"])
    found = capabilities.current()
    have = (found.bounding, found.effective, found.permitted, found.inheritable, found.ambient)
    assert tuple(capabilities.mask_of(one) for one in have) == wanted


_UIDS = st.sampled_from([0, 4321])


@settings(max_examples=40)
@given(
    bounding=_SETS, effective=_SETS, permitted=_SETS, inheritable=_SETS, ambient=_SETS, uid=st.sampled_from([0, 4321])
)
def test_become_gives_exactly_what_can_be_had(
    bounding: frozenset[str],
    effective: frozenset[str],
    permitted: frozenset[str],
    inheritable: frozenset[str],
    ambient: frozenset[str],
    uid: int,
) -> None:
    """For any five sets, each ends as asked, cut to what the kernel and our own sets allow; the rest is named."""
    asked = Sets(bounding=bounding, effective=effective, permitted=permitted, inheritable=inheritable, ambient=ambient)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            missing = capabilities.become(uid, 765, [8, 9], asked)
            found = capabilities.current()
            answer = repr((missing, found, os.getresuid(), os.getresgid(), os.getgroups()))
        except OSError as error:
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = file.read()
    os.waitpid(pid, 0)
    missing, found, uids, gids, groups = eval(answer, {"Sets": Sets})
    assert (uids, gids, groups) == ((uid,) * 3, (765,) * 3, [8, 9])
    assert found.bounding == bounding & HELD.bounding
    assert found.permitted == permitted & HELD.permitted
    assert found.effective == effective & found.permitted
    assert found.inheritable == inheritable & HELD.permitted & found.bounding
    assert found.ambient == ambient & found.permitted & found.inheritable
    names = ("bounding", "effective", "permitted", "inheritable", "ambient")
    lost = set().union(*(getattr(asked, name) - getattr(found, name) for name in names))
    assert missing == sorted(lost)


def test_an_ordinary_user_keeps_ambient_capabilities_over_execve(in_child: InChild) -> None:
    """A program started by uid 4321 has the ambient capability effective, and no more than the bounding set ever."""
    one = frozenset({"CAP_NET_BIND_SERVICE"})

    def body() -> dict[str, int]:
        sets = Sets(bounding=frozenset(DEFAULT), effective=one, permitted=one, inheritable=one, ambient=one)
        assert capabilities.become(4321, 4321, [], sets) == []
        text = subprocess.run(["grep", "Cap", "/proc/self/status"], capture_output=True, check=True).stdout
        pairs = (line.split(b":\t") for line in text.splitlines())
        return {name.decode(): int(value, 16) for name, value in pairs}

    found = in_child(body)
    mask = capabilities.mask_of(one)
    assert (found["CapPrm"], found["CapEff"], found["CapAmb"]) == (mask, mask, mask)
    assert found["CapBnd"] == capabilities.mask_of(DEFAULT)


def test_root_gets_the_bounding_set_over_execve(in_child: InChild) -> None:
    """A container's root has, after execve, the bounding set and nothing else."""

    def body() -> int:
        chosen = frozenset(DEFAULT)
        capabilities.become(0, 0, [], Sets(bounding=chosen, effective=chosen, permitted=chosen))
        text = subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True, check=True).stdout
        return int(text.split()[1], 16)

    assert in_child(body) == capabilities.mask_of(DEFAULT)


def test_a_missing_capability_is_named(in_child: InChild) -> None:
    """What the host does not let us hold is left out and reported, not an error."""
    absent = sorted(set(capabilities.known()) - HELD.permitted)
    name = absent[0] if absent else "CAP_FUTURE"
    wanted = frozenset({name, "CAP_CHOWN"})

    def body() -> object:
        missing = capabilities.become(0, 0, [], Sets(bounding=wanted, effective=wanted, permitted=wanted))
        return missing, capabilities.current().effective

    assert in_child(body) == ([name], frozenset({"CAP_CHOWN"}))


def test_denied_setgroups_is_fine_where_there_are_none(in_child: InChild) -> None:
    """In a user namespace with setgroups denied, having no supplementary groups works and having some is an error."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresgid(4321, 4321, 4321)
        os.setgroups([])
        os.setresuid(4321, 4321, 4321)
        from orlop.linux import namespaces, process

        process.set_dumpable(True)
        namespaces.unshare(CLONE_NEWUSER)
        for name, text in (("setgroups", b"deny"), ("uid_map", b"0 4321 1"), ("gid_map", b"0 4321 1")):
            with open(f"/proc/self/{name}", "wb") as file:
                file.write(text)
        chosen = frozenset({"CAP_CHOWN"})
        sets = Sets(bounding=frozenset(NAMES), effective=chosen, permitted=frozenset(NAMES))
        first = capabilities.become(0, 0, [], sets)
        try:
            capabilities._set_groups([1])
        except PermissionError as error:
            os.write(writer, f"{first} {error.strerror}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == "[] set the supplementary groups [1]: Operation not permitted"
    os.waitpid(pid, 0)


def test_dropping_needs_the_privilege(in_child: InChild) -> None:
    """Without CAP_SETPCAP the bounding set cannot shrink, and the error says which capability was to go."""

    def body() -> None:
        os.setresuid(4321, 4321, 4321)
        capabilities.drop_bounding(NAMES[1:])

    with pytest.raises(PermissionError, match="drop capability 0 from the bounding set"):
        in_child(body)
