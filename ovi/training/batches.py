"""Samples and chance -> the tensors of one batch.

What is drawn for a sample (noises, t, whether its caption is dropped, whether its first frame is given) depends on the
sample and its visit alone, never on its neighbours, its rank or the batch's size. One t serves both modalities unless
asked otherwise; the noises are independent (paper 4.2.2). Sounds alone may be laid one after another instead of being
padded to the longest, see ovi/models/rows.py. It does not know losses or networks.
Try it: `pytest tests/training/test_batches.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ovi.diffusion.flow import shifted
from ovi.models.rows import Rows
from ovi.models.separate_text import told
from ovi.training.latents import Sample
from ovi.training.order import Draws, dealt

SMALLEST = 2.0**-53  # a uniform draw can be 0, which no normal draw corresponds to


@dataclass(frozen=True)
class Chances:
    """How often a sample loses its caption, is given its clean first frame, and how its t is drawn.

    t uniform (paper 4.2.2) or logit_normal, the logistic function of a normal draw; then shifted towards noise.
    """

    no_caption: float = 0.0
    first_frame: float = 0.0
    shift: float = 1.0
    t: Literal["uniform", "logit_normal"] = "uniform"
    shared_t: bool = True


@dataclass
class Batch:
    """B samples of one picture size. The data and noise of a modality the stage does not train are None."""

    video: Tensor | None  # [B, C, F, h, w]
    video_noise: Tensor | None
    audio: Tensor | None  # [B, L, C], zeros past each length
    audio_noise: Tensor | None
    audio_lens: Tensor | None  # [B], only where lengths differ
    t: Tensor  # [B] in [0, 1]: 0 is data, 1 is noise
    text: Tensor  # [B, N, T], zeros past each length
    text_lens: Tensor  # [B]
    clean: Tensor  # [B], True where the first latent frame is given
    audio_t: Tensor | None = None  # [B], only where the modalities' differ
    audio_text: Tensor | None = None  # [B, N, T], only where the towers are told different things
    audio_text_lens: Tensor | None = None  # [B]
    rows: Rows | None = None  # then audio and its noise are [1, L, C] and text is [1, N, T], laid so

    def to(self, device: torch.device) -> Batch:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: x.to(device) for name, x in parts.items() if x is not None})


def assemble(
    samples: Sequence[Sample], draws: Sequence[Draws], modalities: Sequence[str], chances: Chances, empty: Tensor
) -> Batch:
    """A batch of `samples` as chance decides in `draws`. `empty` is the text of a dropped caption."""
    video = audio = video_noise = audio_noise = lens = None
    if "video" in modalities:
        video = torch.stack([sample.video for sample in samples if sample.video is not None])
        video_noise = torch.stack([torch.from_numpy(draw.normal("video", video.shape[1:])) for draw in draws])
    if "audio" in modalities:
        audio = pad_sequence([sample.audio for sample in samples], batch_first=True)
        noises = [torch.from_numpy(d.normal("audio", s.audio.shape)) for d, s in zip(draws, samples, strict=True)]
        audio_noise = pad_sequence(noises, batch_first=True)
        lengths = [len(sample.audio) for sample in samples]
        lens = torch.tensor(lengths) if len(set(lengths)) > 1 else None
    dropped = [draw.uniform("caption") < chances.no_caption for draw in draws]
    texts = [empty if drop else sample.text for drop, sample in zip(dropped, samples, strict=True)]
    first = [told(text, modalities[0]) for text in texts]
    second = [told(text, "audio") for text in texts] if len(modalities) > 1 and empty.ndim == 3 else None
    return Batch(
        video, video_noise, audio, audio_noise, lens,
        t=_levels("t", draws, chances),
        audio_t=None if chances.shared_t else _levels("audio_t", draws, chances),
        text=pad_sequence(first, batch_first=True),
        text_lens=torch.tensor([len(text) for text in first]),
        audio_text=None if second is None else pad_sequence(second, batch_first=True),
        audio_text_lens=None if second is None else torch.tensor([len(text) for text in second]),
        clean=torch.tensor([draw.uniform("first_frame") < chances.first_frame for draw in draws]),
    )  # fmt: skip


def packed(batch: Batch) -> Batch:
    """The same sounds laid one after another, instead of each padded to the longest."""
    assert batch.audio is not None
    assert batch.audio_noise is not None
    count, longest, _ = batch.audio.shape
    lengths = [longest] * count if batch.audio_lens is None else batch.audio_lens.tolist()
    texts = batch.text_lens.tolist()
    rows = Rows.of(dealt(lengths, math.ceil(sum(lengths) / longest)), lengths, texts)
    audio, noise, text = (
        [x[:length] for x, length in zip(padded, lens, strict=True)]
        for padded, lens in ((batch.audio, lengths), (batch.audio_noise, lengths), (batch.text, texts))
    )
    return replace(
        batch, audio=rows.lay(audio), audio_noise=rows.lay(noise), audio_lens=None, text=rows.lay_text(text), rows=rows
    )


def _levels(name: str, draws: Sequence[Draws], chances: Chances) -> Tensor:
    levels = [draw.uniform(name) for draw in draws]
    if chances.t == "logit_normal":
        normal = [NormalDist().inv_cdf(max(level, SMALLEST)) for level in levels]
        levels = [1 / (1 + math.exp(-x)) for x in normal]
    return shifted(torch.tensor(levels), chances.shift)
