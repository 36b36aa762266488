"""Cuts, found while frames stream by: where one composition ends and another begins.

A frame starts a scene when it differs from the frame before it far more than its neighbours do (the adaptive rule of
PySceneDetect), and the picture does not come back: a lamp that switches on, a hammer that stops dead and a mouth that
opens all return to a picture seen before, a cut does not. A picture that rises out of black starts a scene as well.
A dissolve or a fade is a scene of its own, so that no other has a part in it.
It knows small pictures only, neither files nor clocks.
Try it: `pytest tests/curation/test_scenes.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.curation.blends import Look, blend, lengths, look

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]

METHOD = "adaptive-return-blend-v2"
SIDE = 32  # thumbnails are SIDE x SIDE, whatever the aspect
MIN_JUMP = 14.0  # mean over pixels of the largest channel difference, in levels of 255
MIN_RATIO = 2.5  # jump over the usual one nearby
NEAR = 12  # frames on either side that tell what is usual
STILL = 0.5  # a jump below this is the same picture again
CHANGED = 20  # levels by which a changed pixel differs
WIDE = 0.5  # share of changed pixels above which only a flash, a return within STEADY frames, is no cut
STEADY = 4  # frames on either side that a change of less than WIDE needs, to be told from half-exposed frames
RETURN = 0.25  # a picture returns when it is this close to one seen before, as a share of the jump
FLASHED = 0.5  # the same after a flash, while the picture moves on
BACK_S, AHEAD_S = 5.0, 1.0  # how far back and ahead a return is looked for, in s
BLEND_S = 2.1  # how far ahead a dissolve and what comes after it are looked for, in s
MOST_AHEAD = 128  # frames that are looked at before one leaves, at most: whoever reads keeps them all
BLACK = 6  # a thumbnail without a level above this one is black


def thumbnail(rgb: Pixels) -> Pixels:
    """uint8 [SIDE, SIDE, 3]: area means of a picture [H, W, 3]."""
    return np.asarray(cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def mark_starts(
    items: Iterable[Item], thumb: Callable[[Item], Pixels], fps: float
) -> Iterator[tuple[Item, bool, float]]:
    """Each item with whether it starts a scene and how far it jumps from the one before it in its scene (levels).

    In order, about BLEND_S behind the reading; the first item starts a scene. `thumb` gives an item's thumbnail; `fps`
    is how many items a second has, about.
    """
    marker = _Marker(fps)
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        marker.see(thumb(item))
        if len(waiting) > marker.ahead:
            yield waiting.popleft(), *marker.leave()
    while waiting:
        yield waiting.popleft(), *marker.leave()


class _Step(NamedTuple):
    """A thumbnail, its look at half the size, and how far it jumps from the one before it in its scene."""

    small: Pixels
    look: Look
    jump: float


class _Marker:
    """What is known around the next frame to leave: the running scene's past, and some future."""

    def __init__(self, fps: float) -> None:
        self.ahead = min(MOST_AHEAD, max(STEADY + 1, round(BLEND_S * fps)))
        self._near = max(STEADY + 1, round(AHEAD_S * fps))
        self._past: deque[_Step] = deque(maxlen=max(STEADY + 1, round(BACK_S * fps)))
        self._future: deque[_Step] = deque()
        self._lengths = lengths(fps)
        self._blending = 0  # frames of a blend that are still to leave

    def see(self, small: Pixels) -> None:
        last = self._future[-1] if self._future else self._past[-1] if self._past else None
        jump = 0.0 if last is None else float(_difference(last.small, small).mean())
        self._future.append(_Step(small, _look(small), jump))

    def leave(self) -> tuple[bool, float]:
        """Whether the next frame starts a scene, and its jump."""
        starts = self._starts()
        step = self._future.popleft()
        if starts:
            self._past.clear()
            step = step._replace(jump=0.0)
        self._past.append(step)
        return starts, step.jump

    def _starts(self) -> bool:
        if self._blending:
            self._blending -= 1
            return not self._blending
        if not self._past:
            return True
        future = list(self._future)
        behind = list(islice(reversed(self._past), self._lengths[0] + 1))[::-1]
        self._blending = blend([step.look for step in behind], [step.look for step in future], self._lengths)
        if self._blending:
            return True
        return _may_cut(self._past[-1], future[0]) and _is_cut(self._past, future[: self._near])


def _may_cut(before: _Step, after: _Step) -> bool:
    return after.jump >= MIN_JUMP or _rises(before, after)


def _rises(before: _Step, after: _Step) -> bool:
    """Whether a picture comes out of black."""
    return bool(after.small.max() > BLACK >= before.small.max())


def _is_cut(past: deque[_Step], future: list[_Step]) -> bool:
    """Whether a scene starts between past[-1] and future[0]."""
    before, after = past[-1], future[0]
    if not _rises(before, after) and after.jump < MIN_RATIO * _usual(past, future):
        return False
    if (_difference(before.small, after.small) > CHANGED).mean() >= WIDE:
        return not _returns(list(past)[-STEADY:], future[:STEADY], FLASHED)
    return min(len(past), len(future)) >= STEADY and not _returns(list(past), future, RETURN)


def _usual(past: deque[_Step], future: list[_Step]) -> float:
    """The jump that is usual near the boundary: the median of two frames on either side; where every other frame or
    less is a new picture (slow animation), the median of the new ones."""
    before = [step.jump for step in islice(reversed(past), NEAR)]
    after = [step.jump for step in future[1 : NEAR + 1]]
    close = before[:2] + after[:2]
    new = [jump for jump in before + after if jump > STILL]
    return max(1.0, float(np.median(close)) if close else 0.0, float(np.median(new)) if len(new) >= 4 else 0.0)


def _difference(a: Pixels, b: Pixels) -> Pixels:
    """[SIDE, SIDE]: the largest channel difference of each pixel."""
    gap = cv2.absdiff(a, b)
    return np.maximum(np.maximum(gap[..., 0], gap[..., 1]), gap[..., 2])


def _returns(past: list[_Step], future: list[_Step], share: float) -> bool:
    """Whether any picture of the future is as close to one of the past as `share` of the jump, root mean square."""
    before, after = (np.stack([step.look.levels for step in steps]) for steps in (past, future))
    jump = float(np.square(before[-1] - after[0]).sum())
    return any(np.square(before - picture).sum(1).min() <= share**2 * jump for picture in after)


def _look(small: Pixels) -> Look:
    return look(np.asarray(cv2.resize(small, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA), np.float32))
