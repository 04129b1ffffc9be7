"""Fixtures of the build room's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orlop.build.testing import Kitchen
from orlop.store.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def kitchen(root_dir: Path, run_dir: Path, tmp_path: Path) -> Iterator[Kitchen]:
    """A root with the image "base", a context, and all that a build wants."""
    where = tmp_path / "kitchen"
    where.mkdir()
    with Root.open(str(root_dir), str(run_dir)) as root:
        kitchen = Kitchen(root, where)
        kitchen.add_base("base")
        yield kitchen
        kitchen.close()
