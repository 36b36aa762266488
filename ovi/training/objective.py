"""The flow-matching objective (paper Eq. 1): how far a network's velocities are from noise - data, sample by sample.

It does not know stages, weights between modalities, or where a batch comes from.
Try it: `pytest tests/training/test_objective.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ovi.diffusion.flow import TIMESTEPS, interpolate, velocity_target
from ovi.training.batches import Batch


def losses(network: Callable[..., Any], batch: Batch, **named: Any) -> dict[str, Tensor]:
    """Mean squared velocity error of every sample, [B] for each modality of the batch.

    A given first frame is shown clean and not scored; audio is scored within its length. `named` goes to the network.
    """
    video = audio = None
    if batch.video is not None and batch.video_noise is not None:
        video = interpolate(batch.video, batch.video_noise, batch.t)
        video[:, :, 0] = torch.where(batch.clean[:, None, None, None], batch.video[:, :, 0], video[:, :, 0])
        named["first_frame_clean"] = batch.clean if bool(batch.clean.any()) else False
    if batch.audio is not None and batch.audio_noise is not None:
        level = batch.t if batch.audio_t is None else batch.audio_t
        if batch.rows is None:
            audio = interpolate(batch.audio, batch.audio_noise, level)
        else:
            audio = interpolate(batch.audio, batch.audio_noise, batch.rows.of_tokens(level))
            named["audio_rows"] = batch.rows
        named["audio_lens"] = batch.audio_lens
        if batch.audio_text is not None:
            named = {"audio_text": batch.audio_text, "audio_text_lens": batch.audio_text_lens, **named}
        if batch.audio_t is not None:
            named["audio_t"] = TIMESTEPS * batch.audio_t
    video_velocity, audio_velocity = network(video, audio, TIMESTEPS * batch.t, batch.text, batch.text_lens, **named)
    found = {}
    if batch.video is not None and batch.video_noise is not None:
        error = (video_velocity - velocity_target(batch.video, batch.video_noise)).square().mean((1, 3, 4))  # [B, F]
        scored = torch.ones_like(error)
        scored[:, 0] = (~batch.clean).to(error.dtype)
        found["video"] = (error * scored).sum(1) / scored.sum(1)
    if batch.audio is not None and batch.audio_noise is not None:
        error = (audio_velocity - velocity_target(batch.audio, batch.audio_noise)).square().mean(2)  # [B, L]
        if batch.rows is not None:
            found["audio"] = batch.rows.means(error, len(batch.t))
        else:
            found["audio"] = error.mean(1) if batch.audio_lens is None else _within(error, batch.audio_lens)
    return found


def _within(error: Tensor, lens: Tensor) -> Tensor:
    inside = torch.arange(error.shape[1], device=error.device) < lens[:, None]
    return (error * inside).sum(1) / lens
