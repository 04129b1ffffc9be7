"""An overlay's upper directory as a layer: real mounts, applied again, must show the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerkit import archive, folder, member, seen

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.layers import tar
from orlop.layers.apply import apply
from orlop.layers.compare import compare
from orlop.layers.diff import diff
from orlop.layers.tree import stack_tree
from orlop.linux import mounts
from orlop.linux.files import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orlop.layers.packing import Diffed

pytestmark = pytest.mark.root


class Stage:
    """A lower layer, an upper directory, and a place to mount them."""

    def __init__(self, base: str) -> None:
        self.lower, self.upper, self.work, self.merged = (f"{base}/{n}" for n in ("lower", "upper", "work", "merged"))
        self.base = base
        for path in (self.lower, self.upper, self.work, self.merged):
            os.makedirs(path)
            os.chmod(path, 0o755)

    def __enter__(self) -> str:
        options = ("index=off", "metacopy=off", "redirect_dir=off")
        mounts.overlay([self.lower], self.upper, self.work, self.merged, options=options)
        return self.merged

    def __exit__(self, *_: object) -> None:
        mounts.unmount(self.merged)

    def packed(self, *, lowers: bool = False) -> tuple[bytes, Diffed]:
        out = bytearray()
        made = diff(self.upper, out.extend, lowers=[self.lower] if lowers else ())
        assert made.diff_id == f"sha256:{hashlib.sha256(out).hexdigest()}"
        assert made.size == len(out)
        return bytes(out), made

    def replayed(self, packed: bytes) -> dict[str, tuple[object, ...]]:
        """What the lower layer with the packed one on top looks like, by a second mount."""
        again = Stage(f"{self.base}/again")
        shutil.rmtree(again.upper)
        os.makedirs(again.upper)
        apply([packed], again.upper, below=[self.lower])
        again.lower = self.lower
        with again as merged:
            return seen(merged)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A lower layer with a bit of everything, and nothing on top yet."""
    made = Stage(str(tmp_path / "stage"))
    apply(
        [
            archive(
                folder("etc", mtime=5),
                member("etc/hosts", b"localhost", mtime=6),
                member("etc/passwd", b"root", mode=0o600, mtime=7),
                folder("var"),
                folder("var/lib"),
                member("var/lib/a", b"a", pax={"SCHILY.xattr.user.k": "v"}),
                member("var/lib/b", b"b"),
                member("link", kind="symlink", link="etc"),
            )
        ],
        made.lower,
        below=(),
    )
    yield made
    remove_tree(str(tmp_path / "stage"))


def _names(packed: bytes) -> list[str]:
    return [entry.name for entry in tar.read([packed])]


def test_nothing_written_is_an_empty_layer(stage: Stage) -> None:
    """A container that wrote nothing makes an archive without entries, and all such are the same."""
    with stage as merged:
        os.listdir(merged)

    packed, made = stage.packed(lowers=True)

    assert packed == bytes(1024)
    assert made.entries == 0
    assert not made.explicit_root


def test_changes_survive_packing_and_applying(stage: Stage) -> None:
    """New, changed, removed, replaced, retyped: the layer on top of the lower one shows what the container saw."""
    with stage as merged:
        with open(f"{merged}/new", "wb") as file:
            file.write(b"new")
        with open(f"{merged}/etc/hosts", "ab") as file:
            file.write(b" more")
        os.unlink(f"{merged}/etc/passwd")
        shutil.rmtree(f"{merged}/var/lib")
        os.mkdir(f"{merged}/var/lib")
        os.symlink("../../etc", f"{merged}/var/lib/etc")
        os.unlink(f"{merged}/link")
        os.mkdir(f"{merged}/link")
        os.mkfifo(f"{merged}/link/fifo")
        os.mknod(f"{merged}/link/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.link(f"{merged}/new", f"{merged}/link/alias")
        os.setxattr(f"{merged}/new", "user.x", b"\0")
        os.chmod(f"{merged}/var", 0o1777)
        before = seen(merged)

    packed, _ = stage.packed(lowers=True)

    assert stage.replayed(packed) == before
    names = _names(packed)
    assert "etc/.wh.passwd" in names
    assert "var/lib/.wh..wh..opq" in names
    assert [name for name in names if name.startswith("./")] == []


def test_a_removed_and_new_file_leaves_no_whiteout(stage: Stage) -> None:
    """What is there again covers the lower one by itself."""
    with stage as merged:
        os.unlink(f"{merged}/etc/hosts")
        with open(f"{merged}/etc/hosts", "wb") as file:
            file.write(b"again")

    packed, _ = stage.packed()

    assert _names(packed) == ["etc", "etc/hosts"]


def test_copies_that_did_not_change_are_left_out(stage: Stage) -> None:
    """Opening for writing copies a file up; when nothing came of it, it is no change. A touch is one."""
    with stage as merged:
        os.close(os.open(f"{merged}/etc/hosts", os.O_RDWR))
        os.utime(f"{merged}/var/lib/a", ns=(1, 1))
    assert os.path.exists(f"{stage.upper}/etc/hosts")

    assert _names(stage.packed(lowers=True)[0]) == ["var", "var/lib", "var/lib/a"]
    assert "etc/hosts" in _names(stage.packed(lowers=False)[0])


def test_changed_content_with_the_old_time_is_a_change(stage: Stage) -> None:
    """Content is compared, not only size and time: nobody can hide a change by setting the clock back."""
    with stage as merged:
        with open(f"{merged}/etc/hosts", "r+b") as file:
            file.write(b"LOCALHOST")
        os.utime(f"{merged}/etc/hosts", (6, 6))

    assert _names(stage.packed(lowers=True)[0]) == ["etc", "etc/hosts"]


def test_the_root_itself_is_packed_only_when_it_changed(stage: Stage) -> None:
    """Its mode and owner count, its time does not."""
    with stage as merged:
        os.utime(merged, (1, 1))
    assert not stage.packed(lowers=True)[1].explicit_root
    with stage as merged:
        os.chmod(merged, 0o750)

    packed, made = stage.packed(lowers=True)

    assert made.explicit_root
    assert _names(packed) == ["."]


def test_the_same_changes_make_the_same_layer(stage: Stage) -> None:
    """Order of creation, inode numbers and overlay's own attributes leave no trace."""
    names = [f"f{number}" for number in range(40)]
    made = []
    for order in (names, list(reversed(names))):
        with stage as merged:
            os.mkdir(f"{merged}/etc/d")
            for name in order:
                with open(f"{merged}/etc/d/{name}", "wb") as file:
                    file.write(name.encode())
                os.utime(f"{merged}/etc/d/{name}", ns=(1, 1_700_000_000_123_456_789))
            os.utime(f"{merged}/etc/d", (5, 5))
            os.utime(f"{merged}/etc", (5, 5))
        packed, _ = stage.packed()
        made.append(packed)
        entries = list(tar.read([packed]))
        assert entries[-1].mtime == 1_700_000_000_123_456_789
        assert {entry.uname + entry.gname for entry in entries} == {""}
        assert not any(entry.xattrs for entry in entries)
        remove_tree(stage.upper)
        remove_tree(stage.work)
        os.makedirs(stage.upper)
        os.makedirs(stage.work)
    assert made[0] == made[1]


def test_sockets_are_left_out(stage: Stage) -> None:
    """No archive can hold a socket; its directory is still packed."""
    with stage as merged:
        os.mkdir(f"{merged}/run")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{merged}/run/s")

    assert _names(stage.packed()[0]) == ["run"]


def test_names_that_mean_deletion_are_refused(stage: Stage) -> None:
    """A real file named .wh.x would delete x in the image: an error says so instead."""
    with stage as merged, open(f"{merged}/etc/.wh.hosts", "wb"):
        pass

    with pytest.raises(InvalidArgument, match=r"etc/.wh.hosts"):
        stage.packed()


def test_an_upper_that_leans_on_its_lower_is_refused(stage: Stage) -> None:
    """Redirects of somebody else's overlay would be lost."""
    os.mkdir(f"{stage.upper}/moved")
    os.setxattr(f"{stage.upper}/moved", "trusted.overlay.redirect", b"/etc")

    with pytest.raises(FailedPrecondition, match="moved"):
        stage.packed()


def test_depth_costs_nothing(stage: Stage) -> None:
    """A tree deeper than Python's stack and the descriptor limit is packed."""
    path = "/".join(["d"] * 900)
    with stage as merged:
        os.makedirs(f"{merged}/{path}", exist_ok=True)

    packed, made = stage.packed()

    assert made.entries == 900
    assert _names(packed)[-1] == path


_actions = st.lists(
    st.tuples(
        st.sampled_from(["write", "mkdir", "remove", "symlink", "rename", "link", "chmod", "touch"]),
        st.sampled_from(["etc", "etc/hosts", "etc/passwd", "var", "var/lib", "var/lib/a", "x", "x/y", "etc/x", "link"]),
        st.sampled_from(["etc/hosts", "var/lib", "x", "y", "x/y", "etc/z"]),
    ),
    max_size=12,
)


def _do(root: str, what: str, one: str, other: str) -> None:
    path, second = f"{root}/{one}", f"{root}/{other}"
    try:
        match what:
            case "write":
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644), "wb") as file:
                    file.write(other.encode())
            case "mkdir":
                os.mkdir(path)
            case "remove":
                remove_tree(path)
            case "symlink":
                os.symlink(other, path)
            case "rename":
                os.rename(path, second)
            case "link":
                os.link(path, second, follow_symlinks=False)
            case "chmod":
                os.chmod(os.path.realpath(path) if not os.path.islink(path) else root, 0o751)
            case _:
                os.utime(path, (9, 9), follow_symlinks=False)
    except OSError:
        return


@given(actions=_actions)
def test_any_changes_survive(actions: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever a container does, both diffs (overlay's, and by comparing) say it: replayed, the trees are the same."""
    base = str(tmp_path_factory.mktemp("any"))
    stage = Stage(f"{base}/stage")
    content = [folder("etc"), member("etc/hosts", b"h"), member("etc/passwd", b"p"), folder("var"), folder("var/lib")]
    content += [member("var/lib/a", b"a"), member("link", kind="symlink", link="etc")]
    apply([archive(*content)], stage.lower, below=())
    plain = f"{base}/plain"
    os.mkdir(plain)
    os.chmod(plain, 0o755)
    stack_tree(stage.lower, plain)
    with stage as merged:
        for action in actions:
            _do(merged, *action)
            _do(plain, *action)
        before = seen(merged)
    copied = seen(plain)
    out = bytearray()
    compare(plain, out.extend, lowers=[stage.lower])
    try:
        assert stage.replayed(stage.packed(lowers=True)[0]) == before
        remove_tree(f"{base}/stage/again")
        assert stage.replayed(bytes(out)) == copied
    finally:
        remove_tree(base)
