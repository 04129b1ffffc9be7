"""The process itself: odd descriptors, full disks, readers that leave, terminals, any locale."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ORLOP = [sys.executable, "-m", "orlop"]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A root of one's own, so that nothing of this machine is touched."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ORLOP_ROOT": str(tmp_path / "root"),
        "ORLOP_RUN_ROOT": str(tmp_path / "run"),
        **{key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")},
    }


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "1 2", "0 1 2"])
def test_closed_descriptors_do_no_harm(environ: dict[str, str], tmp_path: Path, closed: str) -> None:
    """With any of 0 to 2 closed a command works, and no file of the root is taken for its output."""
    redirections = " ".join(f"{number}{'<' if number == '0' else '>'}&-" for number in closed.split())

    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *ORLOP, "volume", "create", "data"],
        env=environ,
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (b"" if "1" in closed else b"data\n")
    assert (tmp_path / "root" / "volumes" / "default" / "data" / "_data").is_dir()
    for path in (tmp_path / "root").rglob("*"):
        assert not path.is_file() or not path.read_bytes().startswith(b"data\n")


def test_a_full_disk_is_an_error(environ: dict[str, str]) -> None:
    """What could not be written is never a success."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*ORLOP, "--help"], env=environ, stdout=full, stderr=subprocess.PIPE, check=False)

    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error(environ: dict[str, str]) -> None:
    """`orlop ... | head` ends quietly, as a program that SIGPIPE ended."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run([*ORLOP, "run", "--help"], env=environ, stdout=gone, stderr=subprocess.PIPE, check=False)

    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.ISO-8859-1", "nonsense"])
def test_output_does_not_depend_on_the_locale(environ: dict[str, str], locale: str) -> None:
    """The same bytes come out under any locale, also of what is not ASCII."""
    done = subprocess.run(
        [*ORLOP, "wait", "ünbekannt…"], env=environ | {"LC_ALL": locale}, capture_output=True, check=False
    )

    assert done.returncode == 1
    assert "ünbekannt…".encode() in done.stderr


def test_options_before_the_command(environ: dict[str, str], tmp_path: Path) -> None:
    """--root and --run-root choose another world."""
    other = ["--root", str(tmp_path / "other"), "--run-root", str(tmp_path / "other-run")]
    subprocess.run([*ORLOP, *other, "volume", "create", "there"], env=environ, check=True, capture_output=True)

    def names(*options: str) -> bytes:
        return subprocess.run(
            [*ORLOP, *options, "volume", "ls", "-q"], env=environ, check=True, capture_output=True
        ).stdout

    assert names(*other) == b"there\n"
    assert names() == b""


def test_an_interrupt_ends_what_waits(environ: dict[str, str]) -> None:
    """^C while a command follows events: code 130, no traceback."""
    with subprocess.Popen(
        [*ORLOP, "events", "--since", "10m"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        subprocess.run([*ORLOP, "volume", "create", "data"], env=environ, check=True, capture_output=True)
        assert process.stdout is not None
        assert b"volume create data" in process.stdout.readline()  # it runs, and follows

        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()

    assert (process.returncode, err) == (130, b"")


def test_an_archive_is_not_written_to_a_terminal(environ: dict[str, str]) -> None:
    """Save refuses a terminal: nobody reads an archive there."""
    reader, terminal = os.openpty()
    try:
        done = subprocess.run([*ORLOP, "save", "x"], env=environ, stdout=terminal, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(reader)
        os.close(terminal)

    assert done.returncode == 1
    assert b"refusing to write an archive to a terminal" in done.stderr


def test_passwords_are_typed_unseen(environ: dict[str, str], tmp_path: Path) -> None:
    """On a terminal a password is asked for twice, without echo."""
    pid, terminal = os.forkpty()
    if pid == 0:
        words = ["registry", "user", "add", "--htpasswd", str(tmp_path / "users"), "sailor"]
        os.execve(sys.executable, [*ORLOP, *words], environ)
    shown = b""
    for prompt in (b"Password of sailor: ", b"Again: "):
        while prompt not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, b"hunter2hunter2\n")
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:
            break  # EIO: the other side is closed
        if not block:
            break
        shown += block
    os.close(terminal)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert b"hunter2" not in shown
    assert (tmp_path / "users").read_text().startswith("sailor:$2")
