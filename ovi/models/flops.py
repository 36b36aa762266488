"""Floating-point operations of the fusion model, counted exactly from its sizes: 2 for a multiplication and addition.

Matrix products, convolutions and attention count; norms, rotations and activations are left out, as everywhere.
It knows nothing of weights.
Try it: `pytest tests/models/test_flops.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ovi.models.tower import TowerConfig, mlp_channels

KERNEL = 7  # of the audio tower's convolutions


@dataclass(frozen=True)
class Sizes:
    """One forward pass: tokens of each tower, text keys, and rows of the time embedding."""

    video: int
    audio: int
    text: int
    times: int = 1


def forward(video: TowerConfig, audio: TowerConfig, sizes: Sizes) -> int:
    """One sample through both towers, everything computed as the reference does."""
    v, a, text = sizes.video, sizes.audio, sizes.text
    blocks = video.layers * (block(video, v, a, text) + block(audio, a, v, text))
    return blocks + _ends(video, v, sizes) + _ends(audio, a, sizes)


def block(config: TowerConfig, own: int, other: int, text: int) -> int:
    """A block of a tower with `own` tokens that hears `text` keys and `other` tokens."""
    dim = config.dim
    looking = 8 * own * dim**2 + 4 * own**2 * dim
    hearing = 4 * own * dim**2 + 4 * text * dim**2 + 4 * other * dim**2 + 4 * own * (text + other) * dim
    return looking + hearing + 4 * own * dim * config.ffn_dim


def counter() -> FlopCounterMode:
    """torch's own count of what runs inside it, attention on a CPU included, which it leaves out by itself."""
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: _attention})


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _ends(config: TowerConfig, own: int, sizes: Sizes) -> int:
    """Embeddings and head."""
    dim = config.dim
    if config.modality == "video":
        patch = 2 * own * dim * config.in_dim * math.prod(config.patch_size)
    else:
        patch = 2 * KERNEL * own * dim * (config.in_dim + 3 * mlp_channels(dim))
    text = 2 * sizes.text * (config.text_dim * dim + dim**2)
    time = 2 * sizes.times * (config.freq_dim * dim + dim**2 + 6 * dim**2)
    return patch + text + time + 2 * own * dim * config.out_dim * math.prod(config.patch_size)
