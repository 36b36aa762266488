"""The network of a stage: which towers, with which weights, and which of them learn; and its model folder at the end.

A single-tower stage holds no other tower, and neither trains nor saves the fusion parameters, which nothing uses
there. It does not know data or optimisers.
Try it: `pytest tests/training/test_towers.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ovi.config import Settings
from ovi.errors import OviError
from ovi.models import codecs
from ovi.models.folder import ModelFolder, save_folder
from ovi.models.fusion import FusionModel, init
from ovi.training.job import CODEC
from ovi.training.order import keyed_seed
from ovi.training.recipes import Recipe


def build(recipe: Recipe, settings: Settings, models: Path) -> FusionModel:
    """The stage's network before its first step, trainable where the recipe says so.

    Raises OviError when a parent's folder is missing, damaged or of another size.
    """
    model = cast(FusionModel, codecs.build("transformer", codecs.model_config(settings)["transformer"]))
    init(model, keyed_seed(settings.seed, recipe.stage), settings.model.local_start)
    for modality in {"video", "audio"} - set(recipe.modalities):
        delattr(model, f"{modality}_model")
    for parent in recipe.parents:
        tensors = ModelFolder.open(models / parent).tensors("transformer")
        _inherit(model, tensors, models / parent, f"run `ovi train {parent.replace('_', '-')}` again")
    source = recipe.source(settings)
    if source is not None:
        from ovi.models.released_weights import backbone  # brings a tokenizer's libraries along

        _inherit(model, backbone(source).tensors(), source, "set these to its own")
    pattern = re.compile(recipe.trains)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_has_use(name, recipe) and pattern.fullmatch(name) is not None)
    return model


def save(
    recipe: Recipe,
    settings: Settings,
    models: Path,
    network: nn.Module,
    weights: dict[str, Tensor],
    lineage: dict[str, Any],
) -> None:
    """Write models/<stage>: the trained `weights`, and the network's own for what was frozen.

    A network of both towers gets the codecs and the text encoder of models/codec beside it, and can generate.
    """
    dtype = torch.bfloat16 if settings.training.precision == "bf16" else torch.float32
    state = {
        name: weights.get(name, tensor).to(dtype)
        for name, tensor in network.state_dict().items()
        if _has_use(name, recipe)
    }
    base = models / CODEC if len(recipe.modalities) > 1 else None
    save_folder(models / recipe.stage, codecs.model_config(settings), {"transformer": state}, lineage, base=base)


def _has_use(name: str, recipe: Recipe) -> bool:
    return len(recipe.modalities) > 1 or "fusion" not in name


@torch.no_grad()
def _inherit(model: FusionModel, theirs: dict[str, Tensor], whose: Path, remedy: str) -> None:
    """Take over the tower that a stage before trained, or that was released."""
    ours = dict(model.named_parameters())
    towers = tuple({name.partition(".")[0] + "." for name in theirs})
    wanted = {name for name in ours if name.startswith(towers) and "fusion" not in name}
    if wanted != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in wanted):
        raise OviError(f"{whose}: was trained with other model sizes than the settings'; {remedy}")
    for name in wanted:
        ours[name].copy_(theirs[name])
