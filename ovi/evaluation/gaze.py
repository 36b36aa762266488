"""Figure 3: where sound looks in the picture. Attention of the fused layers while the model is shown a clip with noise.

The clips are synthetic, so that it is known where the sound comes from: the share of attention inside the source's box,
over the share of the picture that the box takes, is 1 by chance. It does not train or sample.
`benchmarks/evaluation.py --attention` shows it of a trained model.
Try it: `ovi evaluate --figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ovi.config import Settings
from ovi.diffusion.flow import TIMESTEPS, interpolate
from ovi.diffusion.request import Request
from ovi.diffusion.sampler import Sampler
from ovi.errors import ConfigError
from ovi.models import attention_maps
from ovi.models.linear_codec import pixels
from ovi.synthetic.scenes import Scene, render

FIRST = 900_000  # seeds of scenes that no corpus has
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaze:
    """What one clip's sound looks at: heat [F, h, w], of each frame in sum 1, and how it lies to the source."""

    scene: Scene
    heat: Array
    inside: float  # share of the heat in the source's box
    area: float  # share of the picture in the box
    auc: float  # how often a place in the box has more heat than one of the same frame outside it; 0.5 by chance

    @property
    def ratio(self) -> float:
        """1 by chance."""
        return self.inside / self.area


@torch.no_grad()
def look(
    sampler: Sampler, settings: Settings, name: str, number: int, step: int, layers: Sequence[int] | None = None
) -> Gaze:
    """The gaze of scene `name`, `number`, noised as at step `step`, at some fused layers (None: all of them).

    Raises ConfigError for a layer that the model has not.
    """
    depth = sampler.model.config["transformer"]["video"]["layers"]
    if layers is not None and not set(layers) <= set(range(depth)):
        raise ConfigError(f"evaluation.attention_layers: {list(layers)}; the model has layers 0 to {depth - 1}")
    clip, (height, width) = sampler.model.clip, sampler.model.picture
    shot = render(name, FIRST + number, fps=clip.fps, frames=clip.frames, size=(height, width), rate=clip.sample_rate)
    plan = sampler.plan([Request.of(settings.sampling, shot.caption, number)])
    sigma = torch.tensor([float(plan.schedule.timesteps[step]) / TIMESTEPS], device=plan.video.device)
    with sampler.machine.video_codec() as codec:
        video = codec.encode(pixels(shot.frames)[None].to(plan.video.device))
    with sampler.machine.audio_codec() as codec:
        audio = codec.encode(torch.from_numpy(shot.audio)[None].to(plan.audio.device))
    seen, heard = interpolate(video, plan.video, sigma), interpolate(audio[:, : plan.audio.shape[1]], plan.audio, sigma)
    with sampler.machine.denoiser() as denoiser:
        ask = denoiser.prepare(plan.condition, plan.guidance, plan.schedule)
        with attention_maps.recording(sampler.machine.network, layers) as maps:
            ask(step, seen.to(plan.video.dtype), heard.to(plan.audio.dtype), False)
    patch = sampler.model.config["transformer"]["video"]["patch_size"]
    grid = [size // by for size, by in zip(plan.video.shape[2:], patch, strict=True)]
    weights = maps.mean("audio_to_video").double().cpu().numpy()
    return measured(shot, _under(weights, grid))


def measured(shot: Scene, heat: Array) -> Gaze:
    """How much of heat [F, h, w] lies inside the scene's source, cells at its edge in part."""
    inside = np.stack([_box(shot, frame, len(heat), heat.shape[1:]) for frame in range(len(heat))])
    return Gaze(shot, heat, float((heat * inside).sum() / heat.sum()), float(inside.mean()), _auc(heat, inside))


def _auc(heat: Array, inside: Array) -> float:
    """Over all pairs of cells of a frame, one counted as far as it lies inside and the other as far as outside."""
    hot, within = heat.reshape(len(heat), -1), inside.reshape(len(inside), -1)
    weights = within[:, :, None] * (1 - within)[:, None, :]
    wins = (1 + np.sign(hot[:, :, None] - hot[:, None, :])) / 2  # ties one half
    return float((weights * wins).sum() / weights.sum())


def _under(weights: Array, grid: Sequence[int]) -> Array:
    """Attention [L, F*h*w] -> [F, h, w]: of each frame what the sound latents of its own time see there."""
    frames = grid[0]
    per_frame = weights.reshape(len(weights), *grid)
    of_time = np.arange(len(weights)) * frames // len(weights)
    heat = np.stack([per_frame[of_time == frame, frame].mean(axis=0) for frame in range(frames)])
    return heat / heat.sum(axis=(1, 2), keepdims=True)


def _box(shot: Scene, frame: int, frames: int, cells: tuple[int, ...]) -> Array:
    """Share of each cell [h, w] of a latent frame that lies inside the source's box at that time."""
    at = min(len(shot.box) - 1, round(frame * (len(shot.box) - 1) / max(frames - 1, 1)))
    y0, x0, y1, x1 = shot.box[at]
    covered = []
    for low, high, count, size in ((y0, y1, cells[0], shot.frames.shape[1]), (x0, x1, cells[1], shot.frames.shape[2])):
        edges = np.arange(count + 1) * size / count
        covered.append(np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * count / size)
    return np.outer(*covered)
