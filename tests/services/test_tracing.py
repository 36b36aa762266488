"""Spans of the service in a real MLflow: an ended trace, with the run that made the model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import mlflow
import pytest

from services.generation.tracing import Tracer, traceparent
from tests.services.postgres import free_port


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    words = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "files"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", *words, "--workers", "1", "--port", str(port)]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while not _healthy(url):
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_mlflow_shows_a_job_with_the_run_that_made_its_model(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = mlflow.MlflowClient(store)
    experiment = client.create_experiment("serving")
    run = client.create_run(experiment).info.run_id
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", store)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-mlflow-experiment-id={experiment}")
    monkeypatch.setitem(os.environ, "NO_PROXY", "127.0.0.1")
    served: Any = SimpleNamespace(origin={"mlflow_run": run})
    now = time.time()
    job: Any = SimpleNamespace(
        trace=traceparent(None), id="video_1", attempt=1, steps=4, effective={"size": "32x32", "seed": 5},
        created_at=now - 3, started_at=now - 2,
    )  # fmt: skip
    tracer = Tracer(served)
    tracer.tell(job, now, "completed", {"denoise": (now - 2, now - 0.5)})
    tracer.flush()
    (trace,) = client.search_traces(locations=[experiment], filter_string=f"metadata.`mlflow.sourceRun` = '{run}'")
    assert trace.info.state == "OK"
    assert {span.name for span in trace.data.spans} == {"video", "queue", "denoise"}
