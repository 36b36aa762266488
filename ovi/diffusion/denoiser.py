"""Who answers a sampling run's question, the guided velocities at a step: three networks with one face.

`Reference` asks the model as the paper describes it, one pass after the other. `Fast` asks its rearranged form, both
passes in one batch. `Split` runs the two passes on two devices at once. All three agree up to rounding.
Try it: `pytest tests/diffusion/test_denoiser.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, cast

import torch
from torch import Tensor

from ovi.diffusion.guidance import Condition, Guidance, Texts, Velocities
from ovi.diffusion.solvers import Schedule
from ovi.models.fast import FastFusion, Run
from ovi.models.fusion import FusionModel

# At step i, of video [B, C, F, H, W] and audio [B, L, C]; guided or the positive pass alone.
Ask = Callable[[int, Tensor, Tensor, bool], Velocities]


class Denoiser(Protocol):
    name: str

    def prepare(self, condition: Condition, guidance: Guidance, schedule: Schedule) -> Ask:
        """All that does not change between the steps of a run is made here, once."""
        ...


class Reference:
    name = "reference"

    def __init__(self, model: FusionModel) -> None:
        self.model = model

    def prepare(self, condition: Condition, guidance: Guidance, schedule: Schedule) -> Ask:
        def ask(i: int, video: Tensor, audio: Tensor, guided: bool) -> Velocities:
            t = torch.full((len(video),), schedule.timesteps[i], device=video.device)
            positive = self._pass(video, audio, t, *condition.prompts, condition.clean, -1)
            if guidance.off or not guided:
                return positive
            negatives = (condition.negative_video, condition.negative_audio)
            return guidance.join(
                positive, self._pass(video, audio, t, *negatives, condition.clean, guidance.skip_layer)
            )

        return ask

    def _pass(
        self, video: Tensor, audio: Tensor, t: Tensor, told_video: Texts, told_audio: Texts, clean: Tensor | None,
        skip_layer: int,
    ) -> Velocities:  # fmt: skip
        answer = self.model(
            video, audio, t, told_video.rows, told_video.lens, audio_text=told_audio.rows,
            audio_text_lens=told_audio.lens, first_frame_clean=False if clean is None else clean,
            skip_layer=skip_layer,
        )  # fmt: skip
        return cast(Velocities, answer)


class Fast:
    name = "fast"

    def __init__(self, model: FastFusion) -> None:
        self.model = model

    def prepare(self, condition: Condition, guidance: Guidance, schedule: Schedule) -> Ask:
        for_video, for_audio = condition.prompts
        if guidance.off:
            alone = _run(self.model, schedule, for_video, for_audio, condition.clean)
            return lambda i, video, audio, _: self.model(alone, i, video, audio)
        clean = None if condition.clean is None else torch.cat((condition.clean, condition.clean))
        told = (for_video + condition.negative_video, for_audio + condition.negative_audio)
        both = _run(self.model, schedule, *told, clean, copies=2)
        alone = both.first_copy()

        def ask(i: int, video: Tensor, audio: Tensor, guided: bool) -> Velocities:
            if not guided:
                return self.model(alone, i, video, audio)
            v, a = self.model(both, i, video, audio, guidance.skip_layer)
            (v, not_v), (a, not_a) = v.chunk(2), a.chunk(2)
            return guidance.join((v, a), (not_v, not_a))

        return ask


class Split:
    """The positive pass on the first model's device, the negative one on the second's, at the same time."""

    name = "fast on two devices"

    def __init__(self, first: FastFusion, second: FastFusion) -> None:
        self.first, self.second = first, second
        self.pool = ThreadPoolExecutor(1)

    def prepare(self, condition: Condition, guidance: Guidance, schedule: Schedule) -> Ask:
        there = condition.to(self.second.device)
        told = _run(self.first, schedule, *condition.prompts, condition.clean)
        kept = _run(self.second, schedule, there.negative_video, there.negative_audio, there.clean)

        def negative(i: int, video: Tensor, audio: Tensor) -> Velocities:
            device = self.second.device
            v, a = self.second(kept, i, video.to(device), audio.to(device), guidance.skip_layer)
            return v.to(video.device), a.to(video.device)

        def ask(i: int, video: Tensor, audio: Tensor, guided: bool) -> Velocities:
            if guidance.off or not guided:
                return self.first(told, i, video, audio)
            elsewhere = self.pool.submit(negative, i, video, audio)
            return guidance.join(self.first(told, i, video, audio), elsewhere.result())

        return ask


def _run(
    model: FastFusion, schedule: Schedule, video: Texts, audio: Texts, clean: Tensor | None, copies: int = 1
) -> Run:
    return model.prepare(schedule.timesteps, video.rows, audio.rows, clean, copies)
