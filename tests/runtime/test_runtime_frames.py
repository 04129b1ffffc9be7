"""Frames: whatever is encoded comes back, however the stream is cut, and nothing else is taken for a frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.runtime import frames

_FRAMES = st.lists(st.tuples(st.sampled_from(sorted(frames.KINDS)), st.binary(max_size=300)), max_size=8)


@given(_FRAMES, st.lists(st.integers(1, 40), max_size=40))
def test_frames_survive_any_cutting(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """A stream of frames, cut anywhere, is read as exactly those frames, and nothing is left over."""
    stream = b"".join(frames.encode(kind, payload) for kind, payload in sent)
    reader = frames.FrameReader()
    got: list[tuple[int, bytes]] = []
    for cut in cuts:
        got += reader.feed(stream[:cut])
        stream = stream[cut:]
    got += reader.feed(stream)

    assert got == sent
    assert reader.rest == b""


@given(_FRAMES, st.integers(0, 200))
def test_a_reader_can_be_continued_elsewhere(sent: list[tuple[int, bytes]], cut: int) -> None:
    """A reader's rest is all that another one needs: the shim hands it to the interpreter it turns into."""
    stream = b"".join(frames.encode(kind, payload) for kind, payload in sent)
    first = frames.FrameReader()
    got = list(first.feed(stream[:cut]))
    got += frames.FrameReader(first.rest).feed(stream[cut:])

    assert got == sent


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    """Any bytes are frames, the beginning of one, or FrameError: never another exception, never a huge wait."""
    reader = frames.FrameReader()
    try:
        for kind, payload in reader.feed(data):
            assert kind in frames.KINDS
            assert len(payload) <= frames.MAX_PAYLOAD
    except frames.FrameError:
        return
    assert len(reader.rest) <= frames.HEADER_SIZE + frames.MAX_PAYLOAD


def test_a_frame_too_long_is_refused_before_it_arrives() -> None:
    """A header that announces more than the limit ends the connection, not our memory."""
    with pytest.raises(frames.FrameError):
        list(frames.FrameReader().feed(b"\1\0\0\0\xff\xff\xff\xff"))
    with pytest.raises(ValueError, match="no frame"):
        frames.encode(frames.STDOUT, bytes(frames.MAX_PAYLOAD + 1))


@given(st.integers(0, 100000), st.integers(0, 100000))
def test_sizes_come_back(rows: int, columns: int) -> None:
    """A RESIZE carries rows and columns, clamped to what a terminal can have."""
    ((kind, payload),) = frames.FrameReader().feed(frames.resize(rows, columns))

    assert kind == frames.RESIZE
    assert frames.decode_resize(payload) == (min(rows, 65535), min(columns, 65535))


@given(st.binary(min_size=0, max_size=10))
def test_malformed_payloads_are_frame_errors(payload: bytes) -> None:
    """HELLO and RESIZE with other payloads than theirs are refused."""
    if len(payload) != 4:
        with pytest.raises(frames.FrameError):
            frames.decode_resize(payload)
    if not payload:
        with pytest.raises(frames.FrameError):
            frames.decode_hello(payload)


def test_streams_have_dockers_shape() -> None:
    """A stream frame is what docker's attach sends: kind, three zeros, big-endian length, payload."""
    assert frames.encode_stream(frames.STDERR, b"abc") == b"\2\0\0\0\0\0\0\3abc"
    assert frames.encode_stream(frames.STDOUT, b"") == b""
    long = frames.encode_stream(frames.STDOUT, bytes(frames.MAX_PAYLOAD + 5))
    assert [len(payload) for _, payload in frames.FrameReader().feed(long)] == [frames.MAX_PAYLOAD, 5]
