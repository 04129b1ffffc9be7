"""Which devices a container may use: rules as cgroup v1 texts, and as the eBPF program that cgroup v2 wants. Pure.

Rules are an ordered list; a later one overrides an earlier one (runtime-spec, "Allowed Device list").
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

# linux/bpf.h: BPF_DEVCG_DEV_*, BPF_DEVCG_ACC_*
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL_ACCESS = 7


class Rule(Value):
    """Allow or forbid `access` (of "rwm") to devices of `type` ("a" all, "b", "c"); None is any number."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"

    def text(self) -> str:
        """As devices.allow and devices.deny take it: "c 1:3 rwm", "a" for everything."""
        if self.type == "a" and self.major is None and self.minor is None:
            return "a" if self.access == "rwm" else f"a *:* {self.access}"
        major, minor = ("*" if number is None else number for number in (self.major, self.minor))
        return f"{self.type} {major}:{minor} {self.access}"


def parse_rules(entries: Iterable[dict[str, Any]]) -> list[Rule]:
    """The rules of a runtime-spec `resources.devices`; InvalidArgument shows a broken one.

    A rule on one device of type "a" becomes two, for "b" and "c": cgroup v1 reads any "a" as "all devices".
    """
    found = []
    for entry in entries:
        kind = entry.get("type") or "a"
        access = entry.get("access") or "rwm"
        numbers = [_any(entry.get(name)) for name in ("major", "minor")]
        if kind not in ("a", "b", "c", "u", "p") or not set(access) <= set("rwm"):
            raise InvalidArgument(f"device rule {entry!r} is none: type is a, b or c, access is of r, w, m")
        access = "".join(letter for letter in "rwm" if letter in access)
        allow = bool(entry.get("allow"))
        every = kind == "a" and numbers == [None, None]
        for one in (kind,) if kind != "a" or (every and access == "rwm") else ("b", "c"):
            # "u" is an unbuffered character device; a FIFO ("p") needs no permission
            if one != "p":
                plain = "c" if one == "u" else one
                found.append(Rule(allow=allow, type=plain, major=numbers[0], minor=numbers[1], access=access))
    return found


def _any(number: Any) -> int | None:
    if number is None or number == -1:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InvalidArgument(f"device number {number!r} is none")
    return number


def allowed(rules: Sequence[Rule], kind: str, major: int, minor: int, access: str) -> bool:
    """What the program decides: the last rule that speaks about this access; nothing said means no.

    An allowing rule speaks when it covers every letter of `access`, a forbidding one when it names any of them.
    """
    wanted = set(access)
    for rule in reversed(merged(rules)):
        if rule.type not in ("a", kind) or rule.major not in (None, major) or rule.minor not in (None, minor):
            continue
        named = set(rule.access)
        if wanted <= named if rule.allow else (wanted & named or len(named) == 3):
            return rule.allow
    return False


def merged(rules: Sequence[Rule]) -> list[Rule]:
    """The rules without those that a later rule on everything makes void, neighbours on the same devices made one."""
    found: list[Rule] = []
    for rule in rules:
        if rule.type == "a" and rule.major is None and rule.minor is None and rule.access == "rwm":
            found.clear()
        last = found[-1] if found else None
        if last is not None and last.replace(access=rule.access) == rule:
            found[-1] = rule.replace(access="".join(x for x in "rwm" if x in last.access + rule.access))
        else:
            found.append(rule)
    return found


def _instruction(code: int, target: int, source: int, offset: int, immediate: int) -> bytes:
    """One eBPF instruction: opcode, two register nibbles, a jump or memory offset, a constant."""
    value = (immediate & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes([code, target | source << 4]) + (offset & 0xFFFF).to_bytes(2, "little") + value


_LDX_W = 0x61
_MOV_REG = 0xBF
_MOV = 0xB7
_AND = 0x57
_RSH = 0x77
_JNE = 0x55
_JNE_REG = 0x5D
_JEQ = 0x15
_EXIT = 0x95


def program(rules: Sequence[Rule]) -> bytes:
    """The rules as a BPF_PROG_TYPE_CGROUP_DEVICE program, 8 bytes an instruction; it returns 1 to allow.

    The context is (access << 16 | type, major, minor), 32 bits each. Registers: r2 type, r3 access, r4 major, r5 minor.
    """
    code = [
        _instruction(_LDX_W, 2, 1, 0, 0),
        _instruction(_MOV_REG, 3, 2, 0, 0),
        _instruction(_AND, 2, 0, 0, 0xFFFF),
        _instruction(_RSH, 3, 0, 0, 16),
        _instruction(_LDX_W, 4, 1, 4, 0),
        _instruction(_LDX_W, 5, 1, 8, 0),
    ]
    for rule in reversed(merged(rules)):
        block = _rule_code(rule)
        code += block
        if len(block) == 2:  # it always decides, and the verifier refuses code that cannot be reached
            return b"".join(code)
    code += [_instruction(_MOV, 0, 0, 0, 0), _instruction(_EXIT, 0, 0, 0, 0)]
    return b"".join(code)


def _rule_code(rule: Rule) -> list[bytes]:
    """Return the verdict where the rule speaks, fall through to what follows where it does not."""
    tests: list[tuple[int, int, int]] = []  # jump opcode, register, constant: jump out when it holds
    work: list[bytes] = []
    if rule.type != "a":
        tests.append((_JNE, 2, _TYPES[rule.type]))
    if rule.major is not None:
        tests.append((_JNE, 4, rule.major))
    if rule.minor is not None:
        tests.append((_JNE, 5, rule.minor))
    bits = sum(_ACCESS[letter] for letter in rule.access)
    if bits != _ALL_ACCESS:
        # r1 (the context) has been read and is free
        work = [_instruction(_MOV_REG, 1, 3, 0, 0)]
        if rule.allow:
            work.append(_instruction(_AND, 1, 0, 0, _ALL_ACCESS & ~bits))
            jump = _instruction(_JNE, 1, 0, 2, 0)
        else:
            work.append(_instruction(_AND, 1, 0, 0, bits))
            jump = _instruction(_JEQ, 1, 0, 2, 0)
        work.append(jump)
    verdict = [_instruction(_MOV, 0, 0, 0, int(rule.allow)), _instruction(_EXIT, 0, 0, 0, 0)]
    body = [*work, *verdict]
    heads = []
    for at, (opcode, register, constant) in enumerate(tests):
        left = len(tests) - at - 1 + len(body)
        heads.append(_instruction(opcode, register, 0, left, constant))
    return [*heads, *body]
