"""The lab as a fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from netlab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A host, another host, and room for containers."""
    with Lab(tmp_path) as made:
        yield made
