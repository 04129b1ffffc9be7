"""Capabilities: names, what we hold, and the way from root to a container's sets (capabilities(7)).

The order matters and is kept in `become`: the bounding set can only be dropped while CAP_SETPCAP is effective, changing
the user id clears what is not kept, the effective set is a part of the permitted one, and an ambient capability must be
permitted and inheritable.
"""

from __future__ import annotations

import errno
import os

from orlop.linux import process
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# linux/capability.h: the index is the number
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
_NUMBERS = {name: number for number, name in enumerate(NAMES)}

# What docker gives a container that asks for nothing.
DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)


_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_AMBIENT_IS_SET = 1
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522


class Sets(Value):
    """The five capability sets of a process, as frozen sets of names."""

    bounding: frozenset[str] = frozenset()
    effective: frozenset[str] = frozenset()
    permitted: frozenset[str] = frozenset()
    inheritable: frozenset[str] = frozenset()
    ambient: frozenset[str] = frozenset()


def mask_of(names: Iterable[str]) -> int:
    """The names as bits; names not in NAMES are left out."""
    mask = 0
    for name in names:
        if name in _NUMBERS:
            mask |= 1 << _NUMBERS[name]
    return mask


def names_in(mask: int) -> tuple[str, ...]:
    """The bits as names, in the kernel's order; bits without a name are left out."""
    return tuple(name for number, name in enumerate(NAMES) if mask >> number & 1)


def last_cap() -> int:
    """The highest capability number that this kernel has."""
    try:
        # As bytes: an encoding by name would import its codec, and we may be inside a container already
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            return int(file.read())
    except OSError:  # a container without /proc/sys: ask one by one
        number = len(NAMES) - 1
        while number and not _in_bounding_or_not(number):
            number -= 1
        return number


def _in_bounding_or_not(number: int) -> bool:
    """Whether the kernel has an opinion on this capability at all."""
    try:
        process.prctl(_PR_CAPBSET_READ, number)
    except OSError:
        return False
    return True


def known() -> tuple[str, ...]:
    """The names of all capabilities of this kernel, in its order."""
    return NAMES[: last_cap() + 1]


def current() -> Sets:
    """The calling thread's five sets."""
    effective, permitted, inheritable = _capget()
    numbers = range(last_cap() + 1)
    bounding = sum(1 << n for n in numbers if process.prctl(_PR_CAPBSET_READ, n))
    ambient = sum(1 << n for n in numbers if _ambient(_AMBIENT_IS_SET, n))
    return Sets(
        bounding=frozenset(names_in(bounding)),
        effective=frozenset(names_in(effective)),
        permitted=frozenset(names_in(permitted)),
        inheritable=frozenset(names_in(inheritable)),
        ambient=frozenset(names_in(ambient)),
    )


def _ambient(action: int, number: int = 0) -> int:
    from orlop.linux import syscalls  # ctypes: for those who act, not for those who name

    return syscalls.call("prctl", _PR_CAP_AMBIENT, action, number, 0, 0, doing="change the ambient capabilities")


_HEADER = _VERSION_3.to_bytes(4, "little") + bytes(4)  # pid 0: the calling thread


def _capget() -> tuple[int, int, int]:
    """The effective, permitted and inheritable masks."""
    import ctypes  # as above

    from orlop.linux import syscalls

    data = ctypes.create_string_buffer(24)  # two times (effective, permitted, inheritable), low halves first
    syscalls.call("capget", _HEADER, data, doing="read our capabilities")
    words = [int.from_bytes(data.raw[at : at + 4], "little") for at in range(0, 24, 4)]
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


def _capset(effective: int, permitted: int, inheritable: int) -> None:
    masks = (effective, permitted, inheritable)
    data = b"".join((mask & 0xFFFFFFFF).to_bytes(4, "little") for mask in masks)
    data += b"".join((mask >> 32).to_bytes(4, "little") for mask in masks)
    from orlop.linux import syscalls  # as above

    syscalls.call("capset", _HEADER, data, doing="set our capabilities")


def drop_bounding(keep: Iterable[str]) -> None:
    """Take everything but `keep` out of the bounding set, for good, also what has no name here yet."""
    kept = mask_of(keep)
    for number in range(last_cap() + 1):
        if not kept >> number & 1 and process.prctl(_PR_CAPBSET_READ, number):
            process.prctl(_PR_CAPBSET_DROP, number, doing=f"drop capability {number} from the bounding set")


def apply(
    bounding: Iterable[str],
    effective: Iterable[str],
    permitted: Iterable[str],
    inheritable: Iterable[str],
    ambient: Iterable[str],
) -> list[str]:
    """Set the five sets of this thread to these, as far as we hold them; the names that we could not give, sorted.

    Afterwards each set is exactly what was asked, cut to what the kernel's rules and our own sets allow. Call after the
    user id has changed (`become` does both); drop_bounding first if that loses CAP_SETPCAP.
    """
    asked = [frozenset(names) for names in (bounding, effective, permitted, inheritable, ambient)]
    wanted = [mask_of(names) for names in asked]
    _, held, heritable = _capget()
    drop_bounding(asked[0])
    limit = sum(1 << n for n in range(last_cap() + 1) if process.prctl(_PR_CAPBSET_READ, n))
    permitted_mask = wanted[2] & held
    effective_mask = wanted[1] & permitted_mask
    # Without CAP_SETPCAP only what is permitted or heritable may become heritable; never beyond the bounding set.
    inheritable_mask = wanted[3] & (heritable | held) & (heritable | limit)
    _ambient(_AMBIENT_CLEAR_ALL)
    _capset(effective_mask, permitted_mask, inheritable_mask)
    ambient_mask = wanted[4] & permitted_mask & inheritable_mask
    for number in range(len(NAMES)):
        if ambient_mask >> number & 1:
            _ambient(_AMBIENT_RAISE, number)
    given = (wanted[0] & limit, effective_mask, permitted_mask, inheritable_mask, ambient_mask)
    missing = 0
    for want, got in zip(wanted, given, strict=True):
        missing |= want & ~got
    return sorted({*names_in(missing), *(name for names in asked for name in names if name not in _NUMBERS)})


def become(uid: int, gid: int, groups: Sequence[int], sets: Sets) -> list[str]:
    """Turn this process from root into (uid, gid, groups) with exactly `sets`; the capabilities we could not give.

    Order: bounding set, groups, gid, uid (with keepcaps, so that an ordinary user can be given capabilities), then
    permitted, effective and inheritable together, then ambient. no_new_privs and seccomp are the caller's business.
    """
    drop_bounding(sets.bounding)
    process.set_keepcaps(True)
    _set_groups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    process.set_keepcaps(False)
    return apply(sets.bounding, sets.effective, sets.permitted, sets.inheritable, sets.ambient)


def _set_groups(groups: Sequence[int]) -> None:
    try:
        os.setgroups(list(groups))
    except PermissionError as error:
        # A user namespace with one mapped gid forbids setgroups: having no groups to set is then all that can be had.
        if not groups and _setgroups_denied():
            return
        raise OSError(
            errno.EPERM, f"set the supplementary groups {list(groups)}: {os.strerror(errno.EPERM)}"
        ) from error


def _setgroups_denied() -> bool:
    try:
        with open("/proc/self/setgroups", "rb") as file:
            return file.read().strip() == b"deny"
    except OSError:  # no /proc in this root: nothing says that it is denied
        return False
