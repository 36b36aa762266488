"""The golden fusion model: the towers of tests/golden/fusion_weights with their official key names."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ovi.models.fusion import FusionModel
from ovi.models.tower import TowerConfig
from tests import golden

# Four patches a token: the small codec and model of tests that build their own.
PATCHES = ["codec.video_channels=16", "codec.video_patch=[16,16]", "model.video_patch=[1,2,2]"]


def tower_config(raw: dict[str, Any]) -> TowerConfig:
    """The release's config fields as ours."""
    return TowerConfig(
        modality="audio" if "a" in raw["model_type"] else "video",
        patch_size=tuple(raw["patch_size"]),
        in_dim=raw["in_dim"],
        out_dim=raw["out_dim"],
        dim=raw["dim"],
        ffn_dim=raw["ffn_dim"],
        freq_dim=raw["freq_dim"],
        heads=raw["num_heads"],
        layers=raw["num_layers"],
        text_dim=raw["text_dim"],
        text_len=raw["text_len"],
        eps=raw["eps"],
        rope_scale=raw.get("temporal_rope_scaling_factor", 1.0),
    )


@cache
def golden_model() -> FusionModel:
    sizes = golden.config("fusion_weights")
    model = FusionModel(tower_config(sizes["video"]), tower_config(sizes["audio"]))
    model.load_state_dict(golden.tensors("fusion_weights"), strict=True)
    return model


def texts(*rows: Tensor) -> tuple[Tensor, Tensor]:
    """Texts [n, T] of any lengths -> zero-padded [B, N, T] and lengths [B]."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), torch.tensor([len(row) for row in rows])
