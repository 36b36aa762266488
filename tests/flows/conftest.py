"""What several tests of the flows share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import server
from flows.workspace import Workspace
from ovi import tracking
from ovi.config import Tracking
from tests.flows import toy


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database with all its tables, to be copied: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracking.get_alias(Tracking(uri=f"sqlite:///{path}"), "nobody", "none")
    return path


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Prefect server for all tests that need one: its start takes longer than a toy pipeline."""
    home = Workspace(toy.make(tmp_path_factory.mktemp("prefect") / "clone"))
    running = server.start_prefect(home, server.free_port())
    try:
        running.ready()
        yield f"{running.url}/api"
    finally:
        running.stop()
