"""Hostile layers: whatever an archive says, nothing outside its own directory is read, made, changed or removed."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import DataLoss, InvalidArgument, OrlopError, ResourceExhausted
from orlop.layers import tar
from orlop.layers.apply import Limits, apply
from orlop.layers.tree import copy_tree, stack_tree
from orlop.linux.files import lgetxattrs, remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Prey:
    """A directory to unpack into, beside things that must not change."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.target = f"{base}/target"
        self.outside = f"{base}/outside"
        os.makedirs(f"{self.outside}/folder")
        os.mkdir(self.target)
        with open(f"{self.outside}/secret", "wb") as file:
            file.write(b"secret")
        with open(f"{self.outside}/folder/file", "wb") as file:
            file.write(b"file")
        self.before = self.state()

    def state(self) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = [(sorted(os.listdir(self.base)),)]
        for where, folders, files in os.walk(self.outside):
            for name in sorted([*folders, *files, "."]):
                path = os.path.join(where, name)
                info = os.lstat(path)
                content = b""
                if stat.S_ISREG(info.st_mode):
                    with open(path, "rb") as file:
                        content = file.read()
                facts = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_nlink, info.st_ctime_ns)
                found.append((path, *facts, content, tuple(lgetxattrs(path).items())))
        return sorted(found, key=repr)

    def unharmed(self) -> bool:
        """Whether nothing outside was touched, nor linked to."""
        return self.state() == self.before


@pytest.fixture
def prey(tmp_path: Path) -> Iterator[Prey]:
    """Something to attack."""
    made = Prey(str(tmp_path / "prey"))
    yield made
    remove_tree(str(tmp_path / "prey"))


def _packed(entries: Sequence[tar.Entry]) -> bytes:
    out = bytearray()
    writer = tar.Writer(out.extend)
    for entry in entries:
        data = b"pwned" if entry.kind == tar.FILE else b""
        entry.size = len(data)
        writer.add(entry, [data] if data else [])
    writer.close()
    return bytes(out)


def _link(name: str, to: str) -> tar.Entry:
    return tar.Entry(name, tar.SYMLINK, link=to, mode=0o777)


def _hard(name: str, to: str) -> tar.Entry:
    return tar.Entry(name, tar.HARDLINK, link=to)


def _dir(name: str, mode: int = 0o755) -> tar.Entry:
    return tar.Entry(name, tar.DIRECTORY, mode=mode)


def _file(name: str) -> tar.Entry:
    return tar.Entry(name)


_DEEP = "../" * 40

ATTACKS = {
    "climbing name": [_file("../outside/new")],
    "climbing inside": [_dir("a"), _file("a/../../outside/new")],
    "many climbs": [_file(f"{_DEEP}tmp/orlop-was-here")],
    "absolute name": [_file("{outside}/new")],
    "absolute directory": [_dir("{outside}", 0o777)],
    "symlink then file below": [_link("a", "{outside}"), _file("a/new")],
    "symlink then the same name": [_link("a", "{outside}/secret"), _file("a")],
    "symlink then directory of its name": [_link("a", "{outside}"), _dir("a", 0o777), _file("a/new")],
    "relative symlink up": [_link("a", "../outside"), _file("a/new"), _file("a/secret")],
    "symlink chain": [_link("a", "b"), _link("b", "c"), _link("c", "{outside}"), _file("a/folder/new")],
    "symlink through dots": [_dir("x"), _link("x/a", f"{_DEEP}{{outside}}"), _file("x/a/secret")],
    "directory swapped for symlink": [_dir("a"), _file("a/f"), _link("a", "{outside}"), _file("a/secret")],
    "nested directory swapped": [
        _dir("a"),
        _dir("a/b"),
        _file("a/b/f"),
        _link("a", "{outside}"),
        _file("a/folder/file"),
    ],
    "directory metadata through a late symlink": [_dir("folder", 0o700), _link("folder", "{outside}/folder")],
    "directory in a swapped parent": [_dir("a"), _dir("a/folder", 0o777), _link("a", "{outside}")],
    "hard link up": [_hard("a", "../outside/secret"), _file("a")],
    "hard link absolute": [_hard("a", "{outside}/secret")],
    "hard link through a symlink": [_link("d", "{outside}"), _hard("a", "d/secret"), _file("a")],
    "hard link to a symlink, then write": [_link("s", "{outside}/secret"), _hard("a", "s"), _file("a")],
    "hard link made inside a symlink": [_file("f"), _link("d", "{outside}"), _hard("d/new", "f")],
    "whiteout through a symlink": [_link("a", "{outside}"), _file("a/.wh.secret")],
    "whiteout up": [_file("../outside/.wh.secret")],
    "whiteout of dots": [_file(".wh...")],
    "whiteout of a climbing name": [_dir("a"), _file("a/.wh.../x")],
    "opaque through a symlink": [_link("a", "{outside}/folder"), _file("a/.wh..wh..opq")],
    "opaque up": [_file("../outside/folder/.wh..wh..opq")],
    "device through a symlink": [_link("a", "{outside}"), tar.Entry("a/null", tar.CHAR, major=1, minor=3)],
    "fifo through a symlink": [_link("a", "{outside}"), tar.Entry("a/pipe", tar.FIFO)],
    "symlink through a symlink": [_link("a", "{outside}"), _link("a/new", "x")],
    "symlink loop": [_link("a", "b"), _link("b", "a"), _file("a/f")],
    "symlink to itself": [_link("a", "a"), _file("a/f")],
    "magic link": [_link("a", "/proc/self/cwd"), _file("a/orlop-was-here")],
    "fd link": [_link("a", "/proc/self/fd/0"), _file("a/f")],
    "set-ID bits through a symlink": [_link("a", "{outside}/secret"), tar.Entry("a", tar.FIFO, mode=0o6777)],
    "file below a file": [_file("a"), _file("a/b")],
    "root as a symlink": [_link("./", "{outside}"), _file("new")],
    "root as a file": [_file("./")],
    "root as a whiteout": [_file(".wh.")],
    "hard link to the root": [_hard("a", "./")],
    "hard link to a directory": [_dir("d"), _hard("a", "d")],
    "hard link over its own directory": [_dir("d"), _file("d/f"), _hard("d", "d/f")],
}


def _aimed(entries: Sequence[tar.Entry], prey: Prey) -> list[tar.Entry]:
    return [
        tar.Entry(
            entry.name.replace("{outside}", prey.outside),
            entry.kind,
            mode=entry.mode,
            uid=1,
            gid=1,
            mtime=1,
            link=entry.link.replace("{outside}", prey.outside),
            major=entry.major,
            minor=entry.minor,
            xattrs={"user.pwned": b"1", "trusted.pwned": b"1"},
        )
        for entry in entries
    ]


@pytest.mark.parametrize("attack", sorted(ATTACKS))
@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "on a copy of itself"])
def test_nothing_outside_is_touched(prey: Prey, attack: str, stacked: bool) -> None:
    """Each attack ends in a plain error or inside the target, also with a hostile layer below."""
    data = _packed(_aimed(ATTACKS[attack], prey))
    below: list[str] = []
    if stacked:
        low = f"{prey.target}/low"
        os.mkdir(low)
        with contextlib.suppress(OrlopError):
            apply([data], low, below=())
        below = [low]
    target = f"{prey.target}/top"
    os.mkdir(target)
    with contextlib.suppress(OrlopError):
        apply([data], target, below=below)
    remove_tree(f"{prey.target}/low")
    remove_tree(target)

    assert prey.unharmed()
    assert not os.path.lexists("/tmp/orlop-was-here")
    assert not os.path.lexists("orlop-was-here")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "..", "/..", "a//../x", "./../x"])
def test_climbing_names_are_refused(prey: Prey, name: str) -> None:
    """A ".." in a name is never meant well."""
    with pytest.raises(InvalidArgument, match="climbs"):
        apply([_packed([_file(name)])], prey.target, below=())


@pytest.mark.parametrize("key", ["path", "linkpath", "GNU.sparse.name"])
def test_names_with_nuls_are_refused(prey: Prey, key: str) -> None:
    """A NUL could make two readers see two different names."""
    from orlop.layers.tarformat import pax_record

    body = pax_record(key, b"a\0b") + (pax_record("GNU.sparse.map", b"0,0") + pax_record("GNU.sparse.size", b"0"))
    outer = bytearray(tar.header(tar.Entry("pax", size=len(body))))
    outer[156:157] = b"x"
    outer[148:156] = b" " * 8
    outer[148:156] = b"%06o\0 " % sum(outer)
    data = bytes(outer) + body.ljust(512, b"\0") + tar.header(tar.Entry("f" if key != "linkpath" else "l"))

    with pytest.raises((DataLoss, InvalidArgument), match="NUL"):
        apply([data + bytes(1024)], prey.target, below=())


_names = st.sampled_from(
    ["a", "b", "a/b", "a/a", "b/a", "a/b/c", "./a", "../outside", "a/../b", ".wh.a", "a/.wh..wh..opq", "a/.wh.b"]
)
_targets = st.sampled_from(
    [
        "a",
        "b",
        "a/b",
        "../outside",
        "../outside/folder",
        "/",
        "{outside}",
        "..",
        ".",
        "{outside}/secret",
        "a/../../outside",
    ]
)
_entries = st.lists(
    st.builds(
        lambda name, kind, link, mode: tar.Entry(name, kind, link=link, mode=mode),
        _names,
        st.sampled_from([tar.FILE, tar.DIRECTORY, tar.SYMLINK, tar.HARDLINK, tar.FIFO, tar.CHAR]),
        _targets,
        st.sampled_from([0o644, 0o777, 0o6755]),
    ),
    max_size=10,
)


@given(entries=_entries, lower=_entries)
def test_no_sequence_of_entries_escapes(
    entries: list[tar.Entry], lower: list[tar.Entry], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any entries in any order, with any below: outside stays as it is, also when the trees are copied on."""
    prey = Prey(str(tmp_path_factory.mktemp("prey") / "prey"))
    top, low, copy = (f"{prey.target}/{name}" for name in ("top", "low", "copy"))
    for path in (top, low, copy):
        os.mkdir(path)
    for members, target, below in ((lower, low, []), (entries, top, [low])):
        try:
            apply([_packed(_aimed(members, prey))], target, below=below)
        except OrlopError:
            continue
    for tree in (low, top):
        try:
            stack_tree(tree, copy)
        except OrlopError:
            continue
    for path in (top, low, copy):
        remove_tree(path)

    assert prey.unharmed()
    remove_tree(prey.base)


def test_a_copy_does_not_follow_what_the_target_has(prey: Prey) -> None:
    """COPY over a tree full of symlinks to the outside writes none of them."""
    source = f"{prey.target}/source"
    os.makedirs(f"{source}/folder")
    for name in ("secret", "folder/file", "new"):
        with open(f"{source}/{name}", "wb") as file:
            file.write(b"pwned")
    target = f"{prey.target}/into"
    os.mkdir(target)
    os.symlink(f"{prey.outside}/folder", f"{target}/folder")
    os.symlink(f"{prey.outside}/secret", f"{target}/secret")
    os.symlink(f"{prey.outside}/new", f"{target}/new")

    copy_tree(source, target)

    assert prey.unharmed()


def test_deep_trees_do_not_exhaust_us(prey: Prey) -> None:
    """Paths of a thousand directories need neither stack nor descriptors; deeper and longer ones are refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = "/".join(["d"] * 1000)
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 90, hard))
    try:
        apply([_packed([_file(f"{path}/f"), _hard("alias", f"{path}/f")])], prey.target, below=())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.stat(f"{prey.target}/alias").st_nlink == 2

    for long in ("/".join(["d"] * 1100), "x/" + "y" * 5000):
        with pytest.raises((ResourceExhausted, InvalidArgument)):
            apply([_packed([_file(long)])], prey.target, below=())


def test_swapping_a_large_directory_again_and_again_stays_cheap(prey: Prey) -> None:
    """Replacing things costs what is replaced, not what is there: entries cannot make us walk everything each time."""
    entries = [_dir("many"), *(_dir(f"many/{number}") for number in range(2000))]
    for _ in range(2000):
        entries += [_dir("x"), _file("x")]

    applied = apply([_packed(entries)], prey.target, below=())

    assert applied.entries == 6001
    assert stat.S_ISREG(os.lstat(f"{prey.target}/x").st_mode)


def test_a_sparse_monster_takes_no_space(prey: Prey) -> None:
    """A header that claims an exabyte is refused; a gigabyte of hole is a hole."""
    from orlop.layers.tarformat import pax_record

    def sparse(size: int) -> bytes:
        body = pax_record("GNU.sparse.map", b"") + pax_record("GNU.sparse.size", b"%d" % size)
        outer = bytearray(tar.header(tar.Entry("pax", size=len(body))))
        outer[156:157] = b"x"
        outer[148:156] = b" " * 8
        outer[148:156] = b"%06o\0 " % sum(outer)
        return bytes(outer) + body.ljust(512, b"\0") + tar.header(tar.Entry("hole")) + bytes(1024)

    with pytest.raises(ResourceExhausted):
        apply([sparse(1 << 60)], prey.target, below=())
    applied = apply([sparse(1 << 30)], prey.target, below=(), limits=Limits(max_bytes=2 << 30))

    assert applied.size == 1 << 30
    assert os.stat(f"{prey.target}/hole").st_blocks == 0
