"""Seccomp: compiled filters against a direct reading of the profile, against libseccomp, and in the kernel."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop.linux import capabilities, process, seccomp, seccompprogram, syscalls, syscalltables
from orlop.oci import jsontext

if TYPE_CHECKING:
    from pathlib import Path

    from tests.linux.conftest import InChild

ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
ENOSYS = ERRNO | errno.ENOSYS
TOKENS = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
}
NARROW = ("SCMP_ARCH_X86", "SCMP_ARCH_ARM")
TABLES = {name: syscalltables.table(name) for name in TOKENS}


def run(program: bytes, token: int, number: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """Interpret classic BPF as seccomp does, on struct seccomp_data; the return value."""
    data = number.to_bytes(4, "little") + token.to_bytes(4, "little") + bytes(8)
    data += b"".join(value.to_bytes(8, "little") for value in arguments)
    accumulator = at = 0
    while True:
        code = int.from_bytes(program[at * 8 : at * 8 + 2], "little")
        yes, no = program[at * 8 + 2 : at * 8 + 4]
        constant = int.from_bytes(program[at * 8 + 4 : at * 8 + 8], "little")
        at += 1
        match code:
            case 0x20:
                accumulator = int.from_bytes(data[constant : constant + 4], "little")
            case 0x06:
                return constant
            case 0x05:
                at += constant
            case 0x54:
                accumulator &= constant
            case 0x15:
                at += yes if accumulator == constant else no
            case 0x25:
                at += yes if accumulator > constant else no
            case 0x35:
                at += yes if accumulator >= constant else no
            case 0x45:
                at += yes if accumulator & constant else no
            case _:
                pytest.fail(f"instruction {code:#x} is not expected")


def holds(condition: dict[str, Any], arguments: tuple[int, ...], *, narrow: bool) -> bool:
    """One condition, read as the runtime-spec says it; a 32-bit architecture has 32-bit arguments."""
    mask = 0xFFFFFFFF if narrow else (1 << 64) - 1
    left = arguments[condition["index"]] & mask
    value, two = condition["value"] & mask, condition.get("valueTwo", 0) & mask
    verdicts: dict[str, bool] = {
        "SCMP_CMP_NE": left != value,
        "SCMP_CMP_LT": left < value,
        "SCMP_CMP_LE": left <= value,
        "SCMP_CMP_EQ": left == value,
        "SCMP_CMP_GE": left >= value,
        "SCMP_CMP_GT": left > value,
        "SCMP_CMP_MASKED_EQ": left & value == two & value,
    }
    return verdicts[condition["op"]]


def value_of(action: str, number: int | None) -> int:
    """The return value of an action."""
    base = {"SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_ERRNO": ERRNO, "SCMP_ACT_KILL_PROCESS": KILL_PROCESS}
    base |= {"SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_TRAP": 0x30000, "SCMP_ACT_TRACE": 0x7FF00000}
    takes_number = action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
    return base[action] | ((1 if number is None else number) if takes_number else 0)


def read(profile: dict[str, Any], native: str, arch: str, number: int, arguments: tuple[int, ...]) -> int:
    """What a profile says about one call, straight from its rules."""
    default = value_of(profile["defaultAction"], profile.get("defaultErrnoRet"))
    if arch not in (native, *profile.get("architectures", ())):
        return ENOSYS if arch == "SCMP_ARCH_X32" else KILL_PROCESS
    names = {value: name for name, value in TABLES[arch].items()}
    mentioned = {name for rule in profile["syscalls"] for name in rule["names"]}
    known = [value for name, value in TABLES[arch].items() if name in mentioned]
    lets_through = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
    if known and number > max(known) and profile["defaultAction"] not in lets_through:
        return ENOSYS
    rules = [rule for rule in profile["syscalls"] if names.get(number) in rule["names"]]
    rules = [rule for rule in rules if value_of(rule["action"], rule.get("errnoRet")) != default]
    for rule in rules:
        if not rule.get("args"):
            return value_of(rule["action"], rule.get("errnoRet"))
    for rule in rules:
        verdicts = [holds(one, arguments, narrow=arch in NARROW) for one in rule["args"]]
        alone = len({one["index"] for one in rule["args"]}) < len(verdicts)
        if any(verdicts) if alone else all(verdicts):
            return value_of(rule["action"], rule.get("errnoRet"))
    return default


_NAMES = [
    "read",
    "write",
    "openat",
    "clone",
    "clone3",
    "socket",
    "personality",
    "mount",
    "mseal",
    "futex_time64",
    "no_such_call",
]
_INTERESTING = st.sampled_from([0, 1, 5, 0xFFFFFFFF, 1 << 32, (1 << 32) + 5, (1 << 64) - 1, 0x7E020000, 5 << 32])
_VALUE = _INTERESTING | st.integers(0, (1 << 64) - 1)
_ACTION = st.sampled_from(
    ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE"]
)
_OPS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
_CONDITION = st.fixed_dictionaries(
    {"index": st.integers(0, 5), "value": _VALUE, "op": st.sampled_from([f"SCMP_CMP_{op}" for op in _OPS])},
    optional={"valueTwo": _VALUE},
)
_RULE = st.fixed_dictionaries(
    {"names": st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4), "action": _ACTION},
    optional={"args": st.lists(_CONDITION, max_size=3), "errnoRet": st.integers(0, 200)},
)
_PROFILE = st.fixed_dictionaries(
    {"defaultAction": _ACTION, "syscalls": st.lists(_RULE, max_size=6)},
    optional={"architectures": st.lists(st.sampled_from([*TOKENS, "SCMP_ARCH_S390X"]), max_size=4)},
)


@settings(max_examples=300)
@given(profile=_PROFILE, machine=st.sampled_from(["x86_64", "aarch64"]), data=st.data())
def test_the_program_says_what_the_profile_says(profile: dict[str, Any], machine: str, data: st.DataObject) -> None:
    """For any profile, architecture, call and arguments the filter returns what reading the rules gives."""
    program = seccomp.compile_profile(profile, machine)
    native = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[machine]
    on_machine = {native, *profile.get("architectures", ()), "SCMP_ARCH_X86"} & set(TOKENS)
    # x32 shares x86_64's token, so it is asked about only where that is compiled in
    arches = sorted(on_machine | ({"SCMP_ARCH_X32"} if "SCMP_ARCH_X86_64" in on_machine else set()))
    if native != "SCMP_ARCH_X86_64" and "SCMP_ARCH_X86_64" not in profile.get("architectures", ()):
        arches = [arch for arch in arches if arch not in ("SCMP_ARCH_X86_64", "SCMP_ARCH_X32")]
    mentioned = [name for rule in profile["syscalls"] for name in rule["names"]]
    values = [one["value"] for rule in profile["syscalls"] for one in rule.get("args", ())]
    near = st.sampled_from([v + d for v in values or [0] for d in (-1, 0, 1) if 0 <= v + d < 1 << 64])
    for _ in range(6):
        arch = data.draw(st.sampled_from(arches))
        bit = syscalltables.X32_BIT if arch == "SCMP_ARCH_X32" else 0
        calls = [TABLES[arch][name] for name in mentioned if name in TABLES[arch]]
        number = (
            data.draw(st.sampled_from(calls) if calls else st.just(bit))
            if data.draw(st.booleans())
            else bit | data.draw(st.integers(0, 600))
        )
        arguments = tuple(data.draw(near | _VALUE) for _ in range(6))
        assert run(program, TOKENS[arch], number, arguments) == read(profile, native, arch, number, arguments)


def docker_like(capabilities_held: tuple[str, ...] = ()) -> dict[str, Any]:
    """The default profile for the default capabilities and these."""
    return seccomp.for_capabilities((*capabilities.DEFAULT, *capabilities_held), "x86_64")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_default_profile_call_by_call(machine: str) -> None:
    """Every number of every architecture of the default profile is answered as the rules read."""
    profile = seccomp.for_capabilities(capabilities.DEFAULT, machine)
    program = seccomp.compile_profile(profile, machine)
    native = profile["architectures"][0]
    for arch in profile["architectures"]:
        bit = syscalltables.X32_BIT if arch == "SCMP_ARCH_X32" else 0
        for number in range(bit, bit + 700):
            for first in (0, 38, 40, 0x10000000, 0xFFFFFFFF):
                arguments = (first, 0, 0, 0, 0, 0)
                assert run(program, TOKENS[arch], number, arguments) == read(profile, native, arch, number, arguments)


def test_the_default_profile_in_words() -> None:
    """What docker's profile is known for: new namespaces, mounts, keyrings and AF_VSOCK refused; clone3 not there."""
    program = seccomp.compile_profile(docker_like(), "x86_64")
    table, token = TABLES["SCMP_ARCH_X86_64"], TOKENS["SCMP_ARCH_X86_64"]

    def ask(name: str, *arguments: int) -> int:
        return run(program, token, table[name], (*arguments, *(0,) * (6 - len(arguments))))

    eperm = ERRNO | errno.EPERM
    assert ask("read") == ask("execve") == ask("openat2") == ask("chroot") == ALLOW
    assert ask("mount") == ask("keyctl") == ask("unshare") == ask("bpf") == ask("reboot") == eperm
    assert (ask("clone", 17), ask("clone", 17 | 0x10000000)) == (ALLOW, eperm)
    assert ask("clone3") == ENOSYS
    assert (ask("socket", 2), ask("socket", 38), ask("socket", 40)) == (ALLOW, eperm, eperm)
    assert (ask("personality", 0xFFFFFFFF), ask("personality", 1)) == (ALLOW, eperm)
    assert run(program, token, 5000) == ENOSYS
    assert run(program, TOKENS["SCMP_ARCH_AARCH64"], 0) == KILL_PROCESS


def test_capabilities_open_what_they_stand_for() -> None:
    """CAP_SYS_ADMIN allows mounting and clone3, CAP_SYS_TIME setting the clock; without CAP_SYS_CHROOT no chroot."""
    table, token = TABLES["SCMP_ARCH_X86_64"], TOKENS["SCMP_ARCH_X86_64"]
    admin = seccomp.compile_profile(docker_like(("CAP_SYS_ADMIN",)), "x86_64")
    assert run(admin, token, table["mount"]) == run(admin, token, table["clone3"]) == ALLOW
    clock = seccomp.compile_profile(docker_like(("CAP_SYS_TIME",)), "x86_64")
    assert run(clock, token, table["settimeofday"]) == ALLOW
    nothing = seccomp.compile_profile(seccomp.for_capabilities((), "x86_64"), "x86_64")
    assert run(nothing, token, table["chroot"]) == ERRNO | errno.EPERM


def test_any_call_takes_few_steps() -> None:
    """The search stays short: no answer of the default profile costs more than 30 instructions, arguments included."""
    program = seccomp.compile_profile(docker_like(), "x86_64")
    assert len(program) // 8 < 1200
    deepest = 0
    for number in range(500):
        at = steps = 0
        while True:
            code = program[at * 8]
            constant = int.from_bytes(program[at * 8 + 4 : at * 8 + 8], "little")
            yes, no = program[at * 8 + 2 : at * 8 + 4]
            steps += 1
            if code == 0x06:
                break
            if code == 0x05:
                at += constant
            elif code == 0x15:
                at += yes if steps == 2 or constant == 0 else no
            elif code == 0x35:
                at += yes if number >= constant else no
            at += 1
        deepest = max(deepest, steps)
    assert deepest <= 30


# libseccomp, where it is installed, is the reference


def _library() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError):
        return ctypes.CDLL("libseccomp.so.2", use_errno=True)
    return None


class _Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def libseccomp_program(library: ctypes.CDLL, profile: dict[str, Any]) -> bytes:
    """The same profile through libseccomp, called as crun and runc call it."""
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(value_of(profile["defaultAction"], None))))
    default = value_of(profile["defaultAction"], None)
    for arch in profile.get("architectures", ()):
        token = library.seccomp_arch_resolve_name(arch.removeprefix("SCMP_ARCH_").lower().encode())
        library.seccomp_arch_add(context, ctypes.c_uint32(token))
    for rule in profile["syscalls"]:
        value = value_of(rule["action"], rule.get("errnoRet"))
        if value == default:
            continue
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == -1:
                continue
            every = [
                _Compare(
                    one["index"],
                    1 + _OPS.index(one["op"].removeprefix("SCMP_CMP_")),
                    one["value"],
                    one.get("valueTwo", 0),
                )
                for one in rule.get("args", ())
            ]
            alone = len({one.arg for one in every}) < len(every)
            for some in [[one] for one in every] if alone else [every]:
                array = (_Compare * max(1, len(some)))(*some)
                library.seccomp_rule_add_array(context, ctypes.c_uint32(value), number, len(some), array)
    fd = os.memfd_create("bpf")
    try:
        assert library.seccomp_export_bpf(context, fd) == 0
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)
        library.seccomp_release(context)


# One action besides the default: where rules of different actions match one call, libseccomp's answer depends on the
# tree it happens to build
_ONE_ACTION = st.fixed_dictionaries(
    {
        "names": st.lists(
            st.sampled_from(["read", "openat", "clone", "socket", "mount"]), min_size=1, max_size=2, unique=True
        ),
        "action": st.just("SCMP_ACT_ALLOW"),
    },
    optional={"args": st.lists(_CONDITION, max_size=2, unique_by=lambda one: one["index"])},
)


@settings(max_examples=120)
@given(
    profile=st.fixed_dictionaries(
        {"defaultAction": st.just("SCMP_ACT_ERRNO"), "syscalls": st.lists(_ONE_ACTION, min_size=1, max_size=4)},
        optional={"architectures": st.just(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])},
    ),
    data=st.data(),
)
def test_the_program_answers_as_libseccomps(profile: dict[str, Any], data: st.DataObject) -> None:
    """Below the newest known call, our filter and libseccomp's give the same answer to the same call."""
    library = _library()
    if library is None or os.uname().machine != "x86_64":
        pytest.skip("libseccomp is not installed, or numbers calls for another machine")
    theirs, ours = libseccomp_program(library, profile), seccomp.compile_profile(profile, "x86_64")
    names = [name for rule in profile["syscalls"] for name in rule["names"]]
    values = [one["value"] for rule in profile["syscalls"] for one in rule.get("args", ())]
    near = st.sampled_from([v + d for v in values or [0] for d in (-1, 0, 1) if 0 <= v + d < 1 << 64])
    for arch in profile.get("architectures", ["SCMP_ARCH_X86_64"]):
        highest = max(TABLES[arch][name] for name in names)
        for _ in range(4):
            # socket and friends go through socketcall on x86, which libseccomp filters besides: not asked
            number = (
                TABLES[arch][data.draw(st.sampled_from(names))]
                if data.draw(st.booleans())
                else data.draw(st.integers(0, highest))
            )
            if arch == "SCMP_ARCH_X86" and number == TABLES[arch]["socketcall"]:
                continue
            top = 32 if arch == "SCMP_ARCH_X86" else 64
            arguments = tuple(data.draw(near | _VALUE) % (1 << top) for _ in range(6))
            assert run(ours, TOKENS[arch], number, arguments) == run(theirs, TOKENS[arch], number, arguments)


# In the kernel


def test_an_installed_filter_answers(in_child: InChild) -> None:
    """The kernel takes the default profile, forbids with EPERM, and does not know new calls (ENOSYS)."""
    program = seccomp.compile_profile(seccomp.default_profile())

    def body() -> list[object]:
        process.set_no_new_privs()
        seccomp.install(program, seccomp.flags_of(seccomp.default_profile()))
        found: list[object] = [os.getpid() > 0]
        for call in ("keyctl", "unshare", "clone3", 5000):
            try:
                syscalls.call(call, 0, 0, 0, 0, 0)
            except OSError as error:
                found.append(error.errno)
        return found

    assert in_child(body) == [True, errno.EPERM, errno.EPERM, errno.ENOSYS, errno.ENOSYS]


def test_x32_calls_are_not_there(in_child: InChild) -> None:
    """A profile without x32 answers its calls with ENOSYS instead of letting them by a deny-list."""
    if os.uname().machine != "x86_64":
        pytest.skip("x32 is x86_64's")
    program = seccomp.compile_profile(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}],
        }
    )

    def body() -> list[int | None]:
        seccomp.install(program)
        found = []
        for number in (39, syscalltables.X32_BIT | 39):
            with pytest.raises(OSError, match="call") as caught:
                syscalls.call(number, doing="call")
            found.append(caught.value.errno)
        return found

    assert in_child(body) == [7, errno.ENOSYS]


def test_a_notifying_profile_gives_a_listener(in_child: InChild) -> None:
    """SCMP_ACT_NOTIFY asks for a listener, and installing returns its descriptor."""
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}
    program = seccomp.compile_profile(profile)

    def body() -> bool:
        fd = seccomp.install(program, seccomp.flags_of(profile))
        return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:seccomp notify"

    assert in_child(body)


def test_without_the_right_it_cannot_be_installed(in_child: InChild) -> None:
    """Neither privileged nor no_new_privs: the kernel refuses, and the error says what was tried."""
    program = seccomp.compile_profile(seccomp.default_profile())

    def body() -> None:
        os.setresuid(4321, 4321, 4321)
        seccomp.install(program)

    with pytest.raises(PermissionError, match="install the seccomp filter"):
        in_child(body)


# Profiles as data


def test_flags_are_bits() -> None:
    """Flags by name; SPEC_ALLOW where none are said, nothing where the list is empty, others refused."""
    base = {"defaultAction": "SCMP_ACT_ALLOW"}
    assert seccomp.flags_of(base) == 4
    assert seccomp.flags_of(base | {"flags": []}) == 0
    assert seccomp.flags_of(base | {"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]}) == 3
    with pytest.raises(InvalidArgument, match="not a seccomp flag"):
        seccomp.flags_of(base | {"flags": ["LOG"]})


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"defaultAction": "ALLOW"}, "'ALLOW' is not a seccomp action"),
        ({}, "None is not a seccomp action"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "cannot be the default"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}, "errnoRet 5000"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["x86"]}, "'x86' is not a seccomp architecture"),
        ({"syscalls": [{"names": ["read"], "action": "X"}]}, "'X' is not a seccomp action"),
        (
            {
                "syscalls": [
                    {
                        "names": ["read"],
                        "action": "SCMP_ACT_LOG",
                        "args": [{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}],
                    }
                ]
            },
            "no argument 6",
        ),
        (
            {
                "syscalls": [
                    {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "op": "EQ", "value": 1}]}
                ]
            },
            "not a seccomp comparison",
        ),
        (
            {
                "syscalls": [
                    {
                        "names": ["read"],
                        "action": "SCMP_ACT_LOG",
                        "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}],
                    }
                ]
            },
            "unsigned 64-bit",
        ),
    ],
)
def test_broken_profiles_are_refused(profile: dict[str, Any], words: str) -> None:
    """What cannot be meant is said, with what was seen."""
    with pytest.raises(InvalidArgument, match=words):
        seccomp.compile_profile(
            profile if "defaultAction" in profile or not profile else {"defaultAction": "SCMP_ACT_ERRNO", **profile}
        )


def test_a_machine_without_tables_is_refused() -> None:
    """There is no guessing of numbers."""
    with pytest.raises(InvalidArgument, match="riscv64"):
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW"}, "riscv64")


def test_a_profile_too_long_for_the_kernel_is_refused() -> None:
    """More than 4096 instructions are refused here, not by an unexplained EINVAL."""

    def conditions(number: int) -> list[dict[str, Any]]:
        return [{"index": i, "op": "SCMP_CMP_EQ", "value": (1 << 40) + number} for i in range(6)]

    rules = [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": conditions(number)} for number in range(400)]
    with pytest.raises(InvalidArgument, match="the kernel takes 4096"):
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})


def test_dockers_conditions_are_resolved() -> None:
    """Includes and excludes by capability, architecture and kernel; archMap; the old single name."""
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": None},
        ],
        "syscalls": [
            {"name": "always", "action": "SCMP_ACT_ALLOW", "args": None, "comment": "kept out"},
            {"names": ["caps"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A", "CAP_B"]}},
            {"names": ["nocaps"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_A", "CAP_C"]}},
            {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["noarm"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
            {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.10"}},
        ],
    }

    def names(caps: set[str], machine: str, kernel: str) -> list[str]:
        found = seccomp.resolve(profile, caps, machine=machine, kernel=kernel)
        return [name for rule in found["syscalls"] for name in rule["names"]]

    assert names(set(), "x86_64", "5.9.1") == ["always", "nocaps", "noarm"]
    assert names({"CAP_A"}, "aarch64", "5.10-rc1") == ["always", "arm", "new"]
    assert names({"CAP_A", "CAP_B"}, "x86_64", "6.1.0-13-amd64") == ["always", "caps", "noarm", "new"]
    found = seccomp.resolve(profile, (), machine="aarch64", kernel="4.0")
    assert found["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert found["syscalls"][0] == {"names": ["always"], "action": "SCMP_ACT_ALLOW"}
    assert found["syscalls"][1]["errnoRet"] == 38
    assert seccomp.resolve(found, (), machine="aarch64") == found


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({}, "no defaultAction"),
        ({"defaultAction": "SCMP_ACT_LOG", "architectures": ["x"], "archMap": [{}]}, "has both"),
        ({"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"name": "a", "names": ["b"]}]}, "has both"),
        (
            {"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["b"], "includes": {"minKernel": "x"}}]},
            "no kernel version",
        ),
    ],
)
def test_contradictory_docker_profiles_are_refused(profile: dict[str, Any], words: str) -> None:
    """What docker refuses is refused."""
    with pytest.raises(InvalidArgument, match=words):
        seccomp.resolve(profile, ())


def test_compiled_programs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second time the program comes from the directory: by profile, and for the default profile by capabilities."""
    profile = seccomp.default_profile()
    first = seccomp.cached(profile, f"{tmp_path}/cache")
    by_caps = seccomp.default_program(capabilities.DEFAULT, f"{tmp_path}/cache")
    assert first == by_caps == seccomp.compile_profile(profile)
    monkeypatch.setattr(seccomp, "compile_profile", None)
    assert seccomp.cached(profile, f"{tmp_path}/cache") == first
    assert seccomp.default_program(reversed(capabilities.DEFAULT), f"{tmp_path}/cache") == first
    assert len(os.listdir(tmp_path / "cache")) == 2


def test_a_damaged_or_missing_cache_is_no_harm(tmp_path: Path) -> None:
    """An emptied file, a symlink in its place and a directory that cannot be made: compiled anew."""
    profile = seccomp.default_profile()
    wanted = seccomp.compile_profile(profile)
    path = tmp_path / seccomp.program_key(profile)
    path.write_bytes(b"")
    assert seccomp.cached(profile, str(tmp_path)) == wanted == path.read_bytes()
    path.unlink()
    (tmp_path / "evil").write_bytes(b"\x06\0\0\0\0\0\xff\x7f" * 2)
    path.symlink_to("evil")
    assert seccomp.cached(profile, str(tmp_path)) == wanted
    (tmp_path / "file").write_text("")
    assert seccomp.cached(profile, f"{tmp_path}/file") == wanted


@given(one=_PROFILE, two=_PROFILE)
def test_keys_tell_profiles_apart(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Profiles written alike have equal keys, different ones different keys, and so have machines."""
    assert (seccomp.program_key(one) == seccomp.program_key(two)) == (jsontext.dumps(one) == jsontext.dumps(two))
    assert seccomp.program_key(one, "x86_64") != seccomp.program_key(one, "aarch64")


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("SCMP_ARCH_X86_64", {"read": 0, "execve": 59, "mseal": 462}),
        ("SCMP_ARCH_X86", {"read": 3, "socketcall": 102, "clock_gettime64": 403}),
        ("SCMP_ARCH_AARCH64", {"read": 63, "openat": 56, "renameat2": 276}),
        ("SCMP_ARCH_ARM", {"read": 3, "socket": 281, "set_tls": 0xF0005}),
        ("SCMP_ARCH_X32", {"read": 0x40000000, "execve": 0x40000208}),
    ],
)
def test_known_numbers(arch: str, names: dict[str, int]) -> None:
    """Some well-known numbers of each table, and none twice in any."""
    table = TABLES[arch]
    assert {name: table[name] for name in names} == names
    assert len(set(table.values())) == len(table)
    assert seccompprogram.ALLOW == ALLOW
