"""What this machine can and cannot do for containers, and how to mend each gap. Looks, and changes nothing."""

from __future__ import annotations

import os

from orlop.engine.requests import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.engine.settings import Settings

_MIN_KERNEL = (5, 6)  # openat2, pidfd, clone3's cgroup flag
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which a start would trip over it."""
    path = dict(settings.environ).get("PATH", _SEARCH)
    found = [*_kernel(), *user_namespaces(), *_storage(settings), *_cgroups(), *_network()]
    if settings.uid:
        found += _rootless(settings, path)
    return found


def _read(path: str) -> str:
    """A kernel setting's text; "" when this kernel has no such setting."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _program(name: str, path: str) -> str:
    for folder in path.split(":"):
        if folder and os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    return ""


def _ok(subject: str, detail: str) -> Finding:
    return Finding(subject=subject, state="ok", detail=detail)


def _kernel() -> Iterator[Finding]:
    release = os.uname().release
    numbers = [int("".join(char for char in part if char.isdigit()) or 0) for part in release.split(".")[:2]]
    if tuple(numbers) >= _MIN_KERNEL:
        yield _ok("kernel", release)
    else:
        yield Finding(
            subject="kernel",
            state="fail",
            detail=f"{release} is older than {_MIN_KERNEL[0]}.{_MIN_KERNEL[1]}",
            remedy="upgrade the kernel: Debian 11, Ubuntu 22.04 and later have a newer one",
        )
    if "Seccomp:" in _read("/proc/self/status"):
        yield _ok("seccomp", "system call filters work")
    else:
        yield Finding(
            subject="seccomp",
            state="warn",
            detail="this kernel cannot filter system calls",
            remedy="use a kernel with CONFIG_SECCOMP_FILTER, or run containers with --security-opt seccomp=unconfined",
        )


def user_namespaces() -> Iterator[Finding]:
    """Whether ordinary users may make user namespaces here, by the kernel's settings."""
    if not os.path.exists("/proc/self/ns/user"):
        yield Finding(
            subject="user namespaces",
            state="fail",
            detail="this kernel has none",
            remedy="use a kernel with CONFIG_USER_NS; as root, containers run without",
        )
    elif _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        yield Finding(
            subject="user namespaces",
            state="warn",
            detail="only root may make them (kernel.unprivileged_userns_clone is 0)",
            remedy="sysctl kernel.unprivileged_userns_clone=1",
        )
    elif _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        yield Finding(
            subject="user namespaces",
            state="warn",
            detail="AppArmor takes their capabilities away (Ubuntu 23.10 and later)",
            remedy="allow orlop with an AppArmor profile that has `userns,` (docs/guide-rootless.md has one), or "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        )
    elif _read("/proc/sys/user/max_user_namespaces") == "0":
        yield Finding(
            subject="user namespaces",
            state="fail",
            detail="user.max_user_namespaces is 0",
            remedy="sysctl user.max_user_namespaces=15000",
        )
    else:
        yield _ok("user namespaces", "everybody may make them")


def _storage(settings: Settings) -> Iterator[Finding]:
    from orlop.linux import files

    place = settings.root
    while not os.path.exists(place):
        place = os.path.dirname(place)
    kind = files.filesystem_of(place)
    if kind in {"nfs", "smb", "cifs", "9p"}:
        yield Finding(
            subject="root folder",
            state="fail",
            detail=f"{settings.root} is on {kind}, where locks and databases are not safe",
            remedy="put it on a local disk: --root /path, or ORLOP_ROOT",
        )
    else:
        space = os.statvfs(place)
        free = space.f_bavail * space.f_frsize
        low = free < 2 << 30
        yield Finding(
            subject="root folder",
            state="warn" if low else "ok",
            detail=f"{settings.root} on {kind}, {free / (1 << 30):.1f} GiB free",
            remedy="free some space: orlop system prune" if low else "",
        )
    if "overlay" in _read("/proc/filesystems"):
        yield _ok("overlay", "the kernel has it")
    else:
        yield Finding(
            subject="overlay",
            state="warn",
            detail="the kernel does not list it: layers are copied instead, which is slow and takes space",
            remedy="modprobe overlay",
        )


def _cgroups() -> Iterator[Finding]:
    from orlop.linux import cgroups

    hierarchy = cgroups.detect()
    wanted = ("memory", "cpu", "pids")
    missing = [name for name in wanted if name not in hierarchy.controllers]
    if missing:
        yield Finding(
            subject="cgroups",
            state="warn",
            detail=f"version {hierarchy.version}, without {', '.join(missing)}: these limits cannot be set",
            remedy="as root, on systemd machines: enable the controllers in the kernel's command line "
            "(cgroup_enable=memory); rootless: delegate them to your user (Delegate=yes)",
        )
    else:
        yield _ok("cgroups", f"version {hierarchy.version} with {', '.join(wanted)}")


def _network() -> Iterator[Finding]:
    if _read("/proc/sys/net/ipv4/ip_forward") == "0":
        yield _ok("forwarding", "off: orlop switches it on when the first bridge is made (root)")
    if os.getuid() == 0:
        from orlop.network import firewall

        blocked = firewall.cut_off()
        if blocked:
            yield Finding(
                subject="firewall",
                state="warn",
                detail=blocked,
                remedy="published ports go through a proxy meanwhile; allow forwarding for orlop's bridges to get NAT",
            )
        else:
            yield _ok("firewall", "nobody else's rules cut containers off")


def _rootless(settings: Settings, path: str) -> Iterator[Finding]:
    from orlop.engine.rootless import user_name
    from orlop.linux import users

    ids = users.subordinate_ids("uid", "", settings.uid) or users.subordinate_ids(
        "uid", user_name(settings.uid), settings.uid
    )
    if ids and _program("newuidmap", path):
        yield _ok("ids", f"{sum(count for _, count in ids)} subordinate ids")
    else:
        yield Finding(
            subject="ids",
            state="warn",
            detail="only your own id can be mapped: every file in a container belongs to one user",
            remedy=f"apt install uidmap, and as root: usermod --add-subuids 100000-165535 "
            f"--add-subgids 100000-165535 {user_name(settings.uid) or settings.uid}",
        )
    program = _program("pasta", path) or _program("slirp4netns", path)
    if not program:
        yield Finding(
            subject="network",
            state="warn",
            detail="neither pasta nor slirp4netns is there: containers have no network but --network host",
            remedy="apt install passt",
        )
    elif not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        yield Finding(
            subject="network",
            state="warn",
            detail="/dev/net/tun is not open to you",
            remedy="as root: chmod 0666 /dev/net/tun, as distributions ship it",
        )
    else:
        yield _ok("network", program)
