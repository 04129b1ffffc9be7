"""The older packet filter's rules (iptables-legacy): only whether its FORWARD chain drops what no rule lets pass.

They are read with getsockopt; include/uapi/linux/netfilter_ipv4/ip_tables.h has the layout.
"""

from __future__ import annotations

import ctypes
import struct

from orlop.linux import syscalls
from orlop.linux.sockets import AF_INET, Socket

_SOL_IP = 0
_GET_INFO, _GET_ENTRIES = 64, 65
_FORWARD = 2
_INFO_SIZE = 84  # name[32], valid_hooks, hook_entry[5], underflow[5], num_entries, size
_HEADER_SIZE = 40  # struct ipt_get_entries: name[32], size, and padding
_TARGET_OFFSET_AT = 88  # in struct ipt_entry
_VERDICT_AT = 32  # in struct xt_standard_target
_VERDICT_DROP = -1  # -NF_DROP - 1
_RAW = 3 | 0o2000000  # SOCK_RAW | SOCK_CLOEXEC
_IPPROTO_RAW = 255
_LARGEST = 64 << 20


def forward_rules() -> tuple[bool, bytes] | None:
    """(does the FORWARD chain's policy drop, all entries of the filter table); None where that table is not loaded."""
    try:
        with open("/proc/thread-self/net/ip_tables_names", encoding="ascii") as file:
            if "filter" not in file.read().split():
                return None
    except OSError:
        return None  # no such packet filter, or not for us to read: then not for us to be stopped by either
    sock = Socket(AF_INET, _RAW, _IPPROTO_RAW)
    try:
        info = _get(sock.fileno(), _GET_INFO, b"filter".ljust(_INFO_SIZE, b"\0"))
        size = struct.unpack_from("=I", info, _INFO_SIZE - 4)[0]
        if size > _LARGEST:
            return None
        asked = b"filter".ljust(32, b"\0") + struct.pack("=I", size)
        entries = _get(sock.fileno(), _GET_ENTRIES, asked.ljust(_HEADER_SIZE + size, b"\0"))[_HEADER_SIZE:]
    finally:
        sock.close()
    return policy_drops(info, entries), entries


def policy_drops(info: bytes, entries: bytes) -> bool:
    """Whether the verdict of the FORWARD chain's last entry (its policy) is to drop."""
    last = struct.unpack_from("=I", info, 56 + 4 * _FORWARD)[0]
    if last + _TARGET_OFFSET_AT + 2 > len(entries):
        return False
    target = last + int(struct.unpack_from("=H", entries, last + _TARGET_OFFSET_AT)[0])
    if target + _VERDICT_AT + 4 > len(entries):
        return False
    return bool(struct.unpack_from("=i", entries, target + _VERDICT_AT)[0] == _VERDICT_DROP)


def _get(fd: int, option: int, value: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(value, len(value))
    size = ctypes.c_uint(len(value))
    if syscalls.libc.getsockopt(fd, _SOL_IP, option, buffer, ctypes.byref(size)):
        raise syscalls.failure(ctypes.get_errno(), "read the rules of iptables-legacy")
    return buffer.raw[: size.value]
