"""COPY and ADD: which files, where to, with which owner and mode. Real trees, no layers."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from orlop.build import archives, modes
from orlop.build.context import Context
from orlop.build.dockerfile.parser import parse
from orlop.build.dockerfile.source import DockerfileError
from orlop.build.evaluate import Scope, evaluate, scratch
from orlop.build.select import fingerprint, select
from orlop.build.steps import CopyStep
from orlop.build.transfer import Target, manner_of
from orlop.build.tree import Tree
from orlop.errors import FailedPrecondition, InvalidArgument, OrlopError, ResourceExhausted
from orlop.layers import compress
from orlop.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Bench:
    """A context and a target root; `copy` carries out one instruction."""

    def __init__(self, where: Path) -> None:
        self.context = where / "context"
        self.root = where / "root"
        self.context.mkdir()
        self.root.mkdir()
        self.findings: list[str] = []

    def step(self, text: str) -> CopyStep:
        dockerfile = parse(f"FROM scratch\n{text}\n")
        found = evaluate(
            dockerfile.instructions[1:],
            base=scratch(Platform(os="linux", architecture="amd64")),
            inherited={},
            scope=Scope(build_args={}, global_args={}, find_stage=lambda _: None),
            source=dockerfile.source,
            escape="\\",
        ).steps[-1]
        assert isinstance(found, CopyStep)
        return found

    def copy(self, text: str, *, owned: bool = False) -> None:
        step = self.step(text)
        tree: Tree = Tree(str(self.context), owned=True) if owned else Context(str(self.context))
        with tree, Target(str(self.root)) as target:
            selection = select(step, tree, where="the build context")
            self.findings = [finding.rule for finding in selection.findings]
            manner = manner_of(target, step.chown, step.chmod)
            if step.unpack:
                selection = archives.unpack(selection, tree, target, step.destination, manner)
            target.put(selection, tree, step.destination, into=step.into, manner=manner)
            for name, content in step.documents:
                target.write(name, content.encode(), step.destination, into=step.into, manner=manner, mtime=0)

    def digest(self, text: str) -> bytes:
        with Context(str(self.context)) as tree:
            return fingerprint(select(self.step(text), tree, where="the context"), tree)[0]

    def write(self, *names: str) -> None:
        for name in names:
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def files(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_symlink() or not path.is_dir()
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("COPY a /x", ["x"]),
        ("COPY a /x/", ["x/a"]),
        ("COPY a .", ["a"]),
        ("COPY a b /x/", ["x/a", "x/b"]),
        ("COPY d /x", ["x/e/two", "x/one"]),
        ("COPY d/ /x/", ["x/e/two", "x/one"]),
        ("COPY d a /x/", ["x/a", "x/e/two", "x/one"]),
        ("COPY d/* /x/", ["x/one", "x/two"]),
        ("COPY d/o?e /x/", ["x/one"]),
        ("COPY [ab] /x/", ["x/a", "x/b"]),
        ("COPY */one /x/", ["x/one"]),
        ("COPY /a /x", ["x"]),
        ("COPY ../../a /x", ["x"]),
        ("COPY d/../a /x", ["x"]),
        ('COPY ["a", "/with space"]', ["with space"]),
        ("COPY . /x", ["x/a", "x/b", "x/d/e/two", "x/d/one"]),
        ("COPY --exclude=d . /x", ["x/a", "x/b"]),
        ("COPY --exclude=**/one --exclude=a . /x", ["x/b", "x/d/e/two"]),
        ("COPY --exclude=a ? /x/", ["x/b", "x/e/two", "x/one"]),
        ("COPY --exclude=* --exclude=!d/one . /x", ["x/d/one"]),
        ("COPY --parents d/e/two a /x/", ["x/a", "x/d/e/two"]),
        ("COPY --parents d/./e /x/", ["x/e/two"]),
        ("COPY --parents d/./*/two /x", ["x/e/two"]),
        ("COPY --parents **/two /x/", ["x/d/e/two"]),
        ("COPY <<one <<two /x/\n1\none\n2\ntwo", ["x/one", "x/two"]),
    ],
)
def test_what_goes_where(bench: Bench, text: str, files: list[str]) -> None:
    """Directories give their contents, files their name or the destination's, --parents keeps folders."""
    bench.write("a", "b", "d/one", "d/e/two")

    bench.copy(text)

    assert bench.files() == files


def test_an_existing_directory_takes_files_without_a_slash(bench: Bench) -> None:
    """A destination that is a directory in the image means the same as one with a slash."""
    bench.write("a", "b")
    (bench.root / "x").mkdir()

    bench.copy("COPY a b /x")

    assert bench.files() == ["x/a", "x/b"]


def test_several_files_need_a_directory(bench: Bench) -> None:
    """Several files to one name are refused, before one hides the other."""
    bench.write("a", "b")

    with pytest.raises(InvalidArgument, match="several files") as caught:
        bench.copy("COPY a b /x")

    assert "/x/" in caught.value.hint


def test_files_keep_mode_and_time_and_belong_to_root(bench: Bench) -> None:
    """Mode and time come from the source, owner 0:0; folders that are copied keep their mode, made ones are 0755."""
    bench.write("d/in/f")
    (bench.context / "d/in").chmod(0o710)
    (bench.context / "d/in/f").chmod(0o4750)
    os.chown(bench.context / "d/in/f", 5, 6)
    os.chmod(bench.context / "d/in/f", 0o4750)
    os.utime(bench.context / "d/in/f", ns=(123456789, 987654321))
    os.utime(bench.context / "d/in", ns=(1, 2_000_000_000))

    bench.copy("COPY d /to/here")

    found = (bench.root / "to/here/in/f").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o4750, 0, 0)
    assert found.st_mtime_ns == 987654321
    folder = (bench.root / "to/here/in").stat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_mtime_ns) == (0o710, 2_000_000_000)
    assert stat.S_IMODE((bench.root / "to").stat().st_mode) == 0o755


def test_an_existing_destination_keeps_its_mode_but_inner_folders_take_the_sources(bench: Bench) -> None:
    """As BuildKit: only folders below the destination are overwritten."""
    bench.write("d/in/f")
    (bench.context / "d/in").chmod(0o711)
    (bench.root / "x/in").mkdir(parents=True)
    (bench.root / "x").chmod(0o700)
    (bench.root / "x/in").chmod(0o777)

    bench.copy("COPY d /x")

    assert stat.S_IMODE((bench.root / "x").stat().st_mode) == 0o700
    assert stat.S_IMODE((bench.root / "x/in").stat().st_mode) == 0o711


@pytest.mark.parametrize(
    ("flag", "owner"),
    [
        ("7", (7, 7)),
        ("7:8", (7, 8)),
        ("app", (1000, 1001)),
        ("app:staff", (1000, 50)),
        ("7:staff", (7, 50)),
        (":staff", (0, 50)),
        ("app:9", (1000, 9)),
    ],
)
def test_chown_looks_names_up_in_the_image(bench: Bench, flag: str, owner: tuple[int, int]) -> None:
    """Names come from the image's own passwd and group; a lone number is also the group."""
    (bench.root / "etc").mkdir()
    (bench.root / "etc/passwd").write_text("root:x:0:0::/:\napp:x:1000:1001::/:\n")
    (bench.root / "etc/group").write_text("staff:x:50:\n")
    bench.write("f")

    bench.copy(f"COPY --chown={flag} f /new/f")

    for name in ("new", "new/f"):
        found = (bench.root / name).stat()
        assert (found.st_uid, found.st_gid) == owner


@pytest.mark.parametrize("flag", ["nobody", "0:nogroup"])
def test_unknown_owners_are_refused(bench: Bench, flag: str) -> None:
    """A name that the image does not have is an error, not root."""
    bench.write("f")

    with pytest.raises(InvalidArgument, match="the image has no"):
        bench.copy(f"COPY --chown={flag} f /f")


def test_symlinks_in_the_image_stay_in_the_image(bench: Bench, tmp_path: Path) -> None:
    """A destination through a symlink ends inside the root, wherever the link points."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (bench.root / "link").symlink_to(outside)
    (bench.root / "file").symlink_to("/real/name")
    bench.write("f")

    bench.copy("COPY f /link/")
    bench.copy("COPY f /file")

    assert not list(outside.iterdir())
    assert (bench.root / str(outside).lstrip("/") / "f").read_text() == "f"
    assert (bench.root / "real/name").read_text() == "f"


def test_symlinks_in_the_context_are_copied_not_followed(bench: Bench) -> None:
    """A link in a copied folder stays a link; one that is named itself is followed, inside the context."""
    bench.write("d/f")
    (bench.context / "d/link").symlink_to("/etc/passwd")
    (bench.context / "to-d").symlink_to("d")

    bench.copy("COPY to-d /x")
    with pytest.raises(DockerfileError, match="has no d/link"):
        bench.copy("COPY d/link /y")

    assert os.readlink(bench.root / "x/link") == "/etc/passwd"


@pytest.mark.parametrize(("there", "text"), [("dir", "COPY e /x"), ("file", "COPY d /x")])
def test_files_and_directories_do_not_replace_each_other(bench: Bench, there: str, text: str) -> None:
    """Where a directory stands no file can go, nor the reverse; the error says so."""
    bench.write("e/f", "d/f/inner")
    (bench.root / "x").mkdir()
    if there == "dir":
        (bench.root / "x/f").mkdir()
    else:
        (bench.root / "x/f").write_text("")

    with pytest.raises(InvalidArgument, match="cannot replace"):
        bench.copy(text)


def test_a_file_replaces_a_file_and_a_symlink(bench: Bench) -> None:
    """What stands at a name goes; a link in a folder is replaced, its target stays."""
    bench.write("d/f", "d/g")
    (bench.root / "x").mkdir()
    (bench.root / "x/f").write_text("old")
    (bench.root / "target").write_text("kept")
    (bench.root / "x/g").symlink_to("/target")

    bench.copy("COPY d /x")

    assert (bench.root / "x/f").read_text() == "d/f"
    assert not (bench.root / "x/g").is_symlink()
    assert (bench.root / "target").read_text() == "kept"


def test_an_images_files_keep_owner_links_and_attributes(bench: Bench) -> None:
    """From a stage or image: owners, hard links, capabilities and special files are kept."""
    bench.write("d/f")
    os.chown(bench.context / "d/f", 11, 12)
    os.link(bench.context / "d/f", bench.context / "d/same")
    os.setxattr(bench.context / "d/f", "user.note", b"hi")
    os.mkfifo(bench.context / "d/pipe")

    bench.copy("COPY d /x", owned=True)

    found = (bench.root / "x/f").stat()
    assert (found.st_uid, found.st_gid, found.st_nlink) == (11, 12, 2)
    assert os.getxattr(bench.root / "x/f", "user.note") == b"hi"
    assert stat.S_ISFIFO((bench.root / "x/pipe").stat().st_mode)


def test_a_missing_source_names_the_rule_that_hides_it(bench: Bench) -> None:
    """A file hidden by .dockerignore is named with file and line of the rule."""
    bench.write("secret.pem", "d/x")
    (bench.context / ".dockerignore").write_text("# keys\n*.pem\n")

    with pytest.raises(DockerfileError, match=r"secret.pem is hidden from the build by .dockerignore:2 \(\*\.pem\)"):
        bench.copy("COPY secret.pem /x")


@pytest.mark.parametrize(
    ("source", "match", "hint"),
    [
        ("requirments.txt", "did you mean requirements.txt", ""),
        ("src/man.py", "did you mean src/main.py", ""),
        ("nothing-like-it", "has no nothing-like-it", "there is: other, requirements.txt, src"),
        ("scr/main.py", "has no scr/main.py", "there is no folder scr (did you mean src?)"),
    ],
)
def test_a_missing_source_suggests_what_is_there(bench: Bench, source: str, match: str, hint: str) -> None:
    """The error has the place, and a name near the wrong one, or what is there instead."""
    bench.write("requirements.txt", "src/main.py", "other")

    with pytest.raises(DockerfileError, match=match) as caught:
        bench.copy(f"COPY {source} /x")

    assert caught.value.span.column == 6
    assert caught.value.hint == hint


def test_a_wildcard_that_matches_nothing_warns(bench: Bench) -> None:
    """Nothing is copied, and a finding says so."""
    bench.write("a")

    bench.copy("COPY a *.jar /x/")

    assert bench.findings == ["EmptyMatch"]
    assert bench.files() == ["x/a"]


def test_a_wildcard_that_matches_only_ignored_files_names_one(bench: Bench) -> None:
    """The warning names the file that would have matched and the rule that hides it."""
    bench.write("a", "x.jar")
    (bench.context / ".dockerignore").write_text("*.jar\n")

    bench.copy("COPY a *.jar /x/")

    assert bench.findings == ["CopyIgnoredFile"]


def test_a_file_changed_after_it_was_hashed_is_refused(bench: Bench) -> None:
    """What is copied is what was hashed; otherwise the cache would lie."""
    bench.write("f")
    step = bench.step("COPY f /x")
    with Context(str(bench.context)) as tree, Target(str(bench.root)) as target:
        selection = select(step, tree, where="the build context")
        fingerprint(selection, tree)
        (bench.context / "f").write_text("longer than before")
        with pytest.raises(FailedPrecondition, match="changed while the build ran"):
            target.put(selection, tree, "/x", into=False, manner=manner_of(target, "", ""))


def test_the_fingerprint_is_of_names_modes_and_contents(bench: Bench) -> None:
    """Content, mode, name and target change it; times and owners in a context do not."""
    bench.write("d/f", "d/g")
    (bench.context / "d/l").symlink_to("f")
    seen = [bench.digest("COPY d /x")]

    os.utime(bench.context / "d/f", (1, 1))
    os.chown(bench.context / "d/f", 5, 5)
    assert bench.digest("COPY d /x") == seen[0]

    def relink() -> None:
        (bench.context / "d/l").unlink()
        (bench.context / "d/l").symlink_to("h")

    changes: tuple[Callable[[], object], ...] = (
        lambda: (bench.context / "d/f").write_text("changed"),
        lambda: (bench.context / "d/f").chmod(0o600),
        lambda: (bench.context / "d/f").rename(bench.context / "d/h"),
        relink,
        (bench.context / "d/g").unlink,
        (bench.context / "d/empty").mkdir,
    )
    for change in changes:
        change()
        digest = bench.digest("COPY d /x")
        assert digest not in seen
        seen.append(digest)


def archive(compress: Any = None, *, link: str = "f") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        folder = tarfile.TarInfo("top")
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o750, 5
        file.addfile(folder)
        entry = tarfile.TarInfo("top/f")
        entry.size, entry.mode, entry.uid, entry.mtime = 4, 0o640, 42, 7
        file.addfile(entry, io.BytesIO(b"data"))
        for name, kind, target in (("top/l", tarfile.SYMTYPE, link), ("top/h", tarfile.LNKTYPE, "top/f")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            file.addfile(entry)
    data = out.getvalue()
    return data if compress is None else compress(data)


@pytest.mark.parametrize(
    "compress",
    [None, gzip.compress, bz2.compress, lzma.compress, lambda data: zstandard.ZstdCompressor().compress(data)],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_add_unpacks_archives_by_their_content(bench: Bench, compress: Any) -> None:
    """Whatever it is called, an archive is unpacked into the destination; owners and modes are the archive's."""
    (bench.context / "release.bin").write_bytes(archive(compress))

    bench.copy("ADD release.bin /opt")

    assert bench.files() == ["opt/top/f", "opt/top/h", "opt/top/l"]
    found = (bench.root / "opt/top/f").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_mtime, found.st_nlink) == (0o640, 42, 7, 2)
    assert stat.S_IMODE((bench.root / "opt/top").stat().st_mode) == 0o750
    assert (bench.root / "opt/top").stat().st_mtime == 5


def test_add_copies_what_is_no_archive(bench: Bench) -> None:
    """Plain and compressed files that hold no tar are copied as they are; --unpack=false copies archives too."""
    (bench.context / "x.gz").write_bytes(gzip.compress(b"not a tar"))
    (bench.context / "x.tar").write_text("named so")
    (bench.context / "real.tar").write_bytes(archive())

    bench.copy("ADD x.gz x.tar /d/")
    bench.copy("ADD --unpack=false real.tar /d/")

    assert bench.files() == ["d/real.tar", "d/x.gz", "d/x.tar"]


def test_add_refuses_bombs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an archive expands to is bounded by its size, and a file in it by what a layer may hold."""
    monkeypatch.setattr(compress, "_RATIO_FROM", 1 << 20)  # bombs below a gigabyte are let through else
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        entry = tarfile.TarInfo("zeros")
        entry.size = 16 << 20
        file.addfile(entry, io.BytesIO(bytes(entry.size)))
    (bench.context / "bomb.tar").write_bytes(zstandard.ZstdCompressor().compress(packed.getvalue()))
    with pytest.raises(ResourceExhausted, match="times its size"):
        bench.copy("ADD bomb.tar /d/")

    huge = io.BytesIO()
    with tarfile.open(fileobj=huge, mode="w", format=tarfile.PAX_FORMAT) as file:
        entry = tarfile.TarInfo("huge")
        entry.size = 4
        entry.pax_headers = {
            "GNU.sparse.size": str((1 << 63) - 1),
            "GNU.sparse.numblocks": "1",
            "GNU.sparse.map": "0,4",
        }
        file.addfile(entry, io.BytesIO(b"data"))
    (bench.context / "huge.tar").write_bytes(huge.getvalue())
    with pytest.raises(ResourceExhausted, match="more than a whole layer"):
        bench.copy("ADD huge.tar /e/")


def test_a_file_that_cannot_be_read_is_not_taken_for_something_else() -> None:
    """An I/O error while looking for an archive is that error, and not the answer that there is no archive."""
    fd = os.open("/proc/self/mem", os.O_RDONLY)  # its first page is not mapped: reads give EIO
    try:
        with pytest.raises(OSError, match="Input/output error"):
            archives._is_archive(fd)
    finally:
        os.close(fd)


def test_an_archive_cannot_write_outside(bench: Bench, tmp_path: Path) -> None:
    """Names that climb, and links that lead out, end inside the destination."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, kind, target in (
            ("../../climb", tarfile.REGTYPE, ""),
            ("away", tarfile.SYMTYPE, str(tmp_path)),
            ("away/through", tarfile.REGTYPE, ""),
            ("/absolute", tarfile.REGTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            file.addfile(entry)
    (bench.context / "evil.tar").write_bytes(out.getvalue())

    bench.copy("ADD evil.tar /in/")

    assert not (tmp_path / "through").exists()
    assert not (tmp_path / "climb").exists()
    assert "in/climb" in bench.files()
    assert "in/absolute" in bench.files()


@pytest.mark.parametrize(
    ("text", "before", "directory", "after"),
    [
        ("755", 0o600, False, 0o755),
        ("4755", 0o600, False, 0o4755),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("+x", 0o644, False, 0o755),
        ("a-w", 0o666, False, 0o444),
        ("g=u", 0o640, False, 0o660),
        ("u+s", 0o755, False, 0o4755),
        ("o+t", 0o777, True, 0o1777),
        ("ug+rw-x", 0o111, False, 0o661),
    ],
)
def test_modes(text: str, before: int, after: int, *, directory: bool) -> None:
    """Chmod's octal and symbolic notations."""
    assert modes.parse(text)(before, directory) == after


@given(st.text(alphabet="ugoa+-=rwxXst0789,", max_size=8), st.integers(0, 0o7777), st.booleans())
def test_every_mode_is_a_mode_or_refused(text: str, mode: int, directory: bool) -> None:  # given's
    """No text gives anything but permission bits or InvalidArgument."""
    try:
        assert 0 <= modes.parse(text)(mode, directory) <= 0o7777
    except InvalidArgument:
        return


names = st.text(alphabet="ab.é \\*[", min_size=1, max_size=5).filter(lambda name: name not in {".", ".."})


@given(st.dictionaries(names, st.binary(max_size=50), min_size=1, max_size=5))
def test_a_copied_folder_is_the_same_folder(contents: dict[str, bytes]) -> None:
    """Whatever the names, COPY of a folder gives the same names with the same contents."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as where:
        bench = Bench(Path(where))
        (bench.context / "d").mkdir()
        for name, content in contents.items():
            (bench.context / "d" / name).write_bytes(content)
        bench.copy("COPY d /x")
        assert {path.name: path.read_bytes() for path in (bench.root / "x").iterdir()} == contents


def test_errors_are_ours(bench: Bench) -> None:
    """A malformed pattern is reported at its source."""
    with pytest.raises(OrlopError, match="open bracket") as caught:
        bench.copy("COPY [a /x")

    assert isinstance(caught.value, DockerfileError)
