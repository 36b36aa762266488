"""Two DeepSpeed ranks under a stage process, ended in every way a process can end, and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from ovi import storage
from ovi.progress import Silent
from ovi.training import loop, rank
from ovi.training.job import Job
from ovi.training.place import Place
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

    def __init__(self, folder: Path, *sets: str, stage: str = STAGE) -> None:
        command = [sys.executable, "-m", "tests.training.run_stage", stage, str(folder), *SETS, *sets]
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


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fusion stage starts from, trained for a step in one process."""
    folder = tmp_path_factory.mktemp("towers")
    made.latents(folder / "latents")
    made.codec(folder / "models" / "codec", made.settings())
    for stage in made.STAGES[:3]:
        job = Job.make(stage, made.settings(steps=1), folder / "latents", folder / "models", folder / "checkpoints")
        loop.train(job, Place(), Silent(), rank.Mute(), lambda: False)
    return folder


def test_fusion_is_the_same_under_every_zero_stage(towers: Path, tmp_path: Path) -> None:
    """In fp32, with frozen weights and half of the blocks computed twice."""
    digests = []
    for zero in (1, 3):
        folder = tmp_path / f"zero{zero}"
        shutil.copytree(towers, folder)
        sets = ["training.fusion.steps=6", f"training.zero_stage={zero}", "training.recompute=1",
                "training.fusion.ema=0.9", "training.fusion.validate_every=3"]  # fmt: skip
        code, stderr = Started(folder, *sets, stage="fusion").end()
        assert code == 0, stderr
        digests.append(storage.sha256_folder(folder / "models/fusion"))
        digests.append(storage.sha256_folder(folder / "checkpoints/fusion/step-000006"))
    assert digests[:2] == digests[2:]


def node(folder: Path, number: int, port: int, *command: str) -> subprocess.Popen[str]:
    """One of two machines with a rank each, as far as the ranks can tell."""
    where = {"NNODES": "2", "NPROC_PER_NODE": "1", "NODE_RANK": f"{number}", "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PET_MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, *command, "-m", "tests.training.run_stage", STAGE, str(folder), *SETS],
        env={**environment, **{f"PET_{name}": value for name, value in where.items()}},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_machines_stop_together_and_go_on_under_torchrun(straight: Path, tmp_path: Path) -> None:
    """One of them is asked to stop, under `ovi launch`; both save and say so. torchrun then ends what they began."""
    (tmp_path / "latents").symlink_to(straight / "latents")
    pod = ("-c", "import sys; from ovi.training.pod import launch; sys.exit(launch([sys.executable, *sys.argv[1:]]))")
    nodes = [node(tmp_path, number, port, *pod) for port in [free_port()] for number in range(2)]
    try:
        assert nodes[0].stdout is not None
        for line in nodes[0].stdout:
            if at_step(45)(json.loads(line)):
                break
        nodes[1].send_signal(signal.SIGTERM)
        said = [each.communicate(timeout=300)[1] for each in nodes]
        assert [each.returncode for each in nodes] == [75, 75], said
        assert all("which is saved; run it again" in words for words in said)
        nodes = [
            node(tmp_path, number, port, "-m", "torch.distributed.run") for port in [free_port()] for number in (0, 1)
        ]
        said = [each.communicate(timeout=300)[1] for each in nodes]
        assert [each.returncode for each in nodes] == [0, 0], said
    finally:
        for each in nodes:
            each.kill()
            each.communicate()
    assert storage.sha256_folder(tmp_path / "models" / STAGE) == storage.sha256_folder(straight / "models" / STAGE)


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
