"""Users and groups by name, read from a tree's own files, never through the C library.

Nothing of a container may be loaded into our process, and getpwnam loads name service modules. The rules for USER are
docker's: the first matching entry wins, a number needs no entry, a name does.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidArgument, NotFound
from orlop.values import Value

_MAX_ID = (1 << 32) - 2  # the kernel keeps -1 for "no change"


class PasswdEntry(Value):
    """One line of /etc/passwd (passwd(5))."""

    name: str
    uid: int
    gid: int
    home: str = ""
    shell: str = ""


class GroupEntry(Value):
    """One line of /etc/group (group(5))."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


class Identity(Value):
    """Who a process is: ids, supplementary groups (without gid), home ("/" when no entry says one), name or ""."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"
    name: str = ""


def _id_of(text: str) -> int | None:
    """The number, or None where it is no id at all."""
    if not (text.isascii() and text.isdigit()) or len(text) > 10:
        return None
    number = int(text)
    return number if number <= _MAX_ID else None


def _lines(data: bytes) -> list[list[str]]:
    rows = data.decode("utf-8", "surrogateescape").split("\n")
    return [row.strip().split(":") for row in rows if row.strip() and not row.lstrip().startswith("#")]


def parse_passwd(data: bytes) -> list[PasswdEntry]:
    """The entries in order. Lines without two proper ids are left out: docker reads a broken id as root's."""
    found = []
    for fields in _lines(data):
        if len(fields) < 4:
            continue
        uid, gid = _id_of(fields[2]), _id_of(fields[3])
        if uid is None or gid is None:
            continue
        home, shell = [*fields[5:7], "", ""][:2]
        found.append(PasswdEntry(name=fields[0], uid=uid, gid=gid, home=home, shell=shell))
    return found


def parse_group(data: bytes) -> list[GroupEntry]:
    """The entries in order; lines without a proper id are left out."""
    found = []
    for fields in _lines(data):
        gid = _id_of(fields[2]) if len(fields) > 2 else None
        if gid is None:
            continue
        members = tuple(name for name in fields[3].split(",") if name) if len(fields) > 3 else ()
        found.append(GroupEntry(name=fields[0], gid=gid, members=members))
    return found


def lookup(
    user_spec: str,
    passwd: bytes | None,
    group: bytes | None,
    *,
    etc: str = "/etc",
) -> Identity:
    """Who USER `user_spec` ("", name, uid, name:group, uid:gid...) means in a tree with these files.

    None is a missing file; `etc` is where they were, for messages. An empty user is root. NotFound names an unknown
    name and the file it is not in; InvalidArgument an id out of range. Supplementary groups are those that list the
    user's name, unless a group was asked for.
    """
    user, _, wanted_group = user_spec.partition(":")
    entry = _find_user(user or "0", passwd, f"{etc}/passwd")
    if wanted_group:
        gid = _find_group(wanted_group, group, f"{etc}/group")
        return Identity(uid=entry.uid, gid=gid, home=entry.home or "/", name=entry.name)
    groups: tuple[int, ...] = ()
    if entry.name:
        members = (one.gid for one in parse_group(group or b"") if entry.name in one.members)
        groups = tuple(dict.fromkeys(gid for gid in members if gid != entry.gid))
    return Identity(uid=entry.uid, gid=entry.gid, groups=groups, home=entry.home or "/", name=entry.name)


def _find_user(user: str, passwd: bytes | None, path: str) -> PasswdEntry:
    uid = _id_of(user)
    for entry in parse_passwd(passwd or b""):
        if entry.name == user or entry.uid == uid:
            return entry
    if uid is not None:
        return PasswdEntry(name="", uid=uid, gid=0, home="/")
    raise _unknown("user", user, passwd, path)


def _find_group(group: str, data: bytes | None, path: str) -> int:
    gid = _id_of(group)
    for entry in parse_group(data or b""):
        if entry.name == group or entry.gid == gid:
            return entry.gid
    if gid is not None:
        return gid
    raise _unknown("group", group, data, path)


def _unknown(kind: str, name: str, data: bytes | None, path: str) -> NotFound | InvalidArgument:
    if name.isascii() and name.isdigit():
        return InvalidArgument(f"{kind} id {name} is out of range", hint=f"ids go from 0 to {_MAX_ID}")
    missing = " (there is no such file)" if data is None else ""
    return NotFound(
        f"{kind} {name!r} is not in {path}{missing}",
        hint=f"create it in the image (RUN {kind}add {name}), or give a number",
    )


def subordinate_ids(kind: str, name: str, uid: int, *, path: str = "") -> list[tuple[int, int]]:
    """The ranges (first id, count) that /etc/subuid (`kind` "uid") or /etc/subgid ("gid") grants a user.

    An entry goes by the user's name or uid, in both files. Empty when there is no file or no entry. Broken lines are
    left out.
    """
    try:
        with open(path or f"/etc/sub{kind}", "rb") as file:
            data = file.read(1 << 20)
    except FileNotFoundError:
        return []
    found = []
    for fields in _lines(data):
        if len(fields) != 3 or not fields[0] or fields[0] not in (name, str(uid)):
            continue
        first, count = _id_of(fields[1]), _id_of(fields[2])
        if first is not None and count:
            found.append((first, count))
    return found


_INITIAL_USER = 0xEFFFFFFD  # PROC_USER_INIT_INO, the inode of the first user namespace (linux/proc_ns.h)


def in_initial_namespace() -> bool:
    """Whether our rights reach the whole machine: capabilities in any other user namespace do not."""
    return os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER


def single_id() -> bool:
    """Whether the user namespace that we are in has but one user."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return sum(int(line.split()[2]) for line in file) == 1
