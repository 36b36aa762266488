"""Sound <-> the latents of the released models: mel, the MMAudio VAE and BigVGAN (paper 4.1). 31.25 latents a second.

It has the interface of `LinearAudioCodec`. Latents are not normalised: the released audio tower takes the VAE's means
as they are. It knows nothing of files.
Try it: `pytest tests/models/test_mmaudio_codec.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ovi.models import mel
from ovi.models.audio_vae import AudioVAE
from ovi.models.vocoder import BigVGAN


class MMAudioCodec(nn.Module):
    """Frozen, with the released sizes as defaults. Computes in its weights' dtype; float32 outside."""

    def __init__(
        self,
        channels: int = 20,
        hidden: int = 384,
        ch_mult: Sequence[int] = (1, 2, 4),
        res_blocks: int = 2,
        down_layers: Sequence[int] = (0,),
        vocoder_channels: int = 1536,
    ) -> None:
        super().__init__()
        self.hop = mel.HOP * 2 ** len(down_layers)  # samples in a latent
        self.vae = AudioVAE(channels, hidden, ch_mult, res_blocks, down_layers)
        self.vocoder = BigVGAN(vocoder_channels)
        self.eval().requires_grad_(False)

    def length(self, samples: int) -> int:
        """Latents of so many samples: 80,640 -> 157."""
        return samples // self.hop

    def encode(self, audio: Tensor) -> Tensor:
        """[B, N] in [-1, 1] -> latents [B, floor(N/512), C] float32."""
        mean, _ = self.vae.encode(mel.log_mel(audio))
        return mean.transpose(1, 2).contiguous()

    def spectrogram(self, latents: Tensor) -> Tensor:
        """Latents [B, L, C] -> log10 of mel magnitudes [B, 80, 2L], float32."""
        return self.vae.decode(latents.transpose(1, 2))

    def decode(self, latents: Tensor, samples: int | None = None) -> Tensor:
        """Latents [B, L, C] -> sound [B, samples] (512*L when None) in [-1, 1], float32.

        The last mel frame is held to the end: 157 latents make 314 frames, and a clip has 315.
        """
        spectrogram = self.spectrogram(latents)
        if samples is None:
            return self.vocoder(spectrogram)
        missing = -(-samples // mel.HOP) - spectrogram.shape[2]
        if missing > 0:
            spectrogram = F.pad(spectrogram, (0, missing), mode="replicate")
        return self.vocoder(spectrogram)[:, :samples]
