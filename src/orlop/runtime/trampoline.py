"""The last step into the container: a program of some hundred bytes that executes the container's program.

Between `execve` and the program's first instruction, /proc/self/exe is whatever ran before. If that were our
interpreter, an image whose entry point is `#!/proc/self/exe` would get a handle on the host's Python, with its own
libraries loaded into it (CVE-2019-5736). So we first execute this: an ELF file made of bytes here, in a sealed
memfd, without libraries. The container can reach that, and nothing else. It marks the reply pipe close-on-exec,
installs the seccomp filter where it is to see nothing but the program, and calls execve; when that fails, it writes
the errno (32 bits, native) to the reply pipe. Run again without the pipe, it ends at once with 127.

For a program that enters a container it is also the first that goes into the PID namespace: whoever has CAP_SYS_PTRACE
there can look into every process that has a number there, so our interpreter must never have one. It stays outside
with its rights given up, and the trampoline forks what executes the program (see `arrival`).
"""

from __future__ import annotations

import fcntl
import os

from orlop.linux.syscalls import MACHINE

SECCOMP_FAILED = 1 << 16
"""Bit in the written number: it was not execve but seccomp that failed."""
TERMINAL_FAILED = 1 << 17
"""Bit in the written number: it was not execve but the controlling terminal that failed."""
SIGCHLD, CLONE_VFORK, CLONE_PARENT = 17, 0x4000, 0x8000
INTO = CLONE_PARENT | CLONE_VFORK | SIGCHLD
"""How it forks: a child of its own parent, and it waits itself until that child has executed the program or died."""
TIOCSCTTY = 0x540E

_BASE = 0x400000
_HEADERS = 64 + 2 * 56
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
_F_ADD_SEALS = 1033
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # against further seals, shrinking, growing, writing
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 16


def supported(machine: str = MACHINE) -> bool:
    """Whether there is code for this machine."""
    return machine in _ELF_MACHINES


def image(
    reply_fd: int,
    *,
    seccomp: bytes = b"",
    seccomp_flags: int = 0,
    fork: int = 0,
    terminal: bool = False,
    machine: str = MACHINE,
) -> bytes:
    """The ELF file. Its argv is the program's path and then the program's own argv; `seccomp` is BPF code or empty.

    With `fork`, flags for clone(2), a child goes on, in a session of its own, where standard input becomes the
    controlling terminal if `terminal`. The parent then writes what clone returned (32 bits) to `reply_fd`, and ends.
    """
    build = _x86_64 if machine == "x86_64" else _aarch64
    draft = build(reply_fd, 0 if seccomp else None, seccomp_flags, fork, terminal)
    data_at = (_HEADERS + len(draft) + 15) & ~15
    code = build(reply_fd, _BASE + data_at, seccomp_flags, fork, terminal) if seccomp else draft
    body = code.ljust(data_at - _HEADERS, b"\0")
    if seccomp:
        # struct sock_fprog: the number of instructions, padding, the address of the first
        filter_at = _BASE + data_at + 16
        body += (len(seccomp) // 8).to_bytes(8, "little") + filter_at.to_bytes(8, "little") + seccomp
    size = _HEADERS + len(body)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += _little(2, 2) + _little(_ELF_MACHINES[machine], 2) + _little(1, 4)
    header += _little(_BASE + _HEADERS, 8) + _little(64, 8) + bytes(8 + 4)
    header += _little(64, 2) + _little(56, 2) + _little(2, 2) + bytes(6)
    load = _little(1, 4) + _little(5, 4) + bytes(8) + _little(_BASE, 8) * 2 + _little(size, 8) * 2 + _little(0x10000, 8)
    stack = _little(0x6474E551, 4) + _little(6, 4) + bytes(40) + _little(16, 8)
    return header + load + stack + body


def _little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def _x86_64(fd: int, fprog: int | None, flags: int, fork: int, terminal: bool) -> bytes:
    def mov(register: int, value: int) -> bytes:  # mov r32, imm32
        return bytes((0xB8 + register,)) + _little(value, 4)

    eax, edx, esi, edi = 0, 2, 6, 7
    syscall = b"\x0f\x05"
    start = mov(edi, fd) + mov(esi, 2) + mov(edx, 1) + mov(eax, 72) + syscall  # fcntl(fd, F_SETFD, FD_CLOEXEC)
    # The pipe is gone: this is a second run, of a program whose interpreter is /proc/self/exe. It would go on for ever.
    start += b"\x85\xc0\x79\x0c" + mov(edi, 127) + mov(eax, 231) + syscall  # test eax, eax; jns over; exit_group(127)
    send = b"\x50\x48\x89\xe6" + mov(edx, 4) + mov(edi, fd) + mov(eax, 1) + syscall  # push rax; write(fd, rsp, 4)
    execute = bytes.fromhex("488b0424 488b7c2408 488d742410 488d54c410")  # rax=argc rdi=argv[0] rsi=argv+1 rdx=envp
    execute += mov(eax, 59) + syscall + b"\xf7\xd8"  # execve; neg eax
    report = send + mov(edi, 127) + mov(eax, 231) + syscall  # write(fd, ...); exit_group(127)
    install = b""
    if fprog is not None:
        install = mov(edi, 1) + mov(esi, flags) + mov(edx, fprog) + mov(eax, 317) + syscall
        failed = b"\xf7\xd8\x0d" + _little(SECCOMP_FAILED, 4)  # neg eax; or eax, ...
        failed += b"\xeb" + bytes((len(execute),))  # jmp to report
        install += b"\x48\x85\xc0\x79" + bytes((len(failed),)) + failed  # test rax, rax; jns over it
    if fork:
        leave = send + b"\x31\xff" + mov(eax, 231) + syscall  # write(fd, ...); exit_group(0)
        # clone(flags, 0, 0, 0, 0): xor r10d, r10d; xor r8d, r8d
        start += mov(edi, fork) + mov(esi, 0) + mov(edx, 0) + b"\x45\x31\xd2\x45\x31\xc0" + mov(eax, 56) + syscall
        start += b"\x85\xc0\x74" + bytes((len(leave),)) + leave  # test eax, eax; jz over it, the child
        start += mov(eax, 112) + syscall  # setsid()
    if terminal:
        start += b"\x31\xff" + mov(esi, TIOCSCTTY) + mov(edx, 0) + mov(eax, 16) + syscall  # ioctl(0, TIOCSCTTY, 0)
        failed = b"\xf7\xd8\x0d" + _little(TERMINAL_FAILED, 4)
        failed += b"\xe9" + _little(len(install) + len(execute), 4)  # jmp to report
        start += b"\x85\xc0\x79" + bytes((len(failed),)) + failed
    return start + install + execute + report


def _aarch64(fd: int, fprog: int | None, flags: int, fork: int, terminal: bool) -> bytes:
    def mov(register: int, value: int) -> list[int]:  # movz + movk: 32 bits
        return [
            0xD2800000 | (value & 0xFFFF) << 5 | register,
            0xF2A00000 | (value >> 16) << 5 | register,
        ]

    svc = [0xD4000001]
    start = mov(0, fd) + mov(1, 2) + mov(2, 1) + mov(8, 25) + svc
    start += [0xB6F80000 | 6 << 5, *mov(0, 127), *mov(8, 94), *svc]  # tbz x0,63 over; exit_group(127), as above
    # str w0,[sp,-16]!; mov x1,sp; write
    send = [0xB81F0FE0, 0x910003E1, *mov(0, fd), *mov(2, 4), *mov(8, 64), *svc]
    # ldr x9,[sp]; ldr x0,[sp,8]; add x1,sp,16; add x2,sp,16; add x2,x2,x9,lsl 3; execve; neg w0,w0
    execute = [0xF94003E9, 0xF94007E0, 0x910043E1, 0x910043E2, 0x8B090C42, *mov(8, 221), *svc, 0x4B0003E0]
    report = [*send, *mov(0, 127), *mov(8, 94), *svc]
    install: list[int] = []
    if fprog is not None:
        install = mov(0, 1) + mov(1, flags) + mov(2, fprog) + mov(8, 277) + svc
        # tbz x0,63 over the next three; neg w0,w0; orr w0,w0,0x10000; b report
        install += [0xB6F80000 | 4 << 5, 0x4B0003E0, 0x32100000, 0x14000000 | len(execute) + 1]
    if fork:
        leave = [*send, *mov(0, 0), *mov(8, 94), *svc]
        start += mov(0, fork) + mov(1, 0) + mov(2, 0) + mov(3, 0) + mov(4, 0) + mov(8, 220) + svc
        start += [0xB4000000 | (len(leave) + 1) << 5, *leave]  # cbz x0 over it, the child
        start += mov(8, 157) + svc  # setsid()
    if terminal:
        start += mov(0, 0) + mov(1, TIOCSCTTY) + mov(2, 0) + mov(8, 29) + svc
        # as above; orr w0,w0,0x20000
        start += [0xB6F80000 | 4 << 5, 0x4B0003E0, 0x320F0000, 0x14000000 | len(install) + len(execute) + 1]
    return b"".join(_little(word, 4) for word in start + install + execute + report)


def sealed(data: bytes) -> int:
    """A descriptor of an executable memfd with `data` that nobody can ever change; OSError where memfds may not run."""
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("orlop-exec", flags | _MFD_EXEC)
    except OSError:
        fd = os.memfd_create("orlop-exec", flags)  # before Linux 6.3 every memfd may be executed
    try:
        os.write(fd, data)
        os.fchmod(fd, 0o555)
        fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
        # the writable descriptor counts as a writer while it is open, and a file being written cannot be executed
        readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
    return readable
