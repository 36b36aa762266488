"""The gate, and what it moves in a real MLflow registry."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import champions, server
from flows.champions import Move
from flows.promote import approve, gate, promote
from flows.workspace import Workspace
from ovi import config, storage, tracking
from ovi.config import Settings, Threshold
from ovi.errors import OviError
from ovi.models.folder import ModelFolder, digest, save_folder
from ovi.progress import Silent
from tests.flows import toy


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    """One MLflow database; each test promotes another name in it."""
    folder = tmp_path_factory.mktemp("promote")
    (folder / "out").mkdir()
    shutil.copy(migrated, folder / "out" / "mlflow.db")
    return folder


class Bench:
    """A model folder, its figures and the settings to promote it by."""

    def __init__(self, root: Path, base: Path, name: str) -> None:
        self.root, self.name = root, name
        self.values = toy.values(base)

    def settings(self, thresholds: dict[str, Any], approval: bool = False, weights: str | None = None) -> Settings:
        promotion = {"model": self.name, "thresholds": thresholds, "approval": approval, "weights": weights}
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
def bench(tmp_path: Path, base: Path, request: pytest.FixtureRequest) -> Bench:
    return Bench(tmp_path, base, request.node.name[:40])


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
        (None, "not comparable: its network is filled by a formula", {"max": 9.0}, False),
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
    promote(settings, bench.model(1.0), figures, bench.out, Silent())
    decision = storage.read_json(bench.out)
    assert decision == {
        "model": bench.name,
        "version": "1",
        "digest": digest(bench.root / "model"),
        "alias": "champion",
        "run": None,
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
    promote(settings, bench.model(1.0), figures, bench.out, Silent())
    assert bench.out.read_bytes() == written  # the same weights are the same version

    promote(settings, bench.model(2.0), figures, bench.out, Silent())
    assert bench.aliases(settings) == {"candidate": "2", "champion": "2", "previous": "1"}


def test_a_model_that_fails_is_a_candidate_and_nothing_more(bench: Bench) -> None:
    settings = bench.settings({"sync/blink/auc": {"min": 0.5}, "loss/fusion/audio/drop": {"min": 0.3}})
    promote(bench.settings({}), bench.model(1.0), bench.metrics(GOOD), bench.out, Silent())
    bench.out.unlink()
    with pytest.raises(OviError) as caught:
        promote(settings, bench.model(2.0), bench.metrics(GOOD), bench.out, Silent())
    line = f"version 2 of {bench.name} is not promoted: loss/fusion/audio/drop is 0.1, wanted at least 0.3"
    assert str(caught.value) == line
    assert not bench.out.exists()
    assert bench.aliases(settings) == {"candidate": "2", "champion": "1", "previous": None}


def test_approval_is_a_persons_and_is_kept(bench: Bench) -> None:
    settings = bench.settings({"sync/blink/auc": {"min": 0.5}}, approval=True)
    figures = bench.metrics(GOOD)
    with pytest.raises(OviError, match="has no version yet"):
        approve(settings, "Ada", "why not")
    with pytest.raises(OviError, match=r"waits for approval.*`ovi promote approve --by NAME --reason WHY`"):
        promote(settings, bench.model(1.0), figures, bench.out, Silent())
    assert not bench.out.exists()
    assert bench.aliases(settings)["champion"] is None
    with pytest.raises(OviError, match="say who approves and why"):
        approve(settings, "Ada Lovelace", " ")
    move = approve(settings, "Ada Lovelace", "sounds right")
    assert (move.before, move.to, move.by, move.reason) == (None, "1", "Ada Lovelace", "sounds right")
    assert bench.aliases(settings)["champion"] == "1"
    kept = tracking.versions(settings.tracking, bench.name)["1"]["tags"]
    assert (kept["approved_by"], kept["approved_because"]) == ("Ada Lovelace", "sounds right")
    assert kept["gate/sync/blink/auc"] == "sync/blink/auc is 0.8, wanted at least 0.5"
    promote(settings, bench.model(1.0), figures, bench.out, Silent())  # the pipeline's turn, after the approval
    assert storage.read_json(bench.out)["promoted"]
    with pytest.raises(OviError, match="is the champion already"):
        approve(settings, "Ada Lovelace", "again")


def test_approval_does_not_open_the_gate(bench: Bench) -> None:
    settings = bench.settings({"sync/blink/auc": {"min": 0.9}}, approval=True)
    with pytest.raises(OviError, match="is not promoted"):
        promote(settings, bench.model(1.0), bench.metrics(GOOD), bench.out, Silent())
    with pytest.raises(OviError, match="did not pass its gate"):
        approve(settings, "Ada Lovelace", "I like it")
    assert bench.aliases(settings)["champion"] is None


def race(bench: Bench, settings: Settings, numbers: range) -> tuple[Move, list[str]]:
    """Versions of these numbers, all to take the place of version 1 at once: who did, and what the others heard."""
    for number in numbers:
        assert tracking.register_version(settings.tracking, bench.name, f"{number}", "here", None) == f"{number}"
    barrier = threading.Barrier(len(numbers))

    def run(number: int) -> Move | OviError:
        barrier.wait()
        try:
            return champions.move(settings.tracking, bench.name, "1", str(number), f"racer {number}", "first")
        except OviError as error:
            return error

    with ThreadPoolExecutor(len(numbers)) as pool:
        results = list(pool.map(run, numbers))
    (winner,) = (result for result in results if isinstance(result, Move))
    return winner, [str(result) for result in results if isinstance(result, OviError)]


def test_of_twenty_promotions_at_once_one_wins(bench: Bench) -> None:
    settings = bench.settings({})
    promote(settings, bench.model(0.0), bench.metrics(GOOD), bench.out, Silent())
    winner, lines = race(bench, settings, range(2, 22))
    assert all(f"meanwhile version {winner.to} became the champion" in line for line in lines)
    assert bench.aliases(settings) == {"candidate": "1", "champion": winner.to, "previous": "1"}
    moves = champions.history(settings.tracking, bench.name)
    assert [move.number for move in moves] == list(range(1, 22))  # every try is on record, winners and losers
    assert sum(move.held for move in moves) == 2


@pytest.fixture
def mlflow(tmp_path: Path, base: Path) -> Iterator[str]:
    """The address of an MLflow server of its own, over HTTP as a team has it."""
    root = toy.make(tmp_path / "clone")
    (root / "out").mkdir(exist_ok=True)
    shutil.copy(base / "out" / "mlflow.db", root / "out" / "mlflow.db")
    running = server.start_mlflow(Workspace(root), toy.settings(root).tracking, server.free_port())
    try:
        running.ready()
        yield running.url
    finally:
        running.stop()


@pytest.mark.e2e
def test_the_same_with_a_team_s_server_and_bucket(bench: Bench, mlflow: str, bucket: str) -> None:
    """A server takes no folder of another machine; whoever serves the champion finds it in the bucket."""
    bench.values["tracking"] = {"uri": mlflow, "artifacts": bucket}
    settings = bench.settings({}, weights=f"{bucket}/models")
    folders = [bench.root / "first", bench.root / "second"]
    for value, folder in enumerate(folders):
        promote(settings, bench.model(float(value)).rename(folder), bench.metrics(GOOD), bench.out, Silent())
    digests = [digest(folder) for folder in folders]
    assert bench.aliases(settings) == {"candidate": "2", "champion": "2", "previous": "1"}
    champions.rollback(settings.tracking, bench.name, "Ada", "clicks")
    where, found = tracking.model_source(settings.tracking, f"models:/{bench.name}@champion")
    assert (where, found) == (f"{bucket}/models/{digests[0][:16]}", digests[0])
    pulled = bench.root / "pulled"
    for name in ModelFolder.open(folders[0]).files:
        storage.download(f"{where}/{name}", pulled / name)
    assert digest(pulled) == digests[0]

    winner, _ = race(bench, settings, range(3, 23))
    assert bench.aliases(settings) == {"candidate": "2", "champion": winner.to, "previous": "1"}
    assert len(champions.history(settings.tracking, bench.name)) == 3 + 20


def test_rolling_back_is_one_quick_step_and_can_be_undone(bench: Bench) -> None:
    settings = bench.settings({})
    with pytest.raises(OviError, match="no champion before"):
        champions.rollback(settings.tracking, bench.name, "Ada", "clicks")
    for value in (1.0, 2.0):
        promote(settings, bench.model(value), bench.metrics(GOOD), bench.out, Silent())
    began = time.monotonic()
    champions.rollback(settings.tracking, bench.name, "Ada", "clicks in the sound")
    assert time.monotonic() - began < 5
    assert bench.aliases(settings) == {"candidate": "2", "champion": "1", "previous": "2"}
    champions.rollback(settings.tracking, bench.name, "Ada", "it was the loudspeaker")
    assert bench.aliases(settings) == {"candidate": "2", "champion": "2", "previous": "1"}
    told = [move.line() for move in champions.history(settings.tracking, bench.name)]
    assert "version 2 -> 1" in told[2]
    assert "Ada: clicks in the sound" in told[2]


def test_a_champion_from_before_the_log_is_known(bench: Bench) -> None:
    settings = bench.settings({})
    tracking.register_version(settings.tracking, bench.name, "old", "somewhere", None)
    tracking.set_alias(settings.tracking, bench.name, "champion", "1")
    promote(settings, bench.model(1.0), bench.metrics(GOOD), bench.out, Silent())
    assert bench.aliases(settings) == {"candidate": "2", "champion": "2", "previous": "1"}


def test_a_damaged_model_is_not_registered(bench: Bench) -> None:
    settings = bench.settings({})
    model = bench.model(1.0)
    weights = model / "part.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(OviError, match="sha256"):
        promote(settings, model, bench.metrics(GOOD), bench.out, Silent())
    assert bench.aliases(settings)["candidate"] is None
