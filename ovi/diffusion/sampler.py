"""From requests to clips: one solver over both modalities in lockstep (paper 4.2), as a loop its caller drives.

`plan` fixes all that does not change; `run` is a generator: its caller counts steps, looks at them, stops by closing
it, or goes on later from a step it kept. A request's result depends on its own seed and text alone, not on the
requests it shares a batch with (up to float rounding). It knows nothing of files.
Try it: `ovi generate --model models/fusion --prompt "A red lamp blinks." --out clip.mp4`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovi.config import Runtime
from ovi.diffusion import prompts, sizes, solvers
from ovi.diffusion.ahead import ahead
from ovi.diffusion.flow import estimate_data
from ovi.diffusion.guidance import Condition, Guidance, Texts
from ovi.diffusion.machine import Machine, fitting_mode
from ovi.diffusion.request import Request, fit_image, read_image
from ovi.errors import OviError
from ovi.models.folder import ModelFolder, OviModel, load_model
from ovi.models.linear_codec import pictures, pixels
from ovi.models.separate_text import told

DETAIL = 0.2  # share of the last steps, and half as many first ones, in which a stride leaves no step out


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
    size: tuple[int, int] = (0, 0)  # (height, width) of the pictures
    prompts: tuple[str, ...] = ()  # as the text encoder got them


@dataclass(frozen=True)
class Step:
    """After step `index` of `total` (1-based): latents at noise level `sigma`, the clip's own at the last step."""

    index: int
    total: int
    sigma: float
    video: Tensor  # [B, C, F, h, w]
    audio: Tensor  # [B, L, C]
    estimate: Tensor  # [B, C, F, h, w]: the clip as the network now sees it coming, for a preview
    memory: dict[str, Tensor]  # what `run` needs to go on from here


@dataclass(frozen=True)
class Clip:
    frames: NDArray[np.uint8]  # [T, H, W, 3]
    audio: NDArray[np.float32]  # [N] in [-1, 1]


class Sampler:
    """Samples from a model on the devices that `runtime` and the machine give it."""

    def __init__(self, model: OviModel, runtime: Runtime | None = None, machine: Machine | None = None) -> None:
        self.model = model
        self.machine = machine or Machine(model, runtime or Runtime())
        self.runtime = self.machine.runtime

    @classmethod
    def open(cls, path: str | Path, runtime: Runtime | None = None, second: str | None = None) -> Sampler:
        """A sampler of a model folder; `second` is a device for the negative pass.

        Raises OviError before anything is loaded when there is too little memory for it.
        """
        runtime, folder = runtime or Runtime(), ModelFolder.read(path)
        mode = fitting_mode(folder.config, {name: part["bytes"] for name, part in folder.components.items()}, runtime)
        model = load_model(path)
        return cls(model, machine=Machine(model, runtime, mode, second=second))

    @torch.no_grad()
    def plan(self, requests: Sequence[Request]) -> Plan:
        """Encode texts and images and draw noise for one batch; the requests must share one `batch_key` and size."""
        if len({request.batch_key for request in requests}) != 1:
            raise ValueError("a batch is one or more requests with one batch_key")
        first, device = requests[0], self.machine.device
        layers = self.model.config["transformer"]["video"]["layers"]
        if first.skip_layer >= layers:
            raise OviError(f"skip_layer: {first.skip_layer}, but this model has blocks 0 to {layers - 1}")
        images = [None if request.image is None else read_image(request.image) for request in requests]
        shown = {self._size(request, image) for request, image in zip(requests, images, strict=True)}
        if len(shown) != 1:
            raise ValueError(f"a batch has pictures of one size, not of {sorted(shown)}")
        (height, width) = shown.pop()
        video_shape = self.model.video_codec.shape(self.model.clip.frames, height, width)
        audio_shape = (self.model.config["audio_latents"], self.model.config["audio_codec"]["channels"])
        frames, clean = self._first_frames(images, height, width)
        said = tuple(self._formatted(request.prompt) for request in requests)
        condition, truncated = self._told(requests, said, clean)
        drawn = [_noises(request, video_shape, audio_shape, device) for request in requests]
        return Plan(
            requests=tuple(requests),
            schedule=solvers.schedule(first.solver, first.steps, first.shift),
            guidance=Guidance(first.guidance_video, first.guidance_audio, first.skip_layer),
            condition=condition,
            video=torch.stack([video for video, _ in drawn]).to(device),
            audio=torch.stack([audio for _, audio in drawn]).to(device),
            first=frames,
            truncated=truncated,
            size=(height, width),
            prompts=said,
        )

    def run(self, plan: Plan, after: Step | None = None) -> Generator[Step, None, None]:
        """One Step after another, the last one clean. Closing the generator ends the work.

        With `after`, a step of an earlier run of this plan, goes on behind it; the result is the same.
        """
        name, total, request = plan.requests[0].solver, len(plan.schedule.timesteps), plan.requests[0]
        dtype = torch.bfloat16 if self.runtime.latents == "bf16" else torch.float32
        for_video, for_audio = (solvers.make(name, plan.schedule) for _ in range(2))
        video, audio, begin = _with_first(plan, plan.video.to(dtype)), plan.audio.to(dtype), 0
        answer: tuple[Tensor, Tensor] | None = None
        if after is not None:
            video, audio, begin = after.video, after.audio, after.index
            answer = (after.memory["answer/video"], after.memory["answer/audio"])
            for_video.recall(begin, _part(after.memory, "video/"))
            for_audio.recall(begin, _part(after.memory, "audio/"))
        with self.machine.denoiser() as denoiser:
            with torch.no_grad():
                ask = denoiser.prepare(plan.condition, plan.guidance, plan.schedule)
            for i in range(begin, total):
                if answer is None or _asked(i, total, request.stride):
                    with torch.no_grad():
                        answer = ask(i, video, audio, i < request.guidance_until * total)
                v, a = (velocity.to(dtype) for velocity in answer)
                sigma = torch.full((len(video),), plan.schedule.sigmas[i], device=video.device)
                estimate = estimate_data(video, v, sigma)
                video = _with_first(plan, for_video.step(i, video, v).to(dtype))
                audio = for_audio.step(i, audio, a).to(dtype)
                memory = {"answer/video": v, "answer/audio": a}
                memory |= {f"video/{key}": x for key, x in for_video.remember().items()}
                memory |= {f"audio/{key}": x for key, x in for_audio.remember().items()}
                yield Step(i + 1, total, plan.schedule.sigmas[i + 1], video, audio, estimate, memory)

    @torch.no_grad()
    def decode(self, step: Step) -> list[Clip]:
        """Latents -> one clip a request: clip.frames pictures, clip.samples samples."""
        sounds = self.sounds(step)
        return [Clip(np.concatenate(list(self.frames(step, i))), sound) for i, sound in enumerate(sounds)]

    @torch.no_grad()
    def sounds(self, step: Step) -> list[NDArray[np.float32]]:
        """The sound [N] of each request, N = clip.samples."""
        _finite(step)
        with self.machine.audio_codec() as codec:
            sounds = codec.decode(step.audio.float(), self.model.clip.samples)
        return list(sounds.float().cpu().numpy())

    def frames(self, step: Step, i: int = 0) -> Iterator[NDArray[np.uint8]]:
        """The pictures of request i as chunks uint8 [t, H, W, 3]; one is decoded while the caller writes the last."""
        _finite(step)
        return ahead(self._chunks(step.video[i : i + 1].float()))

    @torch.no_grad()
    def _chunks(self, latents: Tensor) -> Iterator[NDArray[np.uint8]]:
        left = self.model.clip.frames
        with self.machine.video_codec() as codec:
            for chunk in codec.decode_chunks(latents):
                yield pictures(chunk[0])[:left]
                left -= chunk.shape[2]

    def _size(self, request: Request, image: NDArray[np.uint8] | None) -> tuple[int, int]:
        """(height, width) that this model can make and that is next to what was asked for."""
        picture = self.model.config["picture"]
        if request.size is not None:
            return sizes.snap(*request.size, picture["area"], picture["multiple"])
        if image is not None and self.model.config["version"]:
            return sizes.image_size(image.shape[0], image.shape[1], picture["area"])
        return picture["height"], picture["width"]

    def _formatted(self, prompt: str) -> str:
        """The prompt with its sounds written as the model's version was trained on."""
        version = self.model.config["version"]
        return prompts.formatted(prompt, version) if version else prompt

    def _told(
        self, requests: Sequence[Request], said: Sequence[str], clean: Tensor | None
    ) -> tuple[Condition, tuple[bool, ...]]:
        asked = [list(said), [r.negative_video for r in requests], [r.negative_audio for r in requests]]
        different = sorted({text for texts in asked for text in texts})  # a batch's negatives are usually all the same
        with self.machine.text_encoder() as encoder:
            rows = dict(zip(different, encoder.encode(different), strict=True))
            truncated = tuple(len(encoder.tokens(text)) > encoder.max_tokens for text in said)
        prompts, not_video, not_audio = asked
        separate = any(row.ndim == 3 for row in rows.values())

        def of(texts: Sequence[str], tower: str) -> Texts:
            return Texts.of([told(rows[text], tower).to(self.machine.device) for text in texts])

        return Condition(
            of(prompts, "video"), of(not_video, "video"), of(not_audio, "audio"), clean,
            of(prompts, "audio") if separate else None,
        ), truncated  # fmt: skip

    def _first_frames(
        self, images: Sequence[NDArray[np.uint8] | None], height: int, width: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Clean first latent frames [B, C, 1, h, w] (zeros where there is no image) and which samples have one [B]."""
        if all(image is None for image in images):
            return None, None
        shown = [self._shown(image, height, width) for image in images]
        with self.machine.video_codec() as codec:
            latents = codec.encode(torch.stack(shown).to(self.machine.device))
        return latents, torch.tensor([image is not None for image in images], device=self.machine.device)

    def _shown(self, image: NDArray[np.uint8] | None, height: int, width: int) -> Tensor:
        """The picture as the video codec gets it: [3, 1, height, width] in [-1, 1]."""
        if image is None:
            return torch.zeros(3, 1, height, width)
        picture = self.model.config["picture"]
        if self.model.config["version"] and sizes.image_size(image.shape[0], image.shape[1], picture["area"]) == (
            height,
            width,
        ):
            return sizes.preprocess_image(pixels(image[None]).transpose(0, 1), picture["area"]).transpose(0, 1)
        return pixels(fit_image(image, height, width)[None])


def noise(seed: int, modality: str, shape: tuple[int, ...]) -> Tensor:
    """Gaussian noise of one request; each modality has its own stream, the same on every device."""
    key = hashlib.blake2b(f"{seed}/{modality}".encode(), digest_size=8).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    return torch.randn(shape, generator=draw)


def release_noise(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """As the release draws it: from one seed on the model's device (bf16 on a GPU), so that the shorter array of the
    two modalities repeats the beginning of the longer one."""
    draw = torch.Generator(device).manual_seed(seed)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.randn(shape, generator=draw, device=device, dtype=dtype).float()


def _noises(
    request: Request, video: tuple[int, ...], audio: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    if request.release_noise:
        return release_noise(request.seed, video, device), release_noise(request.seed, audio, device)
    return noise(request.seed, "video", video), noise(request.seed, "audio", audio)


def _asked(i: int, total: int, stride: int) -> bool:
    """Whether the network is asked at step i: at the first and the last steps always, between them every stride-th."""
    begin, end = round(total * DETAIL / 2), round(total * (1 - DETAIL))
    return not begin <= i < end or (i - begin) % stride == 0


def _finite(step: Step) -> None:
    if not (step.video.isfinite().all() and step.audio.isfinite().all()):
        raise OviError(
            "the model made numbers that are none; its weights are damaged or its precision is too low for it"
        )


def _part(memory: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in memory.items() if key.startswith(prefix)}


def _with_first(plan: Plan, video: Tensor) -> Tensor:
    """The latents with given first frames in their place."""
    if plan.first is None or plan.condition.clean is None:
        return video
    first = torch.where(plan.condition.clean[:, None, None, None, None], plan.first.to(video.dtype), video[:, :, :1])
    return torch.cat((first, video[:, :, 1:]), dim=2)
