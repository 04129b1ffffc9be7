"""Containers for the runtime's tests: real ones, each removed and looked for afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from patience import until_equal

from orlop.runtime.testing import Box

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A bundle to make containers of; afterwards nothing of them may be left on the machine."""
    found = Box(tmp_path)
    try:
        yield found
    finally:
        found.close()
    until_equal(found.leftovers, [])  # the dead may take a moment to leave their cgroups
