"""What a seccomp profile says to a system call, for those that we make after its filter is in force."""

from __future__ import annotations

from orlop.runtime import trampoline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PASSING = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
_F_SETFD = 2


def allows(profile: dict[str, Any], name: str, *arguments: int) -> bool:
    """Whether `profile` lets the call through with these first arguments, as far as they decide it."""
    verdict: bool = profile["defaultAction"] in _PASSING
    denied = False
    for rule in profile.get("syscalls") or ():
        if name in rule["names"]:
            passing = rule["action"] in _PASSING
            # what is not known counts against us
            if all(_holds(one, arguments, unknown=not passing) for one in rule.get("args") or ()):
                verdict, denied = verdict or passing, denied or not passing
    return verdict and not denied


def _holds(condition: dict[str, Any], arguments: tuple[int, ...], *, unknown: bool) -> bool:
    index, value = condition["index"], condition["value"]
    if index >= len(arguments):
        return unknown
    found = arguments[index]
    match condition["op"]:
        case "SCMP_CMP_NE":
            return bool(found != value)
        case "SCMP_CMP_LT":
            return bool(found < value)
        case "SCMP_CMP_LE":
            return bool(found <= value)
        case "SCMP_CMP_EQ":
            return bool(found == value)
        case "SCMP_CMP_GE":
            return bool(found >= value)
        case "SCMP_CMP_GT":
            return bool(found > value)
        case "SCMP_CMP_MASKED_EQ":
            return bool(found & value == (condition.get("valueTwo") or 0))
    return unknown


def allows_forking(profile: dict[str, Any], *, terminal: bool) -> bool:
    """Whether a trampoline that forks works with the filter of `profile` in force."""
    return (
        all(allows(profile, name) for name in ("execveat", "execve", "setsid", "write", "exit_group"))
        and allows(profile, "fcntl", 3, _F_SETFD)
        and allows(profile, "clone", trampoline.INTO, 0, 0, 0, 0)
        and (not terminal or allows(profile, "ioctl", 0, trampoline.TIOCSCTTY))
    )
