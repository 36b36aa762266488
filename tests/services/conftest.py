"""Fixtures of the service: a described model, a state folder, the HTTP app over both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from ovi.config import Sampling, Settings
from services.generation.api import create_app
from services.generation.backend import Backend
from services.generation.guard import Guard
from services.generation.jobs import JobStore, sqlite
from services.generation.metrics import Meter
from services.generation.problems import BodyLimit
from services.generation.results import ResultStore
from services.generation.schemas import Served
from services.generation.supervisor import Supervisor
from services.generation.tokens import Tokens
from services.generation.watch import Watch
from tests.services import postgres
from tests.services.models import save_tiny_model, tiny_settings


@pytest.fixture(scope="session")
def settings() -> Settings:
    return tiny_settings(service__prompt="A lamp.")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "fusion", settings)


@pytest.fixture
def served() -> Served:
    return Served(
        model="ovi:0123456789abcdef", digest="0123456789abcdef" * 4, width=32, height=32, frames=121, fps=24,
        area=1024, multiple=16, version=None, sample_rate=16000, max_tokens=128, tokenizer=None, memory=10**9,
        sampling=Sampling(steps=4, shift=3.0), queue=3, workers=1, retention_s=60.0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """A PostgreSQL for this run."""
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind: one contract for both."""
    if request.param == "sqlite":
        return sqlite(tmp_path / "state")
    address: str = request.getfixturevalue("database")
    postgres.empty(address)
    return address


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore.in_folder(tmp_path / "state")
    yield store
    store.close()


@pytest.fixture
def backend(tmp_path: Path, jobs: JobStore, served: Served) -> Backend:
    """The service with its workers not started: jobs stay where a test puts them."""
    workers = Supervisor(tmp_path, tmp_path / "state", jobs, served.workers)
    results = ResultStore(str(tmp_path / "state" / "results"), tmp_path / "state" / "making")
    return Backend(jobs, results, served, workers, Meter(jobs), Watch(jobs), Tokens(tmp_path, served))


@pytest.fixture
def client(backend: Backend) -> Iterator[TestClient]:
    app = Guard(BodyLimit(create_app(backend)), backend.keys)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client
