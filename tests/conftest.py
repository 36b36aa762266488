"""What every test gets: one thread, no telemetry, no network, no leftovers in the repository."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

settings.register_profile("here", deadline=None)  # a busy machine is no failure
settings.load_profile("here")
torch.set_num_threads(1)  # small tensors gain nothing from two threads and lose much on a busy machine
os.environ.update(
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    DVC_NO_ANALYTICS="1",
    BENTOML_DO_NOT_TRACK="True",
    HF_HUB_OFFLINE="1",
    DS_ACCELERATOR="cpu",
    MLFLOW_LOGGING_LEVEL="WARNING",
)
os.environ.pop("MLFLOW_RUN_ID", None)
