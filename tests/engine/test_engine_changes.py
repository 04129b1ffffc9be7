"""Which changes of a container's tree are its own."""

from __future__ import annotations

import pytest

from orlop.engine.changes import without_mounts


@pytest.mark.parametrize(
    ("found", "left"),
    [
        ("A /dev C /etc A /etc/hosts A /proc", ""),
        ("C /etc A /etc/hosts A /etc/own", "C /etc A /etc/own"),
        ("C /etc A /etc/own", "C /etc A /etc/own"),
        ("A /a A /a/b A /a/b/mount", ""),
        ("A /a A /a/b A /a/b/mount A /a/file", "A /a A /a/file"),
        ("C /only", "C /only"),
    ],
)
def test_places_of_mounts_are_left_out(found: str, left: str) -> None:
    """So are directories in which nothing else is listed; a directory with a change of the program's own stays."""

    def pairs(text: str) -> list[tuple[str, str]]:
        words = text.split()
        return list(zip(words[::2], words[1::2], strict=True))

    assert without_mounts(pairs(found), ["/dev", "/proc", "/etc/hosts", "/a/b/mount"]) == pairs(left)
