"""One tower of the twin backbone: from latents to tokens, and from tokens back to a velocity.

Both towers have the same blocks and the released models' key names at any width; they differ in how latents become
tokens. A tower knows nothing of the other one.
Try it: `pytest tests/models/test_fusion.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi.models import rope
from ovi.models.block import Block, Stream, modulated, recomputed
from ovi.models.rows import NOBODY, Rows
from ovi.models.team import Shared, Team


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of a tower; the released ones are the defaults (paper Table 1)."""

    modality: Literal["video", "audio"]
    patch_size: tuple[int, ...]  # (1, 2, 2) for video, (1,) for audio
    in_dim: int  # latent channels
    out_dim: int
    dim: int = 3072
    ffn_dim: int = 14336
    freq_dim: int = 256
    heads: int = 24
    layers: int = 30
    text_dim: int = 4096
    text_len: int = 512  # keys of text every token attends to, padded ones included
    eps: float = 1e-6
    rope_theta: float = 10_000.0  # the slowest pair turns about this many times slower than the fastest
    rope_scale: float = 1.0  # of the audio tower: video latents a second over audio latents a second
    sound_dim: int = 0  # above 0 a text's first row is a point so wide that describes the sounds, see separate_text.py


class Tower(nn.Module):
    recompute = 0  # first blocks that a backward pass computes again instead of keeping what they need
    team: Team | None = None  # processes that share the tokens of each sample

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = VideoPatch(config) if config.modality == "video" else AudioPatch(config)
        self.text_embedding = _embedding(config.text_dim, dim)
        if config.sound_dim:
            self.sound_embedding = _embedding(config.sound_dim, dim)
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, config.ffn_dim, config.heads, config.eps) for _ in range(config.layers))
        self.head = Head(dim, math.prod(config.patch_size) * config.out_dim, config.eps)

    def open(
        self,
        latents: Tensor,
        t: Tensor,
        text: Tensor,
        lens: Tensor | None = None,
        clean: Tensor | None = None,
        rows: Rows | None = None,
    ) -> Stream:
        """Latents -> tokens. latents [B, C, F, H, W] or [B, L, C], t [B] in 0..1000, text [B, N, T] zero-padded.

        lens [B] are audio lengths where they differ; clean [B] says which samples' first video frame has t=0. With
        rows, latents [1, L, C] and text [1, N, T] are those of B sounds laid one after another.
        """
        if rows is not None:
            return self._open_rows(latents, t, text, rows)
        x, table, grid = self.tokens(latents, None if lens is None else valid(lens, latents.shape[1]))
        time, modulation = self.embed_time(t, clean, grid[0])
        context, text_bias = self.embed_text(text)
        bias = None if lens is None else key_bias(lens, x.shape[1])
        s = Stream(x, time, modulation, context, text_bias, table, bias, grid)
        return s if self.team is None else _part(s, Shared(self.team, grid[0], x.shape[1]))

    def _open_rows(self, latents: Tensor, t: Tensor, text: Tensor, rows: Rows) -> Stream:
        dtype = self.head.head.weight.dtype
        x, table, grid = self.tokens(latents, rows.sample[None] != NOBODY)
        time, modulation = (rows.of_steps(embedded[:, 0]) for embedded in self.embed_time(t, None, 1))
        context = self._told(text.to(dtype), rows.text_place[None] == 0)
        text_bias, bias = rows.text_bias(self.config.text_len, dtype), rows.key_bias(dtype)
        table = table[rows.place]
        return Stream(x, time, modulation, context, text_bias, table, bias, grid, rows.tokens, rows.texts)

    def tokens(self, latents: Tensor, there: Tensor | None = None) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Tokens [B, L, D], their rotary table [L, D/heads/2, 2] and their grid; `there` [B, L] are real sound."""
        config, head_dim = self.config, self.config.dim // self.config.heads
        latents = latents.to(self.head.head.weight.dtype)
        if config.modality == "video":
            x = self.patch_embedding(latents)
            frames, rows, columns = (n // p for n, p in zip(latents.shape[2:], config.patch_size, strict=True))
            table = rope.video_table(frames, rows, columns, head_dim, x.device, config.rope_theta)
            return x, table, (frames, rows, columns)
        x = self.patch_embedding(latents, there)
        return x, rope.audio_table(x.shape[1], head_dim, config.rope_scale, x.device, config.rope_theta), (x.shape[1],)

    def close(self, s: Stream) -> Tensor:
        """Tokens -> velocity in the latents' layout, float32."""
        y = self.head(s.x, s.time).float()
        return self.untoken(s.layout.whole(y) if isinstance(s.layout, Shared) else y, s.grid)

    def untoken(self, y: Tensor, grid: tuple[int, ...]) -> Tensor:
        """What the head says of each token [B, L, ...], in the latents' layout."""
        if self.config.modality == "audio":
            return y
        y = y.unflatten(1, grid).unflatten(-1, (*self.config.patch_size, self.config.out_dim))
        return y.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        text: Tensor,
        lens: Tensor | None = None,
        clean: Tensor | None = None,
        rows: Rows | None = None,
        skip_layer: int = -1,
    ) -> Tensor:
        """The velocity by this tower alone; the fusion parameters are not used."""
        s = self.open(latents, t, text, lens, clean, rows)
        for i, block in enumerate(self.blocks):
            if i != skip_layer or i == 0:
                s.x = recomputed(block, i < self.recompute)(s.x, s)
        return self.close(s)

    def embed_time(self, t: Tensor, clean: Tensor | None, frames: int) -> tuple[Tensor, Tensor]:
        """Time embedding [B, R, D] and modulation [B, R, 6, D]: R=1, or R=frames where first frames may be clean."""
        t = t[:, None]
        if clean is not None:
            t = torch.cat((t.masked_fill(clean[:, None], 0), t), dim=1)
        e = self.time_embedding(sinusoid(t, self.config.freq_dim).to(self.head.head.weight.dtype))
        e0 = self.time_projection(e).unflatten(-1, (6, -1))
        if clean is None:
            return e, e0
        return _for_frames(e, frames), _for_frames(e0, frames)

    def embed_text(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Text keys [B, N', D] and their bias [1, N'].

        Every text is padded with zero rows to text_len and all rows are attended (released behaviour). The rows past
        the batch's longest text are all the same, so one of them with the bias log(their number) stands for all.
        """
        text = text.to(self.head.head.weight.dtype)
        folded = self.config.text_len - text.shape[1]
        if folded < 0:
            raise ValueError(f"text of {text.shape[1]} tokens, this tower takes {self.config.text_len}")
        first = torch.arange(text.shape[1] + (folded > 0), device=text.device)[None] == 0
        if folded == 0:
            return self._told(text, first), None
        bias = torch.zeros(1, text.shape[1] + 1, device=text.device)
        bias[:, -1] = math.log(folded)
        return self._told(F.pad(text, (0, 0, 0, 1)), first), bias

    def _told(self, text: Tensor, first: Tensor) -> Tensor:
        """Rows [B, N, T] -> keys [B, N, D]; `first` are the rows [B, N] that may describe sounds."""
        rows = self.text_embedding(text)
        if not self.config.sound_dim:
            return rows
        return torch.where(first[..., None], self.sound_embedding(text[..., : self.config.sound_dim]), rows)


class VideoPatch(nn.Conv3d):
    """Patches of latents -> tokens, columns fastest. The stride is the kernel, so it is one matrix product."""

    def __init__(self, config: TowerConfig) -> None:
        t, h, w = config.patch_size
        super().__init__(config.in_dim, config.dim, (t, h, w), (t, h, w))

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, F, H, W] -> [B, L, D]."""
        t, h, w = self.kernel_size
        x = input.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, t))
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
        return F.linear(x, self.weight.flatten(1), self.bias)


class AudioPatch(nn.Sequential):
    """Latents -> tokens by convolutions over time, the only thing that tells neighbours apart below the blocks."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(
            nn.Conv1d(config.in_dim, config.dim, 7, padding=3), nn.SiLU(), ConvMLP(config.dim, mlp_channels(config.dim))
        )

    def forward(self, input: Tensor, there: Tensor | None = None) -> Tensor:
        """[B, L, C] -> [B, L, D]; what is not there [B, L] leaks into nothing."""
        mask = None if there is None else there[:, None]
        conv, act, mlp = self
        x = input.transpose(1, 2)
        x = act(conv(x if mask is None else x * mask))
        # Contiguous once here, or every norm of every block would copy its input and its gradient.
        return mlp(x if mask is None else x * mask, mask).transpose(1, 2).contiguous()


class ConvMLP(nn.Module):
    """w2(SiLU(w1 x) * w3 x), kernel 7."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Conv1d(dim, hidden, 7, padding=3, bias=False)
        self.w2 = nn.Conv1d(hidden, dim, 7, padding=3, bias=False)
        self.w3 = nn.Conv1d(dim, hidden, 7, padding=3, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = F.silu(self.w1(x)) * self.w3(x)
        return self.w2(y if mask is None else y * mask)


def mlp_channels(dim: int) -> int:
    """Hidden channels of a tower's ConvMLP: 8/3 of its width, rounded up to a multiple of 256."""
    return 256 * math.ceil(dim * 8 // 3 / 256)


class Head(nn.Module):
    def __init__(self, dim: int, out: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.head = nn.Linear(dim, out)
        self.modulation = nn.Parameter(torch.empty(1, 2, dim))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, L, D], time [B, R, D] -> [B, L, out]."""
        shift, scale = (self.modulation + time.unsqueeze(2)).unsqueeze(3).unbind(2)
        return self.head(modulated(x, shift, scale, self.eps))


def _embedding(width: int, dim: int) -> nn.Sequential:
    """From an encoder's rows to the tower's keys."""
    return nn.Sequential(nn.Linear(width, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))


def _part(s: Stream, shared: Shared) -> Stream:
    """This process' tokens: whole frames, so that rows of modulation stay whole too, or single audio tokens."""
    s = replace(s, x=shared.part(s.x), rope=shared.part(s.rope, 0), layout=shared)
    if s.time.shape[1] == 1:
        return s
    return replace(s, time=shared.part(s.time), modulation=shared.part(s.modulation))


def _for_frames(rows: Tensor, frames: int) -> Tensor:
    """[B, 2, ...] -> [B, frames, ...]: the first row for the first frame, the second for all others."""
    return torch.cat((rows[:, :1], rows[:, 1:].expand(-1, frames - 1, *rows.shape[2:])), dim=1)


def sinusoid(t: Tensor, width: int) -> Tensor:
    """[...] -> [..., width], cosines first. In float64, because t reaches 1000 and float32 angles would be 6e-5 off."""
    half = width // 2
    ladder = 10_000 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
    angles = t.double()[..., None] * ladder
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def valid(lens: Tensor, length: int) -> Tensor:
    """[B] -> [B, length], True for tokens that exist."""
    return torch.arange(length, device=lens.device) < lens[:, None]


def key_bias(lens: Tensor, length: int) -> Tensor:
    """[B] -> [B, 1, 1, length], -inf for keys that do not exist."""
    return torch.zeros(len(lens), length, device=lens.device).masked_fill(~valid(lens, length), -math.inf)[
        :, None, None
    ]
