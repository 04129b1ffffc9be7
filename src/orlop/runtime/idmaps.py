"""Id maps of user namespaces: read from the spec, written for a process, held by a namespace for id-mapped mounts."""

from __future__ import annotations

import os

from orlop.linux import namespaces, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    Map: TypeAlias = Sequence[tuple[int, int, int]]


def of_entries(holder: dict[str, Any], key: str) -> list[tuple[int, int, int]]:
    """The mappings under `key` as (inside, outside, size)."""
    return [(entry["containerID"], entry["hostID"], entry["size"]) for entry in holder.get(key) or ()]


def namespace(uid_map: Map, gid_map: Map) -> int:
    """A descriptor of a user namespace with these maps that nobody lives in."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = process.fork_into(namespaces.CLONE_NEWUSER)
    if pid == 0:
        try:
            os.close(writer)
            os.read(reader, 1)  # until the other end is closed
        finally:
            os._exit(0)
    try:
        os.close(reader)
        namespaces.write_id_maps(pid, uid_map, gid_map)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def maps_id(entries: Map, inside: int) -> bool:
    """Whether an id of the namespace means anything outside."""
    return any(first <= inside < first + size for first, _, size in entries)
