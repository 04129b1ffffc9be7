"""Compressed streams: expanded within bounds, damage noticed, written the same way every time."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import zlib
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from layerkit import cut

from orlop.errors import DataLoss, InvalidArgument, ResourceExhausted
from orlop.layers import compress

if TYPE_CHECKING:
    from collections.abc import Callable

PACK: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
_contents = st.one_of(st.binary(max_size=5000), st.binary(max_size=20).map(lambda part: part * 5000))


@pytest.mark.parametrize("kind", sorted(PACK))
@given(parts=st.lists(_contents, min_size=1, max_size=3), size=st.integers(1, 3000))
def test_whatever_was_packed_comes_out(kind: str, parts: list[bytes], size: int) -> None:
    """Every kind, told by its first bytes, in one or several members, however the stream is cut."""
    packed = b"".join(PACK[kind](part) for part in parts)
    content = b"".join(parts)
    if kind == "none" and compress.detect(content) != "none":
        return

    assert b"".join(compress.plain(cut(packed, size))) == content


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_cut_stream_is_noticed(kind: str, where: float) -> None:
    """Wherever a compressed stream ends early, that is DataLoss, also when all content had come."""
    packed = PACK[kind](bytes(range(256)) * 40)
    piece = packed[: int(len(packed) * where)]

    with pytest.raises(DataLoss, match=kind):
        list(compress.decompressor([piece], kind))


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_garbage_after_the_end_is_noticed(kind: str, size: int) -> None:
    """What follows the last member must be another member: nothing is silently left unread."""
    packed = PACK[kind](b"content") + b"garbage"

    with pytest.raises(DataLoss, match=kind):
        list(compress.decompressor(cut(packed, size), kind))


def test_padding_after_gzip_is_accepted() -> None:
    """NULs after the end are padding, as tape-minded tools write it."""
    packed = gzip.compress(b"one") + gzip.compress(b"two") + bytes(3000)

    assert b"".join(compress.decompressor(cut(packed, 100), "gzip")) == b"onetwo"


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2"])
def test_changed_bytes_are_noticed(kind: str) -> None:
    """The checksums inside are verified."""
    packed = bytearray(PACK[kind](bytes(range(256)) * 400))
    packed[len(packed) // 2] ^= 0x10

    with pytest.raises(DataLoss):
        list(compress.decompressor([bytes(packed)], kind))


@given(noise=st.binary(max_size=400), kind=st.sampled_from(["gzip", "zstd", "xz", "bzip2"]))
def test_noise_is_refused_by_name(noise: bytes, kind: str) -> None:
    """Whatever bytes come after the magic, the answer is content or DataLoss."""
    magic = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\0", "bzip2": b"BZh9"}[kind]
    try:
        list(compress.decompressor([magic + noise], kind))
    except DataLoss:
        return


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_dense_streams_come_in_bounded_pieces(kind: str) -> None:
    """A few KB that expand to 64 MB never are in memory at once."""
    packed = PACK[kind](bytes(64 << 20))

    sizes = [len(piece) for piece in compress.decompressor([packed], kind)]

    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 2 << 20


def test_bombs_are_refused() -> None:
    """A bound on the output is kept to within a piece; a bound on the ratio counts beyond the first gigabyte."""
    packed = PACK["zstd"](bytes(64 << 20))
    with pytest.raises(ResourceExhausted, match="33554432"):
        list(compress.decompressor([packed], "zstd", max_bytes=32 << 20))

    small = PACK["zstd"](bytes(128 << 20))
    with pytest.raises(ResourceExhausted, match="times"):
        for _ in compress.decompressor([small] * 9, "zstd", max_ratio=1100):
            pass
    assert sum(len(piece) for piece in compress.decompressor([packed], "zstd", max_ratio=1)) == 64 << 20


def test_skippable_frames_are_skipped() -> None:
    """Streams by zstd:chunked and pzstd carry frames without content."""
    skip = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"about"
    packed = skip + PACK["zstd"](b"content") + skip

    assert compress.detect(packed[:6]) == "zstd"
    assert b"".join(compress.plain(cut(packed, 3))) == b"content"


@given(content=_contents, cuts=st.integers(1, 4000), level=st.integers(0, 3))
def test_gzip_is_deterministic(content: bytes, cuts: int, level: int) -> None:
    """The same content makes the same bytes, however it was cut; Python reads them; the header holds no time."""
    made = []
    for size in (cuts, 1 << 20):
        out = bytearray()
        writer = compress.gzip_writer(out.extend, level)
        for piece in cut(content, size):
            writer.write(piece)
        writer.close()
        made.append(bytes(out))

    assert made[0] == made[1]
    assert gzip.decompress(made[0]) == content
    assert made[0][4:8] == bytes(4)


@pytest.mark.parametrize("program", ["gzip", "zlib"])
def test_others_read_our_gzip(program: str) -> None:
    """More than one internal chunk, read by gzip(1) and zlib."""
    content = bytes(range(256)) * 20_000
    out = bytearray()
    writer = compress.gzip_writer(out.extend)
    writer.write(content)
    writer.close()

    if program == "gzip":
        found = subprocess.run(["gzip", "-dc"], input=bytes(out), check=True, capture_output=True).stdout
    else:
        found = zlib.decompress(bytes(out), 31)
    assert found == content


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_each_writer_is_read_back(kind: str) -> None:
    """What a layer's media type asks for is what comes."""
    out = bytearray()
    writer = compress.writer(out.extend, kind)
    writer.write(b"some ")
    writer.write(memoryview(b"content"))
    writer.close()

    assert compress.detect(bytes(out)) == kind
    assert b"".join(compress.plain([bytes(out)])) == b"some content"


def test_unknown_kinds_are_named() -> None:
    """A wish for another compression is answered with what there is."""
    with pytest.raises(InvalidArgument, match="lz4"):
        compress.decompressor([], "lz4")
    with pytest.raises(InvalidArgument, match="xz"):
        compress.writer(print, "xz")
    with pytest.raises(InvalidArgument, match="9"):
        compress.gzip_writer(print, 9)
