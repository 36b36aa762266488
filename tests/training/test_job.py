from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ovi.errors import ConfigError, OviError
from ovi.training.job import Job
from tests.training import made


def job(folder: Path, *sets: str, stage: str = "video_backbone") -> Job:
    return Job.make(stage, made.settings(*sets), folder / "latents", folder / "models", folder / "checkpoints")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made.latents(tmp_path / "latents")
    return tmp_path


def test_a_job_survives_its_way_to_a_rank(folder: Path) -> None:
    first = job(folder)
    assert Job.from_json(json.loads(json.dumps(first.to_json()))) == first


@pytest.mark.parametrize(
    "change", ["seed=1", "model.dim=32", "training.video_backbone.lr=1", "training.precision=bf16"]
)
def test_what_changes_the_weights_changes_the_key(folder: Path, change: str) -> None:
    assert job(folder, change).key["settings"] != job(folder).key["settings"]
    assert job(folder, change).name != job(folder).name


@pytest.mark.parametrize(
    "change", ["training.ranks=2", "training.threads=2", "training.video_backbone.checkpoint_every=1", "service.port=1"]
)
def test_what_does_not_change_the_weights_leaves_the_key(folder: Path, change: str) -> None:
    assert job(folder, change).key == job(folder).key


def test_other_latents_change_the_key(folder: Path) -> None:
    before = job(folder)
    made.latents(folder / "latents", {"av": {"train": 3}})
    after = job(folder)
    assert after.key["data"] != before.key["data"]
    assert after.key["settings"] == before.key["settings"]


@pytest.mark.parametrize(
    ("change", "stage", "line"),
    [
        (
            "training.engine=deepspeed training.ranks=3",
            "video_backbone",
            "batch: 4 is not a multiple of training.ranks=3",
        ),
        ("training.video_backbone.sample_clips=1", "video_backbone", "one tower alone makes no clips"),
        (
            "training.engine=deepspeed training.ranks=6 training.sequence=3",
            "video_backbone",
            r"sequence: 3 does not divide model.heads=2 and the 6 rank\(s\); use one of 1, 2$",
        ),
        (
            "training.engine=deepspeed training.ranks=6 training.sequence=2",
            "video_backbone",
            r"batch: 4 is not a multiple of training.ranks=6 / sequence=2$",
        ),
        (
            "training.engine=deepspeed training.ranks=2 training.sequence=2 training.audio_pretrain.pack=true",
            "audio_pretrain",
            "cannot share packed clips; set training.audio_pretrain.pack=false",
        ),
        ("seed=0", "distil", "distil: no such training stage"),
    ],
)
def test_what_can_never_work_is_refused_at_once(folder: Path, change: str, stage: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        job(folder, *change.split(), stage=stage)


def test_other_released_weights_to_start_from_change_the_key(folder: Path) -> None:
    weights = folder / "wan"
    change = f"training.video_backbone.source={weights}"
    with pytest.raises(OviError, match=r"no safetensors files in .*; get them with `ovi weights download"):
        job(folder, change)
    weights.mkdir()
    keys = []
    for content in (b"one", b"other"):
        (weights / "diffusion_pytorch_model.safetensors").write_bytes(content)
        keys.append(job(folder, change).key)
    assert keys[0]["settings"] == keys[1]["settings"]
    assert keys[0]["parents"] != keys[1]["parents"]


def test_missing_inputs_say_what_to_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OviError, match="no latents in here; run `ovi encode` first"):
        Job.make("video_backbone", made.settings(), tmp_path / "nothing", tmp_path, tmp_path)
    with pytest.raises(
        OviError, match=r"audio_pretrain/model\.json: no such model; run `ovi train audio-pretrain` first"
    ):
        job(folder, stage="audio_finetune")


def test_starting_ranks_needs_no_torch() -> None:
    """The process that only watches its ranks starts in a fraction of a second."""
    code = "import sys, ovi.training.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
