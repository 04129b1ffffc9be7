"""What every room's tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from pathlib import Path

settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.register_profile("deep", parent=settings.get_profile("ci"), max_examples=2000)
settings.load_profile("ci")


@pytest.fixture
def root_dir(tmp_path: Path) -> Path:
    """A fresh folder for a store's root; `run_dir` is its companion."""
    return tmp_path / "root"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A fresh folder for what dies at boot."""
    return tmp_path / "run"
