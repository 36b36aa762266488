"""What every test gets: one thread, no telemetry, no network, no leftovers in the repository."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from ovi import s3

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
    MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW="64",  # twenty threads that race stand for twenty processes
)
os.environ.pop("MLFLOW_RUN_ID", None)

BUCKETS = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def leavings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What killed processes leave in the temporary folder goes with the session.

    Not inside pytest's own folder, which it keeps: the path of a socket may have no more than 108 characters.
    """
    tmp_path_factory.getbasetemp()  # made where it always is
    folders = tempfile.TemporaryDirectory(prefix="ovi-tests-", ignore_cleanup_errors=True)
    with folders as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """URL of an S3 server on loopback; it takes any key and keeps all in memory."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """s3://... of an empty bucket; the environment says where its store is."""
    for name, value in (("ENDPOINT_URL", store), ("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3._client.cache_clear()
    name = f"bucket-{next(BUCKETS)}"
    s3.client().create_bucket(Bucket=name)
    yield f"s3://{name}"
    s3._client.cache_clear()
