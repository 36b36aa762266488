"""What can be said of a clip's picture, alone and with its sound: steadiness, motion, AV-Align, lip sync.

It takes clips as arrays and gives a number or says why there is none.
Try it: `pytest tests/evaluation/test_watching.py`.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.errors import OviError
from ovi.evaluation import scores
from ovi.media.audio import resample
from ovi.media.encode import pcm16
from ovi.perception import onsets, syncnet
from ovi.perception.syncnet import LipSync, SyncNet

Picture = NDArray[np.uint8]
Sound = NDArray[np.float32]

FLOW = "farneback-opencv"
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)  # scale, levels, window, rounds, neighbourhood, smoothness, flags
ONSETS = "onsets from one standard deviation on"  # of ovi.perception.onsets
CROP = "the middle square of the picture, every 1/25 s"


def smoothness(frames: Picture) -> float:
    """1 - mean distance of a frame from the mean of its neighbours, in 0..1: jerks lower it, an even motion hardly.

    Raises OviError for fewer than three frames uint8 [T, H, W, 3].
    """
    if len(frames) < 3:
        raise OviError("smoothness needs three frames, there are fewer")
    exact = frames.astype(np.float32)
    return float(1 - np.abs(exact[1:-1] - (exact[:-2] + exact[2:]) / 2).mean(dtype=np.float64) / 255)


def av_align(frames: Picture, audio: Sound, fps: float, rate: int) -> float:
    """`scores.av_align` of frames uint8 [T, H, W, 3] and mono sound. Raises OviError where neither has a peak."""
    return scores.av_align(*peaks(frames, audio, fps, rate), fps)


def peaks(frames: Picture, audio: Sound, fps: float, rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(times of the sound's onsets, times of the maxima of the mean flow) in s."""
    return _heard(audio, rate), scores.local_maxima(_flow(frames), fps)


def lips(network: SyncNet, frames: Picture, audio: Sound, fps: float, rate: int) -> LipSync:
    """Lip sync of a speaker in the middle of the picture. Raises OviError for a clip of less than 0.24 s."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    count = int(len(frames) * syncnet.FPS / fps)
    chosen = frames[np.minimum((np.arange(count) * fps / syncnet.FPS).round().astype(int), len(frames) - 1)]
    size = (syncnet.SIDE, syncnet.SIDE)
    faces = [cv2.resize(frame[top : top + side, left : left + side], size) for frame in chosen]
    sound = pcm16(resample(audio, rate, 16_000))
    return syncnet.lip_sync(syncnet.distances(*syncnet.embed(network, np.stack(faces), sound)))


def _flow(frames: Picture) -> NDArray[np.float64]:
    """Mean length of the optical flow from each frame to the next, in pixels: [T - 1]."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flows = (
        cv2.calcOpticalFlowFarneback(one, other, np.zeros((*one.shape, 2), np.float32), *FARNEBACK)
        for one, other in pairwise(grey)
    )
    return np.array([np.hypot(flow[..., 0], flow[..., 1]).mean(dtype=np.float64) for flow in flows])


def _heard(audio: Sound, rate: int) -> NDArray[np.float64]:
    """Times in s of the onsets."""
    activity = onsets.audio_activity(audio, rate)
    curve = activity.curves[activity.names.index("onset")]
    times = scores.local_maxima(curve, 1 / onsets.STEP)
    return times[curve[np.round(times / onsets.STEP).astype(int)] > 1]
