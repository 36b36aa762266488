"""The training-free codecs of the demo: principal components of picture patches, and of log-mel frames.

They have the shapes of the released codecs' latents (121 frames -> 31 latent frames, 80,640 samples -> 157 latents),
are fitted in seconds, and know nothing of files or networks. A fitted codec is its state dict.
Try it: `pytest tests/models/test_linear_codec.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ovi.errors import OviError
from ovi.models import mel

# How far channels are pulled to one common variance: 0 keeps their natural ones (a loss on latents is then a loss on
# pixels, but the last channels drown in noise early), 1 makes all equal (as the released codecs' statistics do, but
# then half the loss is spent on components nobody sees). Mean variance over channels is 1 either way.
WHITENING = 0.5
PACK = 4  # frames in a latent frame, after the first
PAIR = 2  # mel frames in an audio latent


class LinearCodec(nn.Module):
    """Rows of n numbers <-> C channels: the leading principal components about the mean, scaled."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, numbers: int, channels: int) -> None:
        super().__init__()
        if channels > numbers:
            raise OviError(f"codec: {channels} channels asked of patches of {numbers} numbers; ask for fewer")
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("basis", torch.zeros(numbers, channels))
        self.register_buffer("scale", torch.ones(channels))

    def project(self, rows: Tensor) -> Tensor:
        """[..., n] -> [..., C]."""
        return (rows - self.mean) @ (self.basis / self.scale)

    def restore(self, latents: Tensor) -> Tensor:
        """[..., C] -> [..., n]."""
        return (latents.float() * self.scale) @ self.basis.T + self.mean

    def _fit(self, batches: Iterable[Tensor], what: str) -> None:
        """Components of all rows [..., n] of the batches, each signed by its largest entry.

        A batch's products are float32, their sum over batches float64.
        """
        numbers, channels = self.basis.shape
        seen = _Seen(numbers)
        for batch in batches:
            seen.add(batch.reshape(-1, numbers))
        if seen.count == 0:
            raise OviError(f"codec: no {what} to fit on; curate some training clips first")
        variances, basis = seen.components(channels)
        basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
        deviations = variances.clamp_min(1e-6 * variances[0].clamp_min(1e-6)).sqrt()
        tempered = deviations ** (1 - WHITENING)
        scale = deviations**WHITENING * tempered.square().mean().sqrt()
        for buffer, value in ((self.mean, seen.mean), (self.basis, basis), (self.scale, scale)):
            buffer.copy_(value)


class _Seen:
    """Rows of n numbers, kept as they are until there are n of them, then as the sum of their products.

    Of fewer rows than numbers (whole pictures) the products of rows with rows hold the same components, and are small.
    """

    def __init__(self, numbers: int) -> None:
        self.numbers, self.count = numbers, 0
        self._rows: list[Tensor] = []
        self._total = torch.zeros(numbers, dtype=torch.float64)
        self._square: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        return self._total / self.count

    def add(self, rows: Tensor) -> None:
        self.count += len(rows)
        self._total += rows.double().sum(0)
        self._rows.append(rows)
        if self.count >= self.numbers:
            self._fold()

    def components(self, channels: int) -> tuple[Tensor, Tensor]:
        """Variances [C] and directions [n, C] of the leading components, largest first, float64."""
        if self._square is not None:
            return _leading(self._square / self.count - torch.outer(self.mean, self.mean), channels)
        rows, fewer = torch.cat(self._rows) - self.mean.float(), min(channels, self.count)
        squares, across = _leading((rows @ rows.T).double(), fewer)
        missing = (0, channels - fewer)
        directions = torch.linalg.qr(F.pad(rows.T.double() @ across, missing)).Q  # any, where rows have none left
        return F.pad(squares / self.count, missing), directions

    def _fold(self) -> None:
        if self._square is None:
            self._square = torch.zeros(self.numbers, self.numbers, dtype=torch.float64)
        for rows in self._rows:
            self._square += rows.T @ rows
        self._rows = []


def _leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of a symmetric matrix and their vectors: [count] and [n, count]."""
    from scipy import linalg  # fitting alone needs it; a service that decodes starts without

    last = len(matrix) - 1
    values, vectors = linalg.eigh(matrix.numpy(), subset_by_index=[last + 1 - count, last])  # torch computes them all
    return torch.from_numpy(values).flip(-1), torch.from_numpy(vectors).flip(-1)


class LinearVideoCodec(LinearCodec):
    """Patches of 4 frames x ph x pw pixels. The first frame stands for a patch of four equal frames."""

    def __init__(self, channels: int = 16, patch: tuple[int, int] = (8, 8)) -> None:
        super().__init__(3 * PACK * patch[0] * patch[1], channels)
        self.patch = patch

    @classmethod
    def fit(cls, clips: Iterable[NDArray[np.uint8]], channels: int = 16, patch: tuple[int, int] = (8, 8)) -> Self:
        """A codec fitted on clips [T, H, W, 3] uint8 of any sizes the patch divides."""
        codec = cls(channels, patch)
        codec._fit((codec._rows(pixels(clip)[None]) for clip in clips), "clips with pictures")
        return codec

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Latents of such a clip: (channels, latent frames, rows, columns)."""
        return self.basis.shape[1], (frames - 1) // PACK + 1, height // self.patch[0], width // self.patch[1]

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] in [-1, 1], T = 4k+1 -> latents [B, C, k+1, H/ph, W/pw] float32."""
        return self.project(self._rows(video.float())).permute(0, 4, 1, 2, 3).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, F, h, w] -> pictures [B, 3, 4F-3, H, W] in [-1, 1]; the first is the mean of its four."""
        rows = self.restore(latents.permute(0, 2, 3, 4, 1)).unflatten(-1, (3, PACK, *self.patch))
        video = rows.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        first = video[:, :, :PACK].mean(dim=2, keepdim=True)
        return torch.cat((first, video[:, :, PACK:]), dim=2).clamp(-1, 1)

    def decode_chunks(self, latents: Tensor) -> Iterator[Tensor]:
        """As `decode`, in parts that follow each other: here all pictures at once, which takes no time."""
        yield self.decode(latents)

    def _rows(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> [B, F, h, w, 3*4*ph*pw]."""
        frames, height, width = video.shape[2:]
        high, wide = self.patch
        if frames % PACK != 1 or height % high or width % wide:
            raise OviError(
                f"codec: {frames} pictures of {width}x{height}; it takes 4k+1 frames and multiples of {wide}x{high}"
            )
        video = torch.cat((video[:, :, :1].expand(-1, -1, PACK - 1, -1, -1), video), dim=2)
        parts = video.unflatten(4, (-1, wide)).unflatten(3, (-1, high)).unflatten(2, (-1, PACK))
        return parts.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


class LinearAudioCodec(LinearCodec):
    """Pairs of log-mel frames at 16 kHz: 31.25 latents a second."""

    def __init__(self, channels: int = 20) -> None:
        super().__init__(PAIR * mel.MELS, channels)

    @classmethod
    def fit(cls, clips: Iterable[NDArray[np.float32]], channels: int = 20) -> Self:
        """A codec fitted on sounds [N] float32 at 16 kHz of any lengths."""
        codec = cls(channels)
        codec._fit((codec._rows(torch.from_numpy(clip)[None]) for clip in clips), "sounds")
        return codec

    def length(self, samples: int) -> int:
        """Latents of so many samples: 80,640 -> 157."""
        return samples // mel.HOP // PAIR

    def encode(self, audio: Tensor) -> Tensor:
        """[B, N] in [-1, 1] -> latents [B, floor(N/512), C] float32."""
        return self.project(self._rows(audio))

    def spectrogram(self, latents: Tensor) -> Tensor:
        """Latents [B, L, C] -> log10 of mel magnitudes [B, 80, 2L], float32."""
        return self.restore(latents).unflatten(-1, (PAIR, mel.MELS)).flatten(1, 2).transpose(1, 2)

    def decode(self, latents: Tensor, samples: int | None = None) -> Tensor:
        """Latents [B, L, C] -> sound [B, samples] (512*L when None) in [-1, 1]. The last frame is held to the end."""
        spectrogram = self.spectrogram(latents)
        samples = samples or spectrogram.shape[2] * mel.HOP
        missing = -(-samples // mel.HOP) - spectrogram.shape[2]
        if missing > 0:
            spectrogram = F.pad(spectrogram, (0, missing), mode="replicate")
        return mel.griffin_lim(spectrogram)[:, :samples]

    def _rows(self, audio: Tensor) -> Tensor:
        """[B, N] -> [B, L, 160]."""
        spectrogram = mel.log_mel(audio).transpose(1, 2)
        length = spectrogram.shape[1] // PAIR
        return spectrogram[:, : PAIR * length].unflatten(1, (length, PAIR)).flatten(2)


def pixels(frames: NDArray[np.uint8]) -> Tensor:
    """Frames uint8 [T, H, W, 3] -> [3, T, H, W] float32 in [-1, 1]."""
    return torch.tensor(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def pictures(video: Tensor) -> NDArray[np.uint8]:
    """[3, T, H, W] in [-1, 1] -> frames uint8 [T, H, W, 3]: the inverse of `pixels`."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).contiguous().cpu().numpy()
