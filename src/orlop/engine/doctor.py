"""What this machine can and cannot do for containers, and how to mend each gap. Looks, and changes nothing."""

from __future__ import annotations

import os
import stat

from orlop.engine.requests import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orlop.engine.settings import Settings

_MIN_KERNEL = (5, 6)  # openat2, pidfd, clone3's cgroup flag
_MIN_USER_OVERLAY = (5, 11)  # overlay's userxattr
_RANGES_BEGIN, _RANGE = 100_000, 65_536  # login.defs(5): SUB_UID_MIN, SUB_UID_COUNT
_LIMITING = ("memory", "cpu", "pids")
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which a start would trip over it."""
    path = dict(settings.environ).get("PATH", _SEARCH)
    spaces = list(user_namespaces())
    if settings.uid and all(finding.state == "ok" for finding in spaces):
        spaces = [_tried()]
    found = [*_kernel(), *spaces, *_storage(settings)]
    if settings.uid:
        return [*found, _limits(), _ids(settings, path), *_network(path)]
    return [*found, *_cgroups(), *_firewall()]


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


def _version() -> tuple[int, ...]:
    """The first two numbers of the kernel's release."""
    parts = os.uname().release.split(".")[:2]
    return tuple(int("".join(char for char in part if char.isdigit()) or 0) for part in parts)


def _kernel() -> Iterator[Finding]:
    release = os.uname().release
    if _version() >= _MIN_KERNEL:
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


def user_namespaces(read: Callable[[str], str] = _read) -> Iterator[Finding]:
    """Whether ordinary users may make user namespaces, by the kernel's settings (`read` says "" where it has none)."""
    if not os.path.exists("/proc/self/ns/user"):
        yield Finding(
            subject="user namespaces",
            state="fail",
            detail="this kernel has none",
            remedy="use a kernel with CONFIG_USER_NS; as root, containers run without",
        )
    elif read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        yield Finding(
            subject="user namespaces",
            state="warn",
            detail="only root may make them (kernel.unprivileged_userns_clone is 0)",
            remedy="as root: sysctl kernel.unprivileged_userns_clone=1",
        )
    elif read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        yield Finding(
            subject="user namespaces",
            state="warn",
            detail="AppArmor takes their capabilities away (Ubuntu 23.10 and later)",
            remedy="allow orlop with an AppArmor profile that has `userns,` (docs/guide-rootless.md has one), or "
            "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        )
    elif read("/proc/sys/user/max_user_namespaces") == "0":
        yield Finding(
            subject="user namespaces",
            state="fail",
            detail="user.max_user_namespaces is 0",
            remedy="as root: sysctl user.max_user_namespaces=15000",
        )
    else:
        yield _ok("user namespaces", "everybody may make them")


_TRY = "import sys;sys.path[:0]=[sys.argv[1]];from orlop.engine.doctor import attempt;attempt()"


def attempt() -> None:
    """In a process of its own: make namespaces as a user would, and say on standard output how that went."""
    from orlop.linux import mounts, namespaces

    try:
        namespaces.unshare(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS)
        mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_SLAVE)
    except OSError as error:
        os.write(1, (error.strerror or "no reason given").encode())
    else:
        os.write(1, b"ok")


def _tried() -> Finding:
    """What the settings do not tell: a process tries, and ends. A fresh one, because we may have threads."""
    import sys

    home = os.path.dirname(sys.modules["orlop"].__path__[0])
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", _TRY, home],
            {"PATH": os.defpath},
            file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
        )
    except OSError as error:
        os.close(reader)
        return Finding(
            subject="user namespaces",
            state="warn",
            detail=f"cannot be tried: {sys.executable} does not start: {error.strerror}",
            remedy="run doctor with the Python that orlop is installed for: python3 -m orlop doctor",
        )
    finally:
        os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode(errors="replace")
    os.waitpid(pid, 0)
    if said == "ok":
        return _ok("user namespaces", "you may make them")
    return Finding(
        subject="user namespaces",
        state="fail",
        detail=f"the machine refuses them: {said}",
        remedy="inside a container, run that one with --security-opt seccomp=unconfined --security-opt "
        "apparmor=unconfined (orlop, docker, podman); elsewhere ask who set the machine up, or run orlop as root",
    )


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
    if kind == "overlay":
        yield Finding(
            subject="overlay",
            state="warn",
            detail="the root folder is on an overlay itself: layers are copied instead, which is slow and takes space",
            remedy="put it on a volume or another disk: --root /path, or ORLOP_ROOT",
        )
    elif settings.uid and _version() < _MIN_USER_OVERLAY:
        yield Finding(
            subject="overlay",
            state="warn",
            detail=f"before Linux {_MIN_USER_OVERLAY[0]}.{_MIN_USER_OVERLAY[1]} it is root's alone: layers are copied "
            "instead, which is slow and takes space",
            remedy="upgrade the kernel, or run orlop as root",
        )
    elif "overlay" in _read("/proc/filesystems"):
        yield _ok("overlay", "the kernel has it")
    else:
        yield Finding(
            subject="overlay",
            state="warn",
            detail="the kernel does not list it: layers are copied instead, which is slow and takes space",
            remedy="as root: modprobe overlay",
        )


def _cgroups() -> Iterator[Finding]:
    from orlop.linux import cgroups

    hierarchy = cgroups.detect()
    missing = [name for name in _LIMITING if name not in hierarchy.controllers]
    if missing:
        yield Finding(
            subject="cgroups",
            state="warn",
            detail=f"version {hierarchy.version}, without {', '.join(missing)}: these limits cannot be set",
            remedy="mount them, or enable them in the kernel's command line (cgroup_enable=memory)",
        )
    else:
        yield _ok("cgroups", f"version {hierarchy.version} with {', '.join(_LIMITING)}")


def _limits() -> Finding:
    """Which limits an ordinary user may set."""
    from orlop.engine import limiting
    from orlop.linux import hierarchy as hierarchies

    found = hierarchies.detect()
    own = limiting.delegated(found)
    held = hierarchies.read(f"{found.unified}{own}/cgroup.controllers").split() if own else []
    missing = [name for name in _LIMITING if name not in held]
    if not missing:
        return _ok("cgroups", f"{', '.join(_LIMITING)} are delegated to you")
    return Finding(
        subject="cgroups",
        state="warn",
        detail=f"limits of {', '.join(missing)} have no effect: {limiting.reason(found, own)}",
        remedy="boot with systemd.unified_cgroup_hierarchy=1, or run orlop as root where limits matter"
        if found.version == 1
        else "start orlop in a scope of your own: systemd-run --user --scope -p Delegate=yes orlop ...; and as root, "
        "in /etc/systemd/system/user@.service.d/delegate.conf: [Service] Delegate=cpu cpuset io memory pids",
    )


def _firewall() -> Iterator[Finding]:
    if _read("/proc/sys/net/ipv4/ip_forward") == "0":
        yield _ok("forwarding", "off: orlop switches it on when the first bridge is made")
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


def _ids(settings: Settings, path: str) -> Finding:
    """How many users containers can have."""
    from orlop.engine import rootless

    name = rootless.user_name(settings.uid) or str(settings.uid)
    program = _program("newuidmap", path)
    uids, gids = rootless.id_maps(settings)
    if not program or not _program("newgidmap", path):
        why, remedy = "newuidmap is not installed", "as root: apt install uidmap"
    elif len(uids) == 1 or len(gids) == 1:
        why = "you have no ranges in /etc/subuid and /etc/subgid"
        first = free_range(_read("/etc/subuid").splitlines() + _read("/etc/subgid").splitlines())
        ranges = f"{first}-{first + _RANGE - 1}"
        remedy = f"as root: usermod --add-subuids {ranges} --add-subgids {ranges} {name}"
    elif "NoNewPrivs:\t1" in _read("/proc/self/status"):
        why, remedy = "newuidmap has no effect under no_new_privs", "start orlop from where that is not set"
    elif not _is_raised(program):
        why, remedy = f"{program} has no set-uid bit and no capability", f"as root: chmod u+s {program}"
    else:
        return _ok("ids", f"{sum(entry[2] for entry in uids[1:])} subordinate ids")
    return Finding(
        subject="ids",
        state="warn",
        detail=f"only your own id can be mapped ({why}): everything in a container belongs to one user",
        remedy=remedy + "; then: orlop internal teardown",
    )


def free_range(lines: Iterable[str]) -> int:
    """The first id beyond all ranges that lines of /etc/subuid and /etc/subgid grant, 100000 at least. Pure."""
    first = _RANGES_BEGIN
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            first = max(first, int(fields[1]) + int(fields[2]))
    return first


def _is_raised(program: str) -> bool:
    """Whether a program runs with more rights than who starts it."""
    if os.stat(program).st_mode & stat.S_ISUID:
        return True
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False


def _network(path: str) -> Iterator[Finding]:
    program = _program("pasta", path) or _program("slirp4netns", path)
    if not program:
        yield Finding(
            subject="network",
            state="warn",
            detail="neither pasta nor slirp4netns is there: containers have --network host or none",
            remedy="as root: apt install passt",
        )
    elif not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        yield Finding(
            subject="network",
            state="warn",
            detail=f"/dev/net/tun is not open to you, and {program} needs it: containers have --network host or none",
            remedy="as root: chmod 0666 /dev/net/tun, as distributions ship it (modprobe tun, if it is not there)",
        )
    else:
        least = _read("/proc/sys/net/ipv4/ip_unprivileged_port_start") or "1024"
        yield _ok("network", f"{program}; you may publish ports from {least} on")
