"""All four stages in one process, on latents made of noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch import Tensor

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


class Figures(Mute):
    """What would go to MLflow, by step."""

    def __init__(self) -> None:
        self.points: dict[int, dict[str, float | None]] = {}

    def log_metrics(self, values: dict[str, float | None], step: int = 0) -> None:
        self.points.setdefault(step, {}).update(values)


def train(
    folder: Path,
    stage: str,
    *sets: str,
    stop_after: int | None = None,
    notes: Notes | None = None,
    figures: Figures | None = None,
) -> dict[str, Any]:
    """The stage's metrics; stopped after so many steps if said so."""
    job = Job.make(stage, made.settings(*sets), folder / "latents", folder / "models", folder / "checkpoints")
    asked = iter(range(1, 1000))
    result = loop.train(job, Place(), notes or Silent(), figures or Mute(), lambda: next(asked) == stop_after)
    return result["metrics"]


def tensors(folder: Path, stage: str) -> dict[str, Tensor]:
    return ModelFolder.open(folder / "models" / stage).tensors("transformer")


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
    sets = ["training.fusion.sample_clips=2", "training.fusion.sample_every=1", "training.fusion.ema=0.5"]
    settings = made.settings(*sets, "sampling.steps=2", folder=again, steps=2)
    launch.train("fusion", settings, again / "latents", again / "models", again / "checkpoints", Silent())
    client = MlflowClient(settings.tracking.uri)
    (run,) = client.search_runs(["1"])
    clips = [file.path for file in client.list_artifacts(run.info.run_id, "samples")]
    assert clips == ["samples/00.mp4", "samples/01.mp4", "samples/step-000001"]
    before = [file.path for file in client.list_artifacts(run.info.run_id, "samples/step-000001")]
    assert before == ["samples/step-000001/00.mp4", "samples/step-000001/01.mp4"]
    assert not (again / "checkpoints" / "fusion" / "shown").exists()
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


def test_an_empty_machine_goes_on_from_the_copies(trained: Path, tmp_path: Path, bucket: str) -> None:
    mirror, notes = f"training.mirror={bucket}/checkpoints", Notes()
    with pytest.raises(Preempted):
        train(link(tmp_path / "one", trained / "latents"), "video_backbone", mirror, stop_after=3)
    other = link(tmp_path / "other", trained / "latents")
    train(other, "video_backbone", mirror, notes=notes)
    assert notes.notes == ["video_backbone: continuing after step 3 of 6"]
    assert storage.sha256_folder(other / "models/video_backbone") == storage.sha256_folder(
        trained / "models/video_backbone"
    )
    assert "step-000006" in {address.split("/")[-2] for address in storage.list_files(f"{bucket}/checkpoints")}


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


def test_the_running_mean_is_saved_and_can_be_exported(trained: Path, tmp_path: Path) -> None:
    """Stopped and continued or not; the last validation is that of what is exported."""
    sets = ["training.audio_pretrain.ema=0.7", "training.audio_pretrain.export_ema=true"]
    metrics = []
    for name, stop in (("straight", None), ("stopped", 3)):
        folder = link(tmp_path / name, trained / "latents")
        if stop:
            with pytest.raises(Preempted):
                train(folder, "audio_pretrain", *sets, stop_after=stop)
        metrics.append(train(folder, "audio_pretrain", *sets))
        mean = load_file(folder / "checkpoints/audio_pretrain/step-000006/ema.safetensors")
        exported = tensors(folder, "audio_pretrain")
        assert exported.keys() == mean.keys()
        assert all(torch.equal(exported[key], mean[key]) for key in mean)
        last = tensors(trained, "audio_pretrain")
        assert any(not torch.equal(exported[key], last[key]) for key in last)
    assert metrics[0] == metrics[1]
    plain = storage.read_json(trained / "models/audio_pretrain/metrics.json")
    assert metrics[0]["val"]["end"] != plain["val"]["end"]
    assert metrics[0]["curve"][-1]["loss"] == plain["curve"][-1]["loss"]
    with pytest.raises(OviError, match="there is no running mean to export"):
        made.settings("training.audio_pretrain.export_ema=true")


@pytest.mark.parametrize("stage", ["audio_pretrain", "fusion"])
def test_a_batch_in_parts_trains_the_same(trained: Path, tmp_path: Path, stage: str) -> None:
    """Sounds of several lengths included, which are padded otherwise in parts."""
    models = trained / "models"
    again = link(tmp_path, trained / "latents", models / "codec", models / "video_backbone", models / "audio_finetune")
    train(again, stage, f"training.{stage}.accumulate=4", "training.loader_workers=2")
    before, after = (storage.read_json(f / "models" / stage / "metrics.json")["curve"] for f in (trained, again))
    for one, two in zip(before[1:], after[1:], strict=True):
        assert one == pytest.approx(two, rel=1e-3)
    assert before[1]["loss"] == pytest.approx(after[1]["loss"], rel=1e-6)


@pytest.mark.parametrize("stage", ["audio_pretrain", "fusion"])
def test_blocks_computed_twice_change_nothing(trained: Path, tmp_path: Path, stage: str) -> None:
    models = trained / "models"
    again = link(tmp_path, trained / "latents", models / "codec", models / "video_backbone", models / "audio_finetune")
    train(again, stage, "training.recompute=1")
    assert storage.sha256_folder(again / "models" / stage) == storage.sha256_folder(models / stage)


def test_what_is_watched_adds_up(trained: Path, tmp_path: Path) -> None:
    models, figures = trained / "models", Figures()
    again = link(tmp_path, trained / "latents", models / "codec", models / "video_backbone", models / "audio_finetune")
    metrics = train(again, "fusion", "training.fusion.batch=8", figures=figures)
    for step in range(1, 7):
        point = figures.points[step]
        norms = {name: value for name, value in point.items() if name.startswith("grad_norm/")}
        assert norms.keys() == {f"grad_norm/{k}" for k in ("video_self", "audio_self", "text_cross", "av_cross")}
        assert sum(x**2 for x in norms.values()) == pytest.approx(point["grad_norm"] ** 2, rel=1e-5)
        for modality in ("video", "audio"):
            levels = [value for name, value in point.items() if name.startswith(f"loss_{modality}/t")]
            assert len(levels) == 4
            known = [value for value in levels if value is not None]
            assert min(known) <= point[f"loss_{modality}"] <= max(known)
        assert point["samples_per_second"] > 0
        assert point["tflops"] > 0
        assert point["peak_memory_gib"] > 0
        assert 0 <= point["loader_share"] <= 1
    assert not any("/" in name for point in metrics["curve"] for name in point)


class Fault:
    """losses(), but of the batches that hold a certain t."""

    def __init__(self, times: float = torch.nan) -> None:
        self.right, self.times, self.seen, self.bad = loop.losses, times, list[float](), set[float]()

    def __call__(self, network: Any, batch: Any) -> dict[str, Tensor]:
        t = float(batch.t[0])
        self.seen.append(t)
        wrong = self.times if t in self.bad else 1.0
        return {name: wrong * value for name, value in self.right(network, batch).items()}


@pytest.mark.parametrize("kind", ["nan", "spike"])
def test_a_step_that_diverges_goes_back_and_leaves_its_batches_out(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """At step 6, the batch after the checkpoint of step 4 and one more; the same every time."""
    monkeypatch.setattr(loop, "RECENT", 3)
    fault = Fault(torch.nan if kind == "nan" else 1000.0)
    monkeypatch.setattr(loop, "losses", fault)
    sets = ["training.video_backbone.steps=9", "training.video_backbone.spike=50"]
    plain = link(tmp_path / "plain", trained / "latents")
    train(plain, "video_backbone", *sets)
    fault.bad = {fault.seen[5]}
    ends = []
    for name in ("one", "two"):
        folder, notes, figures = link(tmp_path / name, trained / "latents"), Notes(), Figures()
        train(folder, "video_backbone", *sets, notes=notes, figures=figures)
        (note,) = (note for note in notes.notes if "leaving out" in note)
        assert note.startswith("video_backbone: step 6: ")
        assert note.endswith("back to step 4, leaving out batches 4 to 5")
        assert figures.points[4]["skipped_batches"] == 2
        newest = folder / "checkpoints/video_backbone/step-000009"
        assert storage.read_json(newest / "history.json")["skipped"] == [[4, 5]]
        assert storage.read_json(newest / "checkpoint.json")["next_batch"] == 11
        ends.append(storage.sha256_folder(folder / "models"))
    assert ends[0] == ends[1] != storage.sha256_folder(plain / "models")


def test_a_training_that_always_diverges_is_given_up(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, notes = link(tmp_path, trained / "latents"), Notes()
    with pytest.raises(Preempted):
        train(folder, "video_backbone", stop_after=3)
    monkeypatch.setattr(loop.engines, "check", refuse)
    with pytest.raises(OviError, match="step 4: the gradient is not finite: training diverged; lower the learning"):
        train(folder, "video_backbone", notes=notes)
    assert sum("leaving out" in note for note in notes.notes) == 3


def refuse(norm: float) -> None:
    raise loop.Diverged("the gradient is not finite")


def test_low_rank_additions_are_merged(trained: Path, tmp_path: Path) -> None:
    """The folder is one like any other: attention's projections moved, all else has its bytes."""
    models = trained / "models"
    again = link(tmp_path, trained / "latents", models / "codec", models / "fusion")
    (again / "models" / "fusion").rename(again / "models" / "before")
    lora = ["training.lora.rank=2", "training.lora.alpha=4"]
    metrics = train(again, "fusion", *lora, f"training.fusion.source={again}/models/before")
    before, after = tensors(again, "before"), tensors(again, "fusion")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    projections = ("q", "k", "v", "o", "k_fusion", "v_fusion")
    assert moved == {n for n in before if "_attn." in n and n.endswith(tuple(f".{p}.weight" for p in projections))}
    change = after[min(moved)] - before[min(moved)]
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2
    end = storage.read_json(trained / "models/fusion/metrics.json")["val"]["end"]
    assert metrics["val"]["start"] == pytest.approx(end, rel=1e-6)  # it starts where the other training ended
    assert load_model(again / "models" / "fusion")


def test_without_fusion_no_tower_hears_the_other(trained: Path, tmp_path: Path) -> None:
    """In training, in its figures, and in the folder that generates."""
    models = trained / "models"
    again = link(tmp_path, trained / "latents", models / "codec", models / "video_backbone", models / "audio_finetune")
    metrics = train(again, "fusion", "training.fusion.fusion=false")
    for tower in ("video", "audio"):
        partner = metrics["partner"][tower]
        assert partner["true"] == pytest.approx(partner["shuffled"], rel=1e-6)
    after = tensors(again, "fusion")
    assert not any(after[name].any() for name in after if "v_fusion" in name)
    name = "video_model.blocks.0.self_attn.q.weight"
    assert not torch.equal(after[name], tensors(trained, "video_backbone")[name])


def test_packed_sounds_train_as_padded_ones(tmp_path: Path) -> None:
    """The same losses and weights, however many parts a batch is computed in."""
    made.latents(tmp_path / "latents")
    found = {}
    for name, sets in {"padded": (), "packed": ("pack=true",), "in parts": ("pack=true", "accumulate=2")}.items():
        folder = link(tmp_path / name, tmp_path / "latents")
        metrics = train(folder, "audio_pretrain", *(f"training.audio_pretrain.{word}" for word in sets))
        found[name] = metrics["curve"][-1]["loss"], tensors(folder, "audio_pretrain")
    loss, weights = found.pop("padded")
    for mine, learned in found.values():
        assert mine == pytest.approx(loss, rel=1e-5)
        for key, weight in weights.items():
            torch.testing.assert_close(learned[key], weight, atol=1e-4, rtol=1e-4)
