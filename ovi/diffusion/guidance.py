"""Classifier-free guidance over both modalities: guided = negative + scale * (positive - negative).

Each modality has its own scale and its own negative text; one picture of noise is seen by both passes. This is what is
asked and how the answers are joined; which network answers is `denoiser.py`'s business.
Try it: `pytest tests/diffusion/test_denoiser.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Velocities = tuple[Tensor, Tensor]  # of video [B, C, F, H, W] and audio [B, L, C]


@dataclass(frozen=True)
class Texts:
    """A batch of texts: rows [B, N, T], zero past lens [B]."""

    rows: Tensor
    lens: Tensor

    @classmethod
    def of(cls, texts: list[Tensor]) -> Texts:
        """From one [n, T] a sample."""
        device = texts[0].device
        return cls(pad_sequence(texts, batch_first=True), torch.tensor([len(text) for text in texts], device=device))

    def __add__(self, other: Texts) -> Texts:
        """Both batches one after the other."""
        longest = max(self.rows.shape[1], other.rows.shape[1])
        rows = [F.pad(texts.rows, (0, 0, 0, longest - texts.rows.shape[1])) for texts in (self, other)]
        return Texts(torch.cat(rows), torch.cat((self.lens, other.lens)))

    def to(self, device: torch.device) -> Texts:
        return Texts(self.rows.to(device), self.lens.to(device))


@dataclass(frozen=True)
class Guidance:
    """Scales (1: no guidance) and the block left out of the negative pass (-1: none)."""

    video: float = 1.0
    audio: float = 1.0
    skip_layer: int = -1

    @property
    def off(self) -> bool:
        """The positive velocities are the answer."""
        return self.video == 1 and self.audio == 1

    def join(self, positive: Velocities, negative: Velocities) -> Velocities:
        """Away from the negative velocities, each modality by its own scale."""
        (video, audio), (not_video, not_audio) = positive, negative
        return not_video + self.video * (video - not_video), not_audio + self.audio * (audio - not_audio)


@dataclass(frozen=True)
class Condition:
    """What a batch of samples is told: the prompt, and what each tower shall keep away from."""

    prompt: Texts
    negative_video: Texts
    negative_audio: Texts
    clean: Tensor | None = None  # [B] bool: samples whose first latent frame is given; None: no sample's
    audio_prompt: Texts | None = None  # where the audio tower is told something else than the video tower

    @property
    def prompts(self) -> tuple[Texts, Texts]:
        """Of the video and the audio tower."""
        return self.prompt, self.audio_prompt or self.prompt

    def to(self, device: torch.device) -> Condition:
        clean = None if self.clean is None else self.clean.to(device)
        return Condition(
            self.prompt.to(device), self.negative_video.to(device), self.negative_audio.to(device), clean,
            None if self.audio_prompt is None else self.audio_prompt.to(device),
        )  # fmt: skip
