"""MLflow on a real SQLite file: replays leave no double points, runs are found again by key, aliases move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovi import tracking
from ovi.config import Tracking
from ovi.errors import OviError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
    return Tracking(uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts"))


def test_a_replayed_step_leaves_one_point(store: Tracking) -> None:
    run = tracking.Run.open(store, "train")
    for first in (0, 3):  # steps 3 to 5 are logged twice, as after a restart
        for step in range(first, 6):
            run.log_metrics({"loss": 1.0 / (step + 1), "missing": None}, step)
        run.flush()
    run.close()
    points = run._client.get_metric_history(run.id, "loss")
    assert sorted(point.step for point in points) == list(range(6))
    assert run._client.get_run(run.id).info.status == "FINISHED"
    assert "missing" not in run._client.get_run(run.id).data.metrics


def test_a_run_is_found_again_by_its_key(store: Tracking) -> None:
    first = tracking.Run.open(store, "stage", key="abc")
    first.log_params({"a": {"b": 1}})
    first.close("FAILED")
    again = tracking.Run.open(store, "stage", key="abc")
    again.log_params({"a": {"b": 2}, "c": 3})  # MLflow parameters are immutable: the first value stays
    again.close()
    assert again.id == first.id
    assert again._client.get_run(again.id).data.params == {"a.b": "1", "c": "3"}


def test_a_stage_writes_into_its_callers_run(store: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tracking.Run.open(store, "pipeline")
    child = tracking.Run.open(store, "stage", parent=parent.id, tags={"x": "y"})
    monkeypatch.setenv("MLFLOW_RUN_ID", child.id)
    inside = tracking.Run.open(store, "whatever")
    inside.log_metrics({"m": 2.0})
    inside.close()
    assert inside.id == child.id
    run = child._client.get_run(child.id)
    assert run.info.status == "RUNNING"  # the caller closes what the caller opened
    assert run.data.tags["mlflow.parentRunId"] == parent.id
    assert run.data.metrics == {"m": 2.0}


def test_registry_versions_are_one_per_digest(store: Tracking) -> None:
    one = tracking.register_version(store, "ovi", "d1", "models/fusion", None)
    assert tracking.register_version(store, "ovi", "d1", "models/fusion", None) == one
    two = tracking.register_version(store, "ovi", "d2", "models/fusion", None)
    assert two != one
    tracking.set_alias(store, "ovi", "champion", one)
    tracking.set_alias(store, "ovi", "champion", two)
    assert tracking.get_alias(store, "ovi", "champion") == two
    assert tracking.get_alias(store, "ovi", "nobody") is None


def test_files_and_datasets_are_kept(store: Tracking, tmp_path: Path) -> None:
    run = tracking.Run.open(store, "files")
    (tmp_path / "note.txt").write_text("hello")
    run.log_file(tmp_path / "note.txt", "notes")
    run.log_dataset("clips", "data/clips", "a" * 32 + ".dir")
    run.close()
    kept = run._client.list_artifacts(run.id, "notes")
    assert [item.path for item in kept] == ["notes/note.txt"]
    assert run._client.get_run(run.id).inputs.dataset_inputs[0].dataset.digest == "a" * 32 + ".dir"


def test_an_unreachable_store_is_one_line() -> None:
    with pytest.raises(OviError, match=r"tracking\.uri"):
        tracking._client("sqlite:////proc/nowhere/mlflow.db")


AWAY = Tracking(uri="http://ovi:hidden@127.0.0.1:9")


@pytest.mark.parametrize("ask", [
    lambda: tracking.Run.open(AWAY, "train"), lambda: tracking.Run.at(AWAY, "abc").set_tags({"a": "b"}),
    lambda: tracking.get_alias(AWAY, "ovi", "champion"), lambda: tracking.versions(AWAY, "ovi"),
    lambda: tracking.model_source(AWAY, "models:/ovi@champion"), lambda: tracking.find_runs(AWAY, "tags.a = 'b'"),
    lambda: tracking.append_entry(AWAY, "ovi-log", {}), lambda: tracking.read_entries(AWAY, "ovi-log"),
    lambda: tracking.register_version(AWAY, "ovi", "d1", "models/fusion", None),
])  # fmt: skip
def test_a_server_that_is_away_is_one_line_and_no_empty_one(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # else its client waits for it, minutes
    monkeypatch.setattr(tracking, "ENTRY_S", 0.0)
    with pytest.raises(
        tracking.TrackingError, match=r"^tracking\.uri: http://ovi:\*\*\*@127\.0\.0\.1:9 cannot be used \("
    ) as said:
        ask()
    assert "hidden" not in str(said.value)
    assert "\n" not in str(said.value)


def test_what_is_not_taken_stays_buffered(store: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracking.Run.open(store, "train")
    for step in range(700):
        run.log_metrics({"loss": 1.0}, step)
    batches = []

    def log_batch(run_id: str, metrics: Any) -> None:
        batches.append(len(metrics))
        if len(batches) == 2:
            raise tracking.TrackingError("tracking.uri: away")

    monkeypatch.setattr(run._client, "log_batch", log_batch, raising=False)
    with pytest.raises(tracking.TrackingError):
        run.flush()
    monkeypatch.undo()
    run.close()
    assert batches == [500, 200]
    assert [point.step for point in run._client.get_metric_history(run.id, "loss")] == list(range(500, 700))


def test_a_database_that_is_away_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # else MLflow waits for it, two minutes
    with pytest.raises(
        OviError, match=r"tracking\.uri: postgresql\+psycopg://ovi:\*\*\*@127\.0\.0\.1:9/x cannot"
    ) as said:
        tracking._client("postgresql+psycopg://ovi:hidden@127.0.0.1:9/x")
    assert "hidden" not in str(said.value)
    assert "\n" not in str(said.value)
