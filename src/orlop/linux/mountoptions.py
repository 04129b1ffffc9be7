"""Mount options as fstab, mount(8) and the runtime-spec name them (config.md, "Linux mount options")."""

from __future__ import annotations

from orlop.linux.mounts import (
    MOUNT_ATTR_ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
    MS_BIND,
    MS_DIRSYNC,
    MS_I_VERSION,
    MS_LAZYTIME,
    MS_MANDLOCK,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SILENT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
)
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS: dict[str, tuple[bool, int]] = {
    # each with whether it clears, and the flag
    "async": (True, MS_SYNCHRONOUS),
    "atime": (True, MS_NOATIME),
    "bind": (False, MS_BIND),
    "defaults": (False, 0),
    "dev": (True, MS_NODEV),
    "diratime": (True, MS_NODIRATIME),
    "dirsync": (False, MS_DIRSYNC),
    "exec": (True, MS_NOEXEC),
    "iversion": (False, MS_I_VERSION),
    "lazytime": (False, MS_LAZYTIME),
    "loud": (True, MS_SILENT),
    "mand": (False, MS_MANDLOCK),
    "noatime": (False, MS_NOATIME),
    "nodev": (False, MS_NODEV),
    "nodiratime": (False, MS_NODIRATIME),
    "noexec": (False, MS_NOEXEC),
    "noiversion": (True, MS_I_VERSION),
    "nolazytime": (True, MS_LAZYTIME),
    "nomand": (True, MS_MANDLOCK),
    "norelatime": (True, MS_RELATIME),
    "nostrictatime": (True, MS_STRICTATIME),
    "nosuid": (False, MS_NOSUID),
    "nosymfollow": (False, MS_NOSYMFOLLOW),
    "rbind": (False, MS_BIND | MS_REC),
    "relatime": (False, MS_RELATIME),
    "remount": (False, MS_REMOUNT),
    "ro": (False, MS_RDONLY),
    "rw": (True, MS_RDONLY),
    "silent": (False, MS_SILENT),
    "strictatime": (False, MS_STRICTATIME),
    "suid": (True, MS_NOSUID),
    "symfollow": (True, MS_NOSYMFOLLOW),
    "sync": (False, MS_SYNCHRONOUS),
}
PROPAGATION: dict[str, int] = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}
# Attributes to clear and attributes to set on a mount and all below it, by mount_setattr
RECURSIVE: dict[str, tuple[int, int]] = {
    "ratime": (MOUNT_ATTR_ATIME, MOUNT_ATTR_RELATIME),
    "rdev": (MOUNT_ATTR_NODEV, 0),
    "rdiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "rexec": (MOUNT_ATTR_NOEXEC, 0),
    "rnoatime": (MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME),
    "rnodev": (0, MOUNT_ATTR_NODEV),
    "rnodiratime": (0, MOUNT_ATTR_NODIRATIME),
    "rnoexec": (0, MOUNT_ATTR_NOEXEC),
    "rnorelatime": (MOUNT_ATTR_ATIME, MOUNT_ATTR_STRICTATIME),
    "rnostrictatime": (MOUNT_ATTR_ATIME, MOUNT_ATTR_RELATIME),
    "rnosuid": (0, MOUNT_ATTR_NOSUID),
    "rnosymfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "rrelatime": (MOUNT_ATTR_ATIME, MOUNT_ATTR_RELATIME),
    "rro": (0, MOUNT_ATTR_RDONLY),
    "rrw": (MOUNT_ATTR_RDONLY, 0),
    "rstrictatime": (MOUNT_ATTR_ATIME, MOUNT_ATTR_STRICTATIME),
    "rsuid": (MOUNT_ATTR_NOSUID, 0),
    "rsymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
}


class MountOptions(Value):
    """A mount's option list, sorted out. `data` is what no table knows: the file system's own options."""

    flags: int = 0  # MS_* to set
    clear: int = 0  # MS_* asked to be cleared
    propagation: tuple[int, ...] = ()  # MS_SHARED..., each its own mount(2) after mounting
    attr_set: int = 0  # MOUNT_ATTR_*, recursively
    attr_clear: int = 0
    data: str = ""


def parse_options(options: Sequence[str]) -> MountOptions:
    """Sort mount options by what must be done with them; later ones win over earlier ones."""
    flags = clear = attr_set = attr_clear = 0
    propagation = []
    data = []
    for option in options:
        if option in OPTIONS:
            off, flag = OPTIONS[option]
            flags, clear = (flags & ~flag, clear | flag) if off else (flags | flag, clear & ~flag)
        elif option in PROPAGATION:
            propagation.append(PROPAGATION[option])
        elif option in RECURSIVE:
            gone, come = RECURSIVE[option]
            attr_set, attr_clear = (attr_set & ~gone) | come, (attr_clear & ~come) | gone
        else:
            data.append(option)
    return MountOptions(
        flags=flags,
        clear=clear,
        propagation=tuple(propagation),
        attr_set=attr_set,
        attr_clear=attr_clear,
        data=",".join(data),
    )
