"""The layers of the Wan2.2 video codec, causal in time.

A layer takes one chunk of a clip after another, and the clip's `Past`, in which it leaves what it must know of earlier
chunks. A clip's first chunk is its first frame alone, which no layer joins with others or splits in time; later chunks
are of any lengths the strides divide, so that a whole clip is two chunks, and the results are the same.
Tensors are [B, C, T, H, W]. Attribute names are those of the released state dict.
Try it: `pytest tests/models/test_video_vae.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Past:
    """What the layers remember of one clip; a new one for every clip."""

    def __init__(self) -> None:
        self.first = True  # the chunk on its way is the clip's first
        self._frames: dict[nn.Module, Tensor] = {}

    def remember(self, layer: nn.Module, x: Tensor, frames: int) -> None:
        """Keep the last frames of the layer's input, in memory of their own: a view would hold all of x."""
        self._frames[layer] = x[:, :, -frames:].clone()

    def before(self, layer: nn.Module, x: Tensor, frames: int) -> Tensor:
        """x after the frames that the layer remembers, or zeros, and its last ones remembered."""
        seen = self._frames.get(layer)
        x = F.pad(x, (0, 0, 0, 0, frames, 0)) if seen is None else torch.cat((seen, x), dim=2)
        self.remember(layer, x, frames)
        return x


class CausalConv(nn.Conv3d):
    """A convolution that sees no later frame, and zeros before the first."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int] = (3, 3, 3), stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, (stride, 1, 1), (0, kernel[1] // 2, kernel[2] // 2))
        self.memory = kernel[0] - stride  # frames

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return super().forward(past.before(self, x, self.memory))


class Norm(nn.Module):
    """Channels scaled to a root mean square of one, then by gamma."""

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (self.gamma * len(self.gamma) ** 0.5)


class Convs(nn.ModuleDict):
    """Norm, SiLU, convolution, once or more, under their released numbers."""

    def forward(self, x: Tensor, past: Past) -> Tensor:
        for layer in self.values():
            x = layer(x, past) if isinstance(layer, CausalConv) else F.silu(layer(x))
        return x


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layers = {"0": Norm(inputs), "2": CausalConv(inputs, outputs)}
        self.residual = Convs({**layers, "3": Norm(outputs), "6": CausalConv(outputs, outputs)})
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return self.residual(x, past) + self.shortcut(x)


class Attention(nn.Module):
    """Every pixel looks at all pixels of its own frame, by one head as wide as the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + each_frame(self._look, x)

    def _look(self, frames: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        rows = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2)
        q, k, v = rows[:, None].chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return self.proj(seen.transpose(1, 2).unflatten(2, frames.shape[2:]))


class Middle(nn.ModuleList):
    def __init__(self, channels: int) -> None:
        super().__init__([ResidualBlock(channels, channels), Attention(channels), ResidualBlock(channels, channels)])

    def forward(self, x: Tensor, past: Past) -> Tensor:
        first, attention, last = self
        return last(attention(first(x, past)), past)


class Down(nn.Module):
    """Half the rows and columns; where time is 2, also half the frames after the clip's first."""

    def __init__(self, channels: int, time: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = CausalConv(channels, channels, (3, 1, 1), stride=2) if time == 2 else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = each_frame(self.resample, x)
        if self.time_conv is None:
            return x
        if past.first:
            past.remember(self.time_conv, x, self.time_conv.memory)
            return x
        return self.time_conv(x, past)


class Up(nn.Module):
    """Twice the rows and columns; where time is 2, also twice the frames after the clip's first.

    The convolution in time never sees that first frame: the second one has zeros before it.
    """

    def __init__(self, channels: int, time: int) -> None:
        super().__init__()
        enlarge = nn.Upsample(scale_factor=2, mode="nearest-exact")
        self.resample = nn.Sequential(enlarge, nn.Conv2d(channels, channels, 3, padding=1))
        self.time_conv = CausalConv(channels, 2 * channels, (3, 1, 1)) if time == 2 else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        if self.time_conv is not None and not past.first:
            even, odd = self.time_conv(x, past).chunk(2, dim=1)
            x = torch.stack((even, odd), dim=3).flatten(2, 3)
        return each_frame(self.resample, x)


class DownStage(nn.Module):
    """Residual blocks and, where space is 2, `Down`; beside them the averages of what goes in."""

    def __init__(self, inputs: int, outputs: int, blocks: int, time: int, space: int) -> None:
        super().__init__()
        self.outputs, self.time, self.space = outputs, time, space
        layers = [ResidualBlock(inputs if i == 0 else outputs, outputs) for i in range(blocks)]
        self.downsamples = nn.ModuleList([*layers, Down(outputs, time)] if space == 2 else layers)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        shortcut = averaged(x, self.outputs, self.time, self.space)
        for layer in self.downsamples:
            x = layer(x, past)
        return x + shortcut


class UpStage(nn.Module):
    """Residual blocks and, where space is 2, `Up`, and beside them the copies of what goes in."""

    def __init__(self, inputs: int, outputs: int, blocks: int, time: int, space: int) -> None:
        super().__init__()
        self.outputs, self.time, self.space = outputs, time, space
        layers = [ResidualBlock(inputs if i == 0 else outputs, outputs) for i in range(blocks)]
        self.upsamples = nn.ModuleList([*layers, Up(outputs, time)] if space == 2 else layers)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        y = x
        for layer in self.upsamples:
            y = layer(y, past)
        if self.space == 1:
            return y
        copies = repeated(x, self.outputs, self.time, self.space)
        return y + (copies[:, :, self.time - 1 :] if past.first else copies)


def averaged(x: Tensor, channels: int, time: int, space: int) -> Tensor:
    """[B, C, T, H, W] -> [B, channels, ceil(T/time), H/space, W/space]: means of neighbours in place and channel.

    Frames missing to a multiple are zeros in front, so a clip's first frame counts half where time is 2.
    """
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % time, 0))
    parts = x.unflatten(4, (-1, space)).unflatten(3, (-1, space)).unflatten(2, (-1, time))
    parts = parts.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
    return parts.unflatten(1, (channels, -1)).mean(dim=2)


def repeated(x: Tensor, channels: int, time: int, space: int) -> Tensor:
    """[B, C, T, H, W] -> [B, channels, time*T, space*H, space*W]: the numbers of a place, each as often as the next."""
    copies = x.repeat_interleave(channels * time * space**2 // x.shape[1], dim=1)
    parts = copies.unflatten(1, (channels, time, space, space))
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def each_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer for pictures, applied to every frame of [B, C, T, H, W]."""
    return layer(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)
