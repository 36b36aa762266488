from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ovi.evaluation import scene_metrics, sync
from ovi.evaluation.results import Results
from ovi.synthetic.scenes import render


@pytest.fixture(scope="module")
def blinks() -> list[sync.Clip]:
    scenes = [render("blink", seed, size=(32, 32)) for seed in range(9)]
    return [(scene.frames, scene.audio) for scene in scenes]


def judged(generated: list[sync.Clip], real: list[sync.Clip]) -> tuple[sync.SceneSync | None, Results]:
    results = Results()
    found = sync.judge("blink", sync.pairs(generated, 24, 16000), sync.pairs(real, 24, 16000), 0, 2000, 4, results)
    return found, results


def test_true_pairs_stand_out(blinks: list[sync.Clip]) -> None:
    found, results = judged(blinks, blinks[:5])
    assert found is not None
    assert results.reasons == {}
    assert set(results.values) == {f"sync/blink/{figure}" for figure in sync.FIGURES}
    assert results.values["sync/blink/auc"] == results.values["sync/blink/real_auc"] == 1.0
    assert results.values["sync/blink/p_value"] < 0.001
    assert abs(results.values["sync/blink/offset_ms_median"]) < 15
    for figure in ("offset_ms_median", "shuffled_auc", "shuffled_in_sync", "real_auc", "real_in_sync"):
        low, high = (results.values[f"sync/blink/{figure}_ci_{end}"] for end in ("low", "high"))
        assert low <= results.values[f"sync/blink/{figure}"] <= high
        assert low < high
    assert (results.values["sync/blink/offset_ms_median_n"], results.values["sync/blink/real_offset_ms_median_n"]) == (
        9,
        5,
    )
    for what in ("in_sync", "acceptable"):
        assert results.values[f"sync/blink/{what}"] == results.values[f"sync/blink/{what}_ci_high"] == 1.0
        assert 0.6 < results.values[f"sync/blink/{what}_ci_low"] < 0.9  # nine clips
    assert 0.2 < results.values["sync/blink/shuffled_auc"] < 0.6
    assert results.values["sync/blink/shuffled_in_sync"] < 0.5


def test_swapped_sounds_do_not(blinks: list[sync.Clip]) -> None:
    frames, sounds = [clip[0] for clip in blinks], [clip[1] for clip in blinks]
    _, results = judged(list(zip(frames, sounds[1:] + sounds[:1], strict=True)), blinks)
    assert results.values["sync/blink/auc"] < 0.75
    assert results.values["sync/blink/p_value"] > 0.05
    assert results.values["sync/blink/real_auc"] == 1.0


def test_late_sound_is_measured_and_is_not_in_sync(blinks: list[sync.Clip]) -> None:
    late = [(frames, np.concatenate([np.zeros(4000, np.float32), audio[:-4000]])) for frames, audio in blinks]
    _, results = judged(late, [])
    assert results.values["sync/blink/offset_ms_median"] == pytest.approx(250, abs=15)
    assert results.values["sync/blink/in_sync"] == 0.0
    assert results.values["sync/blink/real_n"] == 0
    assert results.reasons["sync/blink/real_auc"].startswith("not applicable: ")


def test_what_single_clips_have_is_a_metric_with_an_identity(blinks: list[sync.Clip]) -> None:
    late = np.roll(np.arange(9), 2)
    half = [(blinks[at][0], blinks[at if at % 2 else late[at]][1]) for at in range(9)]
    found, results = judged(half, [])
    names = [f"blink_{at:02d}" for at in range(9)]
    for one in scene_metrics.metrics(found, names, 24, 16000):
        assert one.score.value == pytest.approx(results.values[one.name], rel=1e-5)
        assert 0 < one.score.value < 1
        assert one.evidence.exact() == pytest.approx(one.score.value)
        assert one.interval.low == pytest.approx(results.values[f"{one.name}_ci_low"], rel=1e-5)
        assert one.per_clip["blink_01"] == 1.0
        others = [scene_metrics.metrics(found, names[:8], 24, 16000), scene_metrics.metrics(found, names, 25, 16000),
                  scene_metrics.metrics(found, names, 24, 48000),
                  scene_metrics.metrics(replace(found, scene="mouth"), names, 24, 16000)]  # fmt: skip
        hashes = [other.score.identity.hash for some in others for other in some if other.name.endswith(one.name[-3:])]
        assert len({one.score.identity.hash, *hashes}) == 5


def test_clips_of_one_prompt_are_drawn_together(blinks: list[sync.Clip]) -> None:
    def width(prompts: list[str]) -> float | None:
        results = Results()
        sync.judge("blink", sync.pairs(blinks, 24, 16000, prompts), sync.pairs([], 24, 16000), 0, 100, 4, results)
        ends = [results.values[f"sync/blink/offset_ms_median_ci_{end}"] for end in ("low", "high")]
        if None in ends:
            assert results.reasons["sync/blink/offset_ms_median_ci_low"] == "an interval needs 3 prompts, there are 2"
            return None
        return ends[1] - ends[0]

    assert width(list("aabbbabab")) is None
    assert width(list("aaabbbccc")) != width(list("abcdefghi"))


def test_what_is_noticed_may_be_acceptable(blinks: list[sync.Clip]) -> None:
    late = [(frames, np.concatenate([np.zeros(2480, np.float32), audio[:-2480]])) for frames, audio in blinks]  # 155 ms
    _, results = judged(late, [])
    assert (results.values["sync/blink/in_sync"], results.values["sync/blink/acceptable"]) == (0.0, 1.0)


def test_one_clip_cannot_be_compared(blinks: list[sync.Clip]) -> None:
    found, results = judged(blinks[:1], blinks)
    assert found is None
    assert set(results.values.values()) == {None, 0}  # no clip counts
    assert (
        results.reasons["sync/blink/auc"] == "not applicable: 1 generated clip(s) of this scene; a comparison needs two"
    )


def test_dead_pictures_and_silence_prove_nothing(blinks: list[sync.Clip]) -> None:
    dead = [(np.full_like(frames, 9), np.zeros_like(audio)) for frames, audio in blinks]
    _, results = judged(dead, [])
    assert results.values["sync/blink/auc"] == 0.5
    assert results.values["sync/blink/p_value"] == 1.0
    assert results.values["sync/blink/in_sync"] == 0.0  # what could not be measured is not a success
    assert results.values["sync/blink/n_failed"] == 9
    assert results.values["sync/blink/offset_ms_median"] is None
    assert "in no clip" in results.reasons["sync/blink/offset_ms_median"]


def test_known_scenes_are_calibrated() -> None:
    """Noisy and clean, moved and not: `benchmarks/sync.py` measures more of it."""
    rng = np.random.default_rng(0)
    for scene in ("bounce", "hammer"):
        shots = [render(scene, 300 + seed) for seed in range(5)]
        clips = [(shot.frames, shot.audio) for shot in shots]
        noisy = [
            (np.clip(frames + rng.normal(0, 25, frames.shape), 0, 255).astype(np.uint8),
             audio + rng.normal(0, audio.std(), len(audio)).astype(np.float32))
            for frames, audio in clips
        ]  # fmt: skip
        for some in (clips, noisy):
            measured = np.diag(sync.pairs(some, 24, 16000).calibrated(scene).offset_ms)
            assert abs(np.median(measured)) <= 3
            assert np.median(np.abs(measured - np.median(measured))) <= 3
    plain = sync.pairs(clips[:2], 24, 16000)
    assert np.array_equal(plain.calibrated("holiday").offset_ms, plain.offset_ms)
