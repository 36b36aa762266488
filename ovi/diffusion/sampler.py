"""From requests to clips: one solver over both modalities in lockstep (paper 4.2), as a loop its caller drives.

`run` is a generator: its caller counts steps, looks at them, or stops by closing it. A request's result depends on
its own seed and text alone, not on the requests it shares a batch with (up to float rounding).
Try it: `ovi generate --model models/fusion --prompt "A red lamp blinks." --out clip.mp4`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovi.diffusion import solvers
from ovi.diffusion.guidance import Condition, Guidance, Texts, velocity
from ovi.diffusion.request import Request, read_image
from ovi.errors import OviError
from ovi.models.folder import OviModel
from ovi.models.linear_codec import pictures, pixels


@dataclass(frozen=True)
class Plan:
    """All that is fixed before the first step."""

    requests: tuple[Request, ...]
    schedule: solvers.Schedule
    guidance: Guidance
    condition: Condition
    video: Tensor  # noise [B, C, F, h, w] float32
    audio: Tensor  # noise [B, L, C] float32
    first: Tensor | None  # [B, C, 1, h, w]: clean first latent frames, where condition.clean
    truncated: tuple[bool, ...]  # prompts longer than the text encoder takes


@dataclass(frozen=True)
class Step:
    """After step `index` of `total` (1-based): latents at noise level `sigma`, the clip's own at the last step."""

    index: int
    total: int
    sigma: float
    video: Tensor  # [B, C, F, h, w] float32
    audio: Tensor  # [B, L, C] float32


@dataclass(frozen=True)
class Clip:
    frames: NDArray[np.uint8]  # [T, H, W, 3]
    audio: NDArray[np.float32]  # [N] in [-1, 1]


class Sampler:
    def __init__(self, model: OviModel) -> None:
        self.model = model

    @torch.no_grad()
    def plan(self, requests: Sequence[Request]) -> Plan:
        """Encode texts and images and draw noise for one batch; the requests must share one `batch_key`."""
        if len({request.batch_key for request in requests}) != 1:
            raise ValueError("a batch is one or more requests with one batch_key")
        first, device = requests[0], self.model.device
        layers = len(self.model.fusion.video_model.blocks)
        if first.skip_layer >= layers:
            raise OviError(f"skip_layer: {first.skip_layer}, but this model has blocks 0 to {layers - 1}")
        clip, (height, width) = self.model.clip, self.model.picture
        video_shape = self.model.video_codec.shape(clip.frames, height, width)
        audio_shape = (self.model.audio_codec.length(clip.samples), self.model.config["audio_codec"]["channels"])
        frames, clean = self._first_frames(requests)
        encoder = self.model.text_encoder
        return Plan(
            requests=tuple(requests),
            schedule=solvers.schedule(first.solver, first.steps, first.shift),
            guidance=Guidance(first.guidance_video, first.guidance_audio, first.skip_layer),
            condition=Condition(
                self._encode([request.prompt for request in requests]),
                self._encode([request.negative_video for request in requests]),
                self._encode([request.negative_audio for request in requests]),
                clean,
            ),
            video=torch.stack([noise(request.seed, "video", video_shape) for request in requests]).to(device),
            audio=torch.stack([noise(request.seed, "audio", audio_shape) for request in requests]).to(device),
            first=frames,
            truncated=tuple(len(encoder.tokens(request.prompt)) > encoder.max_tokens for request in requests),
        )

    def run(self, plan: Plan) -> Iterator[Step]:
        """One Step after another, the last one clean. Closing the generator ends the work."""
        name, total = plan.requests[0].solver, len(plan.schedule.timesteps)
        for_video, for_audio = (solvers.make(name, plan.schedule) for _ in range(2))
        video, audio = _with_first(plan, plan.video), plan.audio
        for i, timestep in enumerate(plan.schedule.timesteps):
            v, a = self._velocity(plan, video, audio, timestep)
            video, audio = _with_first(plan, for_video.step(i, video, v)), for_audio.step(i, audio, a)
            yield Step(i + 1, total, plan.schedule.sigmas[i + 1], video, audio)

    @torch.no_grad()
    def decode(self, step: Step) -> list[Clip]:
        """Latents -> one clip a request: clip.frames pictures, clip.samples samples."""
        clip = self.model.clip
        video = self.model.video_codec.decode(step.video)[:, :, : clip.frames]
        audio = self.model.audio_codec.decode(step.audio, clip.samples).float().cpu().numpy()
        return [Clip(pictures(frames), sound) for frames, sound in zip(video, audio, strict=True)]

    @torch.no_grad()
    def _velocity(self, plan: Plan, video: Tensor, audio: Tensor, timestep: float) -> tuple[Tensor, Tensor]:
        t = torch.full((len(video),), timestep, device=video.device)
        return velocity(self.model.fusion, video, audio, t, plan.condition, plan.guidance)

    def _encode(self, texts: list[str]) -> Texts:
        different = sorted(set(texts))  # a batch's negatives are usually all the same
        rows = dict(zip(different, self.model.text_encoder.encode(different), strict=True))
        return Texts.of([rows[text].to(self.model.device) for text in texts])

    def _first_frames(self, requests: Sequence[Request]) -> tuple[Tensor | None, Tensor | None]:
        """Clean first latent frames [B, C, 1, h, w] (zeros where there is no image) and which samples have one [B]."""
        images = [request.image for request in requests]
        if all(image is None for image in images):
            return None, None
        height, width = self.model.picture
        blank = np.zeros((height, width, 3), np.uint8)
        shown = [blank if image is None else read_image(image, height, width) for image in images]
        latents = self.model.video_codec.encode(torch.stack([pixels(one[None]) for one in shown]).to(self.model.device))
        return latents, torch.tensor([image is not None for image in images], device=self.model.device)


def noise(seed: int, modality: str, shape: tuple[int, ...]) -> Tensor:
    """Gaussian noise of one request; each modality has its own stream, the same on every device."""
    key = hashlib.blake2b(f"{seed}/{modality}".encode(), digest_size=8).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    return torch.randn(shape, generator=draw)


def _with_first(plan: Plan, video: Tensor) -> Tensor:
    """The latents with given first frames in their place."""
    if plan.first is None or plan.condition.clean is None:
        return video
    first = torch.where(plan.condition.clean[:, None, None, None, None], plan.first, video[:, :, :1])
    return torch.cat((first, video[:, :, 1:]), dim=2)
