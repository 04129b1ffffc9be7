"""Mounts: real ones, each in a mount namespace of its own."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.linux import mountoptions, mounts, namespaces
from orlop.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.linux.conftest import InChild


def test_a_failed_mount_says_what_and_where(tmp_path: Path, in_child: InChild) -> None:
    """The error names the file system, the target and the reason."""

    def body() -> None:
        mounts.mount("overlay", f"{tmp_path}/none", "overlay", 0, "lowerdir=/nowhere:/nowhere2")

    with pytest.raises(FileNotFoundError, match=rf"mount overlay on {tmp_path}/none: No such file or directory"):
        in_child(body, flags=CLONE_NEWNS)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (mounts.MS_BIND, "bind mount /a on /nowhere"),
        (mounts.MS_BIND | mounts.MS_REMOUNT, "remount /nowhere"),
        (mounts.MS_PRIVATE | mounts.MS_REC, "make /nowhere private"),
        (mounts.MS_MOVE, "move mount /a to /nowhere"),
    ],
)
def test_each_kind_of_mount_fails_in_its_own_words(flags: int, text: str) -> None:
    """Bind, remount, propagation and move errors say which of them it was."""
    with pytest.raises(FileNotFoundError, match=text):
        mounts.mount("/a", "/nowhere", "", flags)


def test_bind_readonly_and_unmount(tmp_path: Path, in_child: InChild) -> None:
    """A bind mount shows its source, can be made read-only alone, and goes away."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    place = f"{tmp_path}/b"

    def body() -> list[object]:
        mounts.bind(f"{tmp_path}/a", place)
        seen: list[object] = [os.listdir(place), mounts.mounted_at(place)]
        mounts.remount_readonly(place)
        try:
            open(f"{place}/new", "w").close()
        except OSError as error:
            seen.append(error.errno)
        open(f"{tmp_path}/a/new", "w").close()
        mounts.unmount(place)
        return [*seen, os.listdir(place), mounts.mounted_at(place)]

    assert in_child(body, flags=CLONE_NEWNS) == [["file"], True, errno.EROFS, [], False]


def test_remount_keeps_the_flags_there_were(tmp_path: Path, in_child: InChild) -> None:
    """Making a nosuid, nodev mount read-only does not loosen it, with the old call as with the new one."""

    def body() -> list[set[str]]:
        found = []
        for name, old in (("a", False), ("b", True)):
            place = f"{tmp_path}/{name}"
            os.mkdir(place)
            mounts.mount("tmpfs", place, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV)
            if old:
                flags = mounts.locked_flags(place)
                mounts.mount("", place, "", mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY | flags)
            else:
                mounts.remount_readonly(place, recursive=True)
            found.append({*next(m for m in mounts.mountinfo() if m.target == place).options})
        return found

    for options in in_child(body, flags=CLONE_NEWNS):
        assert {"ro", "nosuid", "nodev", "relatime"} <= options


def test_pivot_root_into_a_new_tree(tmp_path: Path, in_child: InChild) -> None:
    """pivot_root(".", ".") and a lazy unmount leave nothing of the old root."""
    root = f"{tmp_path}/root"
    os.makedirs(f"{root}/only")

    def body() -> list[str]:
        mounts.bind(root, root)
        os.chdir(root)
        mounts.pivot_root(".", ".")
        mounts.unmount(".", mounts.MNT_DETACH)
        os.chdir("/")
        return os.listdir("/")

    assert in_child(body, flags=CLONE_NEWNS) == ["only"]


def test_detached_mounts(tmp_path: Path, in_child: InChild) -> None:
    """open_tree clones a mount that mount_setattr restricts and move_mount attaches; fsopen makes a new one."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "file").write_text("x")

    def body() -> list[object]:
        tree = mounts.open_tree(mounts.AT_FDCWD, f"{tmp_path}/a")
        mounts.mount_setattr(tree, "", attr_set=mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOEXEC)
        mounts.move_mount(tree, "", mounts.AT_FDCWD, f"{tmp_path}/b")
        context = mounts.fsopen("tmpfs")
        mounts.fsconfig(context, mounts.FSCONFIG_SET_STRING, "size", "4096")
        mounts.fsconfig(context, mounts.FSCONFIG_CMD_CREATE)
        fresh = mounts.fsmount(context, mounts.attributes_of(mounts.MS_NOSUID | mounts.MS_NODEV))
        mounts.move_mount(fresh, "", mounts.AT_FDCWD, f"{tmp_path}/a")
        table = {m.target: m for m in mounts.mountinfo()}
        new, old = table[f"{tmp_path}/a"], table[f"{tmp_path}/b"]
        return [os.listdir(f"{tmp_path}/b"), {"ro", "noexec"} <= {*old.options}, new.fstype, "nosuid" in new.options]

    assert in_child(body, flags=CLONE_NEWNS) == [["file"], True, "tmpfs", True]


def test_a_refused_option_is_explained_by_the_file_system(in_child: InChild) -> None:
    """Fsconfig's error carries the file system's own words."""

    def body() -> None:
        mounts.fsconfig(mounts.fsopen("tmpfs"), mounts.FSCONFIG_SET_STRING, "nonsense", "1")

    with pytest.raises(OSError, match=r"fsconfig nonsense: .*\(tmpfs: Unknown parameter 'nonsense'\)"):
        in_child(body)


# Overlays


def layers(base: str, count: int, prefix: str = "layer") -> list[str]:
    """That many lower directories, topmost first, each with a file of its own and one that all share."""
    made = []
    for number in range(count):
        path = f"{base}/{prefix}{number}"
        os.makedirs(path)
        for name in (f"own{number}", "shared"):
            with open(f"{path}/{name}", "w") as file:
                file.write(str(number))
        made.append(path)
    return made


def overlaid(lowers: list[str], base: str, options: tuple[str, ...] = (), flags: int = 0) -> tuple[int, str]:
    """Mount, and tell how many entries are seen and whose version of the shared file; a write must land in upper."""
    for name in ("upper", "work", "target"):
        os.makedirs(f"{base}/{name}")
    mounts.overlay(lowers, f"{base}/upper", f"{base}/work", f"{base}/target", options=options, flags=flags)
    with open(f"{base}/target/new", "w") as file:
        file.write("new")
    assert os.listdir(f"{base}/upper") == ["new"]
    with open(f"{base}/target/shared") as file:
        return len(os.listdir(f"{base}/target")), file.read()


@pytest.mark.parametrize("count", [1, 2, 127, 128, 300])
def test_an_overlay_of_many_layers(tmp_path: Path, in_child: InChild, count: int) -> None:
    """127 layers and more mount, the first one on top, whatever the length of their names."""
    lowers = layers(f"{tmp_path}", count, "a-rather-long-name-of-a-layer-so-that-they-do-not-fit-in-one-page-")
    options = ("index=off", "metacopy=off")
    assert in_child(lambda: overlaid(lowers, str(tmp_path), options), flags=CLONE_NEWNS) == (count + 2, "0")


@pytest.mark.parametrize("odd", ["a:b", "a,b", "a\\b", "a b", 'a"b', "a\\:b,c", "ä\n"])
def test_layers_may_have_any_name(tmp_path: Path, in_child: InChild, odd: str) -> None:
    """Colons, commas, backslashes, spaces and newlines in names are no syntax."""
    base = f"{tmp_path}/{odd}"
    os.mkdir(base)
    lowers = layers(base, 3)
    assert in_child(lambda: overlaid(lowers, base), flags=CLONE_NEWNS) == (5, "0")


def test_older_kernels_get_short_names(tmp_path: Path, in_child: InChild) -> None:
    """Where layers cannot be given as descriptors, /proc/self/fd names mount 127 of them all the same."""
    lowers = layers(f"{tmp_path}", 127, "b" * 60)
    os.mkdir(tmp_path / "target")

    def body() -> int:
        opened = mounts._open_layers(lowers, "", "")
        mounts._overlay_by_proc_names(opened, f"{tmp_path}/target", (), 0, "mount")
        return len(os.listdir(tmp_path / "target"))

    assert in_child(body, flags=CLONE_NEWNS) == 128


@pytest.mark.parametrize("count", [1, 2])
def test_without_an_upper_it_is_read_only(tmp_path: Path, in_child: InChild, count: int) -> None:
    """Lowers alone give a read-only view, also a single one, which overlay itself would refuse."""
    lowers = layers(str(tmp_path), count)
    os.mkdir(tmp_path / "target")

    def body() -> tuple[int, int]:
        mounts.overlay(lowers, "", "", f"{tmp_path}/target")
        with pytest.raises(OSError, match="Read-only") as caught:
            open(tmp_path / "target" / "x", "w").close()
        return len(os.listdir(tmp_path / "target")), caught.value.errno or 0

    assert in_child(body, flags=CLONE_NEWNS) == (count + 1, errno.EROFS)


def test_an_overlay_in_a_user_namespace(tmp_path: Path, in_child: InChild) -> None:
    """An unprivileged overlay works with userxattr, by text and by descriptor, and keeps its flags."""
    tmp_path.chmod(0o777)

    def body() -> list[object]:
        mounts.mount("tmpfs", str(tmp_path), "tmpfs")
        found: list[object] = []
        for number, count in enumerate((2, 130)):
            base = f"{tmp_path}/{number}"
            os.mkdir(base)
            lowers = layers(base, count, "long-enough-that-many-of-them-need-descriptors")
            found.append(overlaid(lowers, base, ("userxattr",), mounts.MS_NODEV))
            entry = next(m for m in mounts.mountinfo() if m.target == f"{base}/target")
            found.append(("userxattr" in entry.super_options, "nodev" in entry.options))
        return found

    found = in_child(body, flags=CLONE_NEWNS | CLONE_NEWUSER)
    assert found == [(4, "0"), (True, True), (132, "0"), (True, True)]


def test_volatile_is_passed_on(tmp_path: Path, in_child: InChild) -> None:
    """Options of overlay's own reach the file system both ways."""
    lowers = layers(str(tmp_path), 2)

    def body() -> bool:
        overlaid(lowers, str(tmp_path), ("volatile",))
        (entry,) = (m for m in mounts.mountinfo() if m.target == f"{tmp_path}/target")
        return bool({"volatile", "fsync=volatile"} & {*entry.super_options})  # newer kernels show the second

    assert in_child(body, flags=CLONE_NEWNS)


@pytest.mark.parametrize("prefix", ["plain", "o:dd"])
def test_a_bad_overlay_option_is_explained(tmp_path: Path, in_child: InChild, prefix: str) -> None:
    """A refused overlay says why in the file system's words, besides errno's, whichever way was taken."""
    lowers = layers(str(tmp_path), 2, prefix)
    with pytest.raises(OSError, match=r"mount overlay on .*/target: Invalid argument \(.*bogus.*\)"):
        in_child(lambda: overlaid(lowers, str(tmp_path), ("bogus=1",)), flags=CLONE_NEWNS)


@pytest.mark.parametrize("name", ["nowhere", "no:where"])
def test_a_missing_layer_is_an_error(tmp_path: Path, in_child: InChild, name: str) -> None:
    """A lower directory that is not there is FileNotFoundError, whichever way was taken."""
    (tmp_path / "target").mkdir()
    with pytest.raises(FileNotFoundError, match=r"mount overlay on .*/target: No such file"):
        in_child(
            lambda: mounts.overlay([f"{tmp_path}/{name}", str(tmp_path)], "", "", f"{tmp_path}/target"),
            flags=CLONE_NEWNS,
        )


# Options and the mount table


def test_options_are_sorted_out() -> None:
    """Flags, cleared flags, propagation, recursive attributes and data go where they belong; later ones win."""
    found = mountoptions.parse_options(
        ["ro", "nosuid", "rw", "rbind", "rslave", "rro", "rnoexec", "rexec", "size=5m", "mode=755", "noatime"]
    )
    assert found.flags == mounts.MS_NOSUID | mounts.MS_BIND | mounts.MS_REC | mounts.MS_NOATIME
    assert found.clear == mounts.MS_RDONLY
    assert found.propagation == (mounts.MS_SLAVE | mounts.MS_REC,)
    assert (found.attr_set, found.attr_clear) == (mounts.MOUNT_ATTR_RDONLY, mounts.MOUNT_ATTR_NOEXEC)
    assert found.data == "size=5m,mode=755"


@given(st.lists(st.sampled_from([*mountoptions.OPTIONS, *mountoptions.RECURSIVE, *mountoptions.PROPAGATION, "x=1"])))
def test_no_option_is_both_set_and_cleared(options: list[str]) -> None:
    """Whatever is listed, what is to be set and what is to be cleared never overlap."""
    found = mountoptions.parse_options(options)
    assert not found.flags & found.clear
    assert not found.attr_set & found.attr_clear & ~mounts.MOUNT_ATTR_ATIME
    assert len(found.propagation) == sum(option in mountoptions.PROPAGATION for option in options)


_PATH = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1).map(lambda t: "/" + t)


def escaped(text: str) -> str:
    """As the kernel's seq_path escapes names in mountinfo."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in text)


@given(root=_PATH, target=_PATH, source=_PATH, tags=st.lists(st.sampled_from(["shared:1", "master:2", "unbindable"])))
def test_mountinfo_round_trip(root: str, target: str, source: str, tags: list[str]) -> None:
    """Any names survive the kernel's escaping, with any number of optional fields."""
    tail = f"{' '.join(tags)} " if tags else ""
    head = f"36 35 98:0 {escaped(root)} {escaped(target)} rw,noatime {tail}"
    line = f"{head}- ext3 {escaped(source)} rw,errors=continue\n"
    if len(line.splitlines()) > 1:
        return  # a line separator that the kernel does not escape either
    (found,) = mounts.parse_mountinfo(line)
    assert (found.root, found.target, found.source, list(found.tags)) == (root, target, source, tags)
    assert (found.options, found.super_options) == (("rw", "noatime"), ("rw", "errors=continue"))


@given(st.text())
def test_mountinfo_never_raises(text: str) -> None:
    """Lines that are none are left out."""
    mounts.parse_mountinfo(text)


def test_our_own_mount_table() -> None:
    """The root and /proc are found where they are."""
    table = {entry.target: entry for entry in mounts.mountinfo()}
    assert table["/proc"].fstype == "proc"
    assert mounts.mounted_at("/proc")
    assert not mounts.mounted_at("/proc/self")
    assert namespaces.identity("/proc/self/ns/mnt") == namespaces.identity("/proc/thread-self/ns/mnt")
