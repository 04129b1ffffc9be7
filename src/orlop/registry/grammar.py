"""The names of the distribution specification: repositories, tags, upload sessions (spec.md, "Pulling manifests").

Whatever passes here is safe as a path below a folder: no empty part, no `.` or `..`, no upper case, no NUL.
"""

from __future__ import annotations

NAME_LIMIT = 255
"""Characters of a repository's name. Clients limit registry and name together to 255."""

TAG_LIMIT = 128

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_TAG = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_HEX = frozenset("0123456789abcdef")


def is_repository(name: str) -> bool:
    """Whether `name` matches the specification's grammar of repositories."""
    return 0 < len(name) <= NAME_LIMIT and all(map(_is_component, name.split("/")))


def _is_component(part: str) -> bool:
    """Runs of lower-case letters and digits, joined by one `.`, by `_` or `__`, or by any number of `-`."""
    if not part or part[0] not in _LOWER or part[-1] not in _LOWER:
        return False
    if part.isalnum() and _LOWER.issuperset(part):
        return True
    joint = ""
    for letter in part:
        if letter in _LOWER:
            if joint and joint not in (".", "_", "__") and joint.strip("-"):
                return False
            joint = ""
        elif letter in "._-":
            joint += letter
        else:
            return False
    return True


def is_tag(text: str) -> bool:
    """Whether `text` matches the specification's grammar of tags."""
    return 0 < len(text) <= TAG_LIMIT and text[0] not in ".-" and _TAG.issuperset(text)


def is_session(text: str) -> bool:
    """Whether `text` looks like an upload session that this server made: 32 hexadecimal digits."""
    return len(text) == 32 and _HEX.issuperset(text)
