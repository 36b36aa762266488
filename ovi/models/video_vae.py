"""The Wan2.2 video codec: after a clip's first picture, four pictures of 16x16 pixels are one latent of 48 numbers.

Causal in time, so a clip is worked through in chunks (its first picture, then fours) and memory does not grow with its
length; the same layers take a whole clip at once. It knows nothing of files: a codec is its state dict, with the
released key names, and the statistics that normalise its latents.
Try it: `pytest tests/models/test_video_vae.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ovi.errors import ConfigError, OviError
from ovi.models.video_vae_blocks import CausalConv, Convs, DownStage, Middle, Norm, Past, UpStage

PIXELS = 2  # rows and columns of pixels that become channels before the first layer
# Mean and standard deviation of the released encoder's 48 channels (Wan2.2's reference code gives them as constants).
MEAN = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
    *(0.157, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723),
    *(-0.2839, -0.2083, -0.052, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
STD = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
    *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
    *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)


class WanVideoCodec(nn.Module):
    """The Wan2.2 TI2V-5B video autoencoder (Wan et al. 2025), frozen; the defaults are the released sizes.

    It computes in its weights' dtype and gives float32. Statistics are kept as numbers, not as tensors of the state
    dict, so a codec built on the meta device has them too; None means the released ones.
    """

    def __init__(
        self,
        channels: int = 48,
        patch: Sequence[int] = (16, 16),
        dim: int = 160,
        dec_dim: int = 256,
        dim_mult: Sequence[int] = (1, 2, 4, 4),
        res_blocks: int = 2,
        temporal_downsample: Sequence[bool] = (False, True, True),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.patch = (patch[0], patch[1])
        self.mean, self.std = tuple(MEAN if mean is None else mean), tuple(STD if std is None else std)
        side = PIXELS * 2 ** len(temporal_downsample)
        if self.patch != (side, side):
            raise ConfigError(
                f"video_codec.patch: {list(patch)}, but these stages make patches of {side}x{side} pixels"
            )
        if len(temporal_downsample) != len(dim_mult) - 1:
            raise ConfigError(
                f"video_codec.temporal_downsample: {len(temporal_downsample)} values for {len(dim_mult)} stages; "
                "give one for every stage but the last"
            )
        if not len(self.mean) == len(self.std) == channels:
            raise ConfigError(
                f"video_codec.mean, std: {len(self.mean)} and {len(self.std)} values for {channels} channels; "
                "give one for every channel"
            )
        steps = [(2 if halved else 1, 2) for halved in temporal_downsample]  # of every stage: in time, in space
        self.pack = 2 ** sum(time == 2 for time, _ in steps)  # frames in a latent frame, after the first
        self.encoder = Encoder(
            [dim, *(dim * factor for factor in dim_mult)], 2 * channels, res_blocks, [*steps, (1, 1)]
        )
        self.conv1 = nn.Conv3d(2 * channels, 2 * channels, 1)
        self.conv2 = nn.Conv3d(channels, channels, 1)
        widths = [dec_dim * factor for factor in reversed(dim_mult)]
        self.decoder = Decoder(channels, [widths[0], *widths], res_blocks + 1, [*reversed(steps), (1, 1)])
        self.eval().requires_grad_(False)

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Latents of such a clip: (channels, latent frames, rows, columns)."""
        return self.channels, (frames - 1) // self.pack + 1, height // self.patch[0], width // self.patch[1]

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] in [-1, 1], T = 4k+1 -> latents [B, C, k+1, H/16, W/16] float32: means, normalised.

        Works in chunks of 1, 4, 4, ... pictures.
        """
        return self._encode(video, self.pack)

    def encode_whole(self, video: Tensor) -> Tensor:
        """As `encode`, all pictures after the first at once: fewer and larger steps, memory grows with the clip."""
        return self._encode(video, video.shape[2] - 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, F, h, w] -> pictures [B, 3, 4F-3, H, W] float32 in [-1, 1], by `decode_chunks`."""
        return torch.cat(list(self.decode_chunks(latents)), dim=2)

    def decode_whole(self, latents: Tensor) -> Tensor:
        """As `decode`, all latent frames after the first at once; memory grows with the clip."""
        return torch.cat(list(self._decode(latents, latents.shape[2] - 1)), dim=2)

    def decode_chunks(self, latents: Tensor) -> Iterator[Tensor]:
        """Latents [B, C, F, h, w] -> [B, 3, 1, H, W], then F-1 times [B, 3, 4, H, W], in time; float32 in [-1, 1].

        A chunk is the caller's: nothing here reads it again. So it may be turned to uint8 and sent on, by another
        thread or behind the queue of a GPU, while the next one is computed.
        """
        return self._decode(latents, 1)

    def _encode(self, video: Tensor, size: int) -> Tensor:
        frames, height, width = video.shape[2:]
        high, wide = self.patch
        if frames % self.pack != 1 or height % high or width % wide:
            raise OviError(
                f"video codec: {frames} pictures of {width}x{height}; "
                f"it takes {self.pack}k+1 pictures and multiples of {wide}x{high}"
            )
        features = torch.cat(list(_streamed(self.encoder, video, size)), dim=2)
        mean, std = self._statistics(video.device)
        return (self.conv1(features)[:, : self.channels].float() - mean) / std

    def _decode(self, latents: Tensor, size: int) -> Iterator[Tensor]:
        mean, std = self._statistics(latents.device)
        features = self.conv2((latents.float() * std + mean).to(self.conv2.weight.dtype))
        for chunk in _streamed(self.decoder, features, size):
            yield chunk.float().clamp(-1, 1)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, [C, 1, 1, 1] float32."""
        mean, std = torch.tensor((self.mean, self.std), device=device)[:, :, None, None, None]
        return mean, std


class Encoder(nn.Module):
    """Pictures -> features of latents. `widths` are the first layer's channels, then every stage's."""

    def __init__(self, widths: list[int], outputs: int, blocks: int, steps: list[tuple[int, int]]) -> None:
        super().__init__()
        self.conv1 = CausalConv(3 * PIXELS**2, widths[0])
        self.downsamples = nn.ModuleList(
            DownStage(*sizes, blocks, *step) for sizes, step in zip(pairwise(widths), steps, strict=True)
        )
        self.middle = Middle(widths[-1])
        self.head = Convs({"0": Norm(widths[-1]), "2": CausalConv(widths[-1], outputs)})

    def forward(self, video: Tensor, past: Past) -> Tensor:
        """A chunk [B, 3, T, H, W] -> [B, outputs, F, h, w]."""
        x = self.conv1(patched(video.to(self.conv1.weight.dtype)), past)
        for stage in self.downsamples:
            x = stage(x, past)
        return self.head(self.middle(x, past), past)


class Decoder(nn.Module):
    """Features of latents -> pictures. `widths` are the first layer's channels, then every stage's."""

    def __init__(self, inputs: int, widths: list[int], blocks: int, steps: list[tuple[int, int]]) -> None:
        super().__init__()
        self.conv1 = CausalConv(inputs, widths[0])
        self.middle = Middle(widths[0])
        self.upsamples = nn.ModuleList(
            UpStage(*sizes, blocks, *step) for sizes, step in zip(pairwise(widths), steps, strict=True)
        )
        self.head = Convs({"0": Norm(widths[-1]), "2": CausalConv(widths[-1], 3 * PIXELS**2)})

    def forward(self, features: Tensor, past: Past) -> Tensor:
        """A chunk [B, inputs, F, h, w] -> [B, 3, T, H, W]."""
        x = self.middle(self.conv1(features, past), past)
        for stage in self.upsamples:
            x = stage(x, past)
        return unpatched(self.head(x, past))


def patched(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [B, 12, T, H/2, W/2]; of a pixel's place among the channels, the row is fastest."""
    x = video.unflatten(4, (-1, PIXELS)).unflatten(3, (-1, PIXELS))
    return x.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def unpatched(x: Tensor) -> Tensor:
    """[B, 12, T, h, w] -> [B, 3, T, 2h, 2w]: the inverse of `patched`."""
    parts = x.unflatten(1, (-1, PIXELS, PIXELS))
    return parts.permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)


def _streamed(network: nn.Module, x: Tensor, size: int) -> Iterator[Tensor]:
    """What the network makes of a clip's first frame, then of every `size` frames."""
    past = Past()
    later = x.shape[2] - 1
    for chunk in x.split([1] + [size] * (later // size if later else 0), dim=2):
        yield network(chunk, past)
        past.first = False
