"""Dissolves and fades: where one picture turns into another little by little.

From picture A to picture B a blend goes straight: (1 - s) A + s B, with s rising from 0 to 1. In between, a dissolve
has less detail than both ends, for two pictures lie over each other; of a fade one end has none at all. A camera that
moves goes nearly straight for a while, but what it shows next is then what it showed before, moved.
It knows small pictures only.
Try it: `pytest tests/curation/test_blends.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

LENGTHS_S = (0.25, 0.29, 0.34, 0.39, 0.45, 0.53, 0.61, 0.71, 0.83, 0.97, 1.13, 1.32, 1.54)  # that are looked for
SETTLED = 0.25  # of a blend's length, that B stays
STAYS = 0.15  # of the way, how far B goes on in that time
STRAIGHT = 0.5  # how far from the line a blend may stray, as a share of the way from A to B
FASTEST = 3.0  # of its even steps, the largest step of a blend; a faster one is a cut
MOVED = 0.9  # of the way, how far A may have come in as much time before
CHANGED, WIDE = 15.0, 0.6  # levels by which, and share of the pixels in which, a dissolve changes a picture
SOFTER = 0.88  # of the detail of its ends, that the middle of a dissolve has at most
BARE = (2.0, 0.15)  # the most detail that a picture without any has: in levels, and as a share of the other end's
REACH = 5  # pixels by which a picture is moved to explain another
EXPLAINED = 1.4  # what a movement leaves unexplained in the middle of a dissolve, at least, over what mixing leaves


@dataclass(frozen=True)
class Look:
    """A small picture: levels float32 [side * side * 3], and its detail, the mean step between neighbouring pixels."""

    levels: Vector
    detail: float


def look(picture: NDArray[np.float32]) -> Look:
    """The look of [side, side, 3]."""
    down, right = np.diff(picture, axis=0).ravel(), np.diff(picture, axis=1).ravel()
    return Look(picture.ravel(), float(np.sqrt((down @ down + right @ right) / down.size)))


def lengths(fps: float) -> tuple[int, ...]:
    """LENGTHS_S in pictures, the longest first."""
    return tuple(sorted({max(4, round(seconds * fps)) for seconds in LENGTHS_S}, reverse=True))


def blend(past: Sequence[Look], future: Sequence[Look], lengths: Sequence[int]) -> int:
    """How many pictures of a blend begin with future[0]; 0 when none begins there.

    past[-1] is A, future[length] is B. `lengths` are those that are looked for; the first that fits is taken.
    """
    for length in lengths:
        settled = length + max(3, round(SETTLED * length))
        if settled >= len(future):
            continue
        a, middle, b = past[-1], future[length // 2], future[length]
        fades = _fades(a, b)
        if not fades and (middle.detail > SOFTER * (a.detail + b.detail) / 2 or not _is_wide(a, b)):
            continue
        before = past[max(0, len(past) - 1 - length)]
        if not _goes_straight(before, a, future[:settled], length):
            continue
        if fades or _is_mixed(a.levels, middle.levels, b.levels):
            return length
    return 0


def _fades(a: Look, b: Look) -> bool:
    less, more = sorted((a.detail, b.detail))
    levels, share = BARE
    return less <= min(levels, share * more)


def _goes_straight(before: Look, a: Look, future: Sequence[Look], length: int) -> bool:
    """Whether future[:length] lies between A, which stood nearly still before, and future[length], which then stays."""
    way = future[length].levels - a.levels
    far = float(way @ way)
    came = before.levels - a.levels
    if far < 1 or float(came @ came) > MOVED**2 * far:
        return False
    path = np.stack([step.levels for step in future]) - a.levels
    share = path @ way / far
    astray = np.square(path[:length]).sum(1) / far - np.square(share[:length])
    steps = np.diff(share[: length + 1], prepend=0)
    soon = max(1, length // 12)  # by then it has begun, and as long before its end it is not over
    begun = 0.5 * soon / length
    return bool(
        astray.max() <= STRAIGHT**2
        and steps.min() >= -0.1
        and steps.max() <= FASTEST / length
        and share[soon - 1] >= begun
        and share[length - soon] <= 1 - begun
        and np.abs(share[length:] - 1).max() <= STAYS
    )


def _is_wide(a: Look, b: Look) -> bool:
    way = b.levels - a.levels
    if way @ way < WIDE * CHANGED**2 * len(way) / 3:  # as it is mostly, and then at a tenth of the work
        return False
    return bool((np.abs(way).reshape(-1, 3).max(1) > CHANGED).mean() >= WIDE)


def _is_mixed(a: Vector, middle: Vector, b: Vector) -> bool:
    """Whether a mixture of A and B explains the middle picture better than a movement of A, or of B, does."""
    way = b - a
    share = (middle - a) @ way / (way @ way)
    rest = middle - a - share * way
    moved = max(_unexplained(end, middle) for end in (a, b))
    return bool(moved >= EXPLAINED * np.sqrt(rest @ rest / np.square(middle - a).sum()))


def _unexplained(end: Vector, middle: Vector) -> float:
    """What is left of the difference of two pictures when the one is moved to where it fits best: 0 to 1."""
    side = round((len(end) / 3) ** 0.5)
    a, m = end.reshape(side, side, 3), middle.reshape(side, side, 3)

    def overlap(by: int) -> tuple[slice, slice]:
        return slice(max(0, by), side + min(0, by)), slice(max(0, -by), side + min(0, -by))

    least = np.inf
    for (ya, ym), (xa, xm) in product(map(overlap, range(-REACH, REACH + 1)), repeat=2):
        least = min(least, float(np.square(m[ym, xm] - a[ya, xa]).mean()))
    return float(np.sqrt(least / np.square(m - a).mean()))
