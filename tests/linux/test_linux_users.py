"""Users and groups by name, with docker's rules for USER."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument, NotFound
from orlop.linux import users
from orlop.linux.users import Identity

if TYPE_CHECKING:
    from pathlib import Path

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin

web:x:1000:1001:Web,,,:/srv/web:/bin/bash
nohome:x:1002:1002::
broken:x:abc:0:::
short:x
+nis:::::
1234:x:99:98::/number:
twice:x:7:7::/a:
twice:x:8:8::/b:
"""
GROUP = b"""root:x:0:
daemon:x:1:
www:x:33:web,other
web:x:1001:web
staff:x:50:root,web
broken:x:q:web
twin:x:60:
twin:x:61:
"""


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("", Identity(uid=0, gid=0, groups=(50,), home="/root", name="root")),
        ("root", Identity(uid=0, gid=0, groups=(50,), home="/root", name="root")),
        ("web", Identity(uid=1000, gid=1001, groups=(33, 50), home="/srv/web", name="web")),
        ("1000", Identity(uid=1000, gid=1001, groups=(33, 50), home="/srv/web", name="web")),
        ("web:staff", Identity(uid=1000, gid=50, home="/srv/web", name="web")),
        ("web:50", Identity(uid=1000, gid=50, home="/srv/web", name="web")),
        ("web:777", Identity(uid=1000, gid=777, home="/srv/web", name="web")),
        ("1000:1000", Identity(uid=1000, gid=1000, home="/srv/web", name="web")),
        ("4711", Identity(uid=4711, gid=0)),
        ("4711:4712", Identity(uid=4711, gid=4712)),
        ("4711:twin", Identity(uid=4711, gid=60)),
        (":staff", Identity(uid=0, gid=50, home="/root", name="root")),
        ("nohome", Identity(uid=1002, gid=1002, home="/", name="nohome")),
        ("1234", Identity(uid=99, gid=98, home="/number", name="1234")),
        ("twice", Identity(uid=7, gid=7, home="/a", name="twice")),
    ],
)
def test_user_means_what_docker_means(spec: str, wanted: Identity) -> None:
    """Names and numbers, with and without groups: ids, supplementary groups, home and name as docker finds them."""
    assert users.lookup(spec, PASSWD, GROUP) == wanted


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nobody", "user 'nobody' is not in /etc/passwd"),
        ("broken", "user 'broken' is not in /etc/passwd"),
        ("web:nogroup", "group 'nogroup' is not in /etc/group"),
        ("-1", "user '-1' is not in"),
        ("1000x", "user '1000x' is not in"),
        ("\u0661", "is not in"),
    ],
)
def test_an_unknown_name_is_named_with_its_file(spec: str, words: str) -> None:
    """A name that is nowhere is NotFound, saying which name and which file, with a way out."""
    with pytest.raises(NotFound, match=words) as caught:
        users.lookup(spec, PASSWD, GROUP)
    assert caught.value.hint


def test_missing_files_serve_numbers_only() -> None:
    """Without /etc/passwd numbers work, root is known, and a name's error says that there is no file."""
    assert users.lookup("", None, None) == Identity(uid=0, gid=0)
    assert users.lookup("5:6", None, None) == Identity(uid=5, gid=6)
    with pytest.raises(NotFound, match=r"'web' is not in /rootfs/etc/passwd \(there is no such file\)"):
        users.lookup("web", None, None, etc="/rootfs/etc")


@pytest.mark.parametrize("spec", ["4294967295", "99999999999", "0:4294967296"])
def test_an_id_out_of_range_is_refused(spec: str) -> None:
    """Ids end at 2**32-2: the last one means "no change" to the kernel."""
    with pytest.raises(InvalidArgument, match="out of range"):
        users.lookup(spec, PASSWD, GROUP)


@given(st.binary())
def test_parsers_never_raise(data: bytes) -> None:
    """Any bytes are a passwd and a group file; whatever is found has proper ids."""
    for entry in users.parse_passwd(data):
        assert 0 <= entry.uid < 1 << 32
        assert 0 <= entry.gid < 1 << 32
    for group in users.parse_group(data):
        assert 0 <= group.gid < 1 << 32


_NOT_IN_NAMES = ":,\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_LETTERS = st.characters(codec="utf-8", exclude_characters=_NOT_IN_NAMES, exclude_categories=["Z", "C"])
_WORD = st.text(_LETTERS, min_size=1).filter(lambda word: not word.startswith("#"))
_ID = st.integers(0, (1 << 32) - 2)


@given(name=_WORD, uid=_ID, gid=_ID, home=_WORD, shell=_WORD)
def test_passwd_round_trip(name: str, uid: int, gid: int, home: str, shell: str) -> None:
    """A line written as passwd(5) says is read back whole."""
    line = f"{name}:x:{uid}:{gid}:gecos, with: nothing".replace(": nothing", "") + f":{home}:{shell}\n"
    (entry,) = users.parse_passwd(line.encode())
    assert (entry.name, entry.uid, entry.gid, entry.home, entry.shell) == (name, uid, gid, home, shell)


@given(name=_WORD, gid=_ID, members=st.lists(_WORD))
def test_group_round_trip(name: str, gid: int, members: list[str]) -> None:
    """A line written as group(5) says is read back whole."""
    (entry,) = users.parse_group(f"{name}:x:{gid}:{','.join(members)}\n".encode())
    assert (entry.name, entry.gid, list(entry.members)) == (name, gid, members)


def test_subordinate_ids_by_name_or_uid(tmp_path: Path) -> None:
    """Ranges are found by the user's name and by his uid; broken lines and other users' are left out."""
    file = tmp_path / "subuid"
    file.write_text("web:100000:65536\nother:200000:65536\n1000:300000:10\nweb:x:1\nweb:5\n:1:1\nweb:400000:0\n")
    assert users.subordinate_ids("uid", "web", 1000, path=str(file)) == [(100000, 65536), (300000, 10)]
    assert users.subordinate_ids("gid", "nobody", 1, path=str(file)) == []
    assert users.subordinate_ids("uid", "", 1000, path=str(file)) == [(300000, 10)]
    assert users.subordinate_ids("uid", "web", 1000, path=f"{tmp_path}/none") == []
