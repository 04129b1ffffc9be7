"""Containers without a mount namespace, mounted where we are: nothing of theirs stays there, nothing else is taken."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from orlop.errors import OrlopError
from orlop.linux import mounts
from orlop.runtime import lifecycle
from orlop.runtime.testing import until

if TYPE_CHECKING:
    from orlop.runtime.testing import Box


@pytest.fixture
def bare(box: Box) -> Box:
    """A bundle without a mount namespace."""
    box.without("mount")
    box.linux["maskedPaths"], box.linux["readonlyPaths"] = [], []
    return box


def _mounted(box: Box) -> list[mounts.MountInfo]:
    return [entry for entry in mounts.mountinfo() if entry.target.startswith(str(box.rootfs))]


def _left_by_a_killed_maker(box: Box) -> str:
    """The name of a container whose maker was killed -9 when all was mounted, and whose first process is gone."""
    name = box.new_id()
    box.spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"]}]}
    maker = os.fork()
    if maker == 0:
        try:
            box.create("true", name=name)
        finally:
            os._exit(1)
    assert os.waitpid(maker, 0)[1] == 9
    assert _mounted(box)
    box.spec["hooks"] = {}
    return name


def test_delete_takes_down_what_a_killed_maker_mounted(bare: Box) -> None:
    """A maker that is killed -9 leaves mounts where we are: `delete` knows of them."""
    name = _left_by_a_killed_maker(bare)
    lifecycle.delete(name, state_root=bare.state_root, force=True)
    assert not _mounted(bare)


def test_the_next_of_the_name_takes_it_down(bare: Box) -> None:
    """Whoever makes a container of the same name does so as well, so that nothing is left when that one is deleted."""
    name = _left_by_a_killed_maker(bare)

    def made() -> bool:
        try:
            bare.create("true", name=name)
        except OrlopError:
            return False  # the first process of the other is not gone yet
        return True

    until(made)
    lifecycle.delete(name, state_root=bare.state_root, force=True)
    assert not _mounted(bare)


def test_what_others_mounted_is_let_be(bare: Box) -> None:
    """Who has unmounted the root himself can delete the container, and what is mounted there by then stays."""
    created = bare.create("true")
    mounts.unmount(str(bare.rootfs), mounts.MNT_DETACH)
    mounts.mount("another's", str(bare.rootfs), "tmpfs")
    try:
        lifecycle.delete(created.container.id, state_root=bare.state_root, force=True)
        assert [entry.source for entry in _mounted(bare)] == ["another's"]
    finally:
        mounts.unmount(str(bare.rootfs), mounts.MNT_DETACH)
