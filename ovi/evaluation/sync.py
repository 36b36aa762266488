"""Sound against picture: every picture of a set with every sound of it, and what that says of their synchronisation.

Scores come from the weight-free onset estimator. A pair is in sync when its offset lies where viewers do not notice it
(ITU-R BT.1359-1: sound at most 45 ms early, 125 ms late), acceptable where they do not mind. It does not know where
the clips come from.
Try it: `ovi evaluate`, then the figures `sync/...` of out/evaluation/metrics.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovi.errors import OviError
from ovi.evaluation import intervals, statistics
from ovi.evaluation.evidence import Mean
from ovi.evaluation.intervals import Interval
from ovi.evaluation.results import NOT_APPLICABLE, Results
from ovi.evaluation.statistics import RESAMPLES, Separation, wilson
from ovi.perception import onsets

Window = tuple[float, float]
IN_SYNC_MS: Window = (-45.0, 125.0)  # offset, positive = sound late
ACCEPTABLE_MS: Window = (-90.0, 185.0)
# What the estimator says of the synthetic scenes beyond their true offset, in ms, over clean and noisy clips.
# `benchmarks/sync.py --calibrate` measures it; of other clips nothing is known and nothing taken off.
CALIBRATION_MS = {
    "blink": 1.4, "bounce": 9.7, "hammer": -9.7, "mouth": 0.9, "slide": 0.2, "piano": 1.9, "two_balls": 9.7,
    "clock": -0.1, "metronome": 10.3,
}  # fmt: skip
SURE = ("auc", "offset_ms_median", "in_sync", "acceptable", "shuffled_auc", "shuffled_in_sync",
        "real_auc", "real_offset_ms_median", "real_in_sync")  # fmt: skip
FIGURES = (
    *(f"{figure}{end}" for figure in SURE for end in ("", "_ci_low", "_ci_high")),
    "p_value", "n", "n_failed", "offset_ms_median_n", "real_n", "real_offset_ms_median_n",
)  # fmt: skip
Array = NDArray[np.float64]
Clip = tuple[NDArray[np.uint8], NDArray[np.float32]]  # frames [T, H, W, 3], audio [N]


@dataclass(frozen=True)
class Pairs:
    """Every picture i with every sound j: arrays [n, n], the diagonal holds the pairs that belong together."""

    score: Array  # correlation within 60 ms of in-time, -1..1
    offset_ms: Array  # positive = sound late; NaN where nothing in the picture goes with anything in the sound
    prompts: tuple[str, ...] = ()  # [n] what the clips were made for; empty: each for one of its own

    @property
    def own(self) -> Array:
        return np.diag(self.score)

    @property
    def others(self) -> Array:
        return self.score[~np.eye(len(self.score), dtype=bool)]

    @property
    def made_for(self) -> tuple[str, ...]:
        """The prompts [n]."""
        return self.prompts or tuple(map(str, range(len(self.score))))

    def wins(self, pairing: NDArray[np.int64] | None = None) -> Array:
        """[n] share of other sounds that a picture's own, or sound pairing[i], beats, ties half: parts of the AUC."""
        scores = self.score if pairing is None else self.paired(pairing)
        others = scores[~np.eye(len(scores), dtype=bool)].reshape(len(scores), -1)
        own = np.diag(scores)[:, None]
        return np.asarray(((own > others) + 0.5 * (own == others)).mean(axis=1))

    def in_sync(self, pairing: NDArray[np.int64] | None = None, window: Window = IN_SYNC_MS) -> Array:
        """[n] 1 where a picture is in sync with its own sound, or with sound pairing[i]; without an offset 0."""
        rows = np.arange(len(self.offset_ms))
        offsets = self.offset_ms[rows, rows if pairing is None else pairing]
        return ((offsets >= window[0]) & (offsets <= window[1])).astype(np.float64)

    def calibrated(self, scene: str) -> Pairs:
        """Without what the estimator is known to say too much of this scene."""
        return replace(self, offset_ms=self.offset_ms - CALIBRATION_MS.get(scene, 0.0))

    def paired(self, pairing: NDArray[np.int64]) -> Array:
        """The scores [n, n] as they would be if sound pairing[i] were picture i's own."""
        return self.score[:, pairing]


@dataclass(frozen=True)
class SceneSync:
    """One scene's generated clips and the real ones beside them."""

    scene: str
    generated: Pairs
    separation: Separation
    real: Pairs
    real_auc: float | None  # None: fewer than two real clips


def pairs(clips: Sequence[Clip], fps: int, rate: int, prompts: Sequence[str] = ()) -> Pairs:
    """Scores and offsets of all n x n pairs; each picture and each sound is looked at once."""
    seen = [onsets.video_activity(frames, fps) for frames, _ in clips]
    heard = [onsets.audio_activity(audio, rate) for _, audio in clips]
    estimates = [[onsets.sync(video, audio) for audio in heard] for video in seen]
    values = [[(estimate.at_zero, estimate.offset_ms, estimate.score) for estimate in row] for row in estimates]
    table = np.array(values, dtype=np.float64).reshape(len(seen), len(heard), 3)
    return Pairs(table[..., 0], np.where(table[..., 2] > 0, table[..., 1], np.nan), tuple(prompts))


def judge(
    scene: str, generated: Pairs, real: Pairs, seed: int, permutations: int, shuffles: int, results: Results
) -> SceneSync | None:
    """Fill sync/<scene>/... from both sets; None when there are fewer than two generated clips to compare."""
    name = f"sync/{scene}"
    generated, real = generated.calibrated(scene), real.calibrated(scene)
    n = len(generated.score)
    if n < 2:
        absent(scene, f"{NOT_APPLICABLE}{n} generated clip(s) of this scene; a comparison needs two", results)
        return None
    found = statistics.separation(generated.score, seed, permutations)
    _set(f"{name}/auc", found.auc, (found.low, found.high), results)
    results.set(f"{name}/p_value", found.p_value)
    results.set(f"{name}/n", n)
    results.set(f"{name}/n_failed", int(np.isnan(np.diag(generated.offset_ms)).sum()))
    _median_offset(f"{name}/offset_ms_median", generated, seed, results)
    for what, window in (("in_sync", IN_SYNC_MS), ("acceptable", ACCEPTABLE_MS)):
        _share(f"{name}/{what}", generated.in_sync(window=window), results)
    pairings = statistics.derangements(n, shuffles, seed)
    for what, apart in (("shuffled_auc", generated.wins), ("shuffled_in_sync", generated.in_sync)):
        values = np.mean([apart(pairing) for pairing in pairings], axis=0)
        _mean(f"{name}/{what}", values, generated.made_for, seed, results)
    return SceneSync(scene, generated, found, real, _judge_real(name, real, seed, results))


def absent(scene: str, reason: str, results: Results) -> None:
    """All figures of a scene null for one reason, but how many clips they are of."""
    for figure in FIGURES:
        results.null(f"sync/{scene}/{figure}", reason)
    for count in ("n", "n_failed"):
        results.set(f"sync/{scene}/{count}", 0)


def _judge_real(name: str, real: Pairs, seed: int, results: Results) -> float | None:
    """The ceiling: what the estimator says of held-out real clips of the same scene."""
    results.set(f"{name}/real_n", len(real.score))
    if len(real.score) < 2:
        for figure in FIGURES:
            if figure.startswith("real_") and figure != "real_n":
                results.null(f"{name}/{figure}", f"{NOT_APPLICABLE}fewer than two held-out real clips of this scene")
        return None
    value = statistics.auc(real.score)
    _set(f"{name}/real_auc", value, statistics.interval(real.score, seed), results)
    _median_offset(f"{name}/real_offset_ms_median", real, seed, results)
    _share(f"{name}/real_in_sync", real.in_sync(), results)
    return value


def _median_offset(name: str, measured: Pairs, seed: int, results: Results) -> None:
    offsets = np.diag(measured.offset_ms)
    there = ~np.isnan(offsets)
    results.set(f"{name}_n", int(there.sum()))
    if not there.any():
        for end in ("", "_ci_low", "_ci_high"):
            results.null(f"{name}{end}", "in no clip does anything in the picture go with anything in the sound")
        return
    results.set(name, float(np.median(offsets[there])))
    prompts = [prompt for prompt, counts in zip(measured.made_for, there, strict=True) if counts]
    _sure(name, lambda: intervals.of_median(offsets[there], prompts, seed, RESAMPLES), results)


def _share(name: str, values: Array, results: Results) -> None:
    share = float(values.mean())
    _set(name, share, wilson(share, len(values)), results)


def _mean(name: str, values: Array, prompts: Sequence[str], seed: int, results: Results) -> None:
    parts = Mean.of(values)
    results.set(name, parts.exact())
    _sure(name, lambda: intervals.interval(parts, prompts, seed, RESAMPLES), results)


def _set(name: str, value: float, span: tuple[float, float], results: Results) -> None:
    results.set(name, value)
    for end, bound in zip(("low", "high"), span, strict=True):
        results.set(f"{name}_ci_{end}", bound)


def _sure(name: str, compute: Callable[[], Interval], results: Results) -> None:
    """<name>_ci_low and _ci_high, or null why not."""
    try:
        found = compute()
    except OviError as error:
        for end in ("low", "high"):
            results.null(f"{name}_ci_{end}", str(error))
        return
    results.set(f"{name}_ci_low", found.low)
    results.set(f"{name}_ci_high", found.high)
