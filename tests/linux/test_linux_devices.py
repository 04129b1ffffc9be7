"""Device rules: cgroup v1's texts, and the eBPF program, interpreted here and loaded into the kernel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop.linux import bpf, cgroups, devices, limits
from orlop.linux.devices import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.linux.conftest import InChild

DENY_ALL = {"allow": False, "access": "rwm"}


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Interpret a device program: the few instructions of eBPF it is made of, failing on any other."""
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = {0: bits << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    register = [0] * 11
    at = 0
    while True:
        code, registers = program[at * 8], program[at * 8 + 1]
        offset = int.from_bytes(program[at * 8 + 2 : at * 8 + 4], "little", signed=True)
        constant = int.from_bytes(program[at * 8 + 4 : at * 8 + 8], "little", signed=True)
        target, source = registers & 15, registers >> 4
        at += 1
        match code:
            case 0x61:
                assert source == 1
                register[target] = context[offset]
            case 0xBF:
                register[target] = register[source]
            case 0xB7:
                register[target] = constant
            case 0x57:
                register[target] &= constant
            case 0x77:
                register[target] >>= constant
            case 0x55:
                at += offset if register[target] != constant else 0
            case 0x15:
                at += offset if register[target] == constant else 0
            case 0x95:
                return bool(register[0])
            case _:
                pytest.fail(f"instruction {code:#x} is not expected")


_NUMBER = st.none() | st.integers(0, 3)
_ACCESS = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda letters: "".join(x for x in "rwm" if x in letters))
_ENTRY = st.builds(
    lambda allow, kind, major, minor, access: {
        "allow": allow,
        "type": kind,
        "access": access,
        **({} if major is None else {"major": major}),
        **({} if minor is None else {"minor": minor}),
    },
    st.booleans(),
    st.sampled_from("abc"),
    _NUMBER,
    _NUMBER,
    _ACCESS,
)


@given(
    entries=st.lists(_ENTRY, max_size=8),
    kind=st.sampled_from("bc"),
    major=st.integers(0, 4),
    minor=st.integers(0, 4),
    access=_ACCESS,
)
def test_the_program_decides_as_the_rules(
    entries: list[dict[str, Any]], kind: str, major: int, minor: int, access: str
) -> None:
    """Whatever the rules, the compiled program gives the answer that reading them gives."""
    rules = devices.parse_rules(entries)
    assert run(devices.program(rules), kind, major, minor, access) == devices.allowed(rules, kind, major, minor, access)


@given(entries=st.lists(_ENTRY, max_size=8), kind=st.sampled_from("bc"), number=st.integers(0, 4), access=_ACCESS)
def test_the_last_word_counts(entries: list[dict[str, Any]], kind: str, number: int, access: str) -> None:
    """A last rule on everything overrides all before it."""
    for verdict in (True, False):
        rules = devices.parse_rules([*entries, {"allow": verdict, "access": "rwm"}])
        assert devices.allowed(rules, kind, number, number, access) == verdict
        assert len(devices.merged(rules)) == 1


def test_permissions_given_apart_add_up() -> None:
    """Two rules that give reading and writing of one device allow opening it for both."""
    rules = devices.parse_rules(
        [DENY_ALL, *({"allow": True, "type": "c", "major": 1, "minor": 3, "access": x} for x in ("r", "w"))]
    )
    assert devices.allowed(rules, "c", 1, 3, "rw")
    assert not devices.allowed(rules, "c", 1, 3, "rwm")
    assert not devices.allowed(rules, "c", 1, 5, "r")


def test_v1_takes_the_rules_as_texts() -> None:
    """Each rule is one write to devices.allow or devices.deny, in order; all devices are the letter a."""
    resources = {
        "devices": [
            DENY_ALL,
            {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": True, "type": "b", "major": 8, "access": "mr"},
            {"allow": False, "type": "a", "major": 10, "minor": 200},
            {"allow": True, "type": "u", "major": 5, "minor": -1, "access": "m"},
            {"allow": True, "type": "p", "access": "m"},
        ]
    }
    assert [(w.file, w.value) for w in limits.writes(resources, 1)] == [
        ("devices.deny", "a"),
        ("devices.allow", "c 1:3 rwm"),
        ("devices.allow", "b 8:* rm"),
        ("devices.deny", "b 10:200 rwm"),
        ("devices.deny", "c 10:200 rwm"),
        ("devices.allow", "c 5:* m"),
    ]
    assert limits.writes(resources, 2) == []
    assert limits.controllers(resources, 2) == {"devices"}


@pytest.mark.parametrize("broken", [{"type": "x"}, {"access": "rx"}, {"major": "1"}, {"minor": -2}])
def test_broken_rules_are_refused(broken: dict[str, Any]) -> None:
    """A rule that cannot be meant is InvalidArgument."""
    with pytest.raises(InvalidArgument, match="device"):
        devices.parse_rules([broken])


@pytest.fixture
def unified() -> Iterator[cgroups.Cgroup]:
    """An empty cgroup on the v2 mount of this machine, with nothing but a place for device programs."""
    mount = cgroups.detect().unified
    places = {"devices": cgroups.Place(version=2, mount=mount)}
    found = cgroups.Cgroup(
        f"/orlop-test-devices-{os.getpid()}", cgroups.Hierarchy(version=2, places=places, unified=mount)
    )
    found.create()
    os.makedirs(found.directory("devices"), exist_ok=True)
    yield found
    found.delete()


def may_open(path: str, in_child: InChild, group: cgroups.Cgroup) -> bool:
    """Whether a process in the cgroup may read the device."""

    def body() -> bool:
        group.join(os.getpid())
        try:
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            return False
        return True

    found: bool = in_child(body)
    return found


def test_the_kernel_takes_the_program_and_its_successor(unified: cgroups.Cgroup, in_child: InChild) -> None:
    """The program passes the verifier, guards the cgroup's processes, and an update replaces it."""
    null = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
    zero = {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"}
    assert unified.apply({"devices": [DENY_ALL, null]}) == []
    assert [may_open(p, in_child, unified) for p in ("/dev/null", "/dev/zero")] == [True, False]
    unified.apply({"devices": [DENY_ALL, zero]})
    assert [may_open(p, in_child, unified) for p in ("/dev/null", "/dev/zero")] == [False, True]
    fd = os.open(unified.directory("devices"), os.O_RDONLY)
    assert len(bpf._attached(fd)) == 1
    os.close(fd)


@given(st.lists(_ENTRY, max_size=6))
def test_every_program_passes_the_verifier(entries: list[dict[str, Any]]) -> None:
    """The kernel accepts whatever rules compile to: no unreachable code, no path without an answer."""
    os.close(bpf.load_device_program(devices.program(devices.parse_rules(entries))))


def test_no_rules_forbid_everything() -> None:
    """Nothing said means no."""
    assert not run(devices.program([]), "c", 1, 3, "r")
    assert Rule(allow=True).text() == "a"
