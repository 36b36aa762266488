from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ovi.config import Settings
from ovi.errors import OviError
from ovi.models.fusion import FusionModel
from ovi.training import towers
from ovi.training.recipes import RECIPES
from tests.training import made

SETTINGS = made.settings()


def trainable(model: FusionModel) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Folders of a video backbone and an audio tower, as if they had been trained."""
    for stage in ("video_backbone", "audio_pretrain"):
        model = towers.build(RECIPES[stage], SETTINGS, tmp_path)
        towers.save(RECIPES[stage], SETTINGS, tmp_path, model, {}, {"stage": stage})
    model = towers.build(RECIPES["audio_finetune"], SETTINGS, tmp_path)
    towers.save(RECIPES["audio_finetune"], SETTINGS, tmp_path, model, {}, {"stage": "audio_finetune"})
    return tmp_path


@pytest.mark.parametrize(("stage", "modality"), [("video_backbone", "video"), ("audio_pretrain", "audio")])
def test_a_tower_alone_trains_all_of_itself_but_fusion(tmp_path: Path, stage: str, modality: str) -> None:
    model = towers.build(RECIPES[stage], SETTINGS, tmp_path)
    names = {name for name, _ in model.named_parameters()}
    assert all(name.startswith(f"{modality}_model.") for name in names)
    assert trainable(model) == {name for name in names if "fusion" not in name}


def test_fusion_trains_attention_and_nothing_else(models: Path) -> None:
    model = towers.build(RECIPES["fusion"], SETTINGS, models)
    learns = trainable(model)
    parts = {".".join(name.split(".")[3:5]) for name in learns}
    kinds = {"q", "k", "v", "o", "norm_q", "norm_k"}
    fusion = {"k_fusion", "v_fusion", "pre_attn_norm_fusion", "norm_k_fusion"}
    assert parts == {f"self_attn.{kind}" for kind in kinds} | {f"cross_attn.{kind}" for kind in kinds | fusion}
    frozen = {name for name, _ in model.named_parameters()} - learns
    assert all(
        word in " ".join(frozen) for word in ("ffn", "norm3", "modulation", "patch_embedding", "head", "text_embedding")
    )


def test_fusion_starts_from_its_parents_towers(models: Path) -> None:
    model = towers.build(RECIPES["fusion"], SETTINGS, models)
    found = dict(model.named_parameters())
    for parent in ("video_backbone", "audio_finetune"):
        for name, tensor in towers.ModelFolder.open(models / parent).tensors("transformer").items():
            assert torch.equal(found[name], tensor)
    other = towers.build(RECIPES["fusion"], made.settings("seed=1"), models)
    name = "video_model.blocks.0.cross_attn.k_fusion.weight"
    assert not torch.equal(found[name], dict(other.named_parameters())[name])  # fresh, by the seed


def test_the_release_has_as_many_trainable_parameters_as_the_paper_says() -> None:
    """5.7 of 11 billion (paper 4.2.2), counted without memory."""
    settings = made.settings(
        "model.dim=3072", "model.ffn_dim=14336", "model.heads=24", "model.layers=30", "model.freq_dim=256",
        "codec.video_channels=48", "codec.audio_channels=20", "text.dim=4096", "text.max_tokens=512",
    )  # fmt: skip
    with torch.device("meta"):
        model = towers.codecs.build("transformer", towers.codecs.model_config(settings)["transformer"])
    pattern = towers.re.compile(RECIPES["fusion"].trains)
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    assert round(sum(sizes.values()) / 1e9, 3) == 11.661
    assert round(sum(size for name, size in sizes.items() if pattern.fullmatch(name)) / 1e9, 3) == 5.665


def test_a_parent_of_another_size_is_one_line(models: Path) -> None:
    with pytest.raises(OviError, match="other model sizes than the settings'; run `ovi train video-backbone` again"):
        towers.build(RECIPES["fusion"], made.settings("model.ffn_dim=64"), models)


def wan(settings: Settings) -> dict[str, torch.Tensor]:
    """The settings' video tower as Wan2.2 is published: no fusion parameters, and modulations with a shorter name."""
    model = towers.build(RECIPES["video_backbone"], settings, Path())
    return {
        name.removeprefix("video_model.").replace("modulation.modulation", "modulation"): weight + 1
        for name, weight in model.state_dict().items()
        if "fusion" not in name
    }


def test_a_backbone_starts_from_released_weights(tmp_path: Path) -> None:
    state = wan(SETTINGS)
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    heads = {"num_heads": SETTINGS.model.heads}
    (tmp_path / "config.json").write_text(json.dumps(heads))
    settings = made.settings(f"training.video_backbone.source={tmp_path}")
    found = towers.build(RECIPES["video_backbone"], settings, tmp_path).state_dict()
    for name, tensor in state.items():
        ours = name.replace("modulation", "modulation.modulation") if name.startswith("blocks") else name
        assert torch.equal(found[f"video_model.{ours}"], tensor)
    other = made.settings(f"training.video_backbone.source={tmp_path}", "model.ffn_dim=64")
    with pytest.raises(OviError, match="other model sizes than the settings'; set these to its own"):
        towers.build(RECIPES["video_backbone"], other, tmp_path)
