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
from patience import read_line

from orlop.linux import seccomp
from orlop.runtime import barrier, executable, trampoline, verdicts
from orlop.runtime.errors import ProgramNotFound, ProgramRefused
from orlop.runtime.testing import until

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


def test_it_forks(tmp_path: Path) -> None:
    """With `fork` a child executes the program, in a session of its own; what clone returned is the report."""
    out = tmp_path / "out"
    reader, writer = os.pipe()
    image = trampoline.image(writer, fork=trampoline.CLONE_VFORK | trampoline.SIGCHLD)
    script = f'echo $PPID $(cut -d" " -f6 /proc/$$/stat) $$ > {out}.part; mv {out}.part {out}; exec cat /proc/self/stat'
    assert _run(image, ["/bin/sh", "sh", "-c", script], writer) == 0
    os.close(writer)
    child = int.from_bytes(os.read(reader, 10), "little")
    os.close(reader)
    until(out.exists)
    _, session, own = out.read_text().split()
    assert int(session) == int(own) == child


def test_it_says_when_it_cannot_fork() -> None:
    """A clone that the kernel refuses is reported as a negative errno, and nothing is executed."""
    reader, writer = os.pipe()
    assert _run(trampoline.image(writer, fork=0x10000), ["/bin/false", "x"], writer) == 0  # CLONE_THREAD alone
    os.close(writer)
    assert int.from_bytes(os.read(reader, 10), "little", signed=True) == -errno.EINVAL
    os.close(reader)


def test_its_terminal() -> None:
    """With `terminal` standard input becomes the controlling terminal; what is none is reported with a bit of its own."""
    master, slave = os.openpty()
    reader, writer = os.pipe()
    fork = trampoline.CLONE_VFORK | trampoline.SIGCHLD
    image = trampoline.image(writer, fork=fork, terminal=True)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(slave, 0)
            _run(image, ["/bin/sh", "sh", "-c", "echo mine > /dev/tty"], writer)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(slave)
    assert read_line(master) == b"mine\r\n"
    os.close(master)
    assert len(os.read(reader, 100)) == 4
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 0)
            _run(image, ["/bin/sh", "sh", "-c", "exit 1"], writer)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    said = os.read(reader, 100)
    os.close(reader)
    os.close(writer)
    assert int.from_bytes(said[:4], "little") == trampoline.TERMINAL_FAILED | errno.ENOTTY


@pytest.mark.skipif(not shutil.which("qemu-aarch64-static"), reason="the other machine is not emulated here")
def test_the_other_machines_code_forks(tmp_path: Path) -> None:
    """The arm64 code that forks does so, takes its terminal or says why not, and tells the child."""
    path = tmp_path / "image"
    words = ["qemu-aarch64-static", "-0"]
    path.write_bytes(trampoline.image(2, fork=trampoline.SIGCHLD, machine="aarch64"))
    path.chmod(0o755)
    # the child has no standard error any more when it runs, so the report is all that comes there
    ran = subprocess.run([*words, "/bin/busybox", path, "echo", "from", "arm"], capture_output=True, check=True)
    assert ran.stdout == b"from arm\n"
    assert int.from_bytes(ran.stderr, "little", signed=True) > 0
    image = trampoline.image(
        2, seccomp=b"\x06\0\0\0\0\0\xff\x7f", fork=trampoline.SIGCHLD, terminal=True, machine="aarch64"
    )
    path.write_bytes(image)
    failed = subprocess.run(
        [*words, "/bin/busybox", path, "echo", "x"], stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    assert failed.stdout == b""
    words32 = {int.from_bytes(failed.stderr[at : at + 4], "little") for at in range(0, len(failed.stderr), 4)}
    assert trampoline.TERMINAL_FAILED | errno.ENOTTY in words32


# what seccomp profiles allow


def test_verdicts() -> None:
    """A call passes when a rule for its arguments lets it, and no rule that may match denies it."""
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["a", "b"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["b"], "action": "SCMP_ACT_KILL", "args": [{"index": 3, "value": 1, "op": "SCMP_CMP_EQ"}]},
            *(
                {"names": [op], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 5, "op": f"SCMP_CMP_{op}"}]}
                for op in ("NE", "LT", "LE", "EQ", "GE", "GT", "unknown")
            ),
            {
                "names": ["m"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0xF0, "valueTwo": 0x10, "op": "SCMP_CMP_MASKED_EQ"}],
            },
        ],
    }
    assert verdicts.allows(profile, "a")
    assert not verdicts.allows(profile, "b", 1)
    assert not verdicts.allows(profile, "other")
    expected = {"NE": (4, 6), "LT": (4,), "LE": (4, 5), "EQ": (5,), "GE": (5, 6), "GT": (6,), "unknown": ()}
    for op, passing in expected.items():
        assert tuple(value for value in (4, 5, 6) if verdicts.allows(profile, op, value)) == passing
    assert not verdicts.allows(profile, "EQ")
    assert verdicts.allows(profile, "m", 0x1F)
    assert not verdicts.allows(profile, "m", 0x2F)


def test_the_default_profile_lets_it_fork() -> None:
    """Under the default profile the trampoline that forks works; under one without clone, or setsid, it does not."""
    profile = seccomp.for_capabilities(())
    assert verdicts.allows_forking(profile, terminal=True)
    for name in ("clone", "setsid", "ioctl", "execveat"):
        rules = [rule | {"names": [one for one in rule["names"] if one != name]} for rule in profile["syscalls"]]
        assert not verdicts.allows_forking(profile | {"syscalls": rules}, terminal=True)


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
