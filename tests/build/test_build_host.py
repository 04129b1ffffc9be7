"""ELF, the dynamic linker's search, and packing this machine's programs."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import shutil
import struct
import subprocess
import sysconfig
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.build import elf, host
from orlop.build.linker import LibraryMissing, Linker, parse_cache
from orlop.build.linkercache import compare, make_cache
from orlop.errors import DataLoss, InvalidArgument, NotFound

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = os.path.realpath(shutil.which("python3", path="/usr/bin") or "/usr/bin/python3")


def made(
    *,
    wide: bool = True,
    big: bool = False,
    needed: tuple[str, ...] = (),
    runpath: str = "",
    rpath: str = "",
    interpreter: str = "",
) -> bytes:
    """A small ELF file with the given dynamic section."""
    order = ">" if big else "<"
    strings = bytearray(b"\0")
    entries: list[tuple[int, int]] = []
    for tag, text in [
        *((1, name) for name in needed),
        *(((29, runpath),) if runpath else ()),
        *(((15, rpath),) if rpath else ()),
    ]:
        entries.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    base = 0x1000
    head_size, segment_size = (64, 56) if wide else (52, 32)
    count = 3 if interpreter else 2
    at = head_size + segment_size * count
    name = interpreter.encode() + b"\0" if interpreter else b""
    table_at = at + len(name)
    form = "qQ" if wide else "iI"
    entries += [(5, base + table_at + (len(entries) + 3) * struct.calcsize(order + form)), (10, len(strings)), (0, 0)]
    table = b"".join(struct.pack(order + form, *entry) for entry in entries)
    total = table_at + len(table) + len(strings)

    def segment(kind: int, offset: int, size: int) -> bytes:
        if wide:
            return struct.pack(order + "IIQQQQQQ", kind, 4, offset, base + offset, 0, size, size, 1)
        return struct.pack(order + "IIIIIIII", kind, offset, base + offset, 0, size, size, 4, 1)

    ident = b"\x7fELF" + bytes([2 if wide else 1, 2 if big else 1, 1]) + bytes(9)
    if wide:
        head = ident + struct.pack(order + "HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    else:
        head = ident + struct.pack(order + "HHIIIIIHHHHHH", 3, 20, 1, 0, 52, 0, 0, 52, 32, count, 0, 0, 0)
    segments = segment(1, 0, total) + segment(2, table_at, len(table))
    if interpreter:
        segments += segment(3, at, len(name))
    return head + segments + name + table + bytes(strings)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("big", [True, False])
def test_all_classes_and_byte_orders(*, wide: bool, big: bool) -> None:
    """32 and 64 bits, little and big endian, read alike."""
    found = elf.parse(
        made(wide=wide, big=big, needed=("libc.so.6", "libm.so.6"), runpath="$ORIGIN/x:/y", interpreter="/lib/ld.so")
    )

    assert found is not None
    assert found.needed == ("libc.so.6", "libm.so.6")
    assert found.runpath == ("$ORIGIN/x", "/y")
    assert found.interpreter == "/lib/ld.so"
    assert (found.bits, found.big_endian) == (64 if wide else 32, big)


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=6))
def test_damaged_headers_are_refused(tail: bytes, changes: list[tuple[int, int]]) -> None:
    """No bytes make the parser do anything else than read, say None, or raise BadElf."""
    data = bytearray(made(needed=("a",), interpreter="/x"))
    for at, value in changes:
        data[at % len(data)] = value
    for sample in (bytes(data), b"\x7fELF" + tail, tail):
        try:
            elf.parse(sample)
        except elf.BadElf:
            continue


@pytest.mark.parametrize(
    "program", [PYTHON, "/bin/sh", "/usr/bin/git", "/usr/bin/curl", "/usr/bin/podman", "/usr/sbin/nft"]
)
def test_libraries_are_those_that_ldd_finds(program: str) -> None:
    """The closure is what the real dynamic linker loads."""
    if not os.path.exists(program):
        program = PYTHON
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.splitlines()
    words = [line.split("=>")[-1].split("(")[0].strip() for line in lines]
    expected = {os.path.realpath(word) for word in words if word.startswith("/")}

    loaded = Linker().closure(program)

    assert {os.path.realpath(one.path) for one in loaded[1:]} == expected
    assert Linker().missing(loaded) == []


def test_without_a_cache_the_folders_are_searched() -> None:
    """A machine without ld.so.cache resolves the same libraries from default and configured folders."""
    with_cache = {os.path.realpath(one.path) for one in Linker().closure(PYTHON)}
    without = {os.path.realpath(one.path) for one in Linker("/nonexistent").closure(PYTHON)}

    assert without == with_cache


def test_origin_and_inherited_paths(tmp_path: Path) -> None:
    """$ORIGIN is the folder of who says it; RPATH is inherited, RUNPATH is not, and stops RPATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/liba.so").write_bytes(made(needed=("libb.so",)))
    (tmp_path / "lib/libb.so").write_bytes(made())
    by_rpath = tmp_path / "bin/rpath"
    by_rpath.write_bytes(made(needed=("liba.so",), rpath="$ORIGIN/../lib"))
    by_runpath = tmp_path / "bin/runpath"
    by_runpath.write_bytes(made(needed=("liba.so",), runpath="${ORIGIN}/../lib"))

    linker = Linker()
    loaded = linker.closure(str(by_rpath))
    assert [os.path.basename(one.path) for one in loaded] == ["rpath", "liba.so", "libb.so"]
    loaded = linker.closure(str(by_runpath))
    assert [os.path.basename(one.path) for one in loaded] == ["runpath", "liba.so"]
    assert linker.missing(loaded) == [("libb.so", f"{by_runpath.parent}/../lib/liba.so")]


def test_a_library_of_another_kind_is_passed_over(tmp_path: Path) -> None:
    """The search goes on past files for other machines, as ld.so's does."""
    for name, content in (("one", made(wide=False)), ("two", made())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "libx.so").write_bytes(content)
    program = tmp_path / "program"
    program.write_bytes(made(needed=("libx.so",), runpath=f"{tmp_path}/one:{tmp_path}/two"))

    assert Linker().closure(str(program))[1].path == f"{tmp_path}/two/libx.so"


def test_this_machines_cache_is_read() -> None:
    """The real ld.so.cache has the C library, at a path that exists."""
    with open("/etc/ld.so.cache", "rb") as file:
        entries = parse_cache(file.read())

    paths = [entry.path for entry in entries if entry.name == "libc.so.6"]
    assert paths
    assert os.path.exists(paths[0])


library = st.text(alphabet="abl.so-+0123456789", min_size=1, max_size=12)


@given(st.dictionaries(library, library.map(lambda name: f"/lib/{name}"), max_size=8))
def test_a_made_cache_reads_back_sorted(entries: dict[str, str]) -> None:
    """What make_cache writes, parse_cache reads, in the descending order that ld.so's search needs."""
    program = elf.Elf(bits=64, big_endian=False, machine=62)

    found = parse_cache(make_cache(list(entries.items()), program))

    assert {entry.name: entry.path for entry in found} == entries
    names = [entry.name for entry in found]
    assert all(compare(first, second) > 0 for first, second in itertools.pairwise(names))


@pytest.mark.parametrize(
    ("left", "right"),
    [("libb.so", "liba.so"), ("liba.so.10", "liba.so.9"), ("liba.so.6", "liba.so"), ("liba1.so", "liba-x.so")],
)
def test_the_caches_order(left: str, right: str) -> None:
    """Runs of digits compare as numbers, as in glibc's _dl_cache_libcmp."""
    assert compare(left, right) > 0 > compare(right, left)


def test_the_order_is_that_of_the_real_cache() -> None:
    """Ldconfig's own cache is sorted by the same comparison."""
    with open("/etc/ld.so.cache", "rb") as file:
        names = [entry.name for entry in parse_cache(file.read())]

    assert all(compare(first, second) >= 0 for first, second in itertools.pairwise(names))


@given(st.binary(max_size=200))
def test_a_damaged_cache_is_refused(data: bytes) -> None:
    """Anything but a cache is DataLoss."""
    for sample in (data, b"glibc-ld.so.cache1.1" + data, b"ld.so-1.7.0\0" + data):
        try:
            parse_cache(sample)
        except (DataLoss, struct.error):
            continue


def packed(**fields: object) -> tuple[host.Packed, bytes]:
    out = io.BytesIO()
    return host.pack(host.PackRequest(**fields), out.write), out.getvalue()  # type: ignore[arg-type]  # by name


def unpack(data: bytes, where: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        file.extractall(where, filter="fully_trusted")


def test_packed_programs_run_in_a_chroot(tmp_path: Path) -> None:
    """A Python with its standard library works from nothing but the layer, TLS and user names included."""
    stdlib = sysconfig.get_path("stdlib", vars={"base": "/usr", "installed_base": "/usr"})
    if not os.path.isdir(stdlib):
        stdlib = subprocess.run(
            [PYTHON, "-c", "import os; print(os.path.dirname(os.__file__))"], capture_output=True, text=True, check=True
        ).stdout.strip()
    found, data = packed(
        programs=("python3", "sh"),
        folders=(host.Folder(source=stdlib),),
        excludes=("**/test", "**/tests", "**/__pycache__", "**/idlelib", "**/ensurepip"),
        certificates=True,
    )
    unpack(data, tmp_path)

    result = subprocess.run(
        [
            "chroot",
            str(tmp_path),
            "/usr/bin/python3",
            "-I",
            "-c",
            "import ssl, json, pwd, zlib; print(pwd.getpwuid(0).pw_name)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.stdout == "root\n", result.stderr
    assert "/usr/bin" in found.path
    assert subprocess.run(["chroot", str(tmp_path), "/bin/sh", "-c", "exit 7"], check=False).returncode == 7
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 1000


def test_packing_is_deterministic() -> None:
    """The same machine packs the same bytes."""
    _, first = packed(programs=("sh", "ls"))
    _, second = packed(programs=("sh", "ls"))

    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_links_are_kept_as_links(tmp_path: Path) -> None:
    """The way to a program is the same chain of symlinks as on the machine, relative and absolute ones."""
    (tmp_path / "real").mkdir()
    shutil.copy("/bin/ls", tmp_path / "real/ls-1.0")
    (tmp_path / "real/ls").symlink_to("ls-1.0")
    (tmp_path / "bin").symlink_to(tmp_path / "real")
    out = tmp_path / "out"

    _, data = packed(programs=(f"{tmp_path}/bin/ls",))
    unpack(data, out)

    inside = out / str(tmp_path).lstrip("/")
    assert os.readlink(inside / "bin") == str(tmp_path / "real")
    assert os.readlink(inside / "real/ls") == "ls-1.0"
    assert (inside / "real/ls-1.0").stat().st_mode & 0o111


def test_scripts_bring_their_interpreters(tmp_path: Path) -> None:
    """#! and `env NAME` are followed; the interpreter is looked up where programs are."""
    script = tmp_path / "tool"
    script.write_text("#!/usr/bin/env -S sh -e\necho hi\n")
    script.chmod(0o755)
    out = tmp_path / "out"

    _, data = packed(programs=(str(script),))
    unpack(data, out)

    result = subprocess.run(["chroot", str(out), str(script)], capture_output=True, text=True, check=False)
    assert result.stdout == "hi\n"


def test_libraries_in_odd_places_are_found_in_the_image(tmp_path: Path) -> None:
    """A library outside the default folders gets an ld.so.cache, made for the image."""
    found, data = packed(programs=("sh",))
    del found
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        assert "etc/ld.so.cache" not in file.getnames()
    shutil.copy(os.path.realpath(Linker().closure("/bin/sh")[1].path), tmp_path / "libc.so.6")
    program = elf.Elf(bits=64, big_endian=False, machine=62)
    (tmp_path / "cache").write_bytes(make_cache([("libc.so.6", f"{tmp_path}/libc.so.6")], program))

    assert Linker(str(tmp_path / "cache")).closure("/bin/sh")[1].path == f"{tmp_path}/libc.so.6"


def test_folders_can_be_moved_and_thinned(tmp_path: Path) -> None:
    """DIR:DEST puts a folder elsewhere; excluded files are left out; links in it stay as they are."""
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "src/keep").write_text("k")
    (tmp_path / "src/sub/drop.tmp").write_text("d")
    (tmp_path / "src/link").symlink_to("keep")

    _, data = packed(
        folders=(host.Folder(source=str(tmp_path / "src"), destination="/opt/app"),), excludes=("**/*.tmp",)
    )

    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        names = [name for name in file.getnames() if name.startswith("opt")]
        assert names == ["opt", "opt/app", "opt/app/keep", "opt/app/link", "opt/app/sub"]
        assert file.getmember("opt/app/link").linkname == "keep"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """Unknown programs and folders, programs that lack a library, relative destinations, nothing at all."""
    broken = tmp_path / "broken"
    broken.write_bytes(made(needed=("libnowhere.so.9",), interpreter="/lib64/ld-linux-x86-64.so.2"))
    broken.chmod(0o755)

    with pytest.raises(NotFound, match="no program nowhere"):
        packed(programs=("nowhere",))
    with pytest.raises(NotFound, match="does not exist"):
        packed(folders=(host.Folder(source="/nonexistent"),))
    with pytest.raises(LibraryMissing, match=r"broken needs libnowhere\.so\.9"):
        packed(programs=(str(broken),))
    with pytest.raises(InvalidArgument, match="absolute"):
        packed(folders=(host.Folder(source="/etc", destination="x"),))
    with pytest.raises(InvalidArgument, match="nothing to pack"):
        packed()
    found, _ = packed(folders=(host.Folder(source=str(tmp_path), destination="/x"),))
    assert found.warnings == (f"{broken} needs libnowhere.so.9, which this machine does not have",)


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("/a/b", host.Folder(source="/a/b")),
        ("/a:/b", host.Folder(source="/a", destination="/b")),
        ("/a:b", host.Folder(source="/a:b")),
    ],
)
def test_includes_are_split_at_their_colon(text: str, folder: host.Folder) -> None:
    """DIR[:DEST], where DEST is absolute."""
    from types import SimpleNamespace

    asked = SimpleNamespace(programs=("sh",), includes=(text,), nss=True, certificates=False)

    request = host.pack_request(asked, "/usr/bin:relative:/bin")
    assert request.folders == (folder,)
    assert request.path == ("/usr/bin", "/bin")
    assert request.name_service
