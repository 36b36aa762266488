"""The fusion model rearranged for sampling: the same mathematics in fewer, larger operations.

What stays the same in every step is made once by `prepare`: keys and values of the texts, rotary tables, and the time
embeddings of all timesteps. In a block, projections of one tensor are one matrix product: q, k, v; and of the tokens
after self-attention, the query of this tower together with the key and value by which the other tower hears them (both
norms differ in their affine part alone, which is folded into the weights). The positive and the negative pass are one
batch; until the first text is heard both are the same, so up to there they are computed once.
It knows nothing of schedules, guidance scales or devices' memory. Equal to `fusion.py` up to rounding.
Try it: `pytest tests/models/test_fast.py`, `python benchmarks/denoise.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi.models import kernels
from ovi.models.attention import Watch
from ovi.models.block import Block, gated, modulated
from ovi.models.fusion import FusionModel
from ovi.models.kernels import attend
from ovi.models.packed import Packed, Storage
from ovi.models.rope import rotate, rotate_real
from ovi.models.tower import Tower


@dataclass(frozen=True)
class Heard:
    """What one tower is told of in every step of a run."""

    keys: list[Tensor]  # one a block: [B, heads, N, d]
    values: list[Tensor]
    bias: Tensor | None  # [1, N]: the weight of the key that stands for all padded ones
    time: Tensor  # [S+1, D]: of every timestep, and of timestep 0 last
    modulation: Tensor  # [S+1, 6, D]

    def first(self, count: int) -> Heard:
        """What the first samples of the batch are told."""
        keys, values = ([part[:count] for part in parts] for parts in (self.keys, self.values))
        return dataclasses.replace(self, keys=keys, values=values)


@dataclass(frozen=True)
class Run:
    """One sampling run of a batch: B rows of text for each of the B/copies latents."""

    video: Heard
    audio: Heard
    clean: Tensor | None  # [B] bool
    copies: int  # rows of text for one latent: 2 with guidance

    def first_copy(self) -> Run:
        """The run of the positive texts alone."""
        count = len(self.video.keys[0]) // self.copies
        clean = None if self.clean is None else self.clean[:count]
        return Run(self.video.first(count), self.audio.first(count), clean, 1)


class FastFusion(nn.Module):
    """Made from a FusionModel, which it leaves as it is; weights that need no folding are shared on one device."""

    def __init__(
        self,
        model: FusionModel,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        storage: Storage = "stored",
        compile: bool = False,
    ) -> None:
        super().__init__()
        device = torch.device(device or next(model.parameters()).device)
        self.video, self.audio = (_shell(tower, device, dtype) for tower in (model.video_model, model.audio_model))
        pairs = zip(model.video_model.blocks, model.audio_model.blocks, strict=True)
        self.pairs = nn.ModuleList(
            Pair(cast(Block, video), cast(Block, audio), device, dtype, storage) for video, audio in pairs
        )
        self.eval().requires_grad_(False)
        for pair in self.pairs:
            if compile:  # one graph serves all blocks: their shapes are equal
                pair.compile(dynamic=False)

    @property
    def device(self) -> torch.device:
        return self.video.head.head.weight.device

    @torch.no_grad()
    def prepare(
        self,
        timesteps: Sequence[float],
        video_text: Tensor,
        audio_text: Tensor,
        clean: Tensor | None = None,
        copies: int = 1,
    ) -> Run:
        """Texts [B, N, T], zero past their lengths; clean [B] as in FusionModel.forward.

        With copies=2, rows 0 to B/2 are the positive texts and the rest the negative ones of the same latents.
        """
        return Run(
            self._hear(self.video, "video", timesteps, video_text),
            self._hear(self.audio, "audio", timesteps, audio_text),
            clean,
            copies,
        )

    @torch.no_grad()
    def forward(self, run: Run, i: int, video: Tensor, audio: Tensor, skip_layer: int = -1) -> tuple[Tensor, Tensor]:
        """Velocities [B, ...] of latents [B/copies, ...] at timestep i.

        skip_layer > 0 leaves that block out of the second copy, or of all where there is one.
        """
        (v, video_table, video_grid), (a, audio_table, audio_grid) = self.video.tokens(video), self.audio.tokens(audio)
        video_time, video_rows = _rows(run.video, i, run.clean, video_grid[0])
        audio_time, audio_rows = _rows(run.audio, i, None, audio_grid[0])
        config = self.video.config
        kernel = kernels.choose(v.device, v.dtype, config.heads, config.dim // config.heads, v.shape[1])
        for j, pair in enumerate(self.pairs):
            heard = (run.video.keys[j], run.video.values[j], run.audio.keys[j], run.audio.values[j])
            skipped = j == skip_layer and j > 0
            if skipped and run.copies == 1:
                continue  # a negative pass alone
            told = _Told(
                *heard, run.video.bias, run.audio.bias, video_rows, audio_rows, video_table, audio_table, kernel
            )
            if skipped:
                kept = len(v) // run.copies
                v_told, a_told = pair(v[:kept], a[:kept], told.first(kept), 1)
                v, a = torch.cat((v_told, v[kept:])), torch.cat((a_told, a[kept:]))
            else:
                v, a = pair(v, a, told, run.copies if j == 0 else 1)
        return (
            self.video.untoken(self.video.head(v, video_time).float(), video_grid),
            self.audio.untoken(self.audio.head(a, audio_time).float(), audio_grid),
        )

    def _hear(self, tower: Tower, name: str, timesteps: Sequence[float], text: Tensor) -> Heard:
        device = tower.head.head.weight.device
        t = torch.tensor([*timesteps, 0.0], device=device, dtype=torch.float64)
        time, modulation = tower.embed_time(t, None, 1)
        # A bias rules out the fastest kernels of a GPU, which would rather read all the padded keys.
        rows, bias = tower.embed_text(_padded(text, tower.config.text_len) if device.type == "cuda" else text)
        pairs = [cast(Half, getattr(pair, name)).hear(rows) for pair in self.pairs]
        keys, values = (list(part) for part in zip(*pairs, strict=True))
        return Heard(keys, values, None if bias is None else bias.to(rows.dtype), time[:, 0], modulation[:, 0])


@dataclass(frozen=True)
class _Told:
    """All that one block needs beside the tokens."""

    video_keys: Tensor
    video_values: Tensor
    audio_keys: Tensor
    audio_values: Tensor
    video_bias: Tensor | None
    audio_bias: Tensor | None
    video_rows: Tensor
    audio_rows: Tensor
    video_table: Tensor
    audio_table: Tensor
    kernel: str  # for the video's own tokens, of which there are many

    def first(self, count: int) -> _Told:
        """For the first samples of the batch alone."""
        names = ("video_keys", "video_values", "audio_keys", "audio_values")
        of_text = {name: getattr(self, name)[:count] for name in names}
        rows = self.video_rows if len(self.video_rows) == 1 else self.video_rows[:count]
        return dataclasses.replace(self, **of_text, video_rows=rows)


class Pair(nn.Module):
    """The two blocks of one depth."""

    def __init__(
        self, video: Block, audio: Block, device: torch.device, dtype: torch.dtype | None, storage: Storage
    ) -> None:
        super().__init__()
        self.video = Half(video, audio, device, dtype, storage)
        self.audio = Half(audio, video, device, dtype, storage)

    def forward(self, v: Tensor, a: Tensor, told: _Told, copies: int) -> tuple[Tensor, Tensor]:
        """Tokens [B, L, D] -> tokens [B*copies, L, D]."""
        m, n = self.video.modulate(told.video_rows), self.audio.modulate(told.audio_rows)
        first = None if copies == 1 else len(v)
        v = self.video.look(v, told.video_table, [row[:first] for row in m], told.kernel).repeat(copies, 1, 1)
        a = self.audio.look(a, told.audio_table, [row[:first] for row in n]).repeat(copies, 1, 1)
        v_q, v_turned, v_k, v_v = self.video.ask(v, told.video_table)
        a_q, a_turned, a_k, a_v = self.audio.ask(a, told.audio_table)
        if self.video.watch or self.audio.watch:
            self.video.show(v_turned, a_k)
            self.audio.show(a_turned, v_k)
        v_heard = attend(v_q, told.video_keys, told.video_values, told.video_bias) + attend(v_turned, a_k, a_v)
        a_heard = attend(a_q, told.audio_keys, told.audio_values, told.audio_bias) + attend(a_turned, v_k, v_v)
        return self.video.think(v, v_heard, m), self.audio.think(a, a_heard, n)


class Half(nn.Module):
    """One block's weights, packed by the tensor that they read."""

    watch: Watch | None = None  # is shown the queries and keys between the towers, see attention_maps.py

    def __init__(
        self, own: Block, other: Block, device: torch.device, dtype: torch.dtype | None, storage: Storage
    ) -> None:
        super().__init__()
        looking, cross, overheard = own.self_attn, own.cross_attn, other.cross_attn
        self.heads, self.eps = looking.heads, own.eps

        def pack(*parts: tuple[Tensor, Tensor]) -> Packed:
            return Packed(parts, device, dtype, storage)

        def keep(*parts: Tensor) -> nn.Parameter:
            whole = parts[0].detach() if len(parts) == 1 else torch.stack([part.detach() for part in parts])
            return nn.Parameter(whole.to(device, dtype), requires_grad=False)

        self.modulation = keep(own.modulation.modulation)
        self.qkv = pack(*(_plain(linear) for linear in (looking.q, looking.k, looking.v)))
        self.look_norms = keep(looking.norm_q.weight, looking.norm_k.weight)
        self.look_out = pack(_plain(looking.o))
        self.asking = pack(
            _folded(own.norm3, cross.q),
            _folded(overheard.pre_attn_norm_fusion, overheard.k_fusion),
            _folded(overheard.pre_attn_norm_fusion, overheard.v_fusion),
        )
        self.ask_norms = keep(cross.norm_q.weight, overheard.norm_k_fusion.weight)
        self.text_kv = pack(_plain(cross.k), _plain(cross.v))
        self.text_norm = keep(cross.norm_k.weight)
        self.heard_out = pack(_plain(cross.o))
        self.widen, self.narrow = pack(_plain(own.ffn[0])), pack(_plain(own.ffn[2]))

    def show(self, q: Tensor, k: Tensor) -> None:
        if self.watch:
            self.watch(q, k)

    def modulate(self, rows: Tensor) -> list[Tensor]:
        """[B, R, 6, D] -> six times [B, R, 1, D]: shift, scale, gate of self-attention, then of the FFN."""
        return list((self.modulation + rows).unsqueeze(3).unbind(2))

    def hear(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text rows [B, N, D] -> keys and values [B, heads, N, d]."""
        k, v = self.text_kv(text).chunk(2, dim=-1)
        k = F.rms_norm(k, k.shape[-1:], self.text_norm, self.eps)
        return self._split(k).transpose(1, 2), self._split(v).transpose(1, 2)

    def look(self, x: Tensor, table: Tensor, m: list[Tensor], kernel: str = "torch") -> Tensor:
        """Gated self-attention."""
        q, k, v = self._three(self.qkv(modulated(x, m[0], m[1], self.eps)), self.look_norms)
        qk = _turn(torch.cat((q, k), dim=2), table)
        q, k = qk.chunk(2, dim=2)
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), kernel=kernel)
        return gated(x, self.look_out(y), m[2])

    def ask(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[B, heads, L, d] each: the query for the text, the query for the other tower, its key and value of x."""
        q, k, v = self._three(self.asking(F.layer_norm(x, x.shape[-1:], eps=self.eps)), self.ask_norms)
        turned, k = _turn(torch.cat((q, k), dim=2), table).chunk(2, dim=2)
        return q.transpose(1, 2), turned.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def think(self, x: Tensor, heard: Tensor, m: list[Tensor]) -> Tensor:
        """What was heard, then the gated FFN."""
        x = x + self.heard_out(heard)
        y = self.narrow(F.gelu(self.widen(modulated(x, m[3], m[4], self.eps)), approximate="tanh"))
        return gated(x, y, m[5])

    def _three(self, projected: Tensor, norms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, L, 3D] -> normed, normed and plain [B, L, heads, d]."""
        two, v = projected.split((projected.shape[-1] // 3 * 2, projected.shape[-1] // 3), dim=-1)
        q, k = (F.rms_norm(two.unflatten(-1, (2, -1)), v.shape[-1:], eps=self.eps) * norms).unbind(-2)
        return self._split(q), self._split(k), self._split(v)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


def _turn(x: Tensor, table: Tensor) -> Tensor:
    """As complex numbers where kernels run one by one, as real ones where a compiler fuses them."""
    return rotate_real(x, table) if x.is_cuda else rotate(x, table)


def _plain(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    return linear.weight, linear.bias


def _folded(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """(weight, bias) that give of LayerNorm(x) without affine what linear gives of norm(x)."""
    weight = linear.weight.float()
    return (weight * norm.weight.float()).to(linear.weight.dtype), (
        linear.bias.float() + weight @ norm.bias.float()
    ).to(linear.bias.dtype)


def _rows(heard: Heard, i: int, clean: Tensor | None, frames: int) -> tuple[Tensor, Tensor]:
    """Time [B, R, D] and modulation [B, R, 6, D] at step i: R=1 and B=1, or frames of each sample."""
    time, modulation = heard.time[i][None, None], heard.modulation[i][None, None]
    if clean is None:
        return time, modulation
    at_zero = (torch.arange(frames, device=clean.device) == 0) & clean[:, None]  # [B, frames]
    return (
        torch.where(at_zero[..., None], heard.time[-1], time),
        torch.where(at_zero[..., None, None], heard.modulation[-1], modulation),
    )


def _padded(text: Tensor, length: int) -> Tensor:
    return F.pad(text, (0, 0, 0, max(0, length - text.shape[1])))


def _shell(tower: Tower, device: torch.device, dtype: torch.dtype | None) -> Tower:
    """The tower without its blocks: embeddings and head."""
    with torch.device("meta"):
        shell = Tower(dataclasses.replace(tower.config, layers=0))
    state = {k: t.to(device, dtype) for k, t in tower.state_dict().items() if not k.startswith("blocks.")}
    shell.load_state_dict(state, assign=True)
    return shell
