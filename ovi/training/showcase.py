"""Clips of held-out captions, sampled while and after the fusion model trains, to be seen and heard beside its figures.

They lie in checkpoints/fusion/samples and go into the MLflow run.
Try it: `ovi train fusion --set training.fusion.sample_clips=2`.
"""

from __future__ import annotations

from pathlib import Path

from ovi.config import Settings
from ovi.diffusion.prompts import prompt_problems
from ovi.diffusion.request import Request
from ovi.diffusion.sampler import Sampler
from ovi.media.encode import write_clip
from ovi.progress import Progress

BATCH = 4


def sample(model: Path, captions: list[str], out: Path, settings: Settings, progress: Progress) -> list[Path]:
    """One mp4 for each caption that can be sampled, named by its number; seeds are the numbers as well."""
    asked = [
        Request.of(settings.sampling, caption, seed)
        for seed, caption in enumerate(captions)
        if not prompt_problems(caption)
    ]
    sampler = Sampler.open(model, settings.runtime)
    progress.start("sampling clips", len(asked), "clips")
    paths = []
    for at in range(0, len(asked), BATCH):
        requests = asked[at : at + BATCH]
        *_, last = sampler.run(sampler.plan(requests))
        for request, clip in zip(requests, sampler.decode(last), strict=True):
            paths.append(out / f"{request.seed:02d}.mp4")
            write_clip(paths[-1], clip.frames, settings.clip.fps, clip.audio, settings.clip.sample_rate,
                       width=settings.sampling.display_pixels)  # fmt: skip
        progress.advance(len(requests))
    return paths
