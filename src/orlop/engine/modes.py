"""Namespace modes, as --network, --pid, --ipc and the others write them and a container's config keeps them.

"" or "private" is a namespace of its own, "host" this machine's, "container:ID" another container's and (network only)
"ns:PATH" that of a path. What else `--network` says is a network's name, but for "none" and "pasta".
"""

from __future__ import annotations

_CONTAINER = "container:"
_PATH = "ns:"
_UNNAMED = ("none", "host", "pasta")


def container_of(mode: str) -> str:
    """The container whose namespace is shared, as it was named; "" for every other mode."""
    return mode[len(_CONTAINER) :] if mode.startswith(_CONTAINER) else ""


def sharing(container: str) -> str:
    """The mode that shares a container's namespace."""
    return _CONTAINER + container


def path_of(mode: str) -> str:
    """The path of the namespace to join; "" for every other mode."""
    return mode[len(_PATH) :] if mode.startswith(_PATH) else ""


def is_shared(mode: str) -> bool:
    """Whether the namespace is another's, who has set it up."""
    return mode.startswith((_CONTAINER, _PATH))


def names_network(mode: str) -> bool:
    """Whether a network mode is the name of a network."""
    return mode not in _UNNAMED and not is_shared(mode)
