"""What several tests of the flows share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovi import tracking
from ovi.config import Tracking


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database with all its tables, to be copied: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracking.get_alias(Tracking(uri=f"sqlite:///{path}"), "nobody", "none")
    return path
