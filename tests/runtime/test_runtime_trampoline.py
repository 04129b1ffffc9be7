"""The trampoline: a program of bytes that executes another, and is all that a container could get hold of."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.linux import seccomp
from orlop.runtime import barrier, executable, trampoline
from orlop.runtime.errors import ProgramNotFound, ProgramRefused

if TYPE_CHECKING:
    from pathlib import Path

_ALLOW = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}


def _run(image: bytes, argv: list[str], reply: int, *, no_new_privs: bool = False) -> int:
    """Execute `argv` through a trampoline, whose replies go to descriptor `reply`; the exit code."""
    fd = trampoline.sealed(image)
    pid = os.fork()
    if pid == 0:
        try:
            if no_new_privs:
                from orlop.linux import process

                process.set_no_new_privs()
            os.set_inheritable(reply, True)
            os.execve(fd, argv, {"A": "b"})
        finally:
            os._exit(99)
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_it_executes(tmp_path: Path) -> None:
    """The program gets its own argv and environment, and the reply descriptor is closed when it runs."""
    out = tmp_path / "out"
    reader, writer = os.pipe()
    script = f'echo "$0 $1 $A" > {out}; ls /proc/self/fd | grep -c "^{writer}$" >> {out}'
    assert _run(trampoline.image(writer), ["/bin/sh", "name", "-c", script, "zero", "one"], writer) in (0, 1)
    os.close(writer)
    assert os.read(reader, 10) == b""
    os.close(reader)
    assert out.read_text() == "zero one b\n0\n"


@pytest.mark.parametrize(("path", "code"), [("/not/there", errno.ENOENT), ("/etc", errno.EACCES)])
def test_it_reports_why_not(path: str, code: int) -> None:
    """When execve fails, its errno is the reply."""
    reader, writer = os.pipe()
    assert _run(trampoline.image(writer), [path, "x"], writer) == 127
    os.close(writer)
    assert int.from_bytes(os.read(reader, 10), "little") == code
    os.close(reader)


def test_it_installs_a_filter() -> None:
    """With no_new_privs the seccomp filter comes with the trampoline; without, the reply says that seccomp failed."""
    program = seccomp.compile_profile(_ALLOW)
    reader, writer = os.pipe()
    image = trampoline.image(writer, seccomp=program)
    argv = ["/bin/sh", "sh", "-c", "test $(grep Seccomp: /proc/self/status | cut -f2) = 2"]
    assert _run(image, argv, writer, no_new_privs=True) == 0
    image = trampoline.image(writer, seccomp=b"\xff" * 8)
    assert _run(image, argv, writer, no_new_privs=True) == 127
    os.close(writer)
    said = int.from_bytes(os.read(reader, 10), "little")
    os.close(reader)
    assert said & trampoline.SECCOMP_FAILED
    assert said & 0xFFFF == errno.EINVAL


def test_nobody_can_change_it() -> None:
    """The memfd is sealed: it can be neither written, nor grown, nor shrunk, not even by its maker."""
    fd = trampoline.sealed(trampoline.image(2))
    path = f"/proc/self/fd/{fd}"
    writable = os.open(path, os.O_RDWR)
    for change in (
        lambda: os.write(writable, b"x"),
        lambda: os.ftruncate(writable, 0),
        lambda: os.ftruncate(writable, 1 << 20),
    ):
        with pytest.raises(PermissionError):
            change()
    os.close(writable)
    os.close(fd)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("program", [b"", b"\x06\0\0\0\0\0\xff\x7f"])
def test_the_images_are_sound(machine: str, program: bytes, tmp_path: Path) -> None:
    """For each machine the image is an ELF file of it, without interpreter, writable code or executable stack."""
    path = tmp_path / "image"
    path.write_bytes(trampoline.image(77, seccomp=program, machine=machine))
    assert executable.elf_machine(path.read_bytes()) == {"x86_64": "amd64", "aarch64": "arm64"}[machine]
    assert executable.elf_loader(path.read_bytes()) == ""
    said = subprocess.run(["readelf", "-lh", str(path)], capture_output=True, text=True, check=True)
    assert not said.stderr
    assert "LOAD" in said.stdout
    assert "R E" in said.stdout
    assert "RW " in said.stdout.partition("GNU_STACK")[2]


@pytest.mark.skipif(not shutil.which("qemu-aarch64-static"), reason="the other machine is not emulated here")
def test_the_other_machines_code_runs(tmp_path: Path) -> None:
    """The arm64 code does the same, under emulation."""
    path = tmp_path / "image"
    path.write_bytes(trampoline.image(2, machine="aarch64"))
    path.chmod(0o755)
    words = ["qemu-aarch64-static", "-0"]
    ran = subprocess.run([*words, "/bin/busybox", path, "echo", "from", "arm"], capture_output=True, check=True)
    assert ran.stdout == b"from arm\n"
    failed = subprocess.run([*words, "/not/there", path, "x"], capture_output=True, check=False)
    assert (failed.returncode, int.from_bytes(failed.stderr, "little")) == (127, errno.ENOENT)


# what a file is


@given(st.binary(max_size=300))
def test_any_head_is_explained(head: bytes) -> None:
    """Whatever a file begins with, reading its header raises nothing, and every errno has an explanation."""
    assert isinstance(executable.elf_loader(head), str)
    assert isinstance(executable.elf_machine(head), str)
    for code in (errno.ENOENT, errno.ENOEXEC, errno.EACCES, errno.E2BIG, errno.ETXTBSY):
        error = executable.explain("/x", code, head)
        assert isinstance(error, (ProgramNotFound, ProgramRefused))
        assert '"/x"' in error.message


@given(st.binary(max_size=64))
def test_hostile_elf_headers(rest: bytes) -> None:
    """An ELF header with any content is read within its bounds."""
    head = b"\x7fELF\x02\x01\x01" + rest
    assert len(executable.elf_loader(head)) <= len(head)


def test_loaders_are_found() -> None:
    """The loader of a dynamic program is the one that readelf names."""
    with open("/bin/ls", "rb") as file:
        head = file.read(4096)
    said = subprocess.run(["readelf", "-l", "/bin/ls"], capture_output=True, text=True, check=True).stdout
    assert f"interpreter: {executable.elf_loader(head)}]" in said


@given(st.text(max_size=10), st.binary(max_size=50))
def test_replies_are_read(name: str, head: bytes) -> None:
    """A reply with a file and no errno means that it was executed; with one, it explains it."""
    if "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
        return
    barrier.check(barrier.prelude(name, head))
    with pytest.raises(ProgramNotFound):
        barrier.check(barrier.prelude(name, head) + errno.ENOENT.to_bytes(4, "little"))
