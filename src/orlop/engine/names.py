"""Names and ids that the engine makes up for people."""

from __future__ import annotations

import os

from orlop.errors import InvalidArgument

# ships' gear and sailors' moods: a pair is easier to say and remember than an id
_MOODS = (
    "able bold brisk calm candid cheery clever cosy daring deft eager fair fleet frank gentle glad hale handy hardy "
    "hearty jolly keen kind lively lucid mellow merry mild neat nimble plucky proud quick quiet ready salty serene "
    "sharp snug sober spry stout sturdy sunny sure swift tidy true trusty vivid warm wily wise witty zesty "
).split()
_GEAR = (
    "anchor ballast barge beacon beam bitts block boom bosun bow bowsprit brig bulkhead bunk buoy cabin cable "
    "capstan cleat clipper compass coxswain crew davit deck dinghy dory fender fid foresail frigate gaff galley "
    "gangway grapnel gunwale halyard hatch hawser helm hold hull jib keel ketch lantern lateen locker lugger mast "
    "mizzen oar orlop painter pilot pinnace port prow quay rigging rudder sail schooner scupper sextant shackle "
    "sheet shroud skiff sloop spar starboard stern tackle tender thwart tiller topsail transom trawler turnbuckle "
    "winch windlass yard yawl "
).split()


def container_id() -> str:
    """64 random hexadecimal digits, as docker's ids are."""
    return os.urandom(32).hex()


def made_up() -> str:
    """A name such as `brisk_capstan`. It may be taken: the record's insertion decides."""
    number = int.from_bytes(os.urandom(4), "little")
    return f"{_MOODS[number % len(_MOODS)]}_{_GEAR[number // len(_MOODS) % len(_GEAR)]}"


def checked(name: str) -> str:
    """`--name`: docker's rule for container names."""
    plain = name.removeprefix("/")
    if (
        plain[:1].isalnum()
        and plain.isascii()
        and all(char.isalnum() or char in "_.-" for char in plain)
        and len(plain) > 1
    ):
        return plain
    raise InvalidArgument(
        f"{name!r} is not a container's name",
        hint="at least two characters: a letter or digit, then letters, digits, '_', '.', '-'",
    )
