"""An ablation of a toy, with a real Prefect server and MLflow store: shared work, effects, faults, going on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from flows import ablate as flows_ablate
from flows.cells import FOLDER
from ovi.errors import ConfigError
from tests.flows import toy

pytestmark = pytest.mark.e2e
PATIENCE_S = 500
OVI = Path(sys.executable).with_name("ovi")

# Every place has a link to `shared`, so all stages of all cells tell there that they ran.
STAGE = """
import json, os, pathlib, sys, time, yaml
name, settings = sys.argv[1], yaml.safe_load(open("out/settings.yaml"))
scaled, fused = settings["model"]["rope_scaling"], settings["training"]["fusion"]["fusion"]
with open("shared/ran.txt", "a") as file:
    file.write(f"{name} {os.getpid()} {os.environ['MLFLOW_RUN_ID']}\\n")
how = pathlib.Path("shared") / name
if how.exists() and how.read_text() == "sleep":
    time.sleep(600)
if how.exists() and not fused:
    sys.exit("ovi: the toy is broken")
if name == "corpus":
    pathlib.Path("data").mkdir()
    pathlib.Path("data/corpus.txt").write_text(str(settings["seed"]))
if name == "train":
    pathlib.Path("models").mkdir(exist_ok=True)
    pathlib.Path("models/model.json").write_text(json.dumps([scaled, fused]))
if name == "evaluate":
    out = pathlib.Path("out/evaluation")
    out.mkdir(parents=True)
    auc = 0.5 + 0.4 * fused * (1 if scaled else 0.5)
    figures = {"sync/blink/auc": auc, "sync/blink/auc_ci_low": auc - 0.1, "sync/blink/auc_ci_high": auc + 0.1,
               "fd_vggish": None, "not_comparable/fd_vggish": 5.0, "not_comparable/fd_vggish/ci_low": 4.0,
               "not_comparable/fd_vggish/ci_high": 6.0, "rope/ridge_correlation": 1.0 if scaled else 0.1,
               "wer_f5_tts": None}
    (out / "metrics.json").write_text(json.dumps(figures))
    notes = {"fd_vggish": "not comparable: its network is filled by a formula", "wer_f5_tts": "no network"}
    (out / "metrics_reasons.json").write_text(json.dumps(notes))
print(json.dumps({"event": "result", "name": name}))
"""
MODEL = ["model.rope_scaling", "training.fusion.fusion", "text.prompt"]
STAGES = {
    "stages": {
        "corpus": {"cmd": "python stage.py corpus", "params": [{"out/settings.yaml": ["seed"]}],
                   "outs": ["data/corpus.txt"]},
        "train": {"cmd": "python stage.py train", "deps": ["data/corpus.txt"],
                  "params": [{"out/settings.yaml": MODEL}], "outs": ["models/model.json"]},
        "evaluate": {"cmd": "python stage.py evaluate", "deps": ["models/model.json"],
                     "outs": ["out/evaluation/metrics_reasons.json"],
                     "metrics": [{"out/evaluation/metrics.json": {"cache": False}}]},
        "publish": {"cmd": "python stage.py publish", "deps": ["out/evaluation/metrics.json"], "outs": ["out/site"]},
    }
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = toy.make(tmp_path / "clone")
    (made / "stage.py").write_text(STAGE)
    (made / "dvc.yaml").write_text(yaml.safe_dump(STAGES, sort_keys=False))
    (made / "shared").mkdir()
    values = toy.values(made)
    values["ablation"] = {"prompt": ["combined"], "at_once": 2}
    (made / "params.yaml").write_text(yaml.safe_dump(values))
    return made


@contextlib.contextmanager
def ablating(root: Path, api: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [OVI, "ablate"], cwd=root, env={**os.environ, "PREFECT_API_URL": api},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ablate(root: Path, api: str) -> tuple[int, str]:
    """To its end: (exit code, what it said on stderr)."""
    with ablating(root, api) as process:
        return finish(process)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, err


def lines(root: Path) -> list[list[str]]:
    path = root / "shared" / "ran.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def ran(root: Path) -> Counter[str]:
    """How often each stage ran, ever."""
    return Counter(name for name, *_ in lines(root))


def trained(root: Path) -> int:
    """Cells whose training is done."""
    locks = (root / FOLDER / "cells").glob("*/dvc.lock")
    return sum("train" in yaml.safe_load(lock.read_text())["stages"] for lock in locks)


def test_a_cluster_is_refused_and_not_ignored(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"^executor: .* add --set executor=local$"):
        flows_ablate.ablate(root, root / "params.yaml", None, ["executor=kubernetes"])


def test_an_ablation_is_stopped_fails_goes_on_and_shares_what_cells_have_in_common(root: Path, api: str) -> None:
    _stopped_by_a_signal(root, api)
    _failed_by_one_cell(root, api)
    before, there = ran(root), trained(root)
    assert ablate(root, api) == (0, "")
    after = before + Counter(train=4 - there, evaluate=4)  # what had ended well stays; nothing beyond the evaluation
    assert ran(root) == after
    assert before["corpus"] == 1  # all cells share it
    _effects_are_told(root)
    _runs_are_in_mlflow(root)
    told = (root / FOLDER / "ablation.json").read_bytes()
    assert ablate(root, api) == (0, "")
    assert ran(root) == after  # nothing is stale
    assert (root / FOLDER / "ablation.json").read_bytes() == told


def _stopped_by_a_signal(root: Path, api: str) -> None:
    (root / "shared" / "train").write_text("sleep")
    with ablating(root, api) as process:
        until = time.monotonic() + PATIENCE_S
        while ran(root)["train"] < 2:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.1)
        sleepers = [psutil.Process(int(pid)) for name, pid, _ in lines(root) if name == "train"]
        process.send_signal(signal.SIGTERM)
        code, err = finish(process)
    assert code == 128 + signal.SIGTERM
    assert "the same command continues" in err
    assert not psutil.wait_procs(sleepers, timeout=30)[1]


def _failed_by_one_cell(root: Path, api: str) -> None:
    (root / "shared" / "train").write_text("fail")
    code, err = ablate(root, api)
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("ovi: stage train of combined-")
    assert "alone-0: failed with exit code 1: the toy is broken" in line
    (root / "shared" / "train").unlink()


def _effects_are_told(root: Path) -> None:
    told = json.loads((root / FOLDER / "ablation.json").read_text())
    effects = {(one["figure"], one["factor"]): one for one in told["effects"]}
    fusion = effects["sync/blink/auc", "fusion"]
    assert (fusion["base"], fusion["other"], fusion["pairs"]) == ("fused", "alone", 2)
    assert fusion["difference"] == pytest.approx(-0.3)
    assert effects["rope/ridge_correlation", "rope_scaling"]["difference"] == pytest.approx(-0.9)
    assert told["absent"]["wer_f5_tts"] == "no network"
    page = (root / FOLDER / "report.html").read_text()
    assert "not comparable with anything: fd_vggish." in page
    assert "not_comparable/fd_vggish" in page
    assert "5 (4 to 6)" in page
    assert not any(one["figure"] == "fd_vggish" for one in told["effects"])
    assert "0.9 (0.8 to 1)" in page


def _runs_are_in_mlflow(root: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/out/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("ovi").experiment_id])
    above = next(run for run in runs if run.info.run_name == "ablation" and run.info.status == "FINISHED")
    assert above.data.metrics["effect/sync/blink/auc/fusion_alone"] == pytest.approx(-0.3)
    assert above.data.metrics["effect/not_comparable/fd_vggish/fusion_alone"] == 0
    assert above.data.tags["ovi.not_comparable"] == "not comparable: fd_vggish"
    assert not any(name.startswith("effect/fd_vggish") for name in above.data.metrics)
    under = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == above.info.run_id]
    assert Counter(run.info.run_name for run in under)["evaluate"] == 4
    cell = next(run for run in under if run.info.run_name == "combined-scaled-alone-0")
    assert (cell.data.params["fusion"], cell.data.metrics["sync/blink/auc"]) == ("alone", 0.5)
    assert Counter(run.info.status for run in runs if run.info.run_name == "ablation") == {
        "KILLED": 1, "FAILED": 1, "FINISHED": 1,
    }  # fmt: skip
