"""Waiting in tests: for a condition, never for a time. What was seen last is said when the wait is in vain."""

from __future__ import annotations

import gc
import os
import random
import socket
import time
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

Seen = TypeVar("Seen")

PATIENCE = 60.0  # seconds; only a failure waits that long, so it is far beyond what the slowest machine needs
_PAUSE = 0.02


def until(look: Callable[[], Seen], what: str = "") -> Seen:
    """Look again and again until something true is seen, and return that. What is not there yet (OSError) is not true."""
    return _watched(look, bool, what or "something true")


def until_equal(look: Callable[[], object], wanted: object, what: str = "") -> None:
    """Look again and again until `wanted` is seen; a failure shows what was seen instead."""
    _watched(look, lambda seen: seen == wanted, what or repr(wanted))


def _watched(look: Callable[[], Seen], fits: Callable[[Seen], bool], what: str) -> Seen:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            seen = look()
            if fits(seen):
                return seen
            last = repr(seen)
        except OSError as error:
            last = repr(error)
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE:g} s for {what}; seen last: {last}")
        time.sleep(_PAUSE)


def read_line(fd: int) -> bytes:
    """What a terminal or pipe gives up to a newline: it may come in pieces."""
    said = b""
    while not said.endswith(b"\n"):
        data = os.read(fd, 1)
        if not data:
            break
        said += data
    return said


def descriptors() -> set[str]:
    """The descriptors that this process has open, without those that only the garbage collector has yet to close."""
    gc.collect()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own
        found.add(name)
    return found


def free_port() -> int:
    """A TCP port that nobody has, of those that the kernel gives to nobody by itself: it is still free when it is used."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        first, last = (int(word) for word in file.read().split())
    choice = random.SystemRandom()
    while True:
        port = choice.randint(10_000, 65_000)
        if first <= port <= last:
            continue
        with socket.socket(socket.AF_INET) as probe, socket.socket(socket.AF_INET) as narrow:
            try:
                narrow.bind(("127.0.0.1", port))
                narrow.close()
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        return port
