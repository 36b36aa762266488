"""One transformer block of a tower, and how two blocks of the same depth are fused (paper 4.1).

Both directions of the fusion see the other tower after its self-attention and before its own cross-attention.
Try it: `pytest tests/models/test_fusion.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ovi.models.attention import CrossAttention, Layout, SelfAttention


@dataclass
class Stream:
    """The tokens of one modality on their way through a tower, with all that stays the same between its blocks.

    Modulation has R rows a sample, each for L/R neighbouring tokens: R=1 where all tokens share a timestep, R=frames
    where the first frame is given clean. It is never expanded to every token.
    """

    x: Tensor  # [B, L, D]
    time: Tensor  # [B, R, D], for the head
    modulation: Tensor  # [B, R, 6, D]
    text: Tensor  # [B, N, D], with one key standing for all padded ones
    text_bias: Tensor | None  # [1, N], or as text_layout has it
    rope: Tensor  # [L, D/heads/2, 2]
    bias: Tensor | None  # [B, 1, 1, L], hides keys past a sample's length; or as layout has it
    grid: tuple[int, ...]  # (frames, rows, columns) or (length,)
    layout: Layout | None = None  # of the tokens while they are attended to, where it is another
    text_layout: Layout | None = None


class Modulation(nn.Module):
    """The block's own share of shift, scale and gate (released key: blocks.i.modulation.modulation)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.empty(1, 6, dim))

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """[B, R, 6, D] -> six times [B, R, 1, D]: shift, scale, gate of self-attention, then of the FFN."""
        return (self.modulation + rows).unsqueeze(3).unbind(2)


class Block(nn.Module):
    def __init__(self, dim: int, ffn_dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.self_attn = SelfAttention(dim, heads, eps)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.cross_attn = CrossAttention(dim, heads, eps)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = Modulation(dim)

    def forward(self, x: Tensor, s: Stream) -> Tensor:
        """One tower alone: x [B, L, D] -> [B, L, D]."""
        m = self.modulation(s.modulation)
        x = self.look(x, s, m)
        asking = s.layout if s.text_layout else None  # text is whole wherever a part of the tokens is
        return self.think(x + self.cross_attn(self.norm3(x), s.text, s.text_bias, asking, s.text_layout), m)

    def look(self, x: Tensor, s: Stream, m: tuple[Tensor, ...]) -> Tensor:
        """Gated self-attention."""
        seen = self.self_attn(modulated(x, m[0], m[1], self.eps), s.rope, s.bias, s.layout)
        return gated(x, seen, m[2])

    def think(self, x: Tensor, m: tuple[Tensor, ...]) -> Tensor:
        """Gated FFN."""
        return gated(x, self.ffn(modulated(x, m[3], m[4], self.eps)), m[5])

    def listen(self, x: Tensor, s: Stream, other: Tensor, o: Stream) -> Tensor:
        """Cross-attention to the text and to the other tower's tokens; neither modulated nor gated."""
        they = (other, o.bias, o.rope, o.layout)
        return x + self.cross_attn.fused(self.norm3(x), s.text, s.text_bias, s.rope, s.layout, *they)


def fuse(video_block: Block, audio_block: Block, v: Stream, a: Stream) -> tuple[Tensor, Tensor]:
    """Two blocks of the same depth, each hearing the other: the next tokens (video, audio)."""
    mv, ma = video_block.modulation(v.modulation), audio_block.modulation(a.modulation)
    vx, ax = video_block.look(v.x, v, mv), audio_block.look(a.x, a, ma)
    return (
        video_block.think(video_block.listen(vx, v, ax, a), mv),
        audio_block.think(audio_block.listen(ax, a, vx, v), ma),
    )


def recomputed(work: Callable[..., Any], again: bool) -> Callable[..., Any]:
    """`work` as it is, or keeping only its inputs for the backward pass, which then does the work again."""
    if not again or not torch.is_grad_enabled():
        return work
    return partial(checkpoint, work, use_reentrant=False, preserve_rng_state=False)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift for x [B, L, D], shift and scale [B, R, 1, D]."""
    rows = F.layer_norm(x, x.shape[-1:], eps=eps).unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift, rows, 1 + scale).flatten(1, 2)


def gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + y * gate for x and y [B, L, D], gate [B, R, 1, D]."""
    rows = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, rows), y.unflatten(1, rows), gate).flatten(1, 2)
