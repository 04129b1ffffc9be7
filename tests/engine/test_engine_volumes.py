"""Named volumes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import orlop

if TYPE_CHECKING:
    from pathlib import Path


def test_a_volume_counts_its_files_once(tmp_path: Path) -> None:
    """The size of a volume is what its removal frees: a file with two names once."""
    with orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run")) as engine:
        engine.volumes.create("data")
        path = engine.volumes.path("data")
        with open(f"{path}/one", "wb") as file:
            file.write(os.urandom(1 << 20))
        os.link(f"{path}/one", f"{path}/two")
        assert 1 << 20 <= engine.volumes.size("data") < 3 << 19
