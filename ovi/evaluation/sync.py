"""Sound against picture: every picture of a set with every sound of it, and what that says of their synchronisation.

Scores come from the weight-free onset estimator. A pair is in sync when its offset lies where viewers do not notice it
(ITU-R BT.1359-1: sound at most 45 ms early, 125 ms late), acceptable where they do not mind. It does not know where
the clips come from.
Try it: `ovi evaluate`, then the figures `sync/...` of out/evaluation/metrics.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovi.evaluation import statistics
from ovi.evaluation.results import NOT_APPLICABLE, Results
from ovi.evaluation.statistics import Separation
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
FIGURES = (
    "auc", "auc_ci_low", "auc_ci_high", "p_value", "n", "n_failed", "offset_ms_median", "in_sync", "in_sync_ci_low",
    "in_sync_ci_high", "acceptable", "acceptable_ci_low", "acceptable_ci_high", "shuffled_auc", "shuffled_in_sync",
    "real_auc", "real_n", "real_offset_ms_median", "real_in_sync",
)  # fmt: skip
Array = NDArray[np.float64]
Clip = tuple[NDArray[np.uint8], NDArray[np.float32]]  # frames [T, H, W, 3], audio [N]


@dataclass(frozen=True)
class Pairs:
    """Every picture i with every sound j: arrays [n, n], the diagonal holds the pairs that belong together."""

    score: Array  # correlation within 60 ms of in-time, -1..1
    offset_ms: Array  # positive = sound late; NaN where nothing in the picture goes with anything in the sound

    @property
    def own(self) -> Array:
        return np.diag(self.score)

    @property
    def others(self) -> Array:
        return self.score[~np.eye(len(self.score), dtype=bool)]

    def in_sync(self, pairing: NDArray[np.int64] | None = None, window: Window = IN_SYNC_MS) -> float:
        """Share of pictures in sync with their own sound, or with sound pairing[i]; without an offset: not in sync."""
        rows = np.arange(len(self.offset_ms))
        offsets = self.offset_ms[rows, rows if pairing is None else pairing]
        return float(np.mean((offsets >= window[0]) & (offsets <= window[1])))

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
    shuffled_auc: list[float]


def pairs(clips: Sequence[Clip], fps: int, rate: int) -> Pairs:
    """Scores and offsets of all n x n pairs; each picture and each sound is looked at once."""
    seen = [onsets.video_activity(frames, fps) for frames, _ in clips]
    heard = [onsets.audio_activity(audio, rate) for _, audio in clips]
    estimates = [[onsets.sync(video, audio) for audio in heard] for video in seen]
    values = [[(estimate.at_zero, estimate.offset_ms, estimate.score) for estimate in row] for row in estimates]
    table = np.array(values, dtype=np.float64).reshape(len(seen), len(heard), 3)
    return Pairs(table[..., 0], np.where(table[..., 2] > 0, table[..., 1], np.nan))


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
    pairings = statistics.derangements(n, shuffles, seed)
    shuffled = [statistics.auc(generated.paired(pairing)) for pairing in pairings]
    results.set(f"{name}/auc", found.auc)
    results.set(f"{name}/auc_ci_low", found.low)
    results.set(f"{name}/auc_ci_high", found.high)
    results.set(f"{name}/p_value", found.p_value)
    results.set(f"{name}/n", n)
    results.set(f"{name}/n_failed", int(np.isnan(np.diag(generated.offset_ms)).sum()))
    _median_offset(f"{name}/offset_ms_median", generated, results)
    for what, window in (("in_sync", IN_SYNC_MS), ("acceptable", ACCEPTABLE_MS)):
        share = generated.in_sync(window=window)
        results.set(f"{name}/{what}", share)
        for end, value in zip(("low", "high"), statistics.wilson(share, n), strict=True):
            results.set(f"{name}/{what}_ci_{end}", value)
    results.set(f"{name}/shuffled_auc", float(np.mean(shuffled)))
    results.set(f"{name}/shuffled_in_sync", float(np.mean([generated.in_sync(pairing) for pairing in pairings])))
    return SceneSync(scene, generated, found, real, _judge_real(name, real, results), shuffled)


def absent(scene: str, reason: str, results: Results) -> None:
    """All figures of a scene null for one reason, but how many clips they are of."""
    for figure in FIGURES:
        results.null(f"sync/{scene}/{figure}", reason)
    for count in ("n", "n_failed"):
        results.set(f"sync/{scene}/{count}", 0)


def _judge_real(name: str, real: Pairs, results: Results) -> float | None:
    """The ceiling: what the estimator says of held-out real clips of the same scene."""
    results.set(f"{name}/real_n", len(real.score))
    if len(real.score) < 2:
        for figure in ("real_auc", "real_offset_ms_median", "real_in_sync"):
            results.null(f"{name}/{figure}", f"{NOT_APPLICABLE}fewer than two held-out real clips of this scene")
        return None
    value = statistics.auc(real.score)
    results.set(f"{name}/real_auc", value)
    _median_offset(f"{name}/real_offset_ms_median", real, results)
    results.set(f"{name}/real_in_sync", real.in_sync())
    return value


def _median_offset(name: str, measured: Pairs, results: Results) -> None:
    offsets = np.diag(measured.offset_ms)
    offsets = offsets[~np.isnan(offsets)]
    if len(offsets):
        results.set(name, float(np.median(offsets)))
    else:
        results.null(name, "in no clip does anything in the picture go with anything in the sound")
