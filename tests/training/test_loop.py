"""All four stages in one process, on latents made of noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from ovi import storage
from ovi.errors import OviError, Preempted
from ovi.media.probe import probe
from ovi.models.folder import ModelFolder, load_model
from ovi.progress import Silent
from ovi.training import launch, loop, recipes, towers
from ovi.training.engine import Place
from ovi.training.job import Job
from ovi.training.rank import Mute
from tests.training import made


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def train(
    folder: Path, stage: str, *sets: str, stop_after: int | None = None, notes: Notes | None = None
) -> dict[str, Any]:
    """The stage's metrics; stopped after so many steps if said so."""
    job = Job.make(stage, made.settings(*sets), folder / "latents", folder / "models", folder / "checkpoints")
    asked = iter(range(1, 1000))
    result = loop.train(job, Place(), notes or Silent(), Mute(), lambda: next(asked) == stop_after)
    return result["metrics"]


def link(folder: Path, *parts: Path) -> Path:
    """A folder with these latents and models, and checkpoints of its own."""
    (folder / "models").mkdir(parents=True)
    for part in parts:
        (folder / ("latents" if part.name == "latents" else f"models/{part.name}")).symlink_to(part)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    made.latents(folder / "latents")
    made.codec(folder / "models" / "codec", made.settings())
    for stage in made.STAGES:
        train(folder, stage)
    return folder


@pytest.mark.parametrize("stage", made.STAGES)
def test_a_stage_writes_a_model_folder_and_what_it_learned(trained: Path, stage: str) -> None:
    folder = ModelFolder.open(trained / "models" / stage)
    assert folder.lineage["stage"] == stage
    metrics = storage.read_json(trained / "models" / stage / "metrics.json")
    towers = {"video_backbone": {"video"}, "fusion": {"video", "audio"}}.get(stage, {"audio"})
    assert metrics["stage"] == stage
    assert metrics["steps"] == 6
    assert metrics["val"]["start"].keys() == metrics["val"]["end"].keys() == towers
    assert all(value > 0 for part in metrics["val"].values() for value in part.values())
    assert [point["step"] for point in metrics["curve"]] == [0, 1, 2, 3, 4, 5, 6]
    validated = [point["step"] for point in metrics["curve"] if all(f"val_{tower}" in point for tower in towers)]
    assert validated == [0, 4, 6]
    assert {name.partition("_")[0] for name in folder.tensors("transformer")} == towers


def test_fusion_can_generate_and_says_what_partners_are_worth(trained: Path) -> None:
    model = load_model(trained / "models" / "fusion")
    assert not any(weight.isnan().any() for weight in model.fusion.parameters())
    partner = storage.read_json(trained / "models" / "fusion" / "metrics.json")["partner"]
    for tower in ("video", "audio"):
        assert partner[tower].keys() == {"true", "shuffled", "tower"}
        assert len(set(partner[tower].values())) == 3


def test_fusion_leaves_frozen_bytes_alone(trained: Path) -> None:
    after = ModelFolder.open(trained / "models" / "fusion").tensors("transformer")
    for parent in ("video_backbone", "audio_finetune"):
        for name, before in ModelFolder.open(trained / "models" / parent).tensors("transformer").items():
            learns = ".self_attn." in name or ".cross_attn." in name
            moved = not torch.equal(before, after[name])
            assert moved == learns, name


def test_clips_of_held_out_captions_are_sampled_and_tracked(trained: Path, tmp_path: Path) -> None:
    models = trained / "models"
    again = link(tmp_path, trained / "latents", models / "codec", models / "video_backbone", models / "audio_finetune")
    settings = made.settings("training.fusion.sample_clips=2", "sampling.steps=2", folder=again, steps=1)
    launch.train("fusion", settings, again / "latents", again / "models", again / "checkpoints", Silent())
    client = MlflowClient(settings.tracking.uri)
    (run,) = client.search_runs(["1"])
    clips = [file.path for file in client.list_artifacts(run.info.run_id, "samples")]
    assert clips == ["samples/00.mp4", "samples/01.mp4"]
    info = probe(again / "checkpoints" / "fusion" / clips[0])
    assert info.video is not None
    assert info.audio is not None


@pytest.mark.parametrize("stage", ["audio_pretrain", "fusion"])
def test_the_same_again_gives_the_same_bytes(trained: Path, tmp_path: Path, stage: str) -> None:
    models = trained / "models"
    again = link(tmp_path, trained / "latents", models / "codec", models / "video_backbone", models / "audio_finetune")
    train(again, stage)
    assert storage.sha256_folder(again / "models" / stage) == storage.sha256_folder(models / stage)
    steps = sorted(path.name for path in (again / "checkpoints" / stage).glob("step-*"))
    assert steps
    for step in steps:
        mine, theirs = (folder / "checkpoints" / stage / step for folder in (again, trained))
        assert storage.sha256_folder(mine) == storage.sha256_folder(theirs)


@pytest.mark.parametrize("first", [3, 4])
def test_stopped_and_continued_gives_the_same_bytes(trained: Path, tmp_path: Path, first: int) -> None:
    """Stopped between two points of the curve or at one, the curve included."""
    again = link(tmp_path, trained / "latents")
    with pytest.raises(Preempted, match=f"stopped after step {first} of 6, which is saved"):
        train(again, "video_backbone", stop_after=first)
    train(again, "video_backbone")
    assert storage.sha256_folder(again / "models/video_backbone") == storage.sha256_folder(
        trained / "models/video_backbone"
    )


def test_changed_settings_start_anew_and_say_so(trained: Path, tmp_path: Path) -> None:
    again = link(tmp_path, trained / "latents")
    train(again, "video_backbone")
    notes = Notes()
    train(again, "video_backbone", "training.video_backbone.lr=0.01", notes=notes)
    assert any("written with other settings: starting anew" in note for note in notes.notes)
    alone = link(tmp_path / "alone", trained / "latents")
    train(alone, "video_backbone", "training.video_backbone.lr=0.01")
    assert storage.sha256_folder(again / "models") == storage.sha256_folder(alone / "models")


def test_a_finished_stage_is_not_trained_again(trained: Path) -> None:
    notes = Notes()
    before = storage.sha256_folder(trained / "models" / "audio_finetune")
    train(trained, "audio_finetune", notes=notes)
    assert notes.notes == ["audio_finetune: continuing after step 6 of 6"]
    assert storage.sha256_folder(trained / "models" / "audio_finetune") == before


def test_a_handful_of_clips_is_enough(tmp_path: Path) -> None:
    """Six clips for a batch of sixteen, one held out, no sound files at all."""
    made.latents(tmp_path / "latents", {"av": {"train": 6, "val": 1}})
    made.codec(tmp_path / "models" / "codec", made.settings())
    notes = Notes()
    for stage in made.STAGES:
        metrics = train(tmp_path, stage, f"training.{stage}.batch=16", notes=notes)
        assert metrics["val"]["end"]
    assert notes.notes == ["audio_pretrain: no pretrain samples; using finetune/av"]
    assert metrics["partner"]["video"] == {"true": None, "shuffled": None, "tower": None}  # one clip cannot be shuffled


def test_without_held_out_clips_there_is_no_validation_loss(tmp_path: Path) -> None:
    made.latents(tmp_path / "latents", {"av": {"train": 3}})
    notes = Notes()
    metrics = train(tmp_path, "video_backbone", notes=notes)
    assert metrics["val"] == {"start": {"video": None}, "end": {"video": None}}
    assert notes.notes == ["video_backbone: no held-out clips of this kind, so no validation loss"]


def test_without_any_clip_there_is_one_line(tmp_path: Path) -> None:
    made.latents(tmp_path / "latents", {})
    with pytest.raises(OviError, match="no training samples for video_backbone"):
        train(tmp_path, "video_backbone")


def test_no_steps_give_what_it_started_from(trained: Path, tmp_path: Path) -> None:
    """As the video backbone of released weights is taken."""
    again = link(tmp_path, trained / "latents")
    metrics = train(again, "video_backbone", "training.video_backbone.steps=0")
    assert metrics["steps"] == 0
    got = ModelFolder.open(again / "models/video_backbone").tensors("transformer")
    settings = made.settings("training.video_backbone.steps=0")
    want = towers.build(recipes.get("video_backbone", settings), settings, again / "models").state_dict()
    assert got
    assert all(torch.equal(tensor, want[name]) for name, tensor in got.items())


def test_it_learns(trained: Path, tmp_path: Path) -> None:
    """Many steps on ten clips: the loss falls well below that of the zero velocity it starts from."""
    again = link(tmp_path, trained / "latents")
    metrics = train(again, "video_backbone", "training.video_backbone.steps=150", "training.video_backbone.batch=8",
                    "training.video_backbone.lr=0.005")  # fmt: skip
    losses = [point["loss"] for point in metrics["curve"] if point["loss"] is not None]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_the_learning_rate_warms_up_stays_and_cools_down() -> None:
    stage = made.settings(steps=100).training.video_backbone.model_copy(
        update={"warmup": 10, "cooldown": 20, "lr": 1.0}
    )
    rates = [loop.rate(stage, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[-1] == pytest.approx(0.1)
    assert rates[80:] == sorted(rates[80:], reverse=True)
    short = stage.model_copy(update={"steps": 5})
    assert all(0 < loop.rate(short, step) <= 1 for step in range(5))
