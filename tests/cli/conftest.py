"""The command line as a fixture."""

from __future__ import annotations

import pytest
from commandline import Line


@pytest.fixture
def line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Line:
    """The command line over a fresh twin."""
    return Line(capfd, monkeypatch)
