"""Seccomp: installing filters, and profiles as data. Compiling is in `seccompprogram`, loaded when nothing is cached.

Two shapes of profile: the runtime-spec's `linux.seccomp` (everything decided), and docker's, whose rules depend on
capabilities, architecture and kernel; `resolve` turns the second into the first.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidArgument
from orlop.linux import wholefile
from orlop.linux.capabilities import DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

MACHINE = os.uname().machine

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
NEW_LISTENER = 8
_SET_MODE_FILTER = 1

# Part of every cache key: raise it when the compiler, the tables or the default profile change.
_EDITION = 1

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def install(program: bytes, flags: int = 0) -> int:
    """Put a compiled filter on this thread for good: the listener's descriptor with NEW_LISTENER, otherwise 0.

    Needs no_new_privs or CAP_SYS_ADMIN (EACCES). Filters add up; the strictest answer wins.
    """
    import ctypes  # a filter may also go to a trampoline that installs it itself

    from orlop.linux import syscalls

    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a 16-bit count of 8-byte instructions, padding, a pointer
    count = (len(program) // 8).to_bytes(8, "little")
    prog = count + ctypes.addressof(code).to_bytes(8, "little")
    return syscalls.call("seccomp", _SET_MODE_FILTER, flags, prog, doing="install the seccomp filter")


def flags_of(profile: dict[str, Any]) -> int:
    """The flags to install a profile with; SPEC_ALLOW without a `flags` field, as runc. To notify takes a listener."""
    names = profile.get("flags")
    bits = FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"] if names is None else 0
    for name in names or ():
        if name not in FLAGS:
            raise InvalidArgument(f"{name!r} is not a seccomp flag", hint=f"one of {', '.join(FLAGS)}")
        bits |= FLAGS[name]
    actions = {rule.get("action") for rule in profile.get("syscalls") or ()}
    return bits | (NEW_LISTENER if "SCMP_ACT_NOTIFY" in actions else 0)


def compile_profile(profile: dict[str, Any], arch: str = MACHINE) -> bytes:
    """A runtime-spec `linux.seccomp` as a classic BPF program for machine `arch`, 8 bytes an instruction. Pure."""
    from orlop.linux.seccompprogram import compile_profile as compiled  # 3 ms with its tables, and usually cached

    return compiled(profile, arch)


def program_key(profile: dict[str, Any], arch: str = MACHINE) -> str:
    """A file name for the compiled program: equal only for equal profiles, machines and compilers."""
    try:
        from _blake2 import blake2b  # the digest without hashlib, which loads OpenSSL first
    except ImportError:  # a Python built without its own digests
        from hashlib import blake2b

    from orlop.oci import jsontext

    return f"seccomp-{_EDITION}-{arch}-{blake2b(jsontext.dumps(profile), digest_size=20).hexdigest()}"


def cached(profile: dict[str, Any], directory: str, arch: str = MACHINE) -> bytes:
    """compile_profile, kept in `directory` (made when missing; ours alone). Not being able to keep it is fine."""
    path = f"{directory}/{program_key(profile, arch)}"
    return _kept(path) or _keep(path, compile_profile(profile, arch))


def default_program(capabilities: Iterable[str], directory: str, arch: str = MACHINE) -> bytes:
    """The default profile for these capabilities, compiled, from `directory` without even building the profile."""
    from orlop.linux.capabilities import mask_of

    release = os.uname().release
    new = "new" if _at_least(release, "4.8") else "old"  # the one kernel that the default profile asks for
    held = tuple(capabilities)
    path = f"{directory}/seccomp-{_EDITION}-{arch}-default-{new}-{mask_of(held):x}"
    return _kept(path) or _keep(path, compile_profile(for_capabilities(held, arch), arch))


def _kept(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        program = os.read(fd, 1 << 16)
    finally:
        os.close(fd)
    # Written by rename, so it is whole; a full disk after a crash may still have emptied it
    return program if len(program) % 8 == 0 and len(program) >= 16 else b""


def _keep(path: str, program: bytes) -> bytes:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        wholefile.write(path, program)
    except OSError:  # a read-only or full disk: the program is compiled again next time
        return program
    return program


def default_profile() -> dict[str, Any]:
    """Docker's default profile for docker's default capabilities, as a runtime-spec `linux.seccomp`."""
    return for_capabilities(DEFAULT)


def for_capabilities(capabilities: Iterable[str], machine: str = MACHINE) -> dict[str, Any]:
    """Docker's default profile for a container with these capabilities, as a runtime-spec `linux.seccomp`."""
    from orlop.linux.seccompdefault import profile  # long lists

    return resolve(profile(), capabilities, machine=machine)


def resolve(
    profile: dict[str, Any], capabilities: Iterable[str], *, machine: str = MACHINE, kernel: str = ""
) -> dict[str, Any]:
    """A profile in docker's format (archMap, includes, excludes) as the runtime-spec's.

    A profile that is the runtime-spec's already comes out the same. `kernel` is a release, ours when empty.
    InvalidArgument says what is wrong.
    """
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidArgument("a seccomp profile has either architectures or archMap, this one has both")
    held = set(capabilities)
    architectures = list(profile.get("architectures") or ())
    for entry in profile.get("archMap") or ():
        if entry.get("architecture") == _NATIVE.get(machine):
            architectures = [entry["architecture"], *(entry.get("subArchitectures") or ())]
    rules = []
    for rule in profile.get("syscalls") or ():
        names = list(rule.get("names") or ())
        if rule.get("name"):
            if names:
                raise InvalidArgument(f"a seccomp rule has either name or names, this one has both: {rule['name']!r}")
            names = [rule["name"]]
        release = kernel or os.uname().release
        if not _applies(rule, held, _GO_ARCHITECTURES.get(machine, machine), release):
            continue
        kept = {key: rule[key] for key in ("action", "errnoRet") if rule.get(key) is not None}
        if rule.get("args"):
            kept["args"] = [dict(one) for one in rule["args"]]
        rules.append({"names": names, **kept})
    fields = ("defaultAction", "defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")
    found = {key: profile[key] for key in fields if profile.get(key) is not None}
    if "defaultAction" not in found:
        raise InvalidArgument("the seccomp profile has no defaultAction", hint='e.g. "SCMP_ACT_ERRNO"')
    return found | {"architectures": architectures, "syscalls": rules}


def _applies(rule: dict[str, Any], held: set[str], architecture: str, release: str) -> bool:
    """Docker's rule: all included capabilities are held, any excluded thing rules the rule out."""
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if architecture in (excludes.get("arches") or ()):
        return False
    if not held.issuperset(includes.get("caps") or ()) or held & set(excludes.get("caps") or ()):
        return False
    if includes.get("minKernel") and not _at_least(release, includes["minKernel"]):
        return False
    return not (excludes.get("minKernel") and _at_least(release, excludes["minKernel"]))


def _at_least(release: str, wanted: str) -> bool:
    return _version(release) >= _version(wanted)


def _version(release: str) -> tuple[int, int]:
    """The first two numbers of a kernel release: "6.18.4-generic" is (6, 18)."""
    numbers = []
    for part in release.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            raise InvalidArgument(f"{release!r} is no kernel version, expected e.g. 4.8")
        numbers.append(int(digits))
    return numbers[0], numbers[1] if len(numbers) > 1 else 0
