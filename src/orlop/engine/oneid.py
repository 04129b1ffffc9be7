"""Containers in a user namespace with one id: what cannot be done there is answered as if it had been.

Package managers give files to other users, make device nodes and switch users as a matter of course, and stop when that
fails. Where there is but one user these calls are answered with success and do nothing, as charliecloud does: all that
is in the container belongs to its root.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.linux.users import Identity

_OWNERS = "chown fchown lchown fchownat chown32 fchown32 lchown32".split()
_USERS = (
    "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups setuid32 setgid32 setreuid32 "
    "setregid32 setresuid32 setresgid32 setfsuid32 setfsgid32 setgroups32"
).split()
_NODES = {"mknod": 1, "mknodat": 2}  # the argument that says what to make
_KIND, _DEVICES = 0o170000, (0o020000, 0o060000)  # S_IFMT; S_IFCHR, S_IFBLK
_ALLOW_ALL: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": []}


def pretending(profile: dict[str, Any] | None) -> dict[str, Any]:
    """The profile (None: everything is allowed) with the calls answered that only more users could mean."""
    base = _ALLOW_ALL if profile is None else profile
    answered = {*_OWNERS, *_USERS, *_NODES}
    rules = []
    for rule in base.get("syscalls") or ():
        names = [name for name in rule["names"] if name not in answered]
        if names:
            rules.append(rule | {"names": names})
    rules.append({"names": [*_OWNERS, *_USERS], "action": "SCMP_ACT_ERRNO", "errnoRet": 0})
    for name, index in _NODES.items():
        for kind in _DEVICES:
            rules.append(_when(name, index, _KIND, kind, action="SCMP_ACT_ERRNO", errnoRet=0))  # noqa: PERF401  # reads better
        rules.append(_when(name, index, 0, 0, action="SCMP_ACT_ALLOW"))  # pipes, sockets and files are really made
    return base | {"syscalls": rules}


def _when(name: str, index: int, mask: int, value: int, **answer: Any) -> dict[str, Any]:
    """A rule for calls of which an argument, masked, has a value."""
    return {
        "names": [name],
        "args": [{"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}],
    } | answer


def only_user(identity: Identity) -> tuple[Identity, str]:
    """Who a program runs as where there is only root, and a sentence about it ("" where that is who was asked for)."""
    if not identity.uid and not identity.gid:
        return identity.replace(groups=()), ""
    told = identity.name or f"{identity.uid}:{identity.gid}"
    return (
        identity.replace(uid=0, gid=0, groups=()),
        f"the program runs as the container's only user, not as {told}: no other ids are mapped (see orlop doctor)",
    )
