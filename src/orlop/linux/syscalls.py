"""System calls that Python has no function for, through one handle on libc's `syscall`.

Numbers come from the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h); only
the calls this room makes are listed. Calls newer than Linux 5.1 have one number on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MACHINE = os.uname().machine

# On x86_64, on aarch64
_NUMBERS = {
    "bpf": (321, 280),
    "capget": (125, 90),
    "capset": (126, 91),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "fsconfig": (431, 431),
    "fstatfs": (138, 44),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "ioprio_set": (251, 30),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "openat2": (437, 437),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "renameat2": (316, 276),
    "sched_setattr": (314, 274),
    "seccomp": (317, 277),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "setgroups": (116, 159),
    "setns": (308, 268),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "statfs": (137, 43),
    "syncfs": (306, 267),
    "umount2": (166, 39),
    "unshare": (272, 97),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(MACHINE)

libc = ctypes.CDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long
_long = ctypes.c_long


def number(name: str) -> int:
    """The system call's number on this machine; OSError(ENOSYS) where it is not known."""
    if _COLUMN is None or name not in _NUMBERS:
        raise OSError(errno.ENOSYS, f"{name}: no system call number is known for {MACHINE}")
    return _NUMBERS[name][_COLUMN]


def call(name: str | int, *arguments: Any, doing: str = "") -> int:
    """Make a system call and return its result; OSError says `doing` (by default the call's name) and why it failed.

    Integers go as C longs, bytes as pointers to them (NUL-terminated), None as a null pointer, ctypes values as is.
    An interrupted call (EINTR) is not repeated: not every call may be.
    """
    index = name if isinstance(name, int) else number(name)
    result: int = _syscall(_long(index), *[_long(one) if isinstance(one, int) else one for one in arguments])
    if result == -1:
        raise failure(ctypes.get_errno(), doing or str(name))
    return result


def failure(code: int, doing: str) -> OSError:
    """The OSError (of the right subclass) for errno `code`, whose text says what was being done."""
    return OSError(code, f"{doing}: {os.strerror(code)}")


def supported(name: str | int, *arguments: Any) -> bool:
    """Whether the kernel has this call: it is made with `arguments` (chosen to fail) and only ENOSYS means no."""
    try:
        call(name, *arguments)
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True
