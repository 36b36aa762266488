"""The environment every process of the platform gets: no telemetry, no network look-ups, this Python's commands first.

Try it: `python -c "from flows import environment; print(environment.for_stage({}))"`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight idle processes, 1.3 GB
    "DVC_NO_ANALYTICS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "HF_HUB_OFFLINE": "1",
}

TRACKING = "OVI_TRACKING_URI"  # of a worker: where the runs it takes are recorded, whatever their params.yaml says


def quiet() -> None:
    """Set in this process what is not set yet. Call before importing prefect, mlflow or dvc: they read it once."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("no_proxy", "NO_PROXY"):  # our servers are on loopback, whatever proxy leads outside
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))


def for_stage(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for a stage: `ovi` is found beside the Python that runs us, and speaks JSON lines."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**QUIET, **os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "OVI_JSON": "1", **extra}
