"""The client's side of a shim: detach keys, and what happens when the other side goes away."""

from __future__ import annotations

import _socket
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import FailedPrecondition, Unavailable
from orlop.runtime import exit as exits
from orlop.runtime import frames
from orlop.runtime.attach import DetachKeys, Session


@given(st.lists(st.binary(max_size=6), max_size=10), st.sampled_from(["ctrl-p,ctrl-q", "a,a,b", "x", ""]))
def test_detach_keys_are_found_however_typed(chunks: list[bytes], text: str) -> None:
    """The keys are found exactly when the sequence is typed, however the bytes arrive; all else passes, in order."""
    keys = {"ctrl-p,ctrl-q": b"\x10\x11", "a,a,b": b"aab", "x": b"x", "": b""}[text]
    finder = DetachKeys(text)
    whole = b"".join(chunks)
    passed, detached = b"", False
    for chunk in chunks:
        more, detached = finder.feed(chunk)
        passed += more
        if detached:
            break
    found = whole.find(keys) if keys else -1
    assert detached == (found >= 0)
    if detached:
        assert passed == whole[:found]
    else:
        # what may still become the sequence is held back
        assert whole.startswith(passed)
        assert keys.startswith(whole[len(passed) :]) or whole == passed


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "ab", "ctrl-1", "é"])
def test_strange_keys_are_refused(text: str) -> None:
    """What is no key is refused by name."""
    with pytest.raises(FailedPrecondition):
        DetachKeys(text)


def _pair() -> tuple[int, int]:
    mine, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    return mine.detach(), other.detach()


def test_a_shim_that_dies_is_told() -> None:
    """When the shim goes away without a record, the client says that the end is not known."""
    mine, shim = _pair()
    session = Session(mine)
    os.write(shim, frames.hello() + frames.encode(frames.STDOUT, b"")[:5])
    os.close(shim)
    with pytest.raises(Unavailable, match="cannot be known"):
        session.run()
    session.close()


def test_output_goes_where_it_belongs() -> None:
    """Standard output and error are told apart, to the last byte before the exit record."""
    mine, shim = _pair()
    first_reader, first = os.pipe()
    second_reader, second = os.pipe()
    session = Session(mine, stdout=first, stderr=second)
    record = exits.encode("x", 9, oom_killed=True, started=1, finished=2)
    stream = frames.hello() + frames.encode(frames.STDOUT, b"out") + frames.encode(frames.STDERR, b"err")
    os.write(shim, stream + frames.encode(frames.STDOUT, b"!") + frames.encode(frames.EXIT, record))
    ended = session.run()
    session.close()
    os.close(first)
    os.close(second)
    assert ended is not None
    assert (ended.code, ended.signal, ended.oom_killed, ended.started, ended.finished) == (137, 9, True, 1, 2)
    with open(first_reader, "rb") as one, open(second_reader, "rb") as other:
        assert (one.read(), other.read()) == (b"out!", b"err")
    os.close(shim)


def test_output_that_nobody_reads_is_passed_over() -> None:
    """A closed standard output ends nothing."""
    mine, shim = _pair()
    reader, writer = os.pipe()
    os.close(reader)
    session = Session(mine, stdout=writer)
    record = exits.encode("x", 0, oom_killed=False, started=1, finished=2)
    os.write(shim, frames.hello() + frames.encode(frames.STDOUT, b"out") + frames.encode(frames.EXIT, record))
    ended = session.run()
    assert ended is not None
    assert ended.code == 0
    session.close()
    os.close(writer)
    os.close(shim)


def test_detaching() -> None:
    """The detach keys end the session, and what was typed before them has arrived."""
    mine, shim = _pair()
    reader, writer = os.pipe()
    os.write(writer, b"hello\x10\x11more")
    session = Session(mine, stdin=reader, terminal=True, detach_keys="ctrl-p,ctrl-q")
    assert session.run() is None
    session.close()
    said = b""
    while data := os.read(shim, 4096):
        said += data
    got = list(frames.FrameReader().feed(said))
    assert [payload for kind, payload in got if kind == frames.STDIN] == [b"hello"]
    for fd in (shim, reader, writer):
        os.close(fd)


@given(st.integers(0, 255), st.integers(0, 64), st.booleans(), st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_exit_records_come_back(code: int, number: int, oom: bool, started: int, finished: int) -> None:
    """What the monitor writes by hand is what the reader reads."""
    status = number or code << 8
    record = exits.decode(exits.encode("some-id", status, oom_killed=oom, started=started, finished=finished))
    assert record.code == (128 + number if number else code)
    assert record.signal == number
    assert (record.id, record.oom_killed, record.started, record.finished) == ("some-id", oom, started, finished)
