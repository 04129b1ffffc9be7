"""Unpacking one layer: everything a file can carry arrives, whiteouts mean what the specification says."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerkit import archive, cut, folder, member, seen

from orlop.errors import DataLoss, InvalidArgument, ResourceExhausted
from orlop.layers import tar, whiteouts
from orlop.layers.apply import Applied, Limits, apply
from orlop.linux.files import remove_tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.fixture
def target(tmp_path: Path) -> str:
    """An empty directory for a layer."""
    made = tmp_path / "layer"
    made.mkdir()
    return str(made)


def _apply(target: str, *members: tuple[tarfile.TarInfo, bytes], below: Sequence[str] | None = ()) -> Applied:
    return apply(cut(archive(*members), 900), target, below=below)


def _is_whiteout(path: str) -> bool:
    return whiteouts.is_device(os.lstat(path))


def test_what_gnu_tar_extracts_is_what_we_extract(tmp_path: Path, target: str) -> None:
    """A tree with everything in it (owners, set-ID bits, links, devices, holes, attributes) comes out as it went in."""
    source = tmp_path / "source"
    source.mkdir()
    os.chmod(source, 0o2750)
    inner = source / "folder"
    inner.mkdir(mode=0o700)
    os.chmod(inner, 0o3775)
    (inner / "file").write_bytes(b"content")
    os.chown(inner / "file", 1234, 4321)
    os.chmod(inner / "file", 0o6755)
    os.setxattr(inner / "file", "user.note", b"\0\xff")
    os.setxattr(inner / "file", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.setxattr(inner, "trusted.note", b"t")
    os.link(inner / "file", source / "alias")
    os.symlink("folder/../folder/file", source / "link")
    os.chown(source / "link", 7, 8, follow_symlinks=False)
    os.mkfifo(source / "fifo", 0o622)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(source / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    with open(source / "sparse", "wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    with open(os.fsencode(source) + b"/odd\xff\n", "wb"):
        pass
    for path in [*source.rglob("*"), source]:
        os.utime(path, ns=(1, 1_500_000_000_123_456_789), follow_symlinks=False)
    how = ["tar", "--xattrs", "--xattrs-include=*", "--format=pax", "--sparse"]
    packed = subprocess.run([*how, "-cf", "-", "."], cwd=source, check=True, capture_output=True).stdout

    applied = apply(cut(packed, 10_000), target, below=())

    assert seen(target) == seen(str(source))
    assert os.stat(target).st_mode == os.stat(source).st_mode
    assert os.stat(target).st_mtime_ns == 1_500_000_000_123_456_789
    assert os.stat(f"{target}/sparse").st_blocks * 512 < 1_000_000
    assert applied.diff_id == f"sha256:{hashlib.sha256(packed).hexdigest()}"
    assert applied.tar_size == len(packed)
    assert applied.explicit_root
    assert not applied.needs_below
    assert not applied.warnings


@given(
    files=st.dictionaries(
        st.from_regex(r"[ab](/[ab]){0,3}", fullmatch=True),
        st.tuples(st.sampled_from(["file", "dir", "symlink", "fifo"]), st.binary(max_size=9), st.integers(0, 0o7777)),
        max_size=12,
    ),
    order=st.randoms(use_true_random=False),
)
def test_any_order_ends_as_gnu_tar_ends(
    files: dict[str, tuple[str, bytes, int]], order: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Directories replaced by files and back, children before parents: the last entry of a name wins, as with GNU tar.

    Only archives without entries below a symlink or file are compared: there tar refuses or follows.
    """
    names = sorted(files)
    members = []
    for name in names:
        kind, data, mode = files[name]
        above = [other for other in names if name.startswith(f"{other}/")]
        if any(files[other][0] != "dir" for other in above):
            continue
        members.append(
            member(
                name, data if kind == "file" else b"", kind=kind, mode=mode, link="target" if kind == "symlink" else ""
            )
        )
    order.shuffle(members)  # type: ignore[attr-defined]  # a random.Random
    base = tmp_path_factory.mktemp("order")
    ours, theirs = str(base / "ours"), str(base / "theirs")
    os.mkdir(ours)
    os.mkdir(theirs)
    packed = archive(*members)
    subprocess.run(["tar", "-xf", "-", "--delay-directory-restore"], cwd=theirs, input=packed, check=True)

    apply([packed], ours, below=())

    explicit = {info.name for info, _ in members}
    mine, other = seen(ours), seen(theirs)
    assert mine.keys() == other.keys()
    for name in explicit:
        assert mine[name] == other[name]
    remove_tree(str(base))


def test_the_last_entry_of_a_name_wins(target: str) -> None:
    """File over directory over symlink over file; a hard link made earlier keeps the earlier content."""
    _apply(
        target,
        member("x", b"first"),
        member("alias", kind="link", link="x"),
        member("x", kind="symlink", link="nowhere"),
        folder("x"),
        member("x/inner", b"gone"),
        member("x", b"last"),
    )

    with open(f"{target}/x", "rb") as file:
        assert file.read() == b"last"
    with open(f"{target}/alias", "rb") as file:
        assert file.read() == b"first"


def test_a_directory_named_twice_keeps_its_content(target: str) -> None:
    """The second entry only changes the metadata."""
    _apply(target, folder("d", 0o700), member("d/f", b"x"), folder("d", 0o751, uid=5, mtime=77))

    assert os.listdir(f"{target}/d") == ["f"]
    info = os.stat(f"{target}/d")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_mtime) == (0o751, 5, 77)


def test_directories_keep_the_time_of_their_entry(target: str) -> None:
    """What is put into a directory later does not change its time, nor a set-group-ID bit the files' group."""
    _apply(target, folder("d", 0o2755, gid=50, mtime=1000), folder("d/e", mtime=2000), member("d/e/f"), member("d/g"))

    assert os.stat(f"{target}/d").st_mtime == 1000
    assert os.stat(f"{target}/d/e").st_mtime == 2000
    assert os.stat(f"{target}/d").st_mode & 0o7777 == 0o2755
    assert os.stat(f"{target}/d/g").st_gid == 0
    assert os.stat(f"{target}/d/e").st_gid == 0


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_the_umask_does_not_matter(target: str, mask: int) -> None:
    """Modes are those of the archive, whatever mask the caller has; and the mask is not touched."""
    before = os.umask(mask)
    try:
        _apply(target, folder("d", 0o777), member("d/f", mode=0o666), member("p", kind="fifo", mode=0o622))
        assert os.umask(mask) == mask
    finally:
        os.umask(before)

    assert os.stat(f"{target}/d").st_mode & 0o7777 == 0o777
    assert os.stat(f"{target}/d/f").st_mode & 0o7777 == 0o666
    assert os.stat(f"{target}/p").st_mode & 0o7777 == 0o622


def test_what_the_target_inherited_does_not_spread(tmp_path: Path) -> None:
    """A store below a set-group-ID directory with a default ACL unpacks the same."""
    os.chmod(tmp_path, 0o2755)
    os.chown(tmp_path, 0, 77)
    acl = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000700ffffffff".replace(" ", ""))
    os.setxattr(tmp_path, "system.posix_acl_default", acl)
    target = tmp_path / "layer"
    target.mkdir()

    apply([archive(folder("d", 0o755), member("d/f", mode=0o644))], str(target), below=())

    found = os.stat(target / "d" / "f")
    assert (found.st_gid, found.st_mode & 0o7777) == (0, 0o644)
    assert not os.listxattr(target / "d")


# Whiteouts: image-spec, layer.md.


def test_whiteouts_become_devices(target: str) -> None:
    """`.wh.name` is a 0/0 character device, also where no directory entry came before."""
    _apply(target, member(".wh.gone"), folder("d"), member("d/.wh.also gone"), member("new/.wh.x"))

    assert _is_whiteout(f"{target}/gone")
    assert _is_whiteout(f"{target}/d/also gone")
    assert _is_whiteout(f"{target}/new/x")


@pytest.mark.parametrize("early", [True, False])
def test_opaque_markers_become_xattrs(target: str, early: bool) -> None:
    """`.wh..wh..opq` marks its directory, wherever it comes, and leaves what this layer has in it."""
    marker = member("d/.wh..wh..opq")
    content = member("d/f", b"mine")
    _apply(target, folder("d"), *((marker, content) if early else (content, marker)))

    assert os.getxattr(f"{target}/d", "trusted.overlay.opaque") == b"y"
    assert os.listdir(f"{target}/d") == ["f"]


@pytest.mark.parametrize("early", [True, False])
def test_a_whiteout_beside_what_it_names_hides_only_lower_layers(target: str, early: bool) -> None:
    """Whiteouts apply to lower layers only: what the same layer brings stays; a directory then starts afresh."""
    gone = [member(".wh.f"), member(".wh.d")]
    there = [member("f", b"mine"), folder("d"), member("d/x")]
    _apply(target, *(gone + there if early else there + gone))

    with open(f"{target}/f", "rb") as file:
        assert file.read() == b"mine"
    assert os.listdir(f"{target}/d") == ["x"]
    assert os.getxattr(f"{target}/d", "trusted.overlay.opaque") == b"y"


def test_a_child_of_a_removed_directory_starts_it_afresh(target: str) -> None:
    """A whiteout, then an entry below it without a directory entry: the directory is opaque."""
    applied = _apply(target, member(".wh.d"), member("d/x"))

    assert os.getxattr(f"{target}/d", "trusted.overlay.opaque") == b"y"
    assert not applied.needs_below


def test_userxattr_marks_for_rootless_mounts(target: str) -> None:
    """Where overlay is mounted with userxattr the mark is in user.*."""
    apply([archive(folder("d"), member("d/.wh..wh..opq"))], target, below=(), userxattr=True)

    assert os.getxattr(f"{target}/d", "user.overlay.opaque") == b"y"


def test_records_of_aufs_are_not_files(target: str) -> None:
    """`.wh..wh.plnk` and friends are passed over."""
    _apply(target, member(".wh..wh.aufs"), folder(".wh..wh.plnk"), member("f"))

    assert os.listdir(target) == ["f"]


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh."])
def test_whiteouts_must_name_something(target: str, name: str) -> None:
    """A whiteout of nothing, or of a directory itself, is refused."""
    with pytest.raises(InvalidArgument, match="whiteout"):
        _apply(target, member(name))


def test_overlays_own_attributes_are_not_taken_in(target: str) -> None:
    """An archive cannot give overlayfs instructions: no redirects, no opaque marks, no metadata-only copies."""
    _apply(
        target,
        folder("d", pax={"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.redirect": "/etc"}),
        member("f", b"x", pax={"SCHILY.xattr.trusted.overlay.metacopy": "", "SCHILY.xattr.user.fine": "1"}),
    )

    assert os.listxattr(f"{target}/d") == []
    assert os.listxattr(f"{target}/f") == ["user.fine"]


# --- leaning on lower layers


@pytest.fixture
def lower(tmp_path: Path) -> str:
    """An unpacked layer to stand on."""
    made = str(tmp_path / "lower")
    os.mkdir(made)
    _apply(
        made,
        folder("usr", 0o711, uid=3, mtime=99),
        folder("usr/lib", 0o750, gid=9),
        member("usr/lib/old", b"old content", mode=0o4711, uid=6, pax={"SCHILY.xattr.user.k": "v"}),
        member("lib", kind="symlink", link="/usr/lib"),
        member("dev", kind="char", device=(5, 1)),
    )
    return made


def test_a_missing_parent_is_told(target: str) -> None:
    """Not knowing what is below, a directory without an entry is made, and said to need the lower layers."""
    assert _apply(target, member("usr/x"), below=None).needs_below


def test_standing_on_its_own_needs_nothing(target: str) -> None:
    """Directories with entries, in any order of them, need no lower layer; nor does the lowest one."""
    assert not _apply(target, folder("usr"), member("usr/x"), below=None).needs_below


def test_missing_parents_look_like_those_below(target: str, lower: str) -> None:
    """Mode, owner, time and attributes come from the lower directory."""
    applied = _apply(target, member("usr/lib/new", b"new"), below=[lower])

    info = os.stat(f"{target}/usr")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_mtime) == (0o711, 3, 99)
    assert os.stat(f"{target}/usr/lib").st_gid == 9
    assert not applied.needs_below


def test_parents_that_are_symlinks_below_are_followed(target: str, lower: str) -> None:
    """`lib/new` where the lower layers have lib -> /usr/lib goes to usr/lib, as it would in a container."""
    _apply(target, member("lib/new", b"new"), below=[lower])

    assert os.listdir(target) == ["usr"]
    assert os.listdir(f"{target}/usr/lib") == ["new"]


def test_hard_links_into_lower_layers_copy_the_file_up(target: str, lower: str) -> None:
    """Both names are in this layer then, with everything that the lower file carries."""
    entries = [folder("usr"), folder("usr/lib"), member("alias", kind="link", link="lib/old")]
    assert _apply(target, *entries, below=None).needs_below
    remove_tree(target)
    os.mkdir(target)

    applied = _apply(target, *entries, below=[lower])

    info = os.stat(f"{target}/alias")
    assert info.st_ino == os.stat(f"{target}/usr/lib/old").st_ino
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_nlink) == (0o4711, 6, 2)
    assert os.getxattr(f"{target}/alias", "user.k") == b"v"
    with open(f"{target}/alias", "rb") as file:
        assert file.read() == b"old content"
    assert not applied.needs_below


def test_hard_links_to_devices_below(target: str, lower: str) -> None:
    """A device is copied up as a device."""
    _apply(target, member("tty", kind="link", link="dev"), below=[lower])

    assert os.stat(f"{target}/tty").st_rdev == os.makedev(5, 1)


def test_symlinks_of_the_same_layer_are_followed_inside_it(target: str) -> None:
    """A parent that is a symlink, relative, absolute or in a directory's place, leads where it would in a root."""
    _apply(
        target,
        folder("c"),
        folder("d"),
        member("d/abs", kind="symlink", link="/c"),
        member("d/abs/one"),
        member("d/up", kind="symlink", link="../../../c"),
        member("d/up/two"),
        folder("a"),
        member("a/old"),
        member("a", kind="symlink", link="c"),
        member("a/three"),
        member("four", kind="link", link="a/three"),
        member("a/.wh.five"),
    )

    assert sorted(os.listdir(f"{target}/c")) == ["five", "one", "three", "two"]
    assert _is_whiteout(f"{target}/c/five")
    assert os.stat(f"{target}/c/three").st_nlink == 2
    assert os.readlink(f"{target}/a") == "c"
    assert sorted(os.listdir(target)) == ["a", "c", "d", "four"]


@pytest.mark.parametrize("below", [True, False])
def test_hard_links_to_nothing_are_data_loss(target: str, lower: str, below: bool) -> None:
    """When all layers are known, a link's target must be in one of them."""
    with pytest.raises(DataLoss, match="missing"):
        _apply(target, member("alias", kind="link", link="usr/missing"), below=[lower] if below else [])


def test_hard_links_cannot_reach_what_the_layer_removes(target: str, lower: str) -> None:
    """Nor can they make a second whiteout."""
    with pytest.raises(InvalidArgument, match="removes"):
        _apply(
            target,
            folder("usr"),
            folder("usr/lib"),
            member("usr/lib/.wh.old"),
            member("a", kind="link", link="usr/lib/old"),
            below=[lower],
        )


def test_a_link_to_itself_is_nothing(target: str) -> None:
    """Some tools write them."""
    _apply(target, member("f", b"x"), member("./f", kind="link", link="f"))

    with open(f"{target}/f", "rb") as file:
        assert file.read() == b"x"


# --- bounds and bookkeeping


def test_counts_are_right(target: str) -> None:
    """Bytes in files, bytes of the archive, entries, and whether the root was spoken of."""
    packed = archive(folder("d"), member("d/f", b"12345"), member("d/g", b"678"))
    applied = apply([packed], target, below=())

    assert (applied.size, applied.tar_size, applied.entries) == (8, len(packed), 3)
    assert not applied.explicit_root
    assert os.getxattr(target, "user.orlop.root") == b"implicit"


def test_an_empty_layer_is_fine(target: str) -> None:
    """Layers that only carry metadata hold an archive without entries."""
    applied = apply([bytes(1024)], target, below=None)

    assert applied.entries == 0
    assert os.listdir(target) == []
    assert not applied.needs_below


@pytest.mark.parametrize(
    "limits",
    [Limits(max_bytes=4000), Limits(max_entries=2), Limits(max_bytes=10_000)],
    ids=["bytes", "entries", "file"],
)
def test_limits_are_kept(target: str, limits: Limits) -> None:
    """More bytes, more entries or a larger (sparse) file than allowed end the unpacking."""
    members = [member("a", b"x" * 3000), member("b"), member("c")]
    members.append(member("s", b"", pax={"GNU.sparse.map": "", "GNU.sparse.size": "9999999999"}))

    with pytest.raises(ResourceExhausted):
        _ = apply(cut(archive(*members), 512), target, below=(), limits=limits)


def test_a_failing_source_is_passed_on(target: str) -> None:
    """An error of the stream reaches the caller as it is; no thread is left."""

    def broken() -> object:
        yield archive(folder("d"))[:512]
        raise ConnectionError("cut")

    with pytest.raises(ConnectionError, match="cut"):
        apply(broken(), target, below=())  # type: ignore[arg-type]  # an iterator


def test_errors_name_the_entry(target: str) -> None:
    """What the kernel refuses is said with the entry's name."""
    with pytest.raises(InvalidArgument, match="nnnn"):
        _apply(target, member("n" * 300))


def test_tar_constants_are_what_users_see() -> None:
    """Kinds are plain words, which other rooms compare with."""
    assert (tar.FILE, tar.HARDLINK, tar.SYMLINK, tar.DIRECTORY) == ("file", "link", "symlink", "dir")
