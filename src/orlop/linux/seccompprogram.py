"""A seccomp profile as a classic BPF program (seccomp(2), linux/filter.h). Pure: a profile in, bytes out.

For each architecture the system call numbers fall into runs with the same answer, and a binary search over the runs
finds the one in eight steps. Answers that do not look at arguments stay constant for the kernel, which then skips the
program.

What a profile means here, which is what runc with libseccomp makes of it:
- a call's unconditional rule wins over its conditional ones, of which the first that matches counts;
- a rule's `args` must all hold, but if two of them look at one argument, each alone suffices;
- rules that answer as the default does, and names this architecture does not have, are left out;
- calls newer than the newest one the profile names answer ENOSYS (unless the default lets calls through), so that
  programs fall back instead of believing that they are forbidden.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.linux import syscalltables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # One way a call may be answered: all conditions (index, op, value, value two) hold -> the return value
    Condition: TypeAlias = tuple[int, str, int, int]
    Branch: TypeAlias = tuple[tuple[Condition, ...], int]
    Answer: TypeAlias = tuple[Branch, ...]

KILL_PROCESS = 0x80000000
ALLOW = 0x7FFF0000
ERRNO = 0x00050000
_ENOSYS = 38
_ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": ALLOW,
}
_LETS_THROUGH = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
_MAX_ERRNO = 4095

# Audit architecture and whether arguments have 32 bits (linux/audit.h)
_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": (0xC000003E, False),
    "SCMP_ARCH_X32": (0xC000003E, False),
    "SCMP_ARCH_X86": (0x40000003, True),
    "SCMP_ARCH_AARCH64": (0xC00000B7, False),
    "SCMP_ARCH_ARM": (0x40000028, True),
}
# Known to the runtime-spec, but not to any machine we run on: their calls are answered as a strange architecture's
_FOREIGN = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        "MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE "
        "S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
    ).split()
)
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

# linux/bpf_common.h
_LOAD = 0x20
_JA = 0x05
_JEQ = 0x15
_JGT = 0x25
_JGE = 0x35
_AND = 0x54
_RETURN = 0x06
_FAR = 255  # a conditional jump's reach
_MAX_INSTRUCTIONS = 4096
_WORD = 0xFFFFFFFF


def _op(code: int, constant: int, yes: int = 0, no: int = 0) -> bytes:
    return code.to_bytes(2, "little") + bytes((yes, no)) + constant.to_bytes(4, "little")


def compile_profile(profile: dict[str, Any], machine: str) -> bytes:
    """The program for `machine` ("x86_64", "aarch64") and the profile's architectures, the native one always included.

    Calls of an architecture that is not among them kill the process; x32 calls that are not get ENOSYS. InvalidArgument
    says what in the profile cannot be, or that it is too long for the kernel.
    """
    native = _NATIVE.get(machine)
    if native is None:
        raise InvalidArgument(f"seccomp profiles cannot be compiled for {machine}", hint="x86_64 or aarch64")
    wanted = dict.fromkeys((native, *(profile.get("architectures") or ())))
    for name in wanted:
        if name not in _ARCHITECTURES and name not in _FOREIGN:
            raise InvalidArgument(f"{name!r} is not a seccomp architecture", hint=f"e.g. {native}")
    default = _return_of(profile.get("defaultAction"), profile.get("defaultErrnoRet"), "defaultAction")
    if profile["defaultAction"] == "SCMP_ACT_NOTIFY":
        raise InvalidArgument("SCMP_ACT_NOTIFY cannot be the default: not even the listener could be handed over")
    rules = _rules(profile, default)
    stub = profile["defaultAction"] not in _LETS_THROUGH
    sections: dict[int, list[bytes]] = {}
    for name in wanted:
        if name in _ARCHITECTURES and name != "SCMP_ARCH_X32":
            token, narrow = _ARCHITECTURES[name]
            sections[token] = _section(name, rules, default, stub=stub, narrow=narrow)
            if name == "SCMP_ARCH_X86_64":
                x32 = [_op(_RETURN, ERRNO | _ENOSYS)]
                if "SCMP_ARCH_X32" in wanted:
                    x32 = _section("SCMP_ARCH_X32", rules, default, stub=stub, narrow=False)
                sections[token] = _branch(syscalltables.X32_BIT, sections[token], x32)
    code = [_op(_LOAD, 4)]
    for token, section in sections.items():
        code += [_op(_JEQ, token, 1, 0), _op(_JA, len(section) + 1), _op(_LOAD, 0), *section]
    code.append(_op(_RETURN, KILL_PROCESS))
    if len(code) > _MAX_INSTRUCTIONS:
        raise InvalidArgument(f"the seccomp profile compiles to {len(code)} instructions, the kernel takes 4096")
    return b"".join(code)


def _return_of(action: Any, errno: Any, where: str) -> int:
    """The filter's return value for an action; errno is by default EPERM."""
    if action not in _ACTIONS:
        raise InvalidArgument(f"{where} {action!r} is not a seccomp action", hint=f"one of {', '.join(_ACTIONS)}")
    if action not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return _ACTIONS[action]
    number = 1 if errno is None else errno
    limit = _MAX_ERRNO if action == "SCMP_ACT_ERRNO" else 0xFFFF
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= limit:
        raise InvalidArgument(f"seccomp errnoRet {number!r} is none, expected 0 to {limit}")
    return _ACTIONS[action] | number


def _rules(profile: dict[str, Any], default: int) -> dict[str, Answer]:
    """For each name its branches, ending with an unconditional one only where a rule says so."""
    conditional: dict[str, list[Branch]] = {}
    plain: dict[str, Branch] = {}
    for rule in profile.get("syscalls") or ():
        value = _return_of(rule.get("action"), rule.get("errnoRet"), "action")
        branches = [(conditions, value) for conditions in _conditions(rule.get("args") or ())]
        for name in rule.get("names") or ():
            kept = conditional.setdefault(name, [])
            if value == default:
                continue
            kept += [branch for branch in branches if branch[0]]
            if not branches[0][0]:
                plain.setdefault(name, ((), value))
    found: dict[str, Answer] = {}
    for name, branches in conditional.items():
        found[name] = (plain[name],) if name in plain else (*dict.fromkeys(branches), ((), default))
    return found


def _conditions(args: Any) -> list[tuple[Condition, ...]]:
    """A rule's ways to match: all conditions, or each alone where one argument is named twice; [()] without any."""
    found: list[Condition] = []
    for one in args:
        index, op = one.get("index", 0), one.get("op")
        value, second = one.get("value", 0), one.get("valueTwo") or 0
        if op not in _OPERATORS:
            raise InvalidArgument(f"{op!r} is not a seccomp comparison", hint=f"one of {', '.join(sorted(_OPERATORS))}")
        if not isinstance(index, int) or not 0 <= index <= 5:
            raise InvalidArgument(f"a system call has no argument {index!r}: they go from 0 to 5")
        if not all(isinstance(number, int) and 0 <= number < 1 << 64 for number in (value, second)):
            raise InvalidArgument(f"seccomp value {value!r} is no unsigned 64-bit number")
        found.append((index, op, value, second))
    if len({one[0] for one in found}) < len(found):
        return [(one,) for one in found]
    return [tuple(found)]


def _section(name: str, rules: dict[str, Answer], default: int, *, stub: bool, narrow: bool) -> list[bytes]:
    """The search over one architecture's calls; the number is in the accumulator."""
    numbers = {number: rules[call] for call, number in syscalltables.table(name).items() if call in rules}
    otherwise: Answer = (((), default),)
    runs: list[tuple[int, Answer]] = [(0, otherwise)]
    after = 0
    for number in sorted(numbers):
        if number > after:
            _add(runs, after, otherwise)
        _add(runs, number, numbers[number])
        after = number + 1
    if numbers and stub:
        _add(runs, after, (((), ERRNO | _ENOSYS),))
    else:
        _add(runs, after, otherwise)
    leaves = [(start, _leaf(answer, narrow=narrow)) for start, answer in runs]
    return _search(leaves)


def _add(runs: list[tuple[int, Answer]], start: int, answer: Answer) -> None:
    if runs[-1][0] == start:
        runs.pop()
    if not runs or runs[-1][1] != answer:
        runs.append((start, answer))


def _search(leaves: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """A balanced tree: below the middle run's start to the left, from it on to the right."""
    if len(leaves) == 1:
        return leaves[0][1]
    middle = len(leaves) // 2
    return _branch(leaves[middle][0], _search(leaves[:middle]), _search(leaves[middle:]))


def _branch(bound: int, below: list[bytes], above: list[bytes]) -> list[bytes]:
    """`below` for numbers under `bound`, `above` for the others; both end in returns."""
    if len(below) <= _FAR:
        return [_op(_JGE, bound, len(below), 0), *below, *above]
    return [_op(_JGE, bound, 0, 1), _op(_JA, len(below)), *below, *above]


def _leaf(answer: Answer, *, narrow: bool) -> list[bytes]:
    code: list[bytes] = []
    for conditions, value in answer:
        code += _tests(conditions, narrow=narrow)
        code.append(_op(_RETURN, value))
    return code


def _tests(conditions: tuple[Condition, ...], *, narrow: bool) -> list[bytes]:
    """Fall through to the return that follows when all conditions hold, jump over it otherwise."""
    code: list[bytes] = []
    for condition in reversed(conditions):
        # Out of this test means over everything after it: the later tests and the return
        code = _test(condition, len(code) + 1, narrow=narrow) + code
    return code


def _test(condition: Condition, out: int, *, narrow: bool) -> list[bytes]:
    """One comparison: falls through when it holds, skips `out` more instructions when not.

    A 64-bit argument is compared by halves, the high one first (little-endian: it lies 4 bytes behind the low one).
    """
    index, op, value, second = condition
    low_at = 16 + 8 * index
    low, high = value & _WORD, value >> 32
    if op == "SCMP_CMP_MASKED_EQ":
        code = [_op(_LOAD, low_at), _op(_AND, low), _op(_JEQ, second & low, 0, out)]
        if not narrow:
            head = [_op(_LOAD, low_at + 4), _op(_AND, high), _op(_JEQ, second >> 32 & high, 0, len(code) + out)]
            code = head + code
        return code
    # Each: the jump on the low half, and whether its "yes" is success
    jump, yes = {
        "SCMP_CMP_EQ": (_JEQ, True),
        "SCMP_CMP_NE": (_JEQ, False),
        "SCMP_CMP_GT": (_JGT, True),
        "SCMP_CMP_LE": (_JGT, False),
        "SCMP_CMP_GE": (_JGE, True),
        "SCMP_CMP_LT": (_JGE, False),
    }[op]
    code = [_op(_LOAD, low_at), _op(jump, low, 0, out) if yes else _op(jump, low, out, 0)]
    if narrow:
        return code
    done, fail = len(code), len(code) + out
    if op == "SCMP_CMP_EQ":
        head = [_op(_LOAD, low_at + 4), _op(_JEQ, high, 0, fail)]
    elif op == "SCMP_CMP_NE":
        head = [_op(_LOAD, low_at + 4), _op(_JEQ, high, 0, done)]
    else:
        # Above decides at once one way, unequal (so below) the other way, equal goes on to the low half
        above, below = (done, fail) if yes else (fail, done)
        head = [_op(_LOAD, low_at + 4), _op(_JGT, high, above + 1, 0), _op(_JEQ, high, 0, below)]
    return head + code
