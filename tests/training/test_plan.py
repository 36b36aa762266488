"""The plan against what is known of the 11B model, and what it counts as kept against what torch really keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from typer.testing import CliRunner

from ovi import config
from ovi.cli import app
from ovi.config import Settings
from ovi.errors import ConfigError
from ovi.training import plan as planning
from ovi.training import recipes, towers
from ovi.training.plan import plan
from tests.training import made

GIB = 1 << 30


def paper(*sets: str) -> Settings:
    return config.load(Path(__file__).parents[2] / "params.yaml", "ovi-11b", list(sets))


def test_the_paper_s_fusion_is_planned_as_it_is_known() -> None:
    """11.66 billion parameters, 5.67 trained, 30.72 million samples, 13,700 hours of an H200 at 40 % MFU."""
    found = plan("fusion", paper())
    assert round(found.parameters / 1e9, 3) == 11.661
    assert round(found.trainable / 1e9, 3) == 5.665
    assert found.tokens == {"video": 15_004, "audio": 157, "text": 512}
    assert found.steps * found.batch == 30_720_000
    assert found.gpu_hours == pytest.approx(13_693, rel=0.01)
    states = sum(found.memory[name] for name in ("weights", "gradients", "master weights", "Adam's moments"))
    assert states / GIB == pytest.approx(31.0, rel=0.01)  # on 8 GPUs with ZeRO 2
    assert found.to_json()["total_gib"] == round(found.total / GIB, 2) < 139.8
    assert any("15004 video, 157 audio, 512 text tokens" in line for line in found.lines())


@pytest.mark.parametrize(
    ("stage", "billions", "tokens"),
    [("video_backbone", 5.0, 15_004), ("audio_pretrain", 5.528, 203), ("audio_finetune", 5.528, 157)],
)
def test_a_tower_alone_counts_without_fusion(stage: str, billions: float, tokens: int) -> None:
    found = plan(stage, paper("model.layers=30"))
    assert round(found.parameters / 1e9, 3) == round(found.trainable / 1e9, 3) == billions
    assert next(iter(found.tokens.values())) == tokens


def test_padded_sounds_are_planned_for_the_longest_and_packed_ones_for_the_mean() -> None:
    packed, padded = (plan("audio_pretrain", paper(f"training.audio_pretrain.pack={pack}")) for pack in (True, False))
    assert (packed.tokens["audio"], padded.tokens["audio"]) == (203, 375)
    assert padded.gpu_hours == pytest.approx(1343, rel=0.02)  # of 12 s each, at 40 % MFU


def test_what_does_not_fit_is_refused_with_the_nearest_that_does() -> None:
    with pytest.raises(ConfigError) as caught:
        plan("audio_pretrain", paper("training.audio_pretrain.accumulate=3"))
    line = str(caught.value)
    assert "training.audio_pretrain: needs" in line
    assert "GiB on each of 8 h200, which have 139.8; the nearest that fits" in line
    sets = [word for word in line.rpartition(": ")[2].split() if word != "--set"]
    assert "training.ranks=8" in sets
    assert plan("audio_pretrain", paper(*sets)).layout.accumulate > 3
    with pytest.raises(ConfigError, match=r"each of 1 h100, .* --set training\.ranks=4 --set training\.zero_stage=2 "):
        plan("audio_pretrain", paper("training.ranks=1", "training.audio_pretrain.accumulate=2880"), "h100")


def test_weights_in_parts_are_asked_for_before_more_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(planning.GPUS, "small", planning.GPUS["h100"].__class__(40 * GIB, 1e15))
    with pytest.raises(ConfigError, match=r"each of 8 small, .* --set training\.ranks=8 .*zero_stage=3 ") as caught:
        plan("fusion", paper(), "small")
    sets = [word for word in str(caught.value).rpartition(": ")[2].split() if word != "--set"]
    found = plan("fusion", paper(*sets), "small")
    assert found.layout.zero_stage == 3
    assert 2 * (found.parameters / 8 + 1e9) <= found.memory["weights"] < 2 * found.parameters / 2


def test_blocks_computed_twice_are_asked_for_before_more_gpus() -> None:
    """A share of the fusion's 30 blocks is enough for GPUs of 80 GB; two smaller ones of the demo's size for none."""
    with pytest.raises(
        ConfigError, match=r"each of 8 h100, .* --set training\.ranks=8 .*training\.recompute=\d+$"
    ) as caught:
        plan("fusion", paper(), "h100")
    found = plan("fusion", paper(f"training.recompute={str(caught.value).rpartition('=')[2]}"), "h100")
    assert 0 < found.layout.recompute < 30
    assert found.work.repeated > plan("fusion", paper()).work.repeated


def test_a_gpu_that_is_too_small_for_any_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(planning.GPUS, "small", planning.GPUS["h100"].__class__(2 * GIB, 1e12))
    with pytest.raises(ConfigError, match=r"1024 would not do either; take a larger one, or set training\.lora"):
        plan("fusion", made.settings(), "small")


def test_low_rank_training_needs_far_less() -> None:
    whole = plan("fusion", paper("model.layers=3"))
    found = plan("fusion", paper("model.layers=3", "training.lora.rank=16", "training.lora.alpha=16"))
    assert found.trainable < 0.02 * whole.trainable
    assert found.work.backward < whole.work.backward
    assert found.total < whole.total


def test_the_command_prints_it_and_speaks_json() -> None:
    command = ["train", "plan", "--stage", "video-backbone", "--params", str(made.PARAMS)]
    spoken = CliRunner().invoke(app, command)
    assert spoken.exit_code == 0
    assert "video_backbone: 0.001 billion parameters" in spoken.stdout
    said = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert said["stages"][0]["tokens"] == {"video": 31, "text": 160}


def test_an_unknown_gpu_is_one_line() -> None:
    with pytest.raises(ConfigError, match="--gpu: 'tpu' is not known; known are b200, h200"):
        plan("fusion", made.settings(), "tpu")


@pytest.mark.parametrize("stage", made.STAGES)
def test_what_is_kept_is_what_torch_keeps(stage: str) -> None:
    """On the meta device and on the CPU, where attention is a fused kernel too; and twice the samples keep twice."""
    settings = made.settings("model.dim=32", "model.heads=2", "text.max_tokens=32")
    recipe = recipes.get(stage, settings)
    shapes = {"video": [4, 5, 8, 8], "audio": [60, 3], "text": [12, 8]}
    outline = towers.outline(recipe, settings)
    real = outline.to_empty(device="cpu")
    for weight in real.parameters():
        torch.nn.init.zeros_(weight)
    for weight, other in zip(real.parameters(), towers.outline(recipe, settings).parameters(), strict=True):
        weight.requires_grad_(other.requires_grad)
    own = {weight.untyped_storage()._cdata for weight in real.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    inputs = {name: torch.zeros(1, *shape) for name, shape in shapes.items()}
    with saved_tensors_hooks(pack, lambda tensor: tensor), FusedNorms():
        kept = real(
            inputs["video"] if "video" in recipe.modalities else None,
            inputs["audio"] if "audio" in recipe.modalities else None,
            torch.zeros(1), inputs["text"], torch.tensor([12]), first_frame_clean=torch.tensor([True]),
        )  # fmt: skip
    del kept
    planned, _ = planning.kept(towers.outline(recipe, settings), shapes, True)
    assert planned == pytest.approx(sum(sizes.values()), rel=0.05)


class FusedNorms(planning._FusedKernels):
    """The norms as on a GPU, the attention as it is here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)
