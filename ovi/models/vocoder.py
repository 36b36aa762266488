"""Log-mel spectrograms -> sound: BigVGAN at 16 kHz (Lee et al. 2022, arXiv 2206.04658), 256 samples a mel frame.

Each stage lengthens the signal and sends it through three blocks of dilated convolutions, with periodic activations
that run at twice the rate so that their harmonics do not alias. Weights are kept as length and direction, under the
release's names; the older names of checkpoints (`weight_g`, `weight_v`) load as well. It knows nothing of latents.
Try it: `pytest tests/models/test_vocoder.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ovi.models.mel import MELS

RATES = (4, 4, 2, 2, 2, 2)  # samples out for one in, by stage: 256 in all
KERNELS = (3, 7, 11)  # of the blocks of a stage
DILATIONS = (1, 3, 5)
TAPS = 12  # of the filter around an activation
CUTOFF, HALF_WIDTH = 0.25, 0.3  # of that filter, in cycles a sample at the doubled rate


class BigVGAN(nn.Module):
    """Released sizes are the defaults. Channels halve with every stage, from 64 or more.

    A forward pass uses every convolution once, so each weight is put together once.
    """

    def __init__(self, channels: int = 1536) -> None:
        super().__init__()
        widths = [channels >> i for i in range(len(RATES) + 1)]
        self.conv_pre = weight_norm(nn.Conv1d(MELS, channels, 7, padding=3))
        self.ups = nn.ModuleList(
            nn.Sequential(weight_norm(nn.ConvTranspose1d(before, width, 2 * rate, rate, padding=rate // 2)))
            for rate, before, width in zip(RATES, widths[:-1], widths[1:], strict=True)
        )
        self.resblocks = nn.ModuleList(Block(width, kernel) for width in widths[1:] for kernel in KERNELS)
        self.activation_post = Activation(widths[-1])
        self.conv_post = weight_norm(nn.Conv1d(widths[-1], 1, 7, padding=3))

    def forward(self, mel: Tensor) -> Tensor:
        """log-mel [B, 80, T] -> sound [B, 256*T] in [-1, 1], float32; computed in the weights' dtype."""
        x = self.conv_pre(mel.to(self.conv_pre.bias.dtype))
        for i, up in enumerate(self.ups):
            x = up(x)
            blocks = self.resblocks[len(KERNELS) * i : len(KERNELS) * (i + 1)]
            x = sum(block(x) for block in blocks) / len(KERNELS)
        return self.conv_post(self.activation_post(x)).float().tanh()[:, 0]


class Block(nn.Module):
    """Residual pairs of convolutions, the first of each pair dilated."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.convs1, self.convs2 = (
            nn.ModuleList(
                weight_norm(nn.Conv1d(width, width, kernel, padding=kernel // 2 * dilation, dilation=dilation))
                for dilation in dilations
            )
            for dilations in (DILATIONS, (1,) * len(DILATIONS))
        )
        self.activations = nn.ModuleList(Activation(width) for _ in range(2 * len(DILATIONS)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        firsts, seconds = self.activations[::2], self.activations[1::2]
        for first, conv1, second, conv2 in zip(firsts, self.convs1, seconds, self.convs2, strict=True):
            x = x + conv2(second(conv1(first(x))))
        return x


class Activation(nn.Module):
    """Twice the rate, the activation, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.act, self.upsample, self.downsample = SnakeBeta(width), Upsample(), Downsample()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.act(self.upsample(x)))


class SnakeBeta(nn.Module):
    """x + sin^2(a x) / b for every channel; a and b are kept as logarithms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.alpha.exp()[:, None], self.beta.exp()[:, None] + 1e-9
        return x + (x * a).sin().square() / b


class LowPass(nn.Module):
    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", low_pass())

    def for_each(self, x: Tensor) -> Tensor:
        """[C, 1, 12]: the filter once for every channel of x."""
        return self.filter.expand(x.shape[1], -1, -1)


class Upsample(LowPass):
    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, 2T]; what lies past an end is held."""
        edge = TAPS // 2 - 1
        padded = F.pad(x, (edge, edge), mode="replicate")
        return F.conv_transpose1d(padded, 2 * self.for_each(x), stride=2, padding=3 * edge, groups=x.shape[1])


class Downsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowpass = LowPass()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2T] -> [B, C, T]."""
        padded = F.pad(x, (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return F.conv1d(padded, self.lowpass.for_each(x), stride=2, groups=x.shape[1])


def low_pass() -> Tensor:
    """A sinc under a Kaiser window, of sum one: [1, 1, 12].

    Kaiser's rules give the attenuation in decibels that so many taps reach, and the window's shape from that.
    """
    attenuation = 2.285 * (TAPS // 2 - 1) * math.pi * 4 * HALF_WIDTH + 7.95
    window = torch.kaiser_window(TAPS, periodic=False, beta=0.1102 * (attenuation - 8.7))
    taps = window * torch.sinc(2 * CUTOFF * (torch.arange(TAPS) - (TAPS - 1) / 2))
    return (taps / taps.sum())[None, None]
