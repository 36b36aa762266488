"""The record of a training, with a real MLflow server that is killed and comes back, and with stores that are ill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows import server
from flows.workspace import Workspace
from ovi import storage
from ovi.config import Tracking
from ovi.tracking import TrackingError
from ovi.training import record
from ovi.training.record import Record
from tests.training import made
from tests.training.test_launch import STAGE, STEPS, Started, at_step
from tests.waiting import wait_for


class Ill:
    """Stands for an MLflow run whose stores refuse as they are told to."""

    def __init__(self) -> None:
        self.points: list[tuple[dict[str, Any], int]] = []
        self.sent: list[Any] = []
        self.away = self.bucketless = False
        self.hangs = threading.Event()
        self.hangs.set()

    def log_metrics(self, values: dict[str, Any], step: int) -> None:
        self.points.append((values, step))

    def flush(self) -> None:
        self.hangs.wait(60)
        if self.away:
            raise TrackingError("tracking.uri: away")
        self.sent += self.points
        self.points = []

    def log_file(self, path: Path, folder: str) -> None:
        if self.away or self.bucketless:
            raise TrackingError(f"tracking.artifacts: {path.name} is not kept")
        self.sent.append(path.name)

    def close(self, status: str) -> None:
        self.flush()
        self.sent.append(status)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Ill:
    monkeypatch.setattr(record, "AGAIN_S", 0.01)
    monkeypatch.setattr(record, "LEAVE_S", 0.2)
    return Ill()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def kept(run: Ill, notes: list[str]) -> Record:
    return Record(run, notes.append)  # type: ignore[arg-type]


def test_what_is_said_is_sent_while_training_goes_on(run: Ill, kept: Record) -> None:
    kept.log_metrics({"loss": 1.0}, 3)
    wait_for(lambda: run.sent == [({"loss": 1.0}, 3)])
    kept.log_file(Path("clip.mp4"), "samples")
    kept.close()
    assert run.sent[1:] == ["clip.mp4", "FINISHED"]


def test_no_step_waits_for_a_store_that_hangs(run: Ill, kept: Record, notes: list[str]) -> None:
    run.hangs.clear()
    for step in range(100):
        kept.log_metrics({"loss": 1.0}, step)
    kept.leave("KILLED")  # nor does a training that is stopped
    assert run.sent == notes == []
    run.hangs.set()


def test_a_store_that_is_away_is_told_once_and_gets_all_when_it_is_back(
    run: Ill, kept: Record, notes: list[str]
) -> None:
    run.away = True
    step = 0

    def said(count: int) -> Callable[[], bool]:
        def look() -> bool:
            nonlocal step
            step += 1
            kept.log_metrics({"loss": 1.0}, step)
            return len(notes) == count

        return look

    kept.log_file(Path("clip.mp4"))
    wait_for(said(1))
    for _ in range(9):
        kept.log_metrics({"loss": 1.0}, step := step + 1)
    run.away = False
    wait_for(said(2))
    kept.close()
    assert notes == [
        "tracking.uri: away; training goes on, and what it says is sent later",
        "tracking.uri and tracking.artifacts take everything again",
    ]
    assert [point[1] for point in run.sent if isinstance(point, tuple)] == list(range(1, step + 1))
    assert [word for word in run.sent if isinstance(word, str)] == ["clip.mp4", "FINISHED"]


def test_a_bucket_that_refuses_files_keeps_no_figures_back(run: Ill, kept: Record) -> None:
    run.bucketless = True
    kept.log_file(Path("clip.mp4"))
    kept.log_metrics({"loss": 1.0}, 1)
    wait_for(lambda: run.sent == [({"loss": 1.0}, 1)])
    with pytest.raises(TrackingError, match=r"clip\.mp4 is not kept; what was trained is kept: mend that and run"):
        kept.close()
    assert run.sent[1:] == ["FAILED"]


def test_what_is_not_the_stores_fault_is_no_outage(run: Ill, kept: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "flush", lambda: {}["defect"])
    kept.log_metrics({"loss": 1.0}, 1)
    with pytest.raises(KeyError, match="defect"):
        kept.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record")
    made.latents(folder / "latents")
    (folder / "dvc.yaml").touch()  # a clone, as far as the server can tell
    return folder


@pytest.fixture
def mlflow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], server.Server]]:
    """Starts one MLflow server, always at the same address; none is left."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # else its client waits for minutes
    store = Tracking(uri=f"sqlite:///{folder}/server.db", artifacts=str(folder / "artifacts"))
    started: list[server.Server] = []
    port = server.free_port()

    def start() -> server.Server:
        started.append(server.start_mlflow(Workspace(folder), store, port))
        started[-1].ready()
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.mark.e2e
def test_a_training_outlives_its_mlflow_server(folder: Path, mlflow: Callable[[], server.Server]) -> None:
    """Killed while it trains: it is asked to stop and does, goes on without, and has told all when it ends."""
    running = mlflow()
    address = f"tracking.uri={running.url}"
    first = Started(folder, address)
    first.until(at_step(30))
    running.stop()
    first.until(lambda event: "cannot be used" in str(event.get("text")))
    first.until(at_step(60))
    first.process.send_signal(signal.SIGTERM)
    code, said = first.end()
    assert code == 75, said
    assert "which is saved; run it again" in said

    running = mlflow()
    client = MlflowClient(running.url)
    second = Started(folder, address)
    second.until(at_step(90))
    running.stop()
    second.until(lambda event: "cannot be used" in str(event.get("text")))
    for rank in second.ranks:
        rank.suspend()
    mlflow()
    for rank in second.ranks:
        rank.resume()
    assert second.end() == (0, "")

    (experiment,) = client.search_experiments(filter_string="name = 'ovi'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    metrics = storage.read_json(folder / "models" / STAGE / "metrics.json")
    points = [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, "loss")]
    assert points == [(point["step"], point["loss"]) for point in metrics["curve"] if point["loss"] is not None]
    assert points[-1][0] == STEPS
