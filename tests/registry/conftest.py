"""Registries and clients that the tests of this room share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orlop.registry.client import Client
from orlop.registry.server.app import Application
from orlop.registry.server.files import FileStorage
from orlop.registry.testing import Direct, Served, serving
from orlop.registry.transport import Options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One registry without passwords for all tests that only add to it; two workers."""
    with serving(root=str(tmp_path_factory.mktemp("registry") / "root"), workers=2) as served:
        yield served


@pytest.fixture
def quick() -> Options:
    """Options with which failures are soon found out."""
    return Options(backoff=0.01, attempts=3, connect_timeout=60.0, read_timeout=60.0)


@pytest.fixture
def client(quick: Options) -> Iterator[Client]:
    """A client without credentials and with little patience."""
    made = Client(None, options=quick)
    yield made
    made.close()


@pytest.fixture
def direct(tmp_path: Path) -> Direct:
    """The application over an empty folder."""
    storage = FileStorage.open(str(tmp_path / "registry"))
    return Direct(Application(storage), storage)
