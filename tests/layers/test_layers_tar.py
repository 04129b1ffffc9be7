"""Tar archives: what others write is read, what is written others read."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerkit import KINDS, archive, cut, folder, member

from orlop.errors import InvalidArgument, Kind
from orlop.layers import tar
from orlop.layers.tarformat import BadTar, HeaderTooLarge, number, pax_record, pax_records, pax_time, pax_time_text

if TYPE_CHECKING:
    from pathlib import Path

# Names as file systems have them: any bytes but NUL and slash, joined by slashes.
_bytes_names = st.lists(
    st.binary(min_size=1, max_size=120).filter(lambda part: not set(part) & {0, 0x2F} and part not in {b".", b".."}),
    min_size=1,
    max_size=4,
).map(lambda parts: b"/".join(parts).decode("utf-8", "surrogateescape"))
_text_names = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=60),
    min_size=1,
    max_size=5,
).map("/".join)


@st.composite
def _members(draw: st.DrawFn, form: int) -> tuple[tarfile.TarInfo, bytes]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    big = form != tarfile.USTAR_FORMAT
    ascii_names = st.from_regex(r"[a-z0-9 ._-]{1,40}(/[a-z]{1,30}){0,3}", fullmatch=True)
    names = _text_names if big else ascii_names
    return member(
        draw(names),
        draw(st.binary(max_size=1500)) if kind == "file" else b"",
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 2**31 if big else 0o7777777)),
        gid=draw(st.integers(0, 2**31 if big else 0o7777777)),
        mtime=draw(st.integers(-(2**33) if big else 0, 2**35 if big else 2**33 - 1)),
        link=draw(names) if kind in {"symlink", "link"} else "",
        device=draw(st.tuples(st.integers(0, 4000), st.integers(0, 0o777777))) if kind in {"char", "block"} else (0, 0),
    )


def _as_tarfile_sees(data: bytes) -> list[tuple[object, ...]]:
    kinds = {value: key for key, value in KINDS.items()}
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape", encoding="utf-8") as reader:
        return [
            (
                info.name or "/",
                kinds[info.type],
                info.mode,
                info.uid,
                info.gid,
                int(info.mtime),
                info.linkname,
                (info.devmajor, info.devminor) if info.isdev() and not info.isfifo() else (0, 0),
                reader.extractfile(info).read() if info.isreg() else b"",  # type: ignore[union-attr]  # a file has one
            )
            for info in reader
        ]


def _as_we_see(data: bytes, size: int = 700) -> list[tuple[object, ...]]:
    return [
        (
            entry.name,
            entry.kind,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime // 10**9,
            entry.link,
            (entry.major, entry.minor),
            entry.read(),
        )
        for entry in tar.read(cut(data, size))
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@given(data=st.data(), size=st.integers(1, 4000))
def test_what_python_writes_is_read_as_python_reads_it(form: int, data: st.DataObject, size: int) -> None:
    """Every dialect that tarfile writes means the same to us as to tarfile, however the stream is cut."""
    packed = archive(*data.draw(st.lists(_members(form), max_size=6)), form=form)

    assert _as_we_see(packed, size) == _as_tarfile_sees(packed)


_entries = st.builds(
    tar.Entry,
    _bytes_names,
    st.sampled_from([tar.FILE, tar.SYMLINK, tar.HARDLINK, tar.CHAR, tar.BLOCK_DEVICE, tar.DIRECTORY, tar.FIFO]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32),
    gid=st.integers(0, 2**32),
    mtime=st.integers(-(2**70), 2**70),
    link=_bytes_names,
    major=st.integers(0, 4095),
    minor=st.integers(0, 2**20 - 1),
    xattrs=st.dictionaries(
        st.from_regex(r"(user|trusted|security)\.[a-zA-Z0-9.=_é-]{1,30}", fullmatch=True).filter(
            lambda k: "=" not in k
        ),
        st.binary(max_size=300),
        max_size=3,
    ),
)


@given(entries=st.lists(_entries, max_size=5), content=st.binary(max_size=2000), size=st.integers(1, 3000))
def test_what_is_written_is_read_back(entries: list[tar.Entry], content: bytes, size: int) -> None:
    """Names of any bytes, nanoseconds, large ids and attributes survive writing and reading."""
    out = bytearray()
    writer = tar.Writer(out.extend)
    for entry in entries:
        if entry.kind == tar.FILE:
            entry.size = len(content)
        writer.add(entry, [content] if entry.kind == tar.FILE else [])
    writer.close()

    assert writer.size == len(out)
    found = [(_facts(entry), entry.read()) for entry in tar.read(cut(bytes(out), size))]
    assert found == [(_facts(entry), content if entry.kind == tar.FILE else b"") for entry in entries]


def _facts(entry: tar.Entry) -> tuple[object, ...]:
    device = (entry.major, entry.minor) if entry.kind in {tar.CHAR, tar.BLOCK_DEVICE} else ()
    link = entry.link if entry.kind in {tar.SYMLINK, tar.HARDLINK} else ""
    return entry.name, entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, link, device, entry.xattrs


@given(entries=st.lists(_entries, max_size=4))
def test_what_is_written_python_reads(entries: list[tar.Entry]) -> None:
    """Python finds the same names, links, owners and times in our archives."""
    out = bytearray()
    writer = tar.Writer(out.extend)
    for entry in entries:
        entry.mtime %= 2**62
        writer.add(entry)
    writer.close()

    assert [row[:7] for row in _as_tarfile_sees(bytes(out))] == [row[:7] for row in _as_we_see(bytes(out))]


def test_the_same_entries_make_the_same_bytes() -> None:
    """An archive depends on its entries only, and small plain ones need no pax header."""
    made = []
    for _ in range(2):
        out = bytearray()
        writer = tar.Writer(out.extend)
        writer.add(tar.Entry("etc", tar.DIRECTORY, mode=0o755))
        writer.add(tar.Entry("etc/hosts", size=4, mtime=1_600_000_000 * 10**9), [b"a", b"bcd"])
        writer.close()
        made.append(bytes(out))

    assert made[0] == made[1]
    assert len(made[0]) == 512 * (1 + 2 + 2)
    assert b"etc/\0" in made[0]


@pytest.mark.parametrize("sent", [[b"abc"], [b"abcde"], []])
def test_a_file_must_have_the_size_it_announced(sent: list[bytes]) -> None:
    """A file that grew or shrank while it was packed is an error, not a broken archive."""
    writer = tar.Writer(lambda _: None)

    with pytest.raises(InvalidArgument, match="announced"):
        writer.add(tar.Entry("f", size=4), sent)


def test_data_are_passed_over_when_nobody_asks_for_them() -> None:
    """Skipping is the default; asking for data after the next entry came is an error that says so."""
    packed = archive(member("a", b"x" * 3000), member("b", b"second"))
    entries = tar.read(cut(packed, 64))
    first = next(entries)
    second = next(entries)

    assert second.read() == b"second"
    with pytest.raises(InvalidArgument, match="before the next entry"):
        first.read()


def test_reading_a_large_file_whole_is_refused() -> None:
    """`read` has a limit, so that a small-file reader is never fed gigabytes."""
    (entry,) = (found for found in tar.read([archive(member("big", b"x" * 5000))]))

    with pytest.raises(HeaderTooLarge, match="big"):
        entry.read(limit=4999)


# --- the other dialects, by their own programs


@pytest.fixture
def gnu(tmp_path: Path) -> Path:
    """A folder with a sparse file, long names, odd names and a hard link."""
    tree = tmp_path / "tree"
    deep = tree / ("d" * 90) / ("e" * 90) / ("f" * 120)
    deep.mkdir(parents=True)
    (deep / ("g" * 200)).write_bytes(b"deep")
    with open(tree / "sparse", "wb") as file:
        for at in range(12):
            file.seek(at * 1_000_000)
            file.write(b"island %d" % at)
        file.truncate(20_000_000)
    with open(tree / "hollow", "wb") as file:
        file.truncate(3_000_000)
    (tree / "plain").write_bytes(b"plain")
    os.link(tree / "plain", tree / "same")
    os.symlink("x" * 150, tree / "link")
    with open(os.fsencode(tree) + b"/latin\xe9", "wb") as file:
        file.write(b"odd")
    os.utime(tree / "plain", ns=(1, -1_500_000_000))
    return tree


@pytest.mark.parametrize(
    "how",
    [
        ["--format=gnu", "--sparse"],
        ["--format=oldgnu", "--sparse"],
        ["--format=pax", "--sparse", "--sparse-version=0.0"],
        ["--format=pax", "--sparse", "--sparse-version=0.1"],
        ["--format=pax", "--sparse", "--sparse-version=1.0"],
        ["--format=pax"],
        ["--format=gnu"],
    ],
    ids=" ".join,
)
def test_what_gnu_tar_writes_is_read(gnu: Path, how: list[str]) -> None:
    """Sparse files in all formats, long names and links, names that are no UTF-8, negative times."""
    packed = subprocess.run(["tar", *how, "-cf", "-", "."], cwd=gnu, check=True, capture_output=True).stdout

    found: dict[str, bytes] = {}
    links = {}
    for entry in tar.read(cut(packed, 10_000)):
        name = os.path.normpath(entry.name)
        if entry.kind == tar.FILE:
            found[name] = b"".join(bytes(chunk) for chunk in entry.chunks())
            assert len(found[name]) == entry.size
            if name in {"plain", "same"}:
                assert entry.mtime // 10**9 == -2
        elif entry.kind in {tar.HARDLINK, tar.SYMLINK}:
            links[name] = os.path.normpath(entry.link)

    assert found.pop("sparse") == (gnu / "sparse").read_bytes()
    assert found.pop("hollow") == bytes(3_000_000)
    assert found.pop(f"{'d' * 90}/{'e' * 90}/{'f' * 120}/{'g' * 200}") == b"deep"
    assert found.pop("latin\udce9") == b"odd"
    assert links.pop("link") == "x" * 150
    (hard,) = links.items()
    assert {*hard, *found} == {"plain", "same"}


def test_sparse_files_are_saved_with_their_holes(gnu: Path, tmp_path: Path) -> None:
    """What was a hole in the archive takes no space on the disk."""
    packed = subprocess.run(["tar", "-Scf", "-", "sparse"], cwd=gnu, check=True, capture_output=True).stdout
    target = tmp_path / "out"
    with open(target, "wb") as file:
        for entry in tar.read([packed]):
            entry.save(file.fileno())

    assert target.read_bytes() == (gnu / "sparse").read_bytes()
    assert target.stat().st_blocks * 512 < 1_000_000


def test_gnu_tar_reads_what_is_written(tmp_path: Path) -> None:
    """GNU tar extracts our archives, with long names, attributes and nanoseconds."""
    out = bytearray()
    writer = tar.Writer(out.extend)
    name = "/".join(["part" * 20] * 6)
    writer.add(tar.Entry(name, size=3, mtime=1_600_000_000_123_456_789, xattrs={"user.colour": b"blue\0"}), [b"abc"])
    writer.add(tar.Entry("alias", tar.HARDLINK, link=name))
    writer.close()
    subprocess.run(["tar", "--xattrs", "-xf", "-"], cwd=tmp_path, input=bytes(out), check=True, capture_output=True)

    found = tmp_path / name
    assert found.read_bytes() == b"abc"
    assert found.stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert os.getxattr(found, "user.colour") == b"blue\0"
    assert found.stat().st_nlink == 2


def _block(name: bytes = b"f", *, flag: bytes = b"0", size: bytes = b"0", tail: bytes = b"") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:107] = b"0000644"
    block[124 : 124 + len(size)] = size
    block[156:157] = flag
    block[257 : 257 + len(tail)] = tail
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def test_archives_before_posix_are_read() -> None:
    """v7: no magic, no type for directories but a slash at the end of the name, times and owners blank."""
    packed = _block(b"old/", flag=b"\0") + _block(b"old/f", flag=b"\0", size=b"3") + b"abc".ljust(512, b"\0")

    found = [(entry.name, entry.kind, entry.read()) for entry in tar.read([packed])]

    assert found == [("old", tar.DIRECTORY, b""), ("old/f", tar.FILE, b"abc")]


def test_star_keeps_times_where_others_keep_names() -> None:
    """The shorter prefix field of star does not swallow the times behind it."""
    tail = b"ustar\x0000".ljust(88, b"\0") + b"pre".ljust(131, b"\0") + b"14000000000 14000000000 ".ljust(32, b"\0")
    packed = _block(b"f", tail=tail + b"tar\0")

    (entry,) = tar.read([packed])

    assert entry.name == "pre/f"


def test_old_go_put_prefixes_into_gnu_headers() -> None:
    """Layers by Go before 1.9: a prefix in a GNU header, where GNU has a time; and real GNU times are no prefix."""
    with_prefix = _block(b"f", tail=b"ustar  \x00".ljust(88, b"\0") + b"some/where")
    with_time = _block(b"f", tail=b"ustar  \x00".ljust(88, b"\0") + b"14000000000\0")

    assert [entry.name for entry in tar.read([with_prefix])] == ["some/where/f"]
    assert [entry.name for entry in tar.read([with_time])] == ["f"]


def test_signed_checksums_are_accepted() -> None:
    """Some historic tars summed signed bytes."""
    block = bytearray(_block("naïve".encode()))
    signed = sum(byte - 256 if byte & 0x80 else byte for byte in bytes(block[:148]) + b" " * 8 + bytes(block[156:]))
    block[148:156] = b"%06o\0 " % signed

    assert [entry.name for entry in tar.read([bytes(block)])] == ["naïve"]


def test_global_headers_count_until_taken_back() -> None:
    """A global pax header speaks for all entries, an entry's own header wins, an empty value takes it back."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "7", "gid": "8"}) as writer:
        writer.addfile(member("a", pax={})[0])
        writer.addfile(member("b", pax={"uid": "9"})[0])

    found = [(entry.uid, entry.gid) for entry in tar.read([out.getvalue()])]

    assert found == [(7, 8), (9, 8)]


def test_attributes_in_both_spellings() -> None:
    """SCHILY.xattr (star, GNU, Go) holds raw bytes, LIBARCHIVE.xattr (bsdtar) percent-coded names and base64."""
    packed = archive(
        member("a", pax={"SCHILY.xattr.user.x=y": "raw", "LIBARCHIVE.xattr.user.%C3%A9": "AAEC"}),
        member("b"),
    )

    first, second = tar.read([packed])

    # The first "=" ends a record's key, so a name with one in it cannot be told from its value.
    assert first.xattrs == {"user.x": b"y=raw", "user.é": b"\0\1\2"}
    assert second.xattrs == {}


# --- damage and hostility


@given(where=st.integers(1, 5000))
def test_a_cut_archive_is_noticed(where: int) -> None:
    """Wherever an archive is cut inside an entry, reading ends in DataLoss with the offset, never quietly."""
    packed = archive(member("a", b"x" * 1300), member("long" * 60, b"y" * 700), member("c", b"z"))
    body = packed[: len(packed.rstrip(b"\0"))]
    where %= len(body)
    offsets = [entry.offset for entry in tar.read([packed])]
    # A cut between two entries cannot be told from an archive whose end marker is missing, which is common.
    clean = {0, *offsets}

    if where in clean:
        list(tar.read([packed[:where]]))
        return
    with pytest.raises(BadTar) as caught:
        list(tar.read([packed[:where]]))
    assert caught.value.kind == Kind.DATA_LOSS
    assert 0 <= caught.value.offset <= where


@given(at=st.integers(0, 511), value=st.integers(0, 255))
def test_a_changed_header_is_noticed(at: int, value: int) -> None:
    """The checksum is verified: no single changed byte of a header goes unseen."""
    packed = bytearray(archive(folder("name"), form=tarfile.USTAR_FORMAT))
    if packed[at] == value or 148 <= at < 156:
        return
    packed[at] = value

    with pytest.raises(BadTar):
        list(tar.read([bytes(packed)]))


@given(noise=st.binary(max_size=3000))
def test_noise_is_refused_by_name(noise: bytes) -> None:
    """Whatever bytes come, the answer is entries or one of our errors."""
    try:
        for entry in tar.read([noise]):
            list(entry.chunks())
    except (BadTar, HeaderTooLarge):
        return


@given(data=st.data())
def test_damaged_archives_never_surprise(data: st.DataObject) -> None:
    """Real archives with changed bytes and corrected checksums give entries or one of our errors."""
    packed = bytearray(
        archive(member("a" * 150, b"x" * 10, pax={"GNU.sparse.major": "1"}), member("b", b"y"), folder("c"))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    for at in range(0, len(packed) - 512, 512):
        if packed[at + 257 : at + 262] == b"ustar":
            packed[at + 148 : at + 156] = b" " * 8
            packed[at + 148 : at + 156] = b"%06o\0 " % sum(packed[at : at + 512])
    try:
        for entry in tar.read([bytes(packed)]):
            for _ in entry.chunks():
                break
    except (BadTar, HeaderTooLarge):
        return


@pytest.mark.parametrize(
    ("packed", "error", "says"),
    [
        (_block(size=b"9999999z"), BadTar, "not octal"),
        (_block(size=b"\xff" * 12), BadTar, "bytes"),
        (_block(flag=b"?"), BadTar, "unknown type"),
        (_block(flag=b"L", size=b"77777777777"), HeaderTooLarge, "extended header"),
        (_block(flag=b"x", size=b"5") + b"5 abc".ljust(512, b"\0") + _block(), BadTar, "pax record"),
        (_block(flag=b"x", size=b"13") + b"11 path=\0b\n".ljust(512, b"\0") + _block(), BadTar, "NUL"),
        (_block(flag=b"x", size=b"0") + bytes(1024), BadTar, "describes no entry"),
        (bytes(512) + _block(), BadTar, "one block of zeros"),
        (_block(flag=b"L", size=b"0") + _block(flag=b"L", size=b"4"), BadTar, "early"),
    ],
)
def test_bad_headers_are_named(packed: bytes, error: type[Exception], says: str) -> None:
    """What is wrong with a header is said, and where."""
    with pytest.raises(error, match=says):
        list(tar.read([packed]))


@pytest.mark.parametrize(
    "fields",
    [
        {"GNU.sparse.map": "0,5,3,5", "GNU.sparse.size": "100"},  # overlapping
        {"GNU.sparse.map": "0,5,200,5", "GNU.sparse.size": "100"},  # beyond the end
        {"GNU.sparse.map": "0,500", "GNU.sparse.size": "1000"},  # more data than there are
        {"GNU.sparse.map": "0,5,7", "GNU.sparse.size": "100"},  # odd
        {"GNU.sparse.map": "0,10"},  # no size
        {"GNU.sparse.map": "0,-10", "GNU.sparse.size": "100"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "100"},  # no map in the data
    ],
)
def test_sparse_maps_must_add_up(fields: dict[str, str]) -> None:
    """A sparse map that overlaps, leaves the file or disagrees with the stored data is refused."""
    with pytest.raises(BadTar):
        list(tar.read([archive(member("s", b"0123456789", pax=fields))]))


def test_numbers_in_all_notations() -> None:
    """Octal with blanks or NULs around, base-256 of either sign; anything else is a ValueError."""
    assert number(b"  644 \0") == 0o644
    assert number(b"0000644\0") == 0o644
    assert number(b"\0" * 8) == 0
    assert number(b"\x80" + bytes(10) + b"\x07") == 7
    assert number(b"\xff" * 12) == -1
    for bad in (b"+644\0", b"-1\0", b"6_4\0", b"9\0", b"0x1\0", b"\x80" + b"\xff" * 11):
        with pytest.raises(ValueError, match=r"octal|64 bits|invalid"):
            number(bad)


@given(nanoseconds=st.integers(-(2**80), 2**80))
def test_times_are_exact(nanoseconds: int) -> None:
    """Pax times are decimal: no float ever touches them, so that nanoseconds survive."""
    assert pax_time(pax_time_text(nanoseconds)) == nanoseconds


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="=\0"), min_size=1), st.binary()),
        max_size=5,
    )
)
def test_pax_records_round_trip(records: list[tuple[str, bytes]]) -> None:
    """A record's length counts its own digits, at every boundary; values are any bytes."""
    packed = b"".join(pax_record(key, value) for key, value in records)

    assert pax_records(packed, offset=0) == records
