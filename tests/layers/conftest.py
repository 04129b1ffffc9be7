"""A store to work in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orlop.store.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orlop.store.leases import Lease


@pytest.fixture
def root(root_dir: Path, run_dir: Path) -> Iterator[Root]:
    """An open root with nothing in it."""
    with Root.open(str(root_dir), str(run_dir)) as made:
        yield made


@pytest.fixture
def lease(root: Root) -> Iterator[Lease]:
    """A lease of this process."""
    with root.lease() as made:
        yield made
