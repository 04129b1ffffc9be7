"""Which file a container's program is, whether it can run here, and why not, in words that help.

Everything is looked up from inside the container's file system (after pivot_root), by system calls alone.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.linux.syscalls import MACHINE
from orlop.runtime.errors import ProgramNotFound, ProgramRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.errors import OrlopError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# e_machine: the name that platforms use (elf.h; image-spec's GOARCH names)
_MACHINES = {
    3: "386",
    8: "mips",
    20: "ppc",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "amd64",
    183: "arm64",
    243: "riscv64",
    258: "loong64",
}
_HOST = {"x86_64": "amd64", "aarch64": "arm64"}.get(MACHINE, MACHINE)
_RUNS_HERE = {"amd64": ("amd64", "386"), "arm64": ("arm64", "arm")}.get(_HOST, (_HOST,))
# only shells have these: a frequent mistake in exec-form CMD and ENTRYPOINT
_BUILTINS = frozenset(
    ". : alias bg cd command eval exec exit export fg hash jobs local read readonly return set shift source times trap "
    "type ulimit umask unalias unset wait".split()
)
_HEAD = 4096  # bytes of a file that are looked at


def search_path(environment: Sequence[str]) -> str:
    """PATH as the container's environment states it; the last one wins, as in execvpe."""
    found = DEFAULT_PATH
    for entry in environment:
        if entry.startswith("PATH="):
            found = entry[5:]
    return found


def find(name: str, path: str) -> str:
    """The file that `name` means, looked up in `path` as execvp does, from the current folder and root.

    ProgramNotFound, or ProgramRefused when something is there that cannot be executed.
    """
    if not name:
        raise ProgramNotFound("the command is empty", hint="give a program, or an image with CMD or ENTRYPOINT")
    if "/" in name:
        _check(name)
        return name
    refused: OrlopError | None = None
    for folder in path.split(":"):
        candidate = f"{folder or '.'}/{name}"
        try:
            _check(candidate)
        except ProgramNotFound:
            continue
        except ProgramRefused as error:
            refused = refused or error
            continue
        return candidate
    if refused is not None:
        raise refused
    if name in _BUILTINS:
        raise ProgramNotFound(
            f'exec: "{name}": executable file not found in $PATH',
            hint=f"{name} is a shell builtin: use sh -c '{name} ...'",
        )
    raise ProgramNotFound(
        f'exec: "{name}": executable file not found in $PATH', hint=f"the container's PATH is {path!r}"
    )


def _check(path: str) -> None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ProgramNotFound(f'exec: "{path}": no such file or directory') from error
    except OSError as error:
        raise ProgramRefused(f'exec: "{path}": {(error.strerror or "cannot be reached").lower()}') from error
    if stat.S_ISDIR(found.st_mode):
        raise ProgramRefused(f'exec: "{path}": is a directory', hint="give a program, not a folder")
    if not found.st_mode & 0o111:
        raise ProgramRefused(f'exec: "{path}": permission denied', hint=f"the file is not executable: chmod +x {path}")


def explain(path: str, code: int, head: bytes) -> OrlopError:
    """Why execve of `path`, a file that begins with `head`, gave errno `code`."""
    if code == errno.ENOENT:
        return _missing(path, head)
    reason = os.strerror(code).lower()
    if code in (errno.ENOEXEC, errno.EINVAL, errno.ELIBBAD):
        return _wrong_format(path, head)
    if code in (errno.EACCES, errno.EPERM):
        return ProgramRefused(
            f'exec: "{path}": permission denied', hint="the file, its interpreter or its mount forbids execution"
        )
    if code == errno.E2BIG:
        return ProgramRefused(f'exec: "{path}": the arguments and the environment are too long for this kernel')
    return ProgramRefused(f'exec: "{path}": {reason}')


def head_of(path: str) -> bytes:
    """The first bytes of a program, for `explain`; nothing when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, _HEAD) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def _missing(path: str, head: bytes) -> OrlopError:
    """ENOENT has three meanings: no such file, no such interpreter of a script, no such loader of an ELF file."""
    if head.startswith(b"#!"):
        line = head[2:].split(b"\n", 1)[0]
        interpreter = os.fsdecode(line.strip().split(None, 1)[0]) if line.strip() else ""
        hint = "install the interpreter in the image, or use one that is there"
        if interpreter.endswith("\r"):
            hint = "the script has Windows line ends (CR LF): convert it with dos2unix"
        return ProgramNotFound(f'exec: "{path}": {interpreter!r}: no such interpreter in the image', hint=hint)
    loader = elf_loader(head)
    if loader:
        hint = "the program was built for another C library: use an image with that one, or build it statically"
        return ProgramNotFound(f'exec: "{path}": its loader {loader!r} is not in the image', hint=hint)
    return ProgramNotFound(f'exec: "{path}": no such file or directory')


def _wrong_format(path: str, head: bytes) -> OrlopError:
    machine = elf_machine(head)
    if machine and machine not in _RUNS_HERE:
        return ProgramRefused(
            f'exec: "{path}": the binary is {machine}, the host is {_HOST}',
            hint=f"use an image for linux/{_HOST}, or install qemu-user emulation (binfmt_misc) on the host",
        )
    if head.startswith(b"#!"):
        return ProgramRefused(f'exec: "{path}": the interpreter line of the script is malformed')
    if head.startswith(b"\x7fELF"):
        return ProgramRefused(f'exec: "{path}": the binary is damaged, or not a program')
    if not head:
        return ProgramRefused(f'exec: "{path}": the file is empty')
    return ProgramRefused(
        f'exec: "{path}": exec format error: neither a binary nor a script with a #! line',
        hint=f'start the file with "#!/bin/sh", or run: sh {path}',
    )


def elf_machine(head: bytes) -> str:
    """The architecture an ELF header names ("arm64", "machine 99"), or "" for another kind of file."""
    if not head.startswith(b"\x7fELF") or len(head) < 20:
        return ""
    code = int.from_bytes(head[18:20], "big" if head[5] == 2 else "little")
    return _MACHINES.get(code, f"machine {code}")


def elf_loader(head: bytes) -> str:
    """The dynamic loader (PT_INTERP) that an ELF file names in its first bytes, or ""."""
    if not head.startswith(b"\x7fELF") or len(head) < 64:
        return ""
    order, wide = "big" if head[5] == 2 else "little", head[4] == 2

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)  # type: ignore[arg-type]  # one of the two words

    table = number(32, 8) if wide else number(28, 4)
    entry_size, entries = (number(54, 2), number(56, 2)) if wide else (number(42, 2), number(44, 2))
    for index in range(min(entries, 64)):
        at = table + index * entry_size
        if number(at, 4) == 3:  # PT_INTERP
            start, size = (number(at + 8, 8), number(at + 32, 8)) if wide else (number(at + 4, 4), number(at + 16, 4))
            return os.fsdecode(head[start : start + min(size, 256)].split(b"\0", 1)[0])
    return ""
