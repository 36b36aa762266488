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
from ovi.training import lora
from ovi.training.job import CODEC
from ovi.training.order import keyed_seed
from ovi.training.recipes import Recipe


def build(recipe: Recipe, settings: Settings, models: Path) -> FusionModel:
    """The stage's network before its first step, trainable where the recipe says so.

    Raises OviError when a parent's folder is missing, damaged or of another size.
    """
    model = _both(settings)
    seed = keyed_seed(settings.seed, recipe.stage)
    init(model, seed, settings.model.local_start)
    source = recipe.source(settings)
    if source is None:
        for parent in recipe.parents:
            tensors = ModelFolder.open(models / parent).tensors("transformer")
            _inherit(model, tensors, models / parent, f"run `ovi train {parent.replace('_', '-')}` again")
    elif len(recipe.modalities) > 1:
        _inherit(model, ModelFolder.open(source).tensors("transformer"), source, "set these to its own")
    else:
        from ovi.models.released_weights import backbone  # brings a tokenizer's libraries along

        _inherit(model, backbone(source).tensors(), source, "set these to its own")
    if len(recipe.modalities) > 1 and not recipe.hears(settings):
        _silence(model)
    return _prepared(model, recipe, settings, seed)


def outline(recipe: Recipe, settings: Settings) -> FusionModel:
    """The stage's network on the meta device: all its shapes, trainable where the recipe says so, and no memory."""
    with torch.device("meta"):
        return _prepared(_both(settings), recipe, settings, 0)


def _both(settings: Settings) -> FusionModel:
    return cast(FusionModel, codecs.build("transformer", codecs.model_config(settings)["transformer"]))


def _prepared(model: FusionModel, recipe: Recipe, settings: Settings, seed: int) -> FusionModel:
    """Only its towers, with low-rank additions where these are asked for, and frozen where the recipe says so."""
    for modality in {"video", "audio"} - set(recipe.modalities):
        delattr(model, f"{modality}_model")
    for part in (model, *model.children()):
        part.recompute = settings.training.recompute
    low_rank = recipe.lora(settings)
    if low_rank is not None:
        lora.add(model, low_rank, seed, re.compile(recipe.trains).fullmatch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(recipe.learns(name, settings))
    return model


def save(
    recipe: Recipe,
    settings: Settings,
    models: Path,
    network: nn.Module,
    weights: dict[str, Tensor],
    lineage: dict[str, Any],
    out: Path | None = None,
) -> None:
    """Write models/<stage> or `out`: the trained `weights`, and the network's own for what was frozen.

    A network of both towers gets the codecs and the text encoder of models/codec beside it, and can generate.
    Low-rank additions go into the weights they are added to.
    """
    dtype = torch.bfloat16 if settings.training.precision == "bf16" else torch.float32
    state = {name: weights.get(name, tensor) for name, tensor in network.state_dict().items() if has_use(name, recipe)}
    low_rank = recipe.lora(settings)
    if low_rank is not None:
        state = lora.merge({name: tensor.cpu() for name, tensor in state.items()}, low_rank)
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    base = models / CODEC if len(recipe.modalities) > 1 else None
    save_folder(out or models / recipe.stage, codecs.model_config(settings), {"transformer": state}, lineage, base=base)


def has_use(name: str, recipe: Recipe) -> bool:
    """Whether the stage's network does anything with the parameter: a tower alone has no fusion."""
    return len(recipe.modalities) > 1 or "fusion" not in name


@torch.no_grad()
def _inherit(model: FusionModel, theirs: dict[str, Tensor], whose: Path, remedy: str) -> None:
    """Take over what a stage before trained, or what was released: one tower, or both with what joins them."""
    ours = dict(model.named_parameters())
    towers = tuple({name.partition(".")[0] + "." for name in theirs})
    joined = any("fusion" in name for name in theirs)
    wanted = {name for name in ours if name.startswith(towers) and (joined or "fusion" not in name)}
    if wanted != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in wanted):
        raise OviError(f"{whose}: was trained with other model sizes than the settings'; {remedy}")
    for name in wanted:
        ours[name].copy_(theirs[name])


@torch.no_grad()
def _silence(model: FusionModel) -> None:
    """What a tower hears of the other one becomes zero, here and in the model folder that comes of it."""
    for name, parameter in model.named_parameters():
        if "v_fusion" in name:
            parameter.zero_()
