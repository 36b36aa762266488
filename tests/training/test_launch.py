"""Two DeepSpeed ranks under a stage process, ended in every way a process can end, and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from ovi import storage
from ovi.training import rank
from ovi.training.job import Job
from tests.training import made

pytestmark = pytest.mark.e2e  # seven starts of DeepSpeed and MLflow

STAGE = "video_backbone"
STEPS = 240
SETS = [
    "training.engine=deepspeed", "training.ranks=2", f"training.{STAGE}.steps={STEPS}",
    f"training.{STAGE}.checkpoint_every=20", f"training.{STAGE}.validate_every=50",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    made.latents(folder / "latents")
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()  # makes the tables, which takes seconds
    return folder


class Started:
    """A running stage. What it started is remembered, so that what it leaves behind is seen."""

    def __init__(self, folder: Path, *sets: str) -> None:
        command = [sys.executable, "-m", "tests.training.run_stage", STAGE, str(folder), *SETS, *sets]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.ranks: list[psutil.Process] = []
        self.events: list[dict[str, object]] = []

    def until(self, reached: Callable[[dict[str, object]], bool]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if not self.ranks:
                self.ranks = sorted(psutil.Process(self.process.pid).children(), key=lambda rank: rank.pid)
                assert len(self.ranks) == 2
            if reached(self.events[-1]):
                return
        raise AssertionError(f"it ended first: {self.process.communicate()[1]}")

    def end(self) -> tuple[int, str]:
        """(exit code, stderr) once it and its ranks are gone."""
        _, stderr = self.process.communicate(timeout=500)
        _, alive = psutil.wait_procs(self.ranks, timeout=10)
        assert not alive
        return self.process.returncode, stderr


def at_step(step: int) -> Callable[[dict[str, object]], bool]:
    return lambda event: event["event"] == "progress" and int(str(event["done"])) >= step


@pytest.fixture(scope="module")
def straight(folder: Path) -> Path:
    """The stage run from end to end without a break, in folders of its own."""
    alone = folder / "alone"
    alone.mkdir()
    (alone / "latents").symlink_to(folder / "latents")
    run = Started(alone)
    code, stderr = run.end()
    assert code == 0, stderr
    return alone


@pytest.fixture(scope="module")
def stopped(folder: Path) -> dict[str, tuple[int, str]]:
    """The same stage: its process killed, a rank of it killed, asked to stop, and in the end left alone."""
    ends: dict[str, tuple[int, str]] = {}
    run = Started(folder)
    run.until(at_step(45))
    run.process.kill()
    ends["process killed"] = run.end()
    run = Started(folder)
    run.until(at_step(75))
    os.kill(run.ranks[1].pid, signal.SIGKILL)
    ends["rank killed"] = run.end()
    run = Started(folder)
    run.until(at_step(105))
    run.process.send_signal(signal.SIGTERM)
    ends["asked to stop"] = run.end()
    run = Started(folder)
    ends["left alone"] = run.end()
    return ends


def test_a_killed_process_leaves_no_rank(stopped: dict[str, tuple[int, str]]) -> None:
    assert stopped["process killed"][0] == -signal.SIGKILL


def test_a_killed_rank_is_one_line(stopped: dict[str, tuple[int, str]]) -> None:
    code, stderr = stopped["rank killed"]
    assert code == 1
    assert stderr.strip().splitlines()[-1] == "rank 1 was killed by SIGKILL; if nobody did that, memory ran out"


def test_asked_to_stop_it_saves_and_says_so(stopped: dict[str, tuple[int, str]]) -> None:
    code, stderr = stopped["asked to stop"]
    assert code == 75
    assert "which is saved; run it again" in stderr.strip().splitlines()[-1]


def test_after_all_that_every_byte_is_as_without(
    folder: Path, straight: Path, stopped: dict[str, tuple[int, str]]
) -> None:
    assert stopped["left alone"][0] == 0, stopped["left alone"][1]
    assert storage.sha256_folder(folder / "models" / STAGE) == storage.sha256_folder(straight / "models" / STAGE)
    metrics = storage.read_json(folder / "models" / STAGE / "metrics.json")
    steps = [point["step"] for point in metrics["curve"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert metrics["val"]["end"]["video"] < metrics["val"]["start"]["video"]


def test_the_tracking_has_one_run_with_every_point_once(folder: Path, stopped: dict[str, tuple[int, str]]) -> None:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'ovi'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    metrics = storage.read_json(folder / "models" / STAGE / "metrics.json")
    points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
    assert points == [(point["step"], point["loss"]) for point in metrics["curve"] if point["loss"] is not None]


def test_a_stop_before_the_first_step_ends_at_once(folder: Path, tmp_path: Path) -> None:
    run = Started(folder, f"training.{STAGE}.lr=0.123")
    while len(psutil.Process(run.process.pid).children()) < 2:
        time.sleep(0.01)
    run.ranks = psutil.Process(run.process.pid).children()
    run.process.send_signal(signal.SIGTERM)
    code, stderr = run.end()
    assert code == 75
    assert "run the same command again" in stderr


def test_an_error_in_a_rank_is_its_one_line(folder: Path, tmp_path: Path) -> None:
    settings = made.settings("training.ranks=1", "training.engine=deepspeed", folder=tmp_path)
    job = Job.make(STAGE, settings, folder / "latents", tmp_path / "models", tmp_path / "checkpoints")
    value = {**job.to_json(), "latents": str(tmp_path)}
    task = {"job": value, "rank": 0, "ranks": 1, "meeting": str(tmp_path / "meeting")}
    with subprocess.Popen(
        [sys.executable, "-m", rank.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        last = json.loads(process.stdout.read().splitlines()[-1])
    assert process.returncode == last["code"] == 1
    assert last["error"] == f"{tmp_path}/empty.safetensors: no such file"
