"""`ovi evaluate --figures`: the paper's Figures 2 and 3 for the evaluated model, and the numbers they stand for.

Figure 4 needs votes: with --study, of the file that the blind study's analysis left.
Try it: `ovi evaluate --figures --out out/evaluation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovi import storage
from ovi.config import Settings
from ovi.diffusion.sampler import Sampler
from ovi.errors import OviError
from ovi.evaluation import affinity, gaze, intervals, plots
from ovi.evaluation.evidence import Mean
from ovi.evaluation.gaze import Gaze
from ovi.evaluation.plots import WinRate
from ovi.evaluation.results import NOT_APPLICABLE, Results
from ovi.progress import Progress
from ovi.synthetic.scenes import SCENES

CLIPS = 8  # of each scene
FEWEST = 4  # tokens a frame; of fewer none is a place
GAZES = ("inside", "ratio", "auc")


def draw(
    sampler: Sampler, settings: Settings, study: Path | None, results: Results, progress: Progress
) -> dict[str, bytes]:
    """PNGs by name; figures/... and study/... into `results`. OviError for a study that is missing or has no votes."""
    preferred = {} if study is None else {"win_rates": plots.win_rates(_preferences(study, results))}
    return {"rope_affinity": _rope(sampler, results), **_attention(sampler, settings, results, progress), **preferred}


def told(name: str, looks: Sequence[Gaze], settings: Settings, results: Results) -> None:
    """<name>/inside, ratio and auc: means over clips, each with ci_low, ci_high and n; <name>/area."""
    results.set(f"{name}/area", float(np.mean([one.area for one in looks])))
    for what in GAZES:
        figure, evidence = f"{name}/{what}", Mean.of([getattr(one, what) for one in looks])
        results.set(figure, evidence.exact())
        results.set(f"{figure}/n", len(looks))
        ends: tuple[float | None, float | None] = (None, None)
        reason = ""
        try:
            prompts = [str(number) for number in range(len(looks))]
            found = intervals.interval(evidence, prompts, settings.seed, settings.evaluation.draws)
            ends = found.low, found.high
        except OviError as error:
            reason = str(error)
        for end, value in zip(("ci_low", "ci_high"), ends, strict=True):
            results.take(f"{figure}/{end}", value, reason)


def _attention(sampler: Sampler, settings: Settings, results: Results, progress: Progress) -> dict[str, bytes]:
    """attention by name, if a frame has enough tokens for some to be looked at more than others."""
    chosen, shown, cells = settings.evaluation, [], _cells(sampler)
    if cells < FEWEST:
        for name in (f"figures/attention/{scene}/{what}" for scene in SCENES for what in GAZES):
            results.null(name, f"{NOT_APPLICABLE}a frame is {cells} token(s)")
            results.set(f"{name}/n", 0)
        return {}
    step = int(chosen.attention_at * settings.sampling.steps)
    progress.start("looking at attention", len(SCENES) * CLIPS, "clips")
    for scene in SCENES:
        looks = []
        for number in range(CLIPS):
            looks.append(gaze.look(sampler, settings, scene, number, step, chosen.attention_layers))
            progress.advance()
        told(f"figures/attention/{scene}", looks, settings, results)
        shown.append(looks[0])
    return {"attention": plots.gazes(shown)}


def _preferences(study: Path, results: Results) -> list[WinRate]:
    """Rows of Figure 4; the study's own figures into `results`."""
    found = storage.read_json(study)
    try:
        for name, value in found["metrics"].items():
            results.take(name, value, found["reasons"].get(name, "the study does not say why"))
        rows = [
            WinRate(f"{pair['first']} over {pair['second']}", question, pair["rate"], *pair["interval"])
            for question, asked in found["questions"].items()
            for pair in asked["pairs"]
            if pair["interval"] is not None
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise OviError(
            f"{study}: not the analysis of a study ({error}); give the file of `ovi study results`"
        ) from None
    if not rows:
        raise OviError(f"{study}: no pair of models has enough votes for Figure 4")
    return rows


def ridge_correlation(sampler: Sampler) -> float:
    """Figure 2's number for the model as it is: 1 where its towers share a clock."""
    return affinity.ridge_correlation(_affinity(sampler, sampler.model.config["transformer"]["audio"]["rope_scale"]))


def _rope(sampler: Sampler, results: Results) -> bytes:
    found, scale = {}, _frames(sampler) / sampler.model.config["audio_latents"]
    for title, name, by in (("without scaling", "unscaled", 1.0), ("with scaling", "scaled", scale)):
        matrix = _affinity(sampler, by)
        correlation = affinity.ridge_correlation(matrix)
        found[title] = (matrix, correlation)
        results.set(f"figures/rope/{name}/ridge_correlation", correlation)
    return plots.affinities(found)


def _affinity(sampler: Sampler, scale: float) -> NDArray[np.float64]:
    config = sampler.model.config
    tower = config["transformer"]["video"]
    head, theta = tower["dim"] // tower["heads"], tower.get("rope_theta", affinity.rope.THETA)
    return affinity.matrix(config["audio_latents"], _frames(sampler), head, scale, theta)


def _frames(sampler: Sampler) -> int:
    """Latent frames of a clip."""
    return _shape(sampler)[1]


def _cells(sampler: Sampler) -> int:
    """Tokens of a latent frame."""
    _, _, height, width = _shape(sampler)
    _, down, across = sampler.model.config["transformer"]["video"]["patch_size"]
    return (height // down) * (width // across)


def _shape(sampler: Sampler) -> tuple[int, ...]:
    """[C, F, H, W] of a clip's video latents."""
    return sampler.model.video_codec.shape(sampler.model.clip.frames, *sampler.model.picture)
