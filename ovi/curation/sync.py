"""Are picture and sound of a clip in step (paper 3.2)? The weight-free estimator scores, one rule judges.

Where the estimator finds no common cause, the rule does not apply and the clip stays. A network that reads lips would
be a second scorer under another name. It knows neither files nor settings' thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovi.perception.onsets import audio_activity, sync, video_activity

METHOD = "onset-motion-v1"
IN_SYNC, OUT_OF_SYNC, NOT_APPLICABLE = "in_sync", "out_of_sync", "not_applicable"
FRAME_MS = 40.0  # the paper counts offsets in frames of 25 fps


@dataclass(frozen=True)
class SyncScore:
    """offset_ms: positive = audio late. score: correlation at that offset. at_zero: the best within 60 ms of none."""

    offset_ms: float
    score: float
    at_zero: float


def score(frames: NDArray[np.uint8], fps: int, audio: NDArray[np.float32], rate: int) -> SyncScore:
    """Score of small pictures uint8 [T, H, W, 3] against mono sound float32 [N] from the same instant."""
    if not (frames != frames[0]).any():  # a still picture agrees with nothing
        return SyncScore(0.0, 0.0, 0.0)
    found = sync(video_activity(frames, fps), audio_activity(audio, rate))
    return SyncScore(found.offset_ms, found.score, found.at_zero)


def judge(found: SyncScore, min_score: float, max_offset_frames: float) -> tuple[str, str | None]:
    """(verdict, why it does not apply): the offset counts only where the score says that there is a common cause."""
    if found.score < min_score:
        return NOT_APPLICABLE, f"score below {min_score:g}: picture and sound show no common cause"
    late = abs(found.offset_ms) > max_offset_frames * FRAME_MS
    return (OUT_OF_SYNC if late else IN_SYNC), None
