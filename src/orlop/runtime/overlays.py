"""An overlay that is mounted nowhere: a descriptor that only the container will attach."""

from __future__ import annotations

import errno
import os

from orlop.linux import mountoptions, mounts, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.runtime.request import RootMount

_LONGEST_STRING = 255  # bytes of an fsconfig string


def detached(root: RootMount) -> int:
    """The overlay that `root` describes, as a detached private mount. OSError says what the kernel complained about."""
    chosen = mountoptions.parse_options(root.options)
    attributes = mounts.attributes_of(chosen.flags)
    if not root.upper:
        attributes |= mounts.MOUNT_ATTR_RDONLY
    if not root.upper and len(root.lowers) == 1:  # overlay insists on two layers
        fd = mounts.open_tree(mounts.AT_FDCWD, root.lowers[0])
        try:
            mounts.mount_setattr(fd, "", attr_set=attributes, propagation=mounts.MS_PRIVATE)
        except OSError:
            os.close(fd)
            raise
        return fd
    options = [option for option in chosen.data.split(",") if option]
    try:
        return _by_context(root, options, attributes)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return _by_namespace(root, options, attributes)


def _by_context(root: RootMount, options: Sequence[str], attributes: int) -> int:
    """By fsconfig, layer by layer (Linux 6.5); EINVAL on older kernels."""
    context = mounts.fsopen("overlay")
    held: list[int] = []
    try:
        mounts.fsconfig(context, mounts.FSCONFIG_SET_STRING, "source", "overlay")
        for lower in root.lowers:
            mounts.fsconfig(context, mounts.FSCONFIG_SET_STRING, "lowerdir+", _name(lower, held))
        if root.upper:
            mounts.fsconfig(context, mounts.FSCONFIG_SET_STRING, "upperdir", _name(root.upper, held))
            mounts.fsconfig(context, mounts.FSCONFIG_SET_STRING, "workdir", _name(root.work, held))
        for option in options:
            key, equals, value = option.partition("=")
            command = mounts.FSCONFIG_SET_STRING if equals else mounts.FSCONFIG_SET_FLAG
            mounts.fsconfig(context, command, key, value if equals else None)
        mounts.fsconfig(context, mounts.FSCONFIG_CMD_CREATE)
        return mounts.fsmount(context, attributes)
    finally:
        os.close(context)
        for fd in held:
            os.close(fd)


def _name(path: str, held: list[int]) -> str:
    """`path`, or a short name without separators for the same folder, whose descriptor is then held."""
    if len(os.fsencode(path)) <= _LONGEST_STRING and not {":", ",", "\\"} & set(path):
        return path
    held.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    return f"/proc/self/fd/{held[-1]}"


def _by_namespace(root: RootMount, options: Sequence[str], attributes: int) -> int:
    """On older kernels: mounted in a mount namespace of a moment, cloned from there; the clone outlives it."""
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        try:
            mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_SLAVE)
            target = root.upper or root.lowers[0]
            mounts.overlay(root.lowers, root.upper, root.work, target, options=options)
            fd = mounts.open_tree(mounts.AT_FDCWD, target)
            mounts.mount_setattr(fd, "", attr_set=attributes, propagation=mounts.MS_PRIVATE)
            return fd
        finally:
            namespaces.setns(home, namespaces.CLONE_NEWNS)
            os.fchdir(folder)
    finally:
        os.close(home)
        os.close(folder)
