"""Logs: every byte a container wrote is in the log once, in order, in a format that others read."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.runtime import logfile

if TYPE_CHECKING:
    from pathlib import Path

_CHUNKS = st.lists(
    st.tuples(st.sampled_from((1, 2)), st.one_of(st.binary(max_size=60), st.text(max_size=20).map(str.encode))),
    max_size=12,
)


@given(_CHUNKS)
def test_json_lines_hold_each_stream(tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[int, bytes]]) -> None:
    """Whatever is written, every line of the file is JSON, and the entries of a stream join to what it wrote."""
    path = tmp_path_factory.mktemp("log") / "log.json"
    log = logfile.LogFile(str(path), logfile.JSON_FILE)
    for number, (stream, data) in enumerate(chunks):
        log.write(stream, data, 1_700_000_000_000_000_000 + number)
    log.flush(1_700_000_001_000_000_000)
    log.close()

    entries = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    for stream, name in ((1, "stdout"), (2, "stderr")):
        whole = b"".join(data for one, data in chunks if one == stream)
        # a line is decoded as a whole, so invalid bytes are replaced line by line
        wanted = "".join(
            (line + end).decode("utf-8", "replace")
            for line, end in [(part, b"\n") for part in whole.split(b"\n")[:-1]] + [(whole.split(b"\n")[-1], b"")]
        )
        assert "".join(entry["log"] for entry in entries if entry["stream"] == name) == wanted
    for entry in entries:
        assert entry["log"].count("\n") <= 1
        dt.datetime.fromisoformat(entry["time"][:26] + "+00:00")


@given(_CHUNKS)
def test_cri_lines_hold_each_stream(tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[int, bytes]]) -> None:
    """In CRI's format the parts of a stream, joined by their tags, are the very bytes it wrote."""
    path = tmp_path_factory.mktemp("log") / "log"
    log = logfile.LogFile(str(path), logfile.CRI)
    for stream, data in chunks:
        log.write(stream, data, 1_700_000_000_000_000_000)
    log.flush(1_700_000_000_000_000_000)
    log.close()

    got = {b"stdout": b"", b"stderr": b""}
    for line in path.read_bytes().split(b"\n")[:-1]:
        _, stream_name, tag, text = line.split(b" ", 3)
        got[stream_name] += text + (b"\n" if tag == b"F" else b"")
    for number, stream_name in ((1, b"stdout"), (2, b"stderr")):
        assert got[stream_name] == b"".join(data for one, data in chunks if one == number)


def test_long_lines_are_logged_in_parts(tmp_path: Path) -> None:
    """A line longer than 16 KiB becomes several entries of which only the last ends in a newline, as docker's does."""
    log = logfile.LogFile(str(tmp_path / "log"), logfile.JSON_FILE)
    log.write(1, b"x" * 40000, 1)
    log.write(1, b"y\n", 2)
    log.close()

    entries = [json.loads(line)["log"] for line in (tmp_path / "log").read_text().splitlines()]
    assert [len(entry) for entry in entries] == [16384, 16384, 7234]
    assert entries[-1].endswith("xy\n")


def test_unfinished_lines_wait(tmp_path: Path) -> None:
    """What has no newline yet is not in the log, until the stream ends."""
    log = logfile.LogFile(str(tmp_path / "log"), logfile.JSON_FILE)
    log.write(1, b"half", 1)
    assert (tmp_path / "log").read_bytes() == b""
    log.flush(2)
    log.close()

    assert json.loads((tmp_path / "log").read_text())["log"] == "half"


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    """With max_size and max_files there are never more files than that, none much larger, and the newest lines stay."""
    path = tmp_path / "log"
    log = logfile.LogFile(str(path), logfile.CRI, max_size=2000, max_files=3)
    for number in range(300):
        log.write(1, b"line %d\n" % number, number)
    log.close()

    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log", "log.1", "log.2"]
    assert all(file.stat().st_size <= 2000 for file in files)
    text = b"".join(file.read_bytes() for file in reversed(files))
    numbers = [int(line.rsplit(b" ", 1)[1]) for line in text.splitlines()]
    assert numbers == list(range(numbers[0], 300))


def test_one_file_starts_over(tmp_path: Path) -> None:
    """With max_files 1 the file itself is emptied when it is full."""
    log = logfile.LogFile(str(tmp_path / "log"), logfile.CRI, max_size=1000, max_files=1)
    for number in range(100):
        log.write(1, b"line %d\n" % number, number)
    log.close()

    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    assert (tmp_path / "log").stat().st_size <= 1000
    assert b"line 99\n" in (tmp_path / "log").read_bytes()


def test_a_moved_log_is_made_anew(tmp_path: Path) -> None:
    """After `reopen` the old file is complete and the new one goes on, as the kubelet's rotation expects."""
    path = tmp_path / "log"
    log = logfile.LogFile(str(path), logfile.CRI)
    log.write(1, b"old\n", 1)
    path.rename(tmp_path / "moved")
    log.reopen()
    log.write(1, b"new\n", 2)
    log.close()

    assert b"old" in (tmp_path / "moved").read_bytes()
    assert path.read_bytes().endswith(b" F new\n")


def test_a_log_goes_on_in_another_interpreter(tmp_path: Path) -> None:
    """A restored log keeps the half line it had, and appends to the same file."""
    log = logfile.LogFile(str(tmp_path / "log"), logfile.JSON_FILE)
    log.write(1, b"one\ntw", 1)
    state = log.state()
    log.close()
    again = logfile.restore(state)
    again.write(1, b"o\n", 2)
    again.close()

    assert [json.loads(line)["log"] for line in (tmp_path / "log").read_text().splitlines()] == ["one\n", "two\n"]


def test_a_full_disk_loses_output_not_the_container() -> None:
    """Where nothing can be written the log counts what is lost, and raises nothing."""
    log = logfile.LogFile("/dev/full", logfile.CRI)
    log.write(1, b"lost\n", 1)
    log.close()

    assert log.lost > 0


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_stamps_are_the_calendars(ns: int) -> None:
    """A stamp is the time in UTC, to the nanosecond."""
    text = logfile.Stamp().of(ns).decode()
    day = dt.datetime.fromtimestamp(ns // 1_000_000_000, tz=dt.UTC)

    assert text == day.strftime("%Y-%m-%dT%H:%M:%S") + f".{ns % 1_000_000_000:09d}Z"
