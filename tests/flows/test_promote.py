"""The gate, and what it moves in a real MLflow registry."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.promote import gate, promote
from ovi import config, storage, tracking
from ovi.config import Settings, Threshold
from ovi.errors import OviError
from ovi.models.folder import digest, save_folder
from ovi.progress import Silent
from tests.flows import toy


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One migrated MLflow database; each test promotes another name in it."""
    return tmp_path_factory.mktemp("mlflow")


class Bench:
    """A model folder, its figures and the settings to promote it by."""

    def __init__(self, root: Path, store: Path, name: str) -> None:
        self.root, self.name = root, name
        self.values = toy.values(store)

    def settings(self, thresholds: dict[str, Any], approval: bool = False) -> Settings:
        promotion = {"model": self.name, "thresholds": thresholds, "approval": approval}
        path = self.root / "params.yaml"
        path.write_text(json.dumps({**self.values, "promotion": promotion}))
        return config.load(path)

    def model(self, value: float) -> Path:
        path = self.root / "model"
        save_folder(path, {"part": {"kind": "toy"}}, {"part": {"w": torch.full((2,), value)}}, {})
        return path

    def metrics(self, values: dict[str, float | None], reasons: dict[str, str] | None = None) -> Path:
        folder = self.root / "evaluation"
        storage.write_json(folder / "metrics.json", values)
        storage.write_json(folder / "metrics_reasons.json", reasons or {})
        return folder / "metrics.json"

    @property
    def out(self) -> Path:
        return self.root / "promotion.json"

    def aliases(self, settings: Settings) -> dict[str, str | None]:
        return {
            alias: tracking.get_alias(settings.tracking, self.name, alias)
            for alias in ("candidate", "champion", "previous")
        }


@pytest.fixture
def bench(tmp_path: Path, store: Path, request: pytest.FixtureRequest) -> Bench:
    (store / "out").mkdir(exist_ok=True)
    return Bench(tmp_path, store, request.node.name[:40])


GOOD = {"sync/blink/auc": 0.8, "loss/fusion/audio/drop": 0.1}


@pytest.mark.parametrize(
    ("value", "reason", "bound", "passed"),
    [
        (0.5, None, {"min": 0.5}, True),
        (0.49, None, {"min": 0.5}, False),
        (0.5, None, {"max": 0.5}, True),
        (0.51, None, {"max": 0.5}, False),
        (0.3, None, {"min": 0.2, "max": 0.4}, True),
        (0.1, None, {"min": 0.2, "max": 0.4}, False),
        (None, "the estimator failed", {"min": 0.5}, False),
        (None, None, {"min": 0.5}, False),
        (None, "not applicable: no blink scene in these data", {"min": 0.5}, True),
    ],
)
def test_the_gate(value: float | None, reason: str | None, bound: dict[str, float], passed: bool) -> None:
    reasons = {"m": reason} if reason else {}
    (check,) = gate({"m": Threshold(**bound)}, {"m": value, "other": 1.0}, reasons)
    assert check.passed is passed
    assert (reason or "") in check.note
    assert "m is" in check.words()


def test_a_figure_nobody_reports_fails() -> None:
    (check,) = gate({"sync/blonk/auc": Threshold(min=0.5)}, GOOD, {})
    assert not check.passed
    assert check.note == "evaluation does not report it"


def test_a_model_that_passes_becomes_the_champion(bench: Bench) -> None:
    settings = bench.settings({"sync/blink/auc": {"min": 0.5}, "sync/mouth/auc": {"min": 0.9}})
    figures = bench.metrics(
        {**GOOD, "sync/mouth/auc": None}, {"sync/mouth/auc": "not applicable: no mouth scene in these data"}
    )
    promote(settings, bench.model(1.0), figures, bench.out, None, Silent())
    decision = storage.read_json(bench.out)
    assert decision == {
        "model": bench.name,
        "version": "1",
        "digest": digest(bench.root / "model"),
        "alias": "champion",
        "promoted": True,
        "gate": [
            {"metric": "sync/blink/auc", "value": 0.8, "min": 0.5, "max": None, "passed": True, "note": ""},
            {
                "metric": "sync/mouth/auc",
                "value": None,
                "min": 0.9,
                "max": None,
                "passed": True,
                "note": "not applicable: no mouth scene in these data",
            },
        ],
    }
    assert bench.aliases(settings) == {"candidate": "1", "champion": "1", "previous": None}

    written = bench.out.read_bytes()
    promote(settings, bench.model(1.0), figures, bench.out, None, Silent())
    assert bench.out.read_bytes() == written  # the same weights are the same version

    promote(settings, bench.model(2.0), figures, bench.out, None, Silent())
    assert bench.aliases(settings) == {"candidate": "2", "champion": "2", "previous": "1"}


def test_a_model_that_fails_is_a_candidate_and_nothing_more(bench: Bench) -> None:
    settings = bench.settings({"sync/blink/auc": {"min": 0.5}, "loss/fusion/audio/drop": {"min": 0.3}})
    promote(bench.settings({}), bench.model(1.0), bench.metrics(GOOD), bench.out, None, Silent())
    bench.out.unlink()
    with pytest.raises(OviError) as caught:
        promote(settings, bench.model(2.0), bench.metrics(GOOD), bench.out, None, Silent())
    line = f"version 2 of {bench.name} is not promoted: loss/fusion/audio/drop is 0.1, wanted at least 0.3"
    assert str(caught.value) == line
    assert not bench.out.exists()
    assert bench.aliases(settings) == {"candidate": "2", "champion": "1", "previous": None}


def test_approval_is_a_persons_and_is_kept(bench: Bench, store: Path) -> None:
    settings = bench.settings({"sync/blink/auc": {"min": 0.5}}, approval=True)
    figures = bench.metrics(GOOD)
    with pytest.raises(OviError, match=r"waits for approval.*`ovi promote --approved-by NAME`"):
        promote(settings, bench.model(1.0), figures, bench.out, None, Silent())
    assert not bench.out.exists()
    assert bench.aliases(settings)["champion"] is None
    promote(settings, bench.model(1.0), figures, bench.out, "Ada Lovelace", Silent())
    assert bench.aliases(settings)["champion"] == "1"
    with closing(sqlite3.connect(store / "out" / "mlflow.db")) as base:
        query = "select key, value from model_version_tags where name = ?"
        kept = dict(base.execute(query, (bench.name,)).fetchall())
    assert kept["approved_by"] == "Ada Lovelace"
    assert kept["gate/sync/blink/auc"] == "sync/blink/auc is 0.8, wanted at least 0.5"
    promote(settings, bench.model(1.0), figures, bench.out, None, Silent())  # the pipeline's turn, after the approval
    assert storage.read_json(bench.out)["promoted"]


def test_approval_does_not_open_the_gate(bench: Bench) -> None:
    settings = bench.settings({"sync/blink/auc": {"min": 0.9}}, approval=True)
    with pytest.raises(OviError, match="is not promoted"):
        promote(settings, bench.model(1.0), bench.metrics(GOOD), bench.out, "Ada Lovelace", Silent())
    assert bench.aliases(settings)["champion"] is None


def test_a_damaged_model_is_not_registered(bench: Bench) -> None:
    settings = bench.settings({})
    model = bench.model(1.0)
    weights = model / "part.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(OviError, match="sha256"):
        promote(settings, model, bench.metrics(GOOD), bench.out, None, Silent())
    assert bench.aliases(settings)["candidate"] is None
