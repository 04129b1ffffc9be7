"""The merged view of a stack of layers, read without a mount, is what overlayfs shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orlop.layers import merged
from orlop.linux import mounts


@pytest.fixture
def stack(tmp_path: Path) -> list[str]:
    """Three trees, uppermost first, with every way to hide and to point."""
    low, mid, top = (tmp_path / name for name in ("low", "mid", "top"))
    for tree in (low, mid, top):
        (tree / "etc").mkdir(parents=True)
    (low / "etc/passwd").write_text("low")
    (low / "etc/group").write_text("group")
    (low / "etc/hidden").write_text("hidden")
    (low / "opaque").mkdir()
    (low / "opaque/file").write_text("below")
    (low / "gone").mkdir()
    (low / "gone/file").write_text("gone")
    (low / "swapped").mkdir()
    (low / "swapped/file").write_text("swapped")
    (low / "real").mkdir()
    (low / "real/file").write_text("real")
    (mid / "etc/passwd").write_text("mid")
    os.mknod(mid / "etc/hidden", 0o020000, 0)
    os.mknod(mid / "gone", 0o020000, 0)
    (mid / "opaque").mkdir()
    os.setxattr(mid / "opaque", "trusted.overlay.opaque", b"y")
    (mid / "swapped").symlink_to("/real")
    (top / "etc/link").symlink_to("../etc/./group")
    (top / "etc/absolute").symlink_to("/etc/passwd")
    (top / "etc/outside").symlink_to("../../../../etc/passwd")
    (top / "etc/loop").symlink_to("loop")
    (top / "here").symlink_to("real")
    return [str(top), str(mid), str(low)]


NAMES = [
    "etc/passwd",
    "etc/group",
    "etc/hidden",
    "opaque/file",
    "gone/file",
    "swapped/file",
    "etc/link",
    "etc/absolute",
    "etc/outside",
    "etc/loop",
    "here/file",
    "etc",
    "missing/file",
    "etc/passwd/x",
    "real/../etc/group",
]


@pytest.mark.parametrize("name", NAMES)
def test_same_as_overlayfs(stack: list[str], tmp_path: Path, name: str) -> None:
    """Each name reads as a chroot-ed process would read it from the mounted overlay."""
    upper, work, target = (tmp_path / part for part in ("upper", "work", "merged"))
    for folder in (upper, work, target):
        folder.mkdir()
    mounts.overlay(stack, str(upper), str(work), str(target))
    try:
        from orlop.linux import safepath

        root = os.open(target, os.O_PATH)
        try:
            fd = safepath.open_in_root(root, name, os.O_RDONLY)
            try:
                expected: bytes | None = os.read(fd, 100)
            except IsADirectoryError:
                expected = None
            finally:
                os.close(fd)
        except OSError:
            expected = None
        finally:
            os.close(root)
    finally:
        mounts.unmount(str(target))

    assert merged.read(stack, name) == expected


def test_limit(stack: list[str]) -> None:
    """No more than `limit` bytes are read, whatever the image holds."""
    assert merged.read(stack, "etc/group", limit=2) == b"gr"
