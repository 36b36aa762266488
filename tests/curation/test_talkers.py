"""A talker with every offset from -15 to 15 frames: `benchmarks/talkers.py` in small, without files."""

from __future__ import annotations

import numpy as np
import pytest

from ovi.config import Curation
from ovi.curation import sync
from ovi.synthetic.talkers import FPS, RATE, Talker, talker


@pytest.fixture(scope="module")
def judged() -> list[tuple[Talker, sync.SyncScore]]:
    talkers = [talker(number) for number in range(31)]
    return [(one, sync.score(one.frames, FPS, one.audio, RATE)) for one in talkers]


def test_sound_off_by_more_than_three_frames_is_told_from_sound_that_is_not(
    judged: list[tuple[Talker, sync.SyncScore]],
) -> None:
    for one, found in judged:
        row = {"sync_offset_ms": found.offset_ms, "sync_score": found.score}
        wanted = sync.OUT_OF_SYNC if abs(one.late_ms) > 120 else sync.IN_SYNC
        assert sync.judge(row, Curation())[0] == wanted, (one.late_ms, found)


def test_late_sound_is_positive_and_the_time_is_right(judged: list[tuple[Talker, sync.SyncScore]]) -> None:
    errors = [found.offset_ms - one.late_ms for one, found in judged]
    assert np.percentile(np.abs(errors), 95) < 15
    assert all(found.offset_ms * one.late_ms > 0 for one, found in judged if one.late_ms)
