"""What every test gets: one thread, no telemetry, no network, no leftovers in the repository."""

from __future__ import annotations

import os

os.environ.update(
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    DVC_NO_ANALYTICS="1",
    BENTOML_DO_NOT_TRACK="True",
    HF_HUB_OFFLINE="1",
    DS_ACCELERATOR="cpu",
)
os.environ.pop("MLFLOW_RUN_ID", None)
