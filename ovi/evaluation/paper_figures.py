"""`ovi evaluate --figures`: the paper's Figures 2 and 3 for the evaluated model, and the numbers they stand for.

Figure 4 needs votes: with --study, of the file that the blind study's analysis left.
Try it: `ovi evaluate --figures --out out/evaluation`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovi import storage
from ovi.config import Settings
from ovi.diffusion.sampler import Sampler
from ovi.errors import OviError
from ovi.evaluation import affinity, gaze, plots
from ovi.evaluation.plots import WinRate
from ovi.evaluation.results import NOT_APPLICABLE, Results
from ovi.progress import Progress
from ovi.synthetic.scenes import SCENES

CLIPS = 4  # of each scene
FEWEST = 4  # tokens a frame; of fewer none is a place
LATE = 0.7  # of the steps are over when attention is looked at: the picture is there, details are not


def draw(
    sampler: Sampler, settings: Settings, study: Path | None, results: Results, progress: Progress
) -> dict[str, bytes]:
    """PNGs by name; figures/... and study/... into `results`. OviError for a study that is missing or has no votes."""
    preferred = {} if study is None else {"win_rates": plots.win_rates(_preferences(study, results))}
    return {"rope_affinity": _rope(sampler, results), **_attention(sampler, settings, results, progress), **preferred}


def _attention(sampler: Sampler, settings: Settings, results: Results, progress: Progress) -> dict[str, bytes]:
    """attention by name, if a frame has enough tokens for some to be looked at more than others."""
    step, shown = int(LATE * settings.sampling.steps), []
    progress.start("looking at attention", len(SCENES) * CLIPS, "clips")
    for scene in SCENES:
        looks = []
        for number in range(CLIPS):
            looks.append(gaze.look(sampler, settings, scene, number, step))
            progress.advance()
        cells = looks[0].heat[0].size
        for name, values in (("inside", [one.inside for one in looks]), ("ratio", [one.ratio for one in looks])):
            if cells < FEWEST:
                results.null(f"figures/attention/{scene}/{name}", f"{NOT_APPLICABLE}a frame is {cells} token(s)")
            else:
                results.set(f"figures/attention/{scene}/{name}", float(np.mean(values)))
                shown += looks[:1] if name == "inside" else []
    return {"attention": plots.gazes(shown)} if shown else {}


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
    return sampler.model.video_codec.shape(sampler.model.clip.frames, *sampler.model.picture)[1]
