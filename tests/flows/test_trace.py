"""The chain from a Bento back to the data: whole when nothing changed, and one flipped byte breaks the right link."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from flows.graph import Graph
from flows.jobs import Outcome, Status
from flows.lineage import Lineage, catch_up
from flows.promote import promote
from flows.trace import Trace, trace
from flows.workspace import Workspace
from ovi import storage
from ovi.config import Settings
from ovi.errors import OviError
from ovi.models.folder import digest, save_folder
from ovi.progress import Silent
from ovi.tracking import Run, TrackingError, find_runs
from tests.flows import toy

STAGES = {
    "collect": {"cmd": "collect", "deps": ["code/first"], "params": [{"out/settings.yaml": ["seed"]}],
                "outs": ["data/first.txt"]},
    "learn": {"cmd": "learn", "deps": ["data/first.txt", "code/second.py"],
              "params": [{"out/settings.yaml": ["sampling.steps"]}], "outs": ["models/fusion"]},
    "crown": {"cmd": "crown", "deps": ["models/fusion"], "outs": ["out/promotion.json"]},
    "pack": {"cmd": "pack", "deps": ["models/fusion", "out/promotion.json"], "outs": ["out/package"]},
}  # fmt: skip
IMAGE = "ovi-train@sha256:0a1b"


@dataclass
class Clone:
    root: Path
    settings: Settings

    def trace(self, tag: str | None = None) -> Trace:
        return trace(Workspace(self.root), self.settings, tag)

    def work(self, stage: str) -> None:
        """What the stages do, in this process."""
        root = self.root
        if stage == "collect":
            (root / "data").mkdir(exist_ok=True)
            (root / "data/first.txt").write_text(f"seed {self.settings.seed}")
        elif stage == "learn":
            save_folder(root / "models/fusion", {"part": {"kind": "toy"}}, {"part": {"w": torch.ones(2)}}, {})
        elif stage == "crown":
            storage.write_json(root / "out/evaluation/metrics.json", {})
            promote(
                self.settings, Path("models/fusion"), root / "out/evaluation/metrics.json",
                root / "out/promotion.json", Silent(),
            )  # fmt: skip
        else:
            found = digest(root / "models/fusion")
            bento = root / "out/package/bentos/ovi/1"
            shutil.copytree(root / "models/fusion", bento / "src/model")
            record = {"tag": f"ovi:{found[:16]}", "bento": "bentos/ovi/1", "model_digest": found, "version": found[:16]}
            storage.write_json(root / "out/package/package.json", record)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Clone:
    """A clone whose whole pipeline ran, each stage in an image, as the flow records it."""
    root = toy.make(tmp_path_factory.mktemp("lineage") / "clone")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace(f"{root}/", ""))
    clone = Clone(root, toy.settings(root, "resources={}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (root / "out").mkdir()
        shutil.copy(migrated, root / "out" / "mlflow.db")
        workspace = Workspace(root)
        workspace.prepare(clone.settings)
        graph = Graph(root)
        with Lineage(workspace, clone.settings) as lineage:
            for stage in graph.order:
                running = graph.begin(stage)
                run = lineage.open_stage(stage, running.inputs)
                patch.setenv("MLFLOW_RUN_ID", run.id)
                clone.work(stage)
                patch.delenv("MLFLOW_RUN_ID")
                outcome = Outcome(Status.SUCCEEDED, 0, 1.0, gpu_seconds=3600, gpu_seconds_lost=360, image=IMAGE)
                hashes = graph.commit(running)
                lineage.close_stage(stage, run, running.inputs.key, outcome, hashes)
        graph.close()
    return clone


@pytest.fixture
def clone(original: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A copy, in which MLflow's store is found beside the copied files."""
    root = tmp_path / "clone"
    shutil.copytree(original.root, root, symlinks=True)
    monkeypatch.chdir(root)
    uri = f"sqlite:///{root}/out/mlflow.db"
    tracking = original.settings.tracking.model_copy(update={"uri": uri})
    return Clone(root, original.settings.model_copy(update={"tracking": tracking}))


def test_a_whole_chain_is_told_from_the_bento_to_the_data(clone: Clone) -> None:
    found = clone.trace()
    assert [link.line() for link in found.links if link.broken] == []
    names = [link.name for link in found.links]
    assert names[:4] == ["bento", "registry", "model", "run"]
    assert list(dict.fromkeys(names[4:])) == ["pack", "crown", "learn", "collect"]
    assert (found.gpu_hours, found.gpu_hours_lost) == (4.0, 0.4)
    words = found.words()
    assert "version 1 of ovi, the champion" in words
    assert f"in {IMAGE} at commit none" in words
    assert words.endswith("links, whole; 4.00 GPU-hours, 0.40 of them lost")
    assert clone.trace(found.tag) == found
    with pytest.raises(OviError, match=r"holds ovi:\w{16}, not ovi:other"):
        clone.trace("ovi:other")


def flip(path: Path) -> None:
    """One bit of the last byte that is not the end of a text."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def sql(clone: Clone, statement: str) -> None:
    with closing(sqlite3.connect(clone.root / "out" / "mlflow.db")) as base:
        assert base.execute(statement).rowcount >= 1
        base.commit()


def flipped_tag(table: str, key: str) -> Callable[[Clone], None]:
    """One character of a value in MLflow's database."""
    changed = "case substr(value, 5, 1) when '0' then '1' else '0' end"
    statement = f"update {table} set value = substr(value, 1, 4) || {changed} || substr(value, 6) where key = '{key}'"
    return lambda clone: sql(clone, statement)


def edited(name: str, before: str, after: str) -> Callable[[Clone], None]:
    def edit(clone: Clone) -> None:
        text = (clone.root / name).read_text()
        assert text.count(before) >= 1
        (clone.root / name).write_text(text.replace(before, after, 1))

    return edit


FLIPS: dict[str, tuple[Callable[[Clone], None], tuple[str, str]]] = {
    "data": (lambda c: flip(c.root / "data/first.txt"), ("collect", "outputs: data/first.txt was")),
    "code": (lambda c: flip(c.root / "code/second.py"), ("learn", "code: code/second.py was")),
    "parameter": (edited("out/settings.yaml", "seed: 0", "seed: 1"), ("collect", "parameter seed is not")),
    "lock": (edited("dvc.lock", "sampling.steps: 50", "sampling.steps: 51"), ("learn", "no run in MLflow has the key")),
    "image": (edited("out/runs/learn.json", "sha256:0a1b", "sha256:0a1c"), ("learn", "image: out/runs has")),
    "model": (lambda c: flip(c.root / "models/fusion/part.safetensors"), ("model", "sha256")),
    "registry": (flipped_tag("model_version_tags", "digest"), ("registry", "no version of ovi has digest")),
    "bento": (lambda c: flip(next(c.root.rglob("src/model/part.safetensors"))), ("bento", "sha256")),
    "run": (flipped_tag("tags", "ovi.output.models/fusion"), ("learn", "outputs: models/fusion is")),
    "package": (lambda c: flip(c.root / "out/promotion.json"), ("crown", "outputs: out/promotion.json was")),
}


@pytest.mark.parametrize("what", FLIPS)
def test_one_flipped_byte_breaks_its_link(clone: Clone, what: str) -> None:
    act, (name, said) = FLIPS[what]
    act(clone)
    found = clone.trace()
    broken = [link for link in found.links if link.broken]
    assert any(link.name == name and said in link.broken for link in broken), found.words()
    assert "broken: " in found.words()


def away(*_: object) -> None:
    raise TrackingError("tracking.uri: away")


def statuses(clone: Clone) -> dict[str, str]:
    """Of the newest run of each name."""
    found = find_runs(clone.settings.tracking, "attributes.status != ''")
    return {run["name"]: run["status"] for run in reversed(found)}


def test_what_mlflow_does_not_take_fails_no_stage_and_is_told_later(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, graph = Workspace(clone.root), Graph(clone.root)
    running = graph.begin("collect")
    with Lineage(workspace, clone.settings) as lineage:
        run = lineage.open_stage("collect", running.inputs)
        outcome = Outcome(Status.SUCCEEDED, 0, 7.5, result={"figures": {"clips": 3}}, gpu_seconds=7200)
        with monkeypatch.context() as patch:
            patch.setattr(Run, "close", away)
            lineage.close_stage("collect", run, running.inputs.key, outcome, {"data": "abc"})
        assert capsys.readouterr().out == "collect: tracking.uri: away; what it did is told later\n"
        assert statuses(clone)["collect"] == "RUNNING"
    graph.close()
    assert statuses(clone)["collect"] == statuses(clone)["pipeline"] == "FINISHED"
    (found,) = find_runs(clone.settings.tracking, "tags.`ovi.stage` = 'collect'")
    assert {"clips": 3.0, "stage/seconds": 7.5, "cost/gpu_hours": 2.0}.items() <= found["metrics"].items()
    assert found["tags"]["ovi.output.data"] == "abc"
    assert not any("untold" in record for record in workspace.records().values())


def test_what_went_wrong_first_is_told_although_mlflow_is_away_then(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipeline(error: OviError | None) -> None:
        with monkeypatch.context() as patch, Lineage(workspace, clone.settings):
            patch.setattr(Run, "close", away)
            if error:
                raise error

    workspace = Workspace(clone.root)
    with pytest.raises(OviError, match="the disk is full"):
        pipeline(OviError("the disk is full"))
    assert workspace.records()["pipeline"]["state"] == "failed"
    assert statuses(clone)["pipeline"] == "RUNNING"
    catch_up(workspace, clone.settings.tracking)
    assert statuses(clone)["pipeline"] == "FAILED"
    with pytest.raises(TrackingError):
        pipeline(None)
    catch_up(workspace, clone.settings.tracking)
    assert statuses(clone)["pipeline"] == "FINISHED"
