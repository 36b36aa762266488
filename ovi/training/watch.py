"""What is watched while a stage trains, besides its loss: losses by noise level, gradients by kind of attention, work.

It holds no state and knows no optimiser; the loop adds its sums up over steps and ranks.
Try it: `ovi ui` after a training, then the figures loss_video/..., grad_norm/... of its run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ovi.config import Settings
from ovi.models import codecs, flops
from ovi.training.batches import Batch
from ovi.training.latents import Shapes
from ovi.training.recipes import Recipe

LEVELS = 4  # equal parts of [0, 1] that t lies in
KINDS = {  # of parameters, first match counts
    "av_cross": r".*_fusion(\.|$).*",
    "video_self": r"video_model\..*\.self_attn\..*",
    "audio_self": r"audio_model\..*\.self_attn\..*",
    "text_cross": r".*\.cross_attn\..*",
    "rest": r".*",
}


def kinds(names: Iterable[str]) -> dict[str, list[str]]:
    """Parameter names by kind; the query and output projections that both crosses share count as text_cross."""
    found: dict[str, list[str]] = {}
    for name in names:
        kind = next(kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, name))
        found.setdefault(kind, []).append(name)
    return found


def by_level(found: dict[str, Tensor], batch: Batch) -> Tensor:
    """[modalities, 2, LEVELS] float64: sums of the samples' losses by the part of [0, 1] their t is in, and counts."""
    tables = []
    for modality, values in found.items():
        t = batch.audio_t if modality == "audio" and batch.audio_t is not None else batch.t
        level = (t * LEVELS).long().clamp(max=LEVELS - 1)
        table = torch.zeros(2, LEVELS, dtype=torch.float64, device=values.device)
        table[0].index_add_(0, level, values.detach().double())
        table[1].index_add_(0, level, torch.ones_like(values, dtype=torch.float64))
        tables.append(table)
    return torch.stack(tables)


def level_figures(modalities: Sequence[str], sums: Sequence[float]) -> dict[str, float | None]:
    """`by_level`'s sums, flat -> {"loss_video/t0.00-0.25": mean or None, ...}."""
    names = [f"t{n / LEVELS:.2f}-{(n + 1) / LEVELS:.2f}" for n in range(LEVELS)]
    figures: dict[str, float | None] = {}
    for number, modality in enumerate(modalities):
        table = sums[2 * LEVELS * number :]
        for level, name in enumerate(names):
            count = table[LEVELS + level]
            figures[f"loss_{modality}/{name}"] = table[level] / count if count else None
    return figures


class Workload:
    """How many operations a sample is, by its shapes; padding is not counted."""

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        self._modalities = recipe.modalities
        video, audio = codecs.tower_configs(settings)
        towers = (video if "video" in recipe.modalities else None, audio if "audio" in recipe.modalities else None)
        lora = recipe.lora(settings)
        self._patch, self._text_len = video.patch_size, video.text_len

        @lru_cache(maxsize=4096)
        def work(pictures: int, sounds: int, keys: int) -> flops.Work:
            sizes = flops.Sizes(pictures, sounds, keys)
            rank, again = lora.rank if lora else 0, settings.training.recompute
            return flops.training(*towers, sizes, lambda name: recipe.learns(name, settings), rank, again)

        self._work = work

    def tokens(self, shapes: Shapes) -> dict[str, int]:
        """{"video", "audio", "text"}: of the towers that take part, and keys of text, one of which is all padding."""
        found = {}
        if "video" in self._modalities:
            grid = (shapes["video"] or [0, 0, 0, 0])[1:]
            found["video"] = math.prod(n // patch for n, patch in zip(grid, self._patch, strict=True))
        if "audio" in self._modalities:
            found["audio"] = (shapes["audio"] or [0])[0]
        return {**found, "text": min(self._text_len, (shapes["text"] or [0, 0])[-2] + 1)}

    def of(self, shapes: Shapes) -> flops.Work:
        found = self.tokens(shapes)
        return self._work(found.get("video", 0), found.get("audio", 0), found["text"])
