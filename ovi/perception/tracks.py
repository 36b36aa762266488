"""Faces of single pictures -> faces that are followed through a clip, and square crops of one as SyncNet wants them.

The rules are those of SyncNet's authors: a grid of 25 pictures a second, boxes that overlap by half belong together,
gaps of up to a second are bridged, and crops follow the medians of centre and size with room below for the chin.
Different is the shortest track: theirs, made for films, is 4 s, and in a clip of five seconds a face may come late.
It knows boxes and pictures, neither a detector nor sound.
Try it: `pytest tests/perception/test_tracks.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from ovi.perception.faces import Boxes

FPS = 25
MIN_OVERLAP = 0.5  # intersection over union of one face in neighbouring pictures
MAX_GAP = 25  # pictures
MIN_LENGTH = 50  # pictures in which it is found
SMOOTH = 13  # pictures behind one median
ROOM = 0.4  # of a half box at each side, twice of it below
BORDER = (110, 110, 110)  # what lies outside the picture
SIDE = 224

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Track:
    """One face from picture `first` on: boxes [n, 4], one a picture, interpolated where it was not found."""

    first: int
    boxes: Boxes
    found: int  # pictures in which it was

    @property
    def side(self) -> float:
        """Mean pixels of the longer side."""
        return float((self.boxes[:, 2:] - self.boxes[:, :2]).mean(axis=0).max())


def grid(pictures: int, fps: int) -> list[int]:
    """Which of a clip's pictures is nearest to each time k / 25 s within it: 126 of them for 121 pictures at 24 fps."""
    ticks = (pictures - 1) * FPS // fps + 1
    return [round(tick * fps / FPS) for tick in range(ticks)]


def follow(pictures: Sequence[Boxes]) -> list[Track]:
    """Tracks of at least MIN_LENGTH finds through the boxes of successive pictures; each box is in one at most."""
    left = [list(boxes) for boxes in pictures]
    tracks = []
    for first in range(len(left)):
        while left[first]:
            places, boxes = [first], [left[first].pop(0)]
            for at in range(first + 1, len(left)):
                if at - places[-1] > MAX_GAP:
                    break
                overlaps = [_overlap(box, boxes[-1]) for box in left[at]]
                if overlaps and max(overlaps) > MIN_OVERLAP:
                    places.append(at)
                    boxes.append(left[at].pop(int(np.argmax(overlaps))))
            if len(places) >= MIN_LENGTH:
                whole, known = np.arange(first, places[-1] + 1), np.stack(boxes)
                filled = np.stack([np.interp(whole, places, side) for side in known.T], axis=1)
                tracks.append(Track(first, filled, len(places)))
    return tracks


def main_face(tracks: Sequence[Track], min_side: float) -> Track | None:
    """The track that is found in most pictures, of equal ones the largest; none below `min_side` pixels."""
    large = [track for track in tracks if track.side > min_side]
    return max(large, key=lambda track: (track.found, track.side), default=None)


def places(track: Track) -> NDArray[np.float64]:
    """[n, 3] centre x, centre y and half the longer side of each crop, in pixels, smoothed."""
    corners, ends = track.boxes[:, :2], track.boxes[:, 2:]
    raw = np.concatenate([(corners + ends) / 2, (ends - corners).max(axis=1, keepdims=True) / 2], axis=1)
    smooth: NDArray[np.float64] = median_filter(raw, (SMOOTH, 1), mode="constant")  # zeros beyond the ends, as theirs
    return smooth


def crop(picture: Pixels, x: float, y: float, half: float) -> Pixels:
    """uint8 [224, 224, 3] around a face in a picture [H, W, 3]: 2.8 times as long and as wide as its half box."""
    height, width = picture.shape[:2]
    top, bottom = floor(y - half), floor(y + half * (1 + 2 * ROOM))
    left, right = floor(x - half * (1 + ROOM)), floor(x + half * (1 + ROOM))
    inside = picture[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    outside = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    framed = cv2.copyMakeBorder(inside, *outside, cv2.BORDER_CONSTANT, value=BORDER)
    return np.asarray(cv2.resize(framed, (SIDE, SIDE)), np.uint8)


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes."""
    shared = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()
    both = (one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - shared
    return float(shared / both) if both > 0 else 0.0
