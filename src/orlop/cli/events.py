"""Events as docker prints them. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def fields(event: dict[str, Any]) -> dict[str, Any]:
    """The fields of docker's `events` templates."""
    names = {"Status": "status", "ID": "id", "From": "from", "Scope": "scope", "Time": "time", "TimeNano": "timeNano"}
    found = {name: event.get(key, "") for name, key in names.items()}
    return {"Type": event["Type"], "Action": event["Action"], "Actor": event["Actor"], **found}


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
