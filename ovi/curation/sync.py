"""Are picture and sound of a clip in step (paper 3.2)? Two measures, each with its own columns, and one rule.

SyncNet reads the lips of a face that was followed; where there is one, it judges. Elsewhere the weight-free estimator
does, and where that finds no common cause the rule does not apply and the clip stays. It knows rows and thresholds,
neither files nor who finds faces.
Try it: `pytest tests/curation/test_sync.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovi.config import Curation
from ovi.curation.manifest import Row
from ovi.perception.onsets import audio_activity, sync, video_activity

METHOD = "onset-motion-v2"
IN_SYNC, OUT_OF_SYNC, UNSURE, NOT_APPLICABLE = "in_sync", "out_of_sync", "unsure", "not_applicable"
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


def judge(row: Row, curation: Curation) -> tuple[str | None, str | None]:
    """(verdict, what led to it where that is not plain) of a row's sync scores; no verdict without any."""
    confidence, agreement = row.get("lip_confidence"), row.get("sync_score")
    if confidence is not None and confidence <= curation.min_confidence:  # the paper keeps what is above
        return UNSURE, f"SyncNet's confidence {confidence:.2f} is not above {curation.min_confidence:g}"
    if confidence is None:
        if agreement is None:
            return None, row.get("sync_reason")
        if agreement < curation.min_sync_score:
            least = curation.min_sync_score
            return NOT_APPLICABLE, f"score below {least:g}: picture and sound show no common cause"
    return (IN_SYNC if abs(frames_late(row)) <= curation.max_offset_frames else OUT_OF_SYNC), None


def late_ms(row: Row) -> float:
    """By how much the sound of a row with a verdict is late: SyncNet's offset where there is one."""
    return float(row["sync_offset_ms"] if row.get("lip_confidence") is None else row["lip_offset_ms"])


def frames_late(row: Row) -> int:
    """The same in whole frames, as SyncNet tells it and the paper judges it: 140 ms are 3 frames, 141 ms are 4."""
    return round(late_ms(row) / FRAME_MS)
