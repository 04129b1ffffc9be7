"""Namespace modes: whose namespace, and whether that is a network of ours."""

from __future__ import annotations

import pytest

from orlop.engine import modes


@pytest.mark.parametrize(
    ("mode", "container", "path", "network"),
    [
        ("bridge", "", "", True),
        ("lan", "", "", True),
        ("none", "", "", False),
        ("host", "", "", False),
        ("pasta", "", "", False),
        ("container:one", "one", "", False),
        ("ns:/run/netns/x", "", "/run/netns/x", False),
    ],
)
def test_what_a_mode_means(mode: str, container: str, path: str, *, network: bool) -> None:
    """Each mode is one thing: a container's namespace, a path's, a network's name, or a word."""
    assert (modes.container_of(mode), modes.path_of(mode), modes.names_network(mode)) == (container, path, network)
    assert modes.is_shared(mode) is bool(container or path)


def test_sharing_is_the_inverse() -> None:
    """What `sharing` writes, `container_of` reads."""
    assert modes.container_of(modes.sharing("abc")) == "abc"
