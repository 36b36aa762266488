"""Log-mel spectrograms <-> latents: the 1D VAE of MMAudio at 16 kHz, whose encoder and decoder keep magnitudes.

Every convolution is without bias and uses its weights with rows of length one, every sum and activation is scaled back
to unit variance (Karras et al. 2024, arXiv 2312.02696; the VAE is that of Cheng et al. 2025, arXiv 2412.15322). Key
names are the release's, so its checkpoint loads as it is. The VAE knows nothing of waveforms.
Try it: `pytest tests/models/test_audio_vae.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi.models.mel import MELS

EPS = 1e-4
SILU_RMS = 0.596  # of SiLU on unit normal input
BRANCH = 0.3  # the share of a residual branch in its sum
CLIP = 256.0  # activations are kept within
LOGVAR = (-30.0, 20.0)


class AudioVAE(nn.Module):
    """Released sizes are the defaults. Each level in `down_layers` halves the length: latents have two mel frames.

    Mels and latents are float32 outside, and the weights' dtype inside.
    """

    data_mean: Tensor
    data_std: Tensor

    def __init__(
        self,
        channels: int = 20,
        hidden: int = 384,
        ch_mult: Sequence[int] = (1, 2, 4),
        res_blocks: int = 2,
        down_layers: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        widths = [hidden * multiple for multiple in ch_mult]
        self.register_buffer("data_mean", torch.zeros(1, MELS, 1))
        self.register_buffer("data_std", torch.ones(1, MELS, 1))
        self.encoder = Encoder(2 * channels, widths, res_blocks, down_layers)
        self.decoder = Decoder(channels, widths, res_blocks + 1, down_layers)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """log-mel [B, 80, T] -> mean and log variance of the latents, [B, C, floor(T/2)] each."""
        normal = (mel - self.data_mean) / self.data_std
        mean, logvar = self.encoder(normal.to(self.data_mean.dtype)).float().chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, L] -> log-mel [B, 80, 2L]."""
        normal = self.decoder(latents.to(self.data_mean.dtype))
        return normal.float() * self.data_std + self.data_mean


class Encoder(nn.Module):
    def __init__(self, out: int, widths: list[int], blocks: int, down_layers: Sequence[int]) -> None:
        super().__init__()
        self.learnable_gain = nn.Parameter(torch.zeros(()))
        self.conv_in = Conv(MELS, widths[0], 3)
        befores = [widths[0], *widths]
        self.down = nn.ModuleList(
            (DownLevel if i in down_layers else Level)(befores[i], widths[i], blocks) for i in range(len(widths))
        )
        self.mid = Middle(widths[-1])
        self.conv_out = Conv(widths[-1], out, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(silu(self.mid(x)), self.learnable_gain + 1)


class Decoder(nn.Module):
    """The encoder backwards: level i doubles the length where the encoder's level i-1 halves it."""

    def __init__(self, channels: int, widths: list[int], blocks: int, down_layers: Sequence[int]) -> None:
        super().__init__()
        self.learnable_gain = nn.Parameter(torch.zeros(()))
        self.conv_in = Conv(channels, widths[-1], 3)
        self.mid = Middle(widths[-1])
        befores = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            (UpLevel if i - 1 in down_layers else Level)(befores[i], widths[i], blocks) for i in range(len(widths))
        )
        self.conv_out = Conv(widths[0], MELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(silu(x), self.learnable_gain + 1)


class Level(nn.Module):
    """Residual blocks of one width."""

    def __init__(self, before: int, width: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(width if i else before, width) for i in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x).clamp(-CLIP, CLIP)
        return x


class DownLevel(Level):
    def __init__(self, before: int, width: int, blocks: int) -> None:
        super().__init__(before, width, blocks)
        self.downsample = Halve(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(super().forward(x))


class UpLevel(Level):
    def __init__(self, before: int, width: int, blocks: int) -> None:
        super().__init__(before, width, blocks)
        self.upsample = Double(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(super().forward(x))


class Halve(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(width, width, 1), Conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, floor(T/2)]."""
        return self.conv2(F.avg_pool1d(self.conv1(x), 2))


class Double(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, 2T]."""
        return self.conv(x.repeat_interleave(2, dim=-1))


class Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResBlock(width, width), Attention(width), ResBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x))).clamp(-CLIP, CLIP)


class ResBlock(nn.Module):
    """The shortcut carries the normalised input."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(before, width, 3), Conv(width, width, 3)
        self.nin_shortcut = nn.Identity() if before == width else Conv(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = normalise(x)
        return blend(self.nin_shortcut(x), self.conv2(silu(self.conv1(silu(x)))))


class Attention(nn.Module):
    """One head over all frames. Channel c of q, k and v are the projection's channels 3c, 3c+1 and 3c+2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj_out = Conv(width, 3 * width, 1), Conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = normalise(self.qkv(x).unflatten(1, (-1, 3))).transpose(1, 3).unbind(2)  # [B, T, C] each
        return blend(x, self.proj_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2)))


class Conv(nn.Conv1d):
    """A convolution that uses its weights with unit rows: an output of unit variance, times the gain."""

    def __init__(self, before: int, width: int, kernel: int) -> None:
        super().__init__(before, width, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        rows = self.weight.float().flatten(1)
        rows = normalise(rows) * (gain / math.sqrt(rows.shape[1]))
        return F.conv1d(x, rows.view_as(self.weight).to(x.dtype), padding=self.padding)


def normalise(x: Tensor) -> Tensor:
    """x over the root mean square along its axis 1 (and 1e-4, so that zeros stay zeros)."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
    return x / (norm / math.sqrt(x.shape[1]) + EPS).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """SiLU that keeps unit variance."""
    return F.silu(x) / SILU_RMS


def blend(x: Tensor, branch: Tensor) -> Tensor:
    """A residual sum that keeps unit variance where its two terms are independent."""
    return x.lerp(branch, BRANCH) / math.hypot(1 - BRANCH, BRANCH)
