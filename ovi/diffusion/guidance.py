"""Classifier-free guidance over both modalities: guided = negative + scale * (positive - negative).

Each modality has its own scale and its own negative text; one picture of noise is seen by both passes.
It knows nothing of schedules and solvers.
Try it: `pytest tests/diffusion/test_sampler.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ovi.models.fusion import FusionModel


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


@dataclass(frozen=True)
class Guidance:
    """Scales (1: no guidance) and the block left out of the negative pass (-1: none)."""

    video: float = 1.0
    audio: float = 1.0
    skip_layer: int = -1


@dataclass(frozen=True)
class Condition:
    """What a batch of samples is told: the prompt for both towers, and what each tower shall keep away from."""

    prompt: Texts
    negative_video: Texts
    negative_audio: Texts
    clean: Tensor | None = None  # [B] bool: samples whose first latent frame is given; None: no sample's


def velocity(
    model: FusionModel, video: Tensor, audio: Tensor, t: Tensor, condition: Condition, guidance: Guidance
) -> tuple[Tensor, Tensor]:
    """Guided velocities of video [B, C, F, H, W] and audio [B, L, C] at timestep t [B] in 0..1000.

    Both passes are one batch of 2B, unless the negative one leaves a block out. Without guidance there is one pass.
    """
    prompt, clean = condition.prompt, condition.clean
    if guidance.video == 1 and guidance.audio == 1:
        return _run(model, video, audio, t, prompt, prompt, clean)
    negatives = (condition.negative_video, condition.negative_audio)
    if guidance.skip_layer > 0:
        told = _run(model, video, audio, t, prompt, prompt, clean)
        kept = _run(model, video, audio, t, *negatives, clean, guidance.skip_layer)
    else:
        video, audio, t = (torch.cat((x, x)) for x in (video, audio, t))
        both_clean = None if clean is None else torch.cat((clean, clean))
        for_video, for_audio = (prompt + negative for negative in negatives)
        v, a = _run(model, video, audio, t, for_video, for_audio, both_clean)
        told, kept = zip(v.chunk(2), a.chunk(2), strict=True)
    return guided(*told, *kept, guidance)


def guided(
    video: Tensor, audio: Tensor, negative_video: Tensor, negative_audio: Tensor, guidance: Guidance
) -> tuple[Tensor, Tensor]:
    """Away from the negative velocities, each modality by its own scale."""
    return (
        negative_video + guidance.video * (video - negative_video),
        negative_audio + guidance.audio * (audio - negative_audio),
    )


def _run(
    model: FusionModel,
    video: Tensor,
    audio: Tensor,
    t: Tensor,
    video_text: Texts,
    audio_text: Texts,
    clean: Tensor | None,
    skip_layer: int = -1,
) -> tuple[Tensor, Tensor]:
    v, a = model(
        video,
        audio,
        t,
        video_text.rows,
        video_text.lens,
        audio_text=audio_text.rows,
        audio_text_lens=audio_text.lens,
        first_frame_clean=False if clean is None else clean,
        skip_layer=skip_layer,
    )
    return v, a
