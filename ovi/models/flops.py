"""Floating-point operations of the fusion model, counted exactly from its sizes: 2 for a multiplication and addition.

Matrix products, convolutions and attention count; norms, rotations and activations are left out, as everywhere.
`training` follows which gradients a step really needs: what is frozen costs none for itself, and none before the first
thing that learns. It knows nothing of weights.
Try it: `pytest tests/models/test_flops.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

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


Learns = Callable[[str], bool]  # by parameter name, as "video_model.blocks.0.self_attn.q.weight"


@dataclass
class Work:
    """One sample's step: operations of the forward pass, of the backward pass, and those the latter repeats.

    `repeated` are the scores that attention kernels compute again instead of keeping them, and the blocks that are
    computed again: work that the hardware does and the mathematics does not ask for; MFU leaves it out, HFU counts it.
    """

    forward: int = 0
    backward: int = 0
    repeated: int = 0

    def product(self, work: int, flows: bool, learns: bool) -> bool:
        """Count a product whose input needs a gradient if it `flows`; whether its result needs one."""
        self.forward += work
        self.backward += work * (flows + learns)
        return flows or learns

    def attention(self, queries: int, keys: int, dim: int, flows: bool) -> bool:
        scores = 2 * queries * keys * dim
        self.forward += 2 * scores
        self.backward += 4 * scores * flows
        self.repeated += scores * flows
        return flows


def training(
    video: TowerConfig | None,
    audio: TowerConfig | None,
    sizes: Sizes,
    learns: Learns,
    rank: int = 0,
    recompute: int = 0,
) -> Work:
    """One sample's forward and backward pass through both towers, or through the one that is there.

    rank: of the low-rank additions to those projections whose `lora_down` learns. recompute: first blocks whose
    forward pass is repeated.
    """
    work = Work()
    towers = [
        _Tower(config, tokens, sizes, learns, rank, work)
        for config, tokens in ((video, sizes.video), (audio, sizes.audio))
        if config is not None
    ]
    for i in range(towers[0].config.layers):
        before = work.forward
        for tower in towers:
            tower.look(i)
        seen = [(tower.tokens, tower.flows) for tower in towers]
        for tower, other in zip(towers, reversed(seen), strict=True):
            tower.listen(i, other if len(towers) > 1 else None)
            tower.think(i)
        work.repeated += (work.forward - before) * (i < recompute)
    for tower in towers:
        out = tower.config.out_dim * math.prod(tower.config.patch_size)
        tower.linear("head.head", tower.tokens, tower.config.dim, out, tower.flows or tower.time)
    return work


class _Tower:
    """A tower whose products are counted in the order they run. flows, time, text: what needs a gradient so far."""

    def __init__(self, config: TowerConfig, tokens: int, sizes: Sizes, learns: Learns, rank: int, work: Work) -> None:
        self.config, self.tokens, self.keys = config, tokens, sizes.text
        self._prefix, self._learns, self._rank, self._work = f"{config.modality}_model.", learns, rank, work
        dim, hidden = config.dim, mlp_channels(config.dim)
        if config.modality == "video":
            self.flows = self.linear(
                "patch_embedding", tokens, config.in_dim * math.prod(config.patch_size), dim, False
            )
        else:
            first = self.linear("patch_embedding.0", KERNEL * tokens, config.in_dim, dim, False)
            gates = [self.linear(f"patch_embedding.2.{w}", KERNEL * tokens, dim, hidden, first) for w in ("w1", "w3")]
            self.flows = self.linear("patch_embedding.2.w2", KERNEL * tokens, hidden, dim, any(gates))
        self.text = self._two("text_embedding", sizes.text, config.text_dim)
        if config.sound_dim:
            self.text = self._two("sound_embedding", sizes.text, config.sound_dim) or self.text
        time = self._two("time_embedding", sizes.times, config.freq_dim)
        self.time = self.linear("time_projection.1", sizes.times, dim, 6 * dim, time)

    def look(self, i: int) -> None:
        block, dim = f"blocks.{i}.self_attn", self.config.dim
        told = self.flows or self._modulated(i)
        asked = [self._normed(f"{block}.{name}", self.tokens, told) for name in ("q", "k")]
        value = self.linear(f"{block}.v", self.tokens, dim, dim, told)
        flows = self._work.attention(self.tokens, self.tokens, dim, value or any(asked))
        self.flows = self.linear(f"{block}.o", self.tokens, dim, dim, flows) or told

    def listen(self, i: int, other: tuple[int, bool] | None) -> None:
        block, dim = f"blocks.{i}.cross_attn", self.config.dim
        query = self._normed(f"{block}.q", self.tokens, self.flows or self._any(f"blocks.{i}.norm3"))
        heard = self._hear(block, "", self.keys, self.text, query)
        if other is not None:
            tokens, flows = other
            flows = flows or self._any(f"{block}.pre_attn_norm_fusion")
            heard = self._hear(block, "_fusion", tokens, flows, query) or heard
        self.flows = self.linear(f"{block}.o", self.tokens, dim, dim, heard) or self.flows

    def think(self, i: int) -> None:
        dim, hidden = self.config.dim, self.config.ffn_dim
        told = self.flows or self._modulated(i)
        inner = self.linear(f"blocks.{i}.ffn.0", self.tokens, dim, hidden, told)
        self.flows = self.linear(f"blocks.{i}.ffn.2", self.tokens, hidden, dim, inner) or told

    def linear(self, name: str, rows: int, width: int, out: int, flows: bool) -> bool:
        """A projection, with its low-rank addition where that learns; whether its result needs a gradient."""
        told = self._work.product(2 * rows * width * out, flows, self._any(name))
        if self._rank and self._learns(f"{self._prefix}{name}.lora_down"):
            low = self._work.product(2 * rows * width * self._rank, flows, True)
            told = self._work.product(2 * rows * self._rank * out, low, True)
        return told

    def _hear(self, block: str, kind: str, keys: int, flows: bool, query: bool) -> bool:
        dim = self.config.dim
        key = self._normed(f"{block}.k{kind}", keys, flows)
        value = self.linear(f"{block}.v{kind}", keys, dim, dim, flows)
        return self._work.attention(self.tokens, keys, dim, query or key or value)

    def _normed(self, name: str, rows: int, flows: bool) -> bool:
        """A projection and its RMS norm."""
        block, _, kind = name.rpartition(".")
        return self.linear(name, rows, self.config.dim, self.config.dim, flows) or self._any(f"{block}.norm_{kind}")

    def _two(self, name: str, rows: int, width: int) -> bool:
        inner = self.linear(f"{name}.0", rows, width, self.config.dim, False)
        return self.linear(f"{name}.2", rows, self.config.dim, self.config.dim, inner)

    def _modulated(self, i: int) -> bool:
        return self.time or self._learns(f"{self._prefix}blocks.{i}.modulation.modulation")

    def _any(self, module: str) -> bool:
        return self._learns(f"{self._prefix}{module}.weight")


def counter() -> FlopCounterMode:
    """torch's own count of what runs inside it, attention on a CPU included, which it leaves out by itself."""
    aten = torch.ops.aten
    ours = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=ours)


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward(
    grad: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


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
