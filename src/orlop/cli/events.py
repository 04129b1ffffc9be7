"""Events as docker prints and filters them. Pure."""

from __future__ import annotations

from orlop.cli.options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_KINDS = ("container", "image", "volume", "network")


def line(event: dict[str, Any]) -> str:
    """`2026-01-31T12:00:00.000000000Z container start abc (name=web)`."""
    import time

    seconds, nanos = divmod(event["timeNano"], 1_000_000_000)
    zone = time.strftime("%z", time.localtime(seconds))
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
    shown = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    attributes = event["Actor"]["Attributes"]
    about = ", ".join(f"{name}={attributes[name]}" for name in sorted(attributes))
    text = f"{moment}.{nanos:09d}{shown} {event['Type']} {event['Action']} {event['Actor']['ID']}"
    return f"{text} ({about})" if about else text


def fits(event: dict[str, Any], tests: Iterable[str]) -> bool:
    """Whether an event passes `--filter`s: different keys must all hold, equal keys are alternatives."""
    groups: dict[str, list[bool]] = {}
    for text in tests:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"-f, --filter is {text!r}", hint="write --filter KEY=VALUE", exit_code=1)
        groups.setdefault(key, []).append(_fits(event, key, value))
    return all(any(group) for group in groups.values())


def _fits(event: dict[str, Any], key: str, value: str) -> bool:
    attributes = event["Actor"]["Attributes"]
    if key == "type":
        return bool(event["Type"] == value)
    if key in {"event", "action"}:
        return bool(event["Action"] == value)
    if key == "label":
        name, has_value, wanted = value.partition("=")
        return name in attributes and (not has_value or attributes[name] == wanted)
    if key in _KINDS:
        identifier = event["Actor"]["ID"].removeprefix("sha256:")
        named = attributes.get("name", "") == value or attributes.get("image", "") == value
        return bool(event["Type"] == key and (named or identifier.startswith(value.removeprefix("sha256:"))))
    raise UsageError(
        f"events know no filter {key!r}",
        hint="use type, event, container, image, volume, network or label",
        exit_code=1,
    )
