"""Device nodes of a container, made where the kernel lets us, else bound from the host (config-linux.md, "Devices")."""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.linux import mounts, safepath, terminal
from orlop.runtime.spec import DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orlop.runtime.rootfs import Root

_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
# config-linux.md "Default Filesystems" and "Dev symbolic links"
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


class Node:
    """One device node. `host_fd` is a detached bind mount of the host's node, or -1 when it shall be made."""

    __slots__ = ("device", "gid", "host_fd", "kind", "mode", "path", "uid")

    def __init__(self, path: str, kind: int, device: int, mode: int, uid: int, gid: int) -> None:
        self.path = path
        self.kind = kind
        self.device = device
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.host_fd = -1


def prepare(spec: dict[str, Any], *, bind: bool) -> list[Node]:
    """The default devices and those of the spec.

    With `bind` (in a user namespace, where no node can be made) the host's nodes are opened; the caller closes each
    `host_fd`.
    """
    found = {
        path: Node(path, stat.S_IFCHR, os.makedev(major, minor), 0o666, 0, 0)
        for path, (major, minor) in DEVICES.items()
    }
    for entry in (spec.get("linux") or {}).get("devices") or ():
        path = "/" + entry["path"].strip("/")
        kind = _KINDS[entry["type"]]
        if kind == stat.S_IFIFO:
            number = 0
        elif entry.get("major") is None or entry.get("minor") is None or min(entry["major"], entry["minor"]) < 0:
            raise InvalidArgument(f"the device {path} needs a major and a minor number")
        else:
            number = os.makedev(entry["major"], entry["minor"])
        mode = entry.get("fileMode")
        mode = 0o666 if mode is None else mode & 0o7777
        found[path] = Node(path, kind, number, mode, entry.get("uid") or 0, entry.get("gid") or 0)
    nodes = list(found.values())
    if bind:
        for node in nodes:
            _open_host(node)
    return nodes


def _open_host(node: Node) -> None:
    if node.kind == stat.S_IFIFO:
        return
    try:
        node.host_fd = mounts.open_tree(mounts.AT_FDCWD, node.path)
    except FileNotFoundError as error:
        raise FailedPrecondition(
            f"the host has no device {node.path}, and in a user namespace none can be made",
            hint="leave the device out, or run as root without a user namespace",
        ) from error
    mounts.mount_setattr(node.host_fd, "", propagation=mounts.MS_PRIVATE)


def close(nodes: Sequence[Node]) -> None:
    """Close what `prepare` opened."""
    for node in nodes:
        if node.host_fd >= 0:
            os.close(node.host_fd)
            node.host_fd = -1


def make_all(root: Root, nodes: Sequence[Node]) -> None:
    """Make or bind the nodes inside `root`. Init's umask must be 0."""
    folders: dict[str, int] = {}
    try:
        for node in nodes:
            folder, _, name = node.path.rpartition("/")
            if folder not in folders:
                folders[folder] = root.directory(folder or "/")
            _make(root, node, folders[folder], name)
    finally:
        for fd in folders.values():
            os.close(fd)


def _make(root: Root, node: Node, folder: int, name: str) -> None:
    if node.host_fd >= 0:
        _bind(root, node)
        return
    try:
        os.mknod(name, node.kind | node.mode, node.device, dir_fd=folder)
    except FileExistsError:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_IFMT(there.st_mode) != node.kind or (node.kind != stat.S_IFIFO and there.st_rdev != node.device):
            raise FailedPrecondition(
                f"the image has something else at {node.path}, where a device belongs", hint="mount a tmpfs on /dev"
            ) from None
        return
    except PermissionError:
        if node.kind == stat.S_IFIFO:
            raise
        _open_host(node)  # we are in a container ourselves that may not make nodes
        try:
            _bind(root, node)
        finally:
            close([node])
        return
    if node.uid or node.gid:
        os.chown(name, node.uid, node.gid, dir_fd=folder, follow_symlinks=False)


def _bind(root: Root, node: Node) -> None:
    place = root.file(node.path)
    try:
        mounts.move_mount(node.host_fd, "", place, "")
    finally:
        os.close(place)


def make_links(root: Root, *, terminals: bool) -> None:
    """The links that programs expect in /dev; `terminals`: devpts is mounted on /dev/pts."""
    dev = root.directory("/dev")
    try:
        links = dict(_LINKS)
        if os.path.exists("/proc/kcore"):
            links["core"] = "/proc/kcore"
        if terminals:
            links["ptmx"] = "pts/ptmx"
        for name, target in links.items():
            try:
                os.symlink(target, name, dir_fd=dev)
            except FileExistsError:
                continue  # the image's own /dev, or the host's: it has what its owner wants
    finally:
        os.close(dev)


def open_terminal(pts: int) -> tuple[int, int, str]:
    """A new pseudo-terminal of the devpts whose folder is open at `pts`: (master, slave, its name there).

    Both close on execve. What is opened is checked to be the multiplexer, whatever the folder holds.
    """
    try:
        master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=pts)
    except OSError as error:
        raise FailedPrecondition(
            f"the container has no usable /dev/pts: {error.strerror}",
            hint="a terminal needs a devpts mount with newinstance on /dev/pts",
        ) from error
    try:
        found = os.fstat(master)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(5, 2):
            raise FailedPrecondition("the container's /dev/pts/ptmx is no terminal multiplexer")  # closes
        os.set_blocking(master, True)
        slave, number = terminal.open_slave(master)
    except BaseException:
        os.close(master)
        raise
    return master, slave, str(number)


def bind_console(root: Root, pts: int, name: str) -> None:
    """Show the terminal also as /dev/console."""
    tree = mounts.open_tree(pts, name)
    try:
        place = root.file("/dev/console")
        try:
            mounts.move_mount(tree, "", place, "")
        finally:
            os.close(place)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    finally:
        os.close(tree)


def open_pts(root: Root) -> int:
    """The folder /dev/pts inside, which must be real."""
    try:
        return safepath.open_no_links(root.fd, "dev/pts", os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise FailedPrecondition(
            f"the container has no /dev/pts: {error.strerror}", hint="a terminal needs a devpts mount on /dev/pts"
        ) from error
