"""The paper's scores from what networks made of the clips: vectors, logits, peaks, flows. It runs no network.

Where a score is a mean over clips the values of the clips come back, so that the caller can give an interval; those of
whole sets are one number. Published scorers differ in small, named ways: `Divergence` and `MATCHED_WITHIN` say how.
Try it: `pytest tests/evaluation/test_scores.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, log_softmax

from ovi.errors import OviError

Array = NDArray[np.float64]
Values = NDArray[np.floating]

SHUFFLE = 2020  # seed of the published inception score and kernel distance
SPLITS = 10
OFFSETS_S = np.linspace(-2, 2, 21)  # what the classes of a DeSync network stand for, positive = sound late
LEAST_ALIKE = 0.4  # the share of a window's pictures that JavisScore looks at
FAST = 0.05  # the share of a picture's pixels whose motion counts for the dynamic degree

# softmax: classes exclude each other. bernoulli: each class is a yes or no of its own. sigmoid: as av-benchmark has it,
# the yes alone, which is no divergence and can be negative; to compare with published numbers only.
Divergence = Literal["softmax", "bernoulli", "sigmoid"]


def inception_score(logits: Values, splits: int = SPLITS, shuffled: bool = True) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean KL(p || mean p)), p = softmax of logits [N, C].

    Shuffled as published (Salimans et al., 2016, as av-benchmark draws it). The deviation is no interval. Raises
    OviError with fewer clips than splits.
    """
    if len(logits) < splits:
        raise OviError(f"an inception score of {splits} splits needs as many clips, there are {len(logits)}")
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    if shuffled:
        log_p = log_p[np.random.RandomState(SHUFFLE).permutation(len(log_p))]
    edges = [at * len(log_p) // splits for at in range(splits + 1)]
    parts = [log_p[first:last] for first, last in pairwise(edges)]
    scores = [np.exp((np.exp(part) * (part - np.log(np.exp(part).mean(axis=0)))).sum(axis=1).mean()) for part in parts]
    return float(np.mean(scores)), float(np.std(scores))


def divergence(generated: Values, reference: Values, of: Divergence = "softmax", floor: float = 0.0) -> Array:
    """KL(reference || generated) [N] of paired logits [N, C], in nats.

    `floor` is added to the generated probabilities, as audioldm_eval does with 1e-6; it lowers the value.
    """
    _same_shape(generated, reference)
    given, wanted = generated.astype(np.float64), reference.astype(np.float64)
    if of == "softmax":
        return _kl(log_softmax(given, axis=1), log_softmax(wanted, axis=1), floor)
    yes = _kl(log_expit(given), log_expit(wanted), floor)
    return yes if of == "sigmoid" else yes + _kl(log_expit(-given), log_expit(-wanted), floor)


def cosines(one: Values, other: Values) -> Array:
    """Cosines [...] of vectors [..., D] and [..., D]; zero where a vector is zero. Of a clip and its text: CLAP."""
    left, right = one.astype(np.float64), other.astype(np.float64)
    length = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return np.where(length > 0, (left * right).sum(axis=-1) / np.where(length > 0, length, 1), 0)


def consistency(points: Values) -> float:
    """VBench's consistency of a clip from its pictures' points [T, D]: how alike each is to the first and to the one
    before, negative cosines as zero. 1 = they never change. Raises OviError for fewer than two pictures.
    """
    if len(points) < 2:
        raise OviError("consistency needs two pictures, there are fewer")
    alike = [cosines(points[1:], other).clip(0) for other in (points[:1], points[:-1])]
    return float(np.mean(alike))


def kernel_distance(one: Values, other: Values, subsets: int = 100, size: int = 1000) -> tuple[float, float]:
    """Mean and standard deviation over subsets of the unbiased squared MMD (Bińkowski et al., 2018) of [n, d], [m, d].

    The kernel is (x . y / d + 1)^3; as published, each subset is drawn without repeats. Raises OviError when there are
    fewer than `size` vectors on a side.
    """
    if min(len(one), len(other)) < size or size < 2:
        raise OviError(f"kernel distances of {size} vectors need as many, there are {len(one)} and {len(other)}")
    generator = np.random.RandomState(SHUFFLE)
    found = []
    for _ in range(subsets):
        drawn = (side[generator.choice(len(side), size, replace=False)] for side in (one, other))
        left, right = (vectors.astype(np.float64) for vectors in drawn)
        within = [(k.sum() - np.trace(k)) / (size * (size - 1)) for k in (_cubic(left, left), _cubic(right, right))]
        found.append(sum(within) - 2 * _cubic(left, right).mean())
    return float(np.mean(found)), float(np.std(found))


def local_maxima(activity: Values, fps: float) -> Array:
    """Times in s of the frames that are above both neighbours: AV-Align's peaks of the mean flow [T]."""
    inner = activity[1:-1]
    return (1 + np.flatnonzero((inner > activity[:-2]) & (inner > activity[2:]))) / fps


def av_align(sound_s: Values, picture_s: Values, fps: float) -> float:
    """AV-Align (Yariv et al., 2024) of peak times in s: heard peaks with a seen one less than a frame away, over all.

    As its code has it, only heard peaks look for a partner. Raises OviError where there is no peak at all.
    """
    if not len(sound_s) and not len(picture_s):
        raise OviError("AV-Align needs a peak in the sound or in the picture, there is none")
    near = np.abs(np.subtract.outer(sound_s, picture_s)) < 1 / fps
    matched = int(near.any(axis=1).sum())
    return matched / (len(sound_s) + len(picture_s) - matched)


def av_align_both_ways(sound_s: Values, picture_s: Values, fps: float, reach: int) -> float:
    """AV-Align as JavisBench's text has it: the share of peaks, heard or seen, with one of the other kind at most
    `reach` frames away. Raises OviError where there is no peak at all.
    """
    if not len(sound_s) + len(picture_s):
        raise OviError("AV-Align needs a peak in the sound or in the picture, there is none")
    near = np.abs(np.subtract.outer(sound_s, picture_s)) <= reach / fps * (1 + 1e-9)
    return int(near.any(axis=1).sum() + near.any(axis=0).sum()) / (len(sound_s) + len(picture_s))


def javis(alike: Values) -> float:
    """JavisScore of cosines [M, N] of M windows' N pictures to the window's sound: the mean over windows of the 40 %
    of their pictures that fit least. Raises OviError for windows of fewer than three pictures, of which that is none.
    """
    count = int(LEAST_ALIKE * alike.shape[1])
    if not count or not len(alike):
        raise OviError(f"JavisScore needs windows of three pictures or more, there are {list(alike.shape)}")
    return float(np.sort(alike, axis=1)[:, :count].mean(dtype=np.float64))


def desync_offsets(logits: Values) -> Array:
    """Offsets in s [...] from Synchformer's logits [..., 21], in steps of 0.2 s, positive = sound late.

    DeSync is the mean of their magnitudes over the first and the last window of the clips; with their sign kept, as
    Verse-Bench has it, early and late clips cancel.
    """
    return OFFSETS_S[logits.argmax(axis=-1)]


def steadiness(frames: NDArray[np.uint8]) -> float:
    """VBench's temporal flickering: 1 - mean change from frame to frame of uint8 [T, H, W, 3], T >= 2; 1 = frozen."""
    if len(frames) < 2:
        raise OviError("temporal flickering needs two frames, there are fewer")
    change = [np.abs(one.astype(np.int16) - other).mean(dtype=np.float64) for one, other in pairwise(frames)]
    return float((255 - np.mean(change)) / 255)


def fast_motion(flow: Values) -> float:
    """Mean length in pixels of the fastest 5 % of flow vectors [2, H, W]."""
    length = np.hypot(flow[0], flow[1]).ravel()
    return float(np.sort(length)[-max(1, int(FAST * len(length))) :].mean(dtype=np.float64))


def is_dynamic(flows: Sequence[Values]) -> bool:
    """VBench's dynamic degree of a clip from the flows [2, H, W] between frames about 1/8 s apart.

    True when the fastest pixels move by more than 6 pixels of a 256-pixel side in a quarter of the pairs.
    """
    if not flows:
        raise OviError("a dynamic degree needs the flow between two frames, there is none")
    limit = 6 * min(flows[0].shape[1:]) / 256
    return sum(fast_motion(flow) > limit for flow in flows) >= round(4 * len(flows) / 16)


def _kl(log_generated: Array, log_reference: Array, floor: float) -> Array:
    given = np.log(np.exp(log_generated) + floor) if floor else log_generated
    return (np.exp(log_reference) * (log_reference - given)).sum(axis=1)


def _cubic(one: Array, other: Array) -> Array:
    return (one @ other.T / one.shape[1] + 1) ** 3


def _same_shape(one: Values, other: Values) -> None:
    if one.shape != other.shape or not len(one):
        raise OviError(f"pairs of clips are compared, there are {list(one.shape)} and {list(other.shape)} logits")
