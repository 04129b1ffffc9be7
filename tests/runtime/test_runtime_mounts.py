"""The file system of a container: what is mounted where, with which options, and that the host never sees it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from patience import descriptors

from orlop.errors import FailedPrecondition, InvalidArgument, OrlopError
from orlop.linux import mounts
from orlop.runtime import lifecycle, overlays, sources
from orlop.runtime.request import RootMount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orlop.runtime.testing import Box


def _table(text: str) -> dict[str, mounts.MountInfo]:
    return {entry.target: entry for entry in mounts.parse_mountinfo(text)}


def test_the_default_mounts(box: Box) -> None:
    """proc, /dev with its nodes and links, devpts, mqueue, shm, sysfs and cgroups are there, with docker's options."""
    out = box.sh("cat /proc/self/mountinfo; echo ---; cd /dev; for d in *; do stat -c '%n %F %t:%T %a' $d; done")
    table, _, devices = out.out.partition("---\n")
    found = _table(table)

    assert {target: found[target].fstype for target in ("/proc", "/dev", "/dev/pts", "/sys", "/dev/mqueue")} == {
        "/proc": "proc",
        "/dev": "tmpfs",
        "/dev/pts": "devpts",
        "/sys": "sysfs",
        "/dev/mqueue": "mqueue",
    }
    assert {"nosuid", "nodev", "noexec"} <= set(found["/proc"].options)
    assert "ro" in found["/sys"].options
    assert "ro" in found["/sys/fs/cgroup"].options
    for line in (
        "null character special file 1:3 666",
        "zero character special file 1:5 666",
        "full character special file 1:7 666",
        "tty character special file 5:0 666",
        "random character special file 1:8 666",
        "urandom character special file 1:9 666",
    ):
        assert line in devices
    for name in ("fd", "stdin", "stdout", "stderr", "ptmx"):
        assert f"{name} symbolic link" in devices


def test_only_the_containers_cgroup_is_seen(box: Box) -> None:
    """In its own cgroup namespace the container's group is the root of what is mounted."""
    out = box.sh("cat /proc/self/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs | wc -l; ls /sys/fs/cgroup/pids")
    lines = out.out.splitlines()
    assert all(line.rpartition(":")[2] == "/" for line in lines if line[:1].isdigit() and line.count(":") == 2)
    assert "orlop" not in lines


def test_without_a_cgroup_namespace_the_group_is_bound(box: Box) -> None:
    """Sharing the host's cgroup namespace, the container still sees only its own groups, mounted in their place."""
    box.without("cgroup")
    out = box.sh("grep memory /proc/self/cgroup; cd /sys/fs/cgroup; ls . memory; wc -l < memory/cgroup.procs")
    assert "/orlop/box" in out.out
    assert "memory.limit_in_bytes" in out.out
    assert "orlop\n" not in out.out.partition("\n")[2]
    assert "hugetlb" not in out.out  # it has no group there, and the host's is not for it


def test_masked_paths_are_empty_and_readonly_paths_refuse(box: Box) -> None:
    """Masked files read as nothing, masked folders are empty, read-only paths refuse writes; missing ones are fine."""
    box.linux["maskedPaths"] = ["/proc/kcore", "/proc/keys", "/sys/firmware", "/secret", "/secrets", "/not/there"]
    box.linux["readonlyPaths"] = ["/proc/sys", "/guarded", "/not/there"]
    (box.rootfs / "secret").write_text("password")
    (box.rootfs / "secrets").mkdir()
    (box.rootfs / "secrets/key").write_text("password")
    (box.rootfs / "guarded").mkdir()
    script = """
    exec 2>/dev/null
    wc -c < /proc/keys; ls /sys/firmware | wc -l; wc -c < /secret; ls /secrets | wc -l
    echo x > /secrets/new || echo refused; echo x > /guarded/new || echo refused
    echo 1 > /proc/sys/kernel/printk || echo refused; echo written > /tmp/ok && cat /tmp/ok
    """
    assert box.sh(script).out.split() == [
        "0",
        "0",
        "0",
        "0",
        "refused",
        "refused",
        "refused",
        "written",
    ]


def test_a_readonly_root(box: Box) -> None:
    """root.readonly holds for the root alone: mounts keep their own flags, and the host's tree stays writable."""
    box.spec["root"]["readonly"] = True
    box.spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    result = box.sh("touch /x || echo refused; touch /tmp/x /dev/shm/x && echo fine")
    assert "refused" in result.out
    assert "fine" in result.out
    (box.rootfs / "host").touch()


@pytest.fixture
def shared(box: Box) -> Path:
    folder = box.folder / "shared"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    return folder


def test_bind_mounts(box: Box, shared: Path) -> None:
    """Folders and files are bound, also on places that do not exist yet; what is written arrives."""
    box.bind(shared, "/deep/er/place")
    box.bind(shared / "file", "/etc/one", "bind", "ro")
    result = box.sh(
        "cat /deep/er/place/file /etc/one; echo new > /deep/er/place/new; echo x > /etc/one || echo refused"
    )
    assert result.out.count("content") == 2
    assert "refused" in result.out
    assert (shared / "new").read_text() == "new\n"


@pytest.mark.parametrize(
    ("options", "wanted", "unwanted"),
    [
        (["bind", "ro"], {"ro"}, {"rw"}),
        (["bind", "nosuid", "nodev", "noexec"], {"nosuid", "nodev", "noexec", "rw"}, set()),
        (["bind", "noatime"], {"noatime"}, {"relatime"}),
        (["bind", "strictatime"], set(), {"relatime", "noatime"}),
        (["bind", "nodiratime"], {"nodiratime", "relatime"}, set()),
        (["bind", "nosymfollow"], {"nosymfollow"}, set()),
        (["bind", "ro", "rw"], {"rw"}, {"ro"}),
    ],
)
def test_bind_options(box: Box, shared: Path, options: list[str], wanted: set[str], unwanted: set[str]) -> None:
    """A bind mount has the options that were asked for, the later ones winning."""
    box.bind(shared, "/there", *options)
    found = set(_table(box.sh("cat /proc/self/mountinfo").out)["/there"].options)
    assert wanted <= found
    assert not unwanted & found


@pytest.fixture
def nested(shared: Path) -> Iterator[Path]:
    """A folder with a mount below it, in a mount namespace that only this process' children share."""
    inner = shared / "inner"
    inner.mkdir()
    mounts.mount("tmpfs", str(inner), "tmpfs")
    yield shared
    mounts.unmount(str(inner), mounts.MNT_DETACH)


def test_recursion(box: Box, nested: Path) -> None:
    """Rbind brings the mounts below along, bind does not; ro is for the top, rro for all."""
    box.bind(nested, "/flat", "bind", "ro")
    box.bind(nested, "/deep", "rbind", "ro")
    box.bind(nested, "/all", "rbind", "rro")
    found = _table(box.sh("cat /proc/self/mountinfo").out)
    assert "/flat/inner" not in found
    assert "ro" in found["/deep"].options
    assert "rw" in found["/deep/inner"].options
    assert "ro" in found["/all/inner"].options


@pytest.mark.parametrize(
    ("word", "shared_tag", "master_tag"),
    [("rprivate", False, False), ("rslave", False, True), ("rshared", True, True), ("", False, True)],
)
def test_propagation(box: Box, word: str, shared_tag: bool, master_tag: bool) -> None:
    """A bind mount propagates as asked; by default the host's mounts come in and nothing goes out."""
    place = box.folder / "shared-mount"
    place.mkdir()
    mounts.mount("tmpfs", str(place), "tmpfs")
    try:
        mounts.mount("", str(place), "", mounts.MS_SHARED)
        box.bind(place, "/there", "rbind", *([word] if word else []))
        tags = _table(box.sh("cat /proc/self/mountinfo").out)["/there"].tags
    finally:
        mounts.unmount(str(place), mounts.MNT_DETACH)
    assert any(tag.startswith("shared:") for tag in tags) == shared_tag
    assert any(tag.startswith("master:") for tag in tags) == master_tag


def test_mounts_inside_reach_the_host_only_when_shared(box: Box) -> None:
    """With rootfsPropagation and a bind mount both shared, a mount made inside appears outside too."""
    place = box.folder / "shared-mount"
    place.mkdir()
    mounts.mount("tmpfs", str(place), "tmpfs")
    try:
        mounts.mount("", str(place), "", mounts.MS_SHARED)
        (place / "in").mkdir()
        box.bind(place, "/there", "rbind", "rshared")
        for kind in box.process["capabilities"]:
            box.process["capabilities"][kind] = ["CAP_SYS_ADMIN"]
        box.linux["rootfsPropagation"] = "rshared"
        assert box.sh("mount -t tmpfs x /there/in").code == 0
        assert any(entry.target == f"{place}/in" for entry in mounts.mountinfo())
        mounts.unmount(f"{place}/in")
        box.linux["rootfsPropagation"] = ""
        assert box.sh("mount -t tmpfs x /there/in").code == 0
        assert not any(entry.target == f"{place}/in" for entry in mounts.mountinfo())
    finally:
        mounts.unmount(str(place), mounts.MNT_DETACH)


@pytest.mark.parametrize(
    ("word", "tag"), [("rprivate", ""), ("rslave", ""), ("rshared", "shared:"), ("runbindable", "unbindable")]
)
def test_the_roots_propagation(box: Box, word: str, tag: str) -> None:
    """RootfsPropagation is the root mount's own propagation."""
    box.linux["rootfsPropagation"] = word
    tags = _table(box.sh("cat /proc/self/mountinfo").out)["/"].tags
    assert any(found.startswith(tag) for found in tags) if tag else not tags or tags[0].startswith("master:")


def test_tmpfs(box: Box) -> None:
    """A tmpfs has its size, mode and flags; a read-only one can still have mounts below it; tmpcopyup keeps content."""
    (box.rootfs / "data").mkdir(mode=0o751)
    (box.rootfs / "data/sub").mkdir()
    (box.rootfs / "data/sub/file").write_text("kept")
    (box.rootfs / "data/link").symlink_to("sub/file")
    os.chown(box.rootfs / "data/sub/file", 7, 8)
    box.spec["mounts"] += [
        {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]},
        {"destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=700", "ro"]},
        {"destination": "/small/below", "type": "tmpfs", "source": "tmpfs"},
    ]
    result = box.sh(
        "cat /data/link; stat -c '%u:%g' /data/sub/file; stat -c %a /data; stat -c %a /small;"
        " touch /small/x || echo refused; touch /small/below/x && echo fine; df -k /small | tail -1 | awk '{print $2}'"
    )
    assert result.out.replace("touch: /small/x: Read-only file system\n", "").split() == [
        "kept7:8",
        "751",
        "700",
        "refused",
        "fine",
        "1024",
    ]


def test_folders_on_files_are_explained(box: Box, shared: Path) -> None:
    """Mounting a folder on a file, or a file on a folder, says which is which."""
    box.bind(shared, "/etc/passwd")
    with pytest.raises(OrlopError):
        box.create("/bin/true")
    box.spec["mounts"].pop()
    box.bind(shared / "file", "/etc")
    with pytest.raises(FailedPrecondition, match="is a file"):
        box.create("/bin/true")
    box.spec["mounts"].pop()
    box.bind(shared, "/")
    with pytest.raises(InvalidArgument):
        box.create("/bin/true")


def test_relative_sources_are_the_bundles(box: Box) -> None:
    """A relative source counts from the bundle."""
    (box.bundle / "near").mkdir()
    (box.bundle / "near/by").write_text("here")
    box.bind("near", "/near")
    assert box.sh("cat /near/by").out == "here"


def test_devices(box: Box) -> None:
    """Devices of the spec are made with their numbers, modes and owners, also outside of /dev."""
    box.linux["devices"] = [
        {"path": "/dev/own/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/pipe", "type": "p", "fileMode": 0o600},
        {"path": "/dev/loopy", "type": "b", "major": 7, "minor": 99},
    ]
    out = box.sh("stat -c '%F %t:%T %a %u:%g' /dev/own/full /pipe /dev/loopy; echo x > /dev/own/full").out
    assert out.splitlines()[:3] == [
        "character special file 1:7 640 3:4",
        "fifo 0:0 600 0:0",
        "block special file 7:63 666 0:0",
    ]
    assert "No space" in out


def test_devices_need_numbers(box: Box) -> None:
    """A device without its numbers is refused."""
    box.linux["devices"] = [{"path": "/dev/x", "type": "c"}]
    with pytest.raises(InvalidArgument, match="/dev/x"):
        box.create("/bin/true")


def test_device_cgroup(box: Box) -> None:
    """A device that was not allowed can be made but not opened."""
    out = box.sh("mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg; mknod /tmp/null c 1 3 && cat /tmp/null && echo fine").out
    assert "Operation not permitted" in out
    assert "fine" in out


def test_a_dev_from_the_host_is_left_alone(box: Box) -> None:
    """With the host's /dev bound in, nothing is made in it."""
    folder = box.folder / "dev"
    folder.mkdir()
    (folder / "null").touch()
    box.spec["mounts"] = [entry for entry in box.spec["mounts"] if not entry["destination"].startswith("/dev")]
    box.bind(folder, "/dev")
    assert box.sh("ls /dev").out == "null\n"
    assert [entry.name for entry in folder.iterdir()] == ["null"]


@pytest.mark.parametrize("pivot", [True, False])
def test_the_host_is_out_of_sight(box: Box, pivot: bool) -> None:
    """Inside, the root is the image's, ".." of it is itself, and no mount of the host is in the table."""
    out = box.sh("ls -di / /..; cat /proc/self/mountinfo", pivot=pivot).out
    lines = out.splitlines()
    assert lines[0].split()[0] == lines[1].split()[0]
    if pivot:
        found = mounts.parse_mountinfo("\n".join(lines[2:]))
        assert found
        assert not [entry for entry in found if entry.target.startswith(str(box.folder))]


# overlays


def _layers(folder: Path, count: int) -> list[str]:
    found = []
    for number in range(count):
        layer = folder / f"layer{number}"
        layer.mkdir()
        (layer / f"from{number}").write_text(str(number))
        found.append(str(layer))
    return found


def _mounted_for(box: Box) -> list[str]:
    """What the host has mounted of a box; others may mount elsewhere at any time."""
    return [
        entry.target
        for entry in mounts.mountinfo()
        if str(box.folder) in entry.target or any(str(box.folder) in option for option in entry.super_options)
    ]


def _root(box: Box, lowers: list[str], name: str = "") -> RootMount:
    upper, work = box.folder / f"upper{name}", box.folder / f"work{name}"
    upper.mkdir()
    work.mkdir()
    return RootMount(fstype="overlay", lowers=(*lowers, str(box.rootfs)), upper=str(upper), work=str(work))


def test_an_overlay_is_the_containers_alone(box: Box) -> None:
    """The root can be an overlay that is mounted in the container only: the host's table never has it."""
    root = _root(box, _layers(box.folder, 3))
    result = box.sh("cat /from0 /from1 /from2; echo new > /made; rm /etc/passwd", root=root)

    assert result.out == "012"
    assert (box.folder / "upper/made").read_text() == "new\n"
    assert (box.rootfs / "etc/passwd").exists()
    assert _mounted_for(box) == []


def test_a_hundred_and_more_layers_mount(box: Box) -> None:
    """127 layers, docker's limit, are no problem, also with long and strange names."""
    folder = box.folder / ("long" * 40)
    folder.mkdir()
    strange = box.folder / "a:b,c\\d"
    strange.mkdir()
    (strange / "strange").write_text("strange")
    root = _root(box, [*_layers(folder, 126), str(strange)])
    assert box.sh("cat /from0 /from125 /strange", root=root).out == "0125strange"


def test_readonly_overlays(box: Box) -> None:
    """Without an upper folder the root is read-only, with one layer (a bind mount) as with many."""
    one = RootMount(fstype="overlay", lowers=(str(box.rootfs),))
    two = RootMount(fstype="overlay", lowers=(*_layers(box.folder, 1), str(box.rootfs)))
    for root in (one, two):
        assert "Read-only" in box.sh("touch /x", root=root).out


def test_other_roots(box: Box) -> None:
    """A root can be bound from elsewhere, or be a file system of its own."""
    other = box.folder / "other"
    shutil.copytree(box.rootfs, other, symlinks=True)
    (other / "mark").write_text("other")
    assert box.sh("cat /mark", root=RootMount(fstype="bind", source=str(other))).out == "other"
    result = box.sh("cat /mark; touch /x", root=RootMount(fstype="bind", source=str(other), options=("ro",)))
    assert result.out.startswith("other")
    assert "Read-only" in result.out


def test_overlays_of_older_kernels(box: Box) -> None:
    """The way for kernels without fsconfig's lowerdir+ makes the same mount, and leaves our namespace as it was."""
    root = _root(box, _layers(box.folder, 2))
    here = os.getcwd()
    fd = overlays._by_namespace(root, [], 0)
    try:
        assert sorted(name for name in os.listdir(f"/proc/self/fd/{fd}") if name.startswith("from")) == [
            "from0",
            "from1",
        ]
    finally:
        os.close(fd)
    assert _mounted_for(box) == []
    assert os.getcwd() == here


def test_an_impossible_overlay_is_explained(box: Box) -> None:
    """A missing layer is named."""
    with pytest.raises(OrlopError):
        box.create("/bin/true", root=_root(box, ["/not/there"]))


def test_idmapped_binds(box: Box, shared: Path) -> None:
    """An id-mapped bind mount shows other owners; the disk keeps its own."""
    os.chown(shared / "file", 1000, 1000)
    maps = [{"containerID": 0, "hostID": 0, "size": 1000}, {"containerID": 1000, "hostID": 5000, "size": 1}]
    box.spec["mounts"].append(
        {
            "destination": "/mapped",
            "type": "bind",
            "source": str(shared),
            "options": ["bind", "idmap"],
            "uidMappings": maps,
            "gidMappings": maps,
        }
    )
    assert box.sh("stat -c %u:%g /mapped/file").out == "5000:5000\n"
    assert (shared / "file").stat().st_uid == 1000


def test_sources_are_closed_after_an_error(box: Box, shared: Path) -> None:
    """When one source cannot be opened, those opened before it are closed again."""
    box.bind(shared, "/a")
    box.bind("/not/there", "/b")
    before = descriptors()
    with pytest.raises(OrlopError):
        sources.prepare(box.spec, str(box.bundle))
    assert descriptors() <= before


def test_nothing_is_left_open(box: Box, shared: Path) -> None:
    """Making, entering and removing containers leaves no descriptor behind in the maker."""
    box.bind(shared, "/a")

    def life() -> None:
        created = box.running("/bin/sleep", "100")
        box.execute(created, "/bin/true")
        box.kill(created)

    life()
    before = descriptors()
    life()
    assert descriptors() <= before


def test_no_mount_namespace(box: Box) -> None:
    """Without a mount namespace all is mounted where we are, as the specification has it, and goes with the container."""
    box.without("mount")
    with pytest.raises(InvalidArgument, match="mount namespace"):
        box.create("/bin/true")
    box.linux["maskedPaths"], box.linux["readonlyPaths"] = [], []
    created = box.running("/bin/sleep", "100")
    assert os.readlink(f"/proc/{created.container.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert mounts.mounted_at(str(box.rootfs / "proc"))
    assert box.execute(created, "/bin/cat", "/etc/passwd").out == (box.rootfs / "etc/passwd").read_text()
    box.kill(created)
    lifecycle.delete(created.container.id, state_root=box.state_root)
    assert not mounts.mounted_at(str(box.rootfs / "proc"))
    box.spec["mounts"].append({"destination": "/x", "type": "nosuchfs", "source": "x"})
    with pytest.raises(OrlopError):
        box.create("/bin/true")
    assert not mounts.mounted_at(str(box.rootfs))


def test_the_table_has_the_specs_order(box: Box, shared: Path) -> None:
    """The mount table inside lists the mounts in the order of the spec, bind mounts among the others."""
    box.bind(shared, "/first")
    box.spec["mounts"].append({"destination": "/second", "type": "tmpfs", "source": "tmpfs"})
    box.bind(shared, "/third", "bind", "ro")
    targets = list(_table(box.sh("cat /proc/self/mountinfo").out))
    wanted = [entry["destination"] for entry in box.spec["mounts"]]
    assert [target for target in targets if target in wanted] == wanted
