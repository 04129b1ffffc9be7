"""What the tests of the kernel room share: running code in a child that may be sacrificed to namespaces and filters."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from orlop.linux import mounts, process
from orlop.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER, write_id_maps

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class InChild(Protocol):
        """See the fixture `in_child`."""

        def __call__(self, body: Callable[[], Any], *, flags: int = ...) -> Any: ...


@pytest.fixture
def in_child() -> InChild:
    """Run `body` in a forked child (in new namespaces: `flags`), and return what it returns or raise what it raises.

    With CLONE_NEWUSER ids are mapped to themselves. With CLONE_NEWNS the child's mounts are private to it: they are
    gone when it ends.
    """

    def run(body: Callable[[], Any], *, flags: int = 0) -> Any:
        reader, writer = os.pipe()
        mapped, mapping = os.pipe()
        pid = process.fork_into(flags)
        if pid == 0:
            os.close(mapping)
            os.read(mapped, 1)
            _report(writer, body, flags)
        if flags & CLONE_NEWUSER:
            write_id_maps(pid, [(0, 0, 1 << 16)], [(0, 0, 1 << 16)])
        os.close(mapping)
        os.close(mapped)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            data = file.read()
        _, status = os.waitpid(pid, 0)
        if not data:
            pytest.fail(f"the child ended with wait status {status} and said nothing")
        kind, value = pickle.loads(data)
        if kind == "raised":
            raise value
        return value

    return run


def _report(writer: int, body: Callable[[], Any], flags: int) -> None:
    """Never returns: whatever happens, the child must not go on as a second pytest."""
    try:
        if flags & CLONE_NEWNS:
            mounts.make_private()
        answer = ("returned", body())
    except BaseException as error:  # noqa: BLE001  # it is raised again in the parent
        answer = ("raised", error)
    try:
        with os.fdopen(writer, "wb") as file:
            pickle.dump(answer, file)
    finally:
        os._exit(0)
