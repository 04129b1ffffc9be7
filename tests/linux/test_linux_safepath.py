"""Paths in trees of others: one contract for openat2 and for the walk that stands in for it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.linux import safepath, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IN_ROOT = safepath.RESOLVE_IN_ROOT | safepath.RESOLVE_NO_MAGICLINKS
BENEATH = safepath.RESOLVE_BENEATH | safepath.RESOLVE_NO_MAGICLINKS
WAYS = {"openat2": safepath._openat2, "walk": safepath.walk}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A root with links of every kind, beside a secret; its path and descriptor."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file").write_text("file")
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_text("inner")
    links = {
        "abs": "/a/b",
        "up": "../../../../../etc/passwd",
        "a/rel": "../a/file",
        "dangling": "/nowhere/x",
        "loop": "loop",
        "out": "../secret",
        "hop": "abs/../rel",
        "outabs": str(tmp_path / "secret"),
    }
    for name, target in links.items():
        os.symlink(target, root / name)
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield str(root), fd
    os.close(fd)


def outcome(way: str, root_fd: int, path: str, flags: int, resolve: int) -> tuple[str, object]:
    """What opening leads to: the identity of what was opened, or the errno."""
    try:
        fd = WAYS[way](root_fd, path, flags | os.O_CLOEXEC, 0o600 if flags & os.O_CREAT else 0, resolve)
    except OSError as error:
        return "error", errno.errorcode[error.errno or 0]
    try:
        found = os.fstat(fd)
        return "opened", (found.st_ino, stat.S_IFMT(found.st_mode))
    finally:
        os.close(fd)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("a/file", "a/file"),
        ("/a/file", "a/file"),
        ("abs", "a/b"),
        ("abs/..", "a"),
        ("../../..", "."),
        ("/", "."),
        ("", "."),
        ("up", "etc/passwd"),
        ("a/rel", "a/file"),
        ("hop", "a/file"),
        ("a/./b/../file", "a/file"),
        ("a//file", "a/file"),
        ("a/", "a"),
    ],
)
def test_in_root_is_as_if_chrooted(way: str, tree: tuple[str, int], path: str, leads_to: str) -> None:
    """Absolute links and dot-dots stay inside: the same file that a chroot-ed process would get."""
    root, fd = tree
    wanted = os.stat(f"{root}/{leads_to}").st_ino
    assert outcome(way, fd, path, os.O_RDONLY, IN_ROOT)[1] == (
        wanted,
        stat.S_IFMT(os.stat(f"{root}/{leads_to}").st_mode),
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("path", "flags", "resolve", "code"),
    [
        ("out", os.O_RDONLY, IN_ROOT, "ENOENT"),
        ("outabs", os.O_RDONLY, IN_ROOT, "ENOENT"),
        ("dangling", os.O_RDONLY, IN_ROOT, "ENOENT"),
        ("loop", os.O_RDONLY, IN_ROOT, "ELOOP"),
        ("loop/x", os.O_RDONLY, IN_ROOT, "ELOOP"),
        ("abs", os.O_RDONLY | os.O_NOFOLLOW, IN_ROOT, "ELOOP"),
        ("a/file/x", os.O_RDONLY, IN_ROOT, "ENOTDIR"),
        ("a/file", os.O_RDONLY | os.O_DIRECTORY, IN_ROOT, "ENOTDIR"),
        ("out", os.O_RDONLY, BENEATH, "EXDEV"),
        ("up", os.O_RDONLY, BENEATH, "EXDEV"),
        ("..", os.O_RDONLY, BENEATH, "EXDEV"),
        ("a/../../x", os.O_RDONLY, BENEATH, "EXDEV"),
        ("/a/file", os.O_RDONLY, BENEATH, "EXDEV"),
        ("abs", os.O_RDONLY, BENEATH, "EXDEV"),
        ("a/rel", os.O_RDONLY, BENEATH | safepath.RESOLVE_NO_SYMLINKS, "ELOOP"),
        ("abs/..", os.O_RDONLY, BENEATH | safepath.RESOLVE_NO_SYMLINKS, "ELOOP"),
        ("a/file", os.O_WRONLY | os.O_CREAT | os.O_EXCL, IN_ROOT, "EEXIST"),
        ("abs", os.O_WRONLY | os.O_CREAT | os.O_EXCL, IN_ROOT, "EEXIST"),
    ],
)
def test_what_must_not_be_opened_is_an_error(
    way: str, tree: tuple[str, int], path: str, flags: int, resolve: int, code: str
) -> None:
    """Escapes, loops, wrong kinds: refused with the kernel's own errno, by both ways."""
    assert outcome(way, tree[1], path, flags, resolve) == ("error", code)


@pytest.mark.parametrize("way", WAYS)
def test_create_through_a_link_lands_inside(way: str, tree: tuple[str, int], tmp_path: Path) -> None:
    """O_CREAT follows the final symlink inside the root and makes the file there, never outside."""
    root, fd = tree
    os.symlink("/a/new", f"{root}/make")
    os.symlink("../../made", f"{root}/climb")
    for name in ("make", "climb"):
        os.close(WAYS[way](fd, name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640, IN_ROOT))
    assert stat.S_IMODE(os.stat(f"{root}/a/new").st_mode) == 0o640
    assert os.path.exists(f"{root}/made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("way", WAYS)
def test_a_link_can_be_held_itself(way: str, tree: tuple[str, int]) -> None:
    """O_PATH | O_NOFOLLOW gives the symlink; O_PATH alone what it means."""
    kinds = []
    for flags in (os.O_PATH | os.O_NOFOLLOW, os.O_PATH):
        fd = WAYS[way](tree[1], "abs", flags | os.O_CLOEXEC, 0, IN_ROOT)
        kinds.append(stat.S_IFMT(os.fstat(fd).st_mode))
        os.close(fd)
    assert kinds == [stat.S_IFLNK, stat.S_IFDIR]


@pytest.mark.parametrize("way", WAYS)
def test_magic_links_lead_nowhere(way: str) -> None:
    """/proc/<pid>/root, cwd and fd are not followed, though procfs' plain links are."""
    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        for path in ("self/root", "self/cwd/x", f"self/fd/{fd}", "thread-self/ns/mnt", "self/exe"):
            assert outcome(way, fd, path, os.O_RDONLY, IN_ROOT) == ("error", "ELOOP")
        assert outcome(way, fd, "self/status", os.O_RDONLY, IN_ROOT)[0] == "opened"
        assert outcome(way, fd, "mounts", os.O_RDONLY, IN_ROOT)[0] == "opened"
    finally:
        os.close(fd)


_PARTS = st.sampled_from(
    ["a", "b", "file", "rel", "abs", "up", "out", "hop", "dangling", "loop", "etc", "..", ".", "", "x"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(_PARTS, max_size=6),
    flags=st.sampled_from([os.O_RDONLY, os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_RDONLY | os.O_DIRECTORY]),
    resolve=st.sampled_from([IN_ROOT, BENEATH, BENEATH | safepath.RESOLVE_NO_SYMLINKS]),
)
def test_the_walk_is_openat2(tree: tuple[str, int], parts: list[str], flags: int, resolve: int) -> None:
    """On any path the walk opens what openat2 opens, and fails as it fails."""
    path = "/".join(parts) or "."
    assert outcome("walk", tree[1], path, flags, resolve) == outcome("openat2", tree[1], path, flags, resolve)


@pytest.mark.parametrize("way", WAYS)
def test_no_race_leads_outside(way: str, tree: tuple[str, int], tmp_path: Path) -> None:
    """While a directory is swapped for a symlink to the outside again and again, nothing outside is ever opened."""
    root, fd = tree
    secret = os.stat(tmp_path / "secret").st_ino
    (tmp_path / "root" / "d").mkdir()
    (tmp_path / "root" / "d" / "secret").write_text("harmless")
    os.symlink("../..", f"{root}/evil")
    stop = threading.Event()

    def swap() -> None:
        exchange = 2  # RENAME_EXCHANGE
        while not stop.is_set():
            syscalls.call("renameat2", -100, f"{root}/d".encode(), -100, f"{root}/evil".encode(), exchange)

    thread = threading.Thread(target=swap)
    thread.start()
    opened = 0
    try:
        for _ in range(1500):
            for path in ("d/secret", "d/../d/secret", "a/../d/secret"):
                result, value = outcome(way, fd, path, os.O_RDONLY, IN_ROOT)
                opened += result == "opened"
                assert not isinstance(value, tuple) or value[0] != secret
    finally:
        stop.set()
        thread.join()
    assert opened


def test_the_fallback_is_taken_where_openat2_is_missing(tree: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without openat2 is noticed once, and the walk answers from then on."""
    monkeypatch.setattr(safepath._Kernel, "has_openat2", False)
    monkeypatch.setattr(safepath, "_openat2", None)
    fd = safepath.open_in_root(tree[1], "hop", os.O_RDONLY)
    assert os.read(fd, 10) == b"file"
    os.close(fd)
    with pytest.raises(OSError, match="open up: Invalid cross-device link"):
        safepath.open_beneath(tree[1], "up", os.O_RDONLY)


def test_every_descriptor_closes_on_exec(tree: tuple[str, int]) -> None:
    """No opened descriptor is inherited by programs."""
    for fd in (
        safepath.open_in_root(tree[1], "a", os.O_RDONLY),
        safepath.open_no_links(tree[1], "a", os.O_PATH),
        safepath.mkdirs_in_root(tree[1], "a/c", 0o755),
    ):
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_a_nul_is_refused(tree: tuple[str, int]) -> None:
    """A path with a NUL is an error, not a shorter path."""
    with pytest.raises(OSError, match="NUL"):
        safepath.open_in_root(tree[1], "a\0b", os.O_RDONLY)


def test_mkdirs_makes_what_is_missing_inside(tree: tuple[str, int], tmp_path: Path) -> None:
    """Missing parents are made with exactly the mode and owner asked for; links resolve inside, dangling ones too."""
    root, fd = tree
    before = os.umask(0o077)
    try:
        made = safepath.mkdirs_in_root(fd, "abs/x/y", 0o1757, owner=(12, 34))
    finally:
        os.umask(before)
    assert safepath.path_of(made) == f"{root}/a/b/x/y"
    os.close(made)
    for path in ("a/b/x", "a/b/x/y"):
        found = os.stat(f"{root}/{path}")
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o1757, 12, 34)
    os.close(safepath.mkdirs_in_root(fd, "dangling/z"))
    assert os.path.isdir(f"{root}/nowhere/x/z")
    os.symlink("../../../oops", f"{root}/climb")
    os.close(safepath.mkdirs_in_root(fd, "climb/in"))
    assert os.path.isdir(f"{root}/oops/in")
    assert not (tmp_path / "oops").exists()


def test_mkdirs_leaves_what_is_there_as_it_is(tree: tuple[str, int]) -> None:
    """An existing directory keeps its mode; a file in the way is an error that names the path."""
    root, fd = tree
    os.chmod(f"{root}/a", 0o711)
    os.close(safepath.mkdirs_in_root(fd, "a", 0o777))
    assert stat.S_IMODE(os.stat(f"{root}/a").st_mode) == 0o711
    with pytest.raises(NotADirectoryError, match="a/file/x"):
        safepath.mkdirs_in_root(fd, "a/file/x")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("up", "etc/passwd"),
        ("dangling", "nowhere/x"),
        ("abs/new/../other", "a/b/other"),
        ("../../x/y", "x/y"),
        ("a/file", "a/file"),
        ("/", ""),
    ],
)
def test_resolve_names_the_place_inside(tree: tuple[str, int], path: str, wanted: str) -> None:
    """resolve_in_root gives the path inside that is meant, also where its end does not exist yet."""
    root, _ = tree
    assert safepath.resolve_in_root(root, path, missing_ok=True) == f"{root}/{wanted}".rstrip("/")


def test_resolve_needs_it_to_exist_unless_told(tree: tuple[str, int]) -> None:
    """Without missing_ok a missing target is FileNotFoundError, and an existing one the same place."""
    root, _ = tree
    assert safepath.resolve_in_root(root, "hop") == f"{root}/a/file"
    with pytest.raises(FileNotFoundError):
        safepath.resolve_in_root(root, "dangling")


def test_reopen_opens_the_very_thing(tree: tuple[str, int]) -> None:
    """A held file can be opened for reading though its name means something else by now."""
    root, fd = tree
    held = safepath.open_in_root(fd, "a/file", os.O_PATH)
    os.rename(f"{root}/a/file", f"{root}/a/moved")
    opened = safepath.reopen(held, os.O_RDONLY)
    assert os.read(opened, 10) == b"file"
    os.close(opened)
    os.close(held)


def test_a_few_paths_need_no_ctypes(tree: tuple[str, int]) -> None:
    """Where nobody has loaded ctypes, a few paths are walked, and links refused all the same; then openat2 is used."""
    program = (
        "import errno, os, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from orlop.linux import safepath\n"
        "root = os.open(sys.argv[1], os.O_PATH)\n"
        "def code(path):\n"
        "    try: os.close(safepath.open_no_links(root, path, os.O_PATH)); return 0\n"
        "    except OSError as error: return error.errno\n"
        "wanted = {'a/file': 0, 'abs': errno.ELOOP, 'a/rel': errno.ELOOP, 'none': errno.ENOENT, '../secret': errno.EXDEV}\n"
        "assert {path: code(path) for path in wanted} == wanted\n"
        "assert 'ctypes' not in sys.modules\n"
        "for _ in range(100): assert code('a/file') == 0\n"
        "assert 'ctypes' in sys.modules\n"
        "assert {path: code(path) for path in wanted} == wanted\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program, tree[0]], check=True)
