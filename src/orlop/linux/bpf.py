"""Loading eBPF programs and attaching them to cgroups, as far as device rules need it (bpf(2))."""

from __future__ import annotations

import ctypes
import os

from orlop.linux import syscalls

_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_DETACH = 9
_PROG_GET_FD_BY_ID = 13
_PROG_QUERY = 16
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2


def _bpf(command: int, attributes: bytes, doing: str) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return syscalls.call("bpf", command, buffer, len(attributes), doing=doing)


def _word(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def load_device_program(program: bytes) -> int:
    """Give the kernel a device program (devices.program); its descriptor. OSError(EPERM) in a user namespace."""
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")  # no GPL-only function is called
    attributes = (
        _word(_PROG_TYPE_CGROUP_DEVICE)
        + _word(len(program) // 8)
        + _word(ctypes.addressof(code), 8)
        + _word(ctypes.addressof(licence), 8)
        + bytes(96)  # no log, no flags: the kernel wants what it does not get to be zero
    )
    fd = _bpf(_PROG_LOAD, attributes, "load the device program")
    os.set_inheritable(fd, False)
    return fd


def replace_device_program(directory: int, program: bytes) -> None:
    """Make `program` the only device program of the cgroup v2 `directory` (fd); at no moment is there none.

    While both are attached, a device must be allowed by both.
    """
    before = _attached(directory)
    fd = load_device_program(program)
    try:
        attributes = _word(directory) + _word(fd) + _word(_CGROUP_DEVICE) + _word(_ALLOW_MULTI)
        _bpf(_PROG_ATTACH, attributes, "attach the device program")
    finally:
        os.close(fd)
    for number in before:
        old = _bpf(_PROG_GET_FD_BY_ID, _word(number) + bytes(8), "open the old device program")
        try:
            _bpf(_PROG_DETACH, _word(directory) + _word(old) + _word(_CGROUP_DEVICE) + bytes(4), "detach a program")
        finally:
            os.close(old)


def _attached(directory: int) -> list[int]:
    """The ids of the device programs on this cgroup itself."""
    most = 64  # BPF_CGROUP_MAX_PROGS
    ids = (ctypes.c_uint32 * most)()
    attributes = ctypes.create_string_buffer(
        _word(directory) + _word(_CGROUP_DEVICE) + bytes(8) + _word(ctypes.addressof(ids), 8) + _word(most) + bytes(36)
    )
    syscalls.call("bpf", _PROG_QUERY, attributes, 64, doing="list the device programs")
    count = int.from_bytes(attributes.raw[24:28], "little")
    return list(ids[:count])
