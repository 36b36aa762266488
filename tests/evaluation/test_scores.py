"""Scores against the golden ones, and what they say where there is nothing to score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovi.errors import OviError
from ovi.evaluation import scores
from ovi.perception.syncnet import FRAME_MS, distances, lip_sync
from tests.golden import evaluation as golden

LOGITS, SEEN = golden.arrays("logits"), golden.arrays("av")
LIPS = golden.arrays("syncnet")


@pytest.mark.parametrize("case", ["c10", "onesplit", "uniform"])
def test_inception_scores_are_the_golden_ones(case: str) -> None:
    logits, splits = LOGITS[f"is.{case}.logits"], int(LOGITS[f"is.{case}.splits"])
    mean, deviation = scores.inception_score(logits, splits)
    assert mean == pytest.approx(float(LOGITS[f"is.{case}.mean_shuffled2020"]), rel=1e-6)
    assert deviation == pytest.approx(float(LOGITS[f"is.{case}.std_shuffled2020"]), rel=1e-6, abs=1e-12)
    in_order = scores.inception_score(logits, splits, shuffled=False)[0]
    assert in_order == pytest.approx(float(LOGITS[f"is.{case}.mean_noshuffle"]), rel=1e-6)


def test_an_inception_score_needs_a_clip_a_split() -> None:
    with pytest.raises(OviError, match="10 splits needs as many clips, there are 9"):
        scores.inception_score(np.zeros((9, 4)))


@pytest.mark.parametrize(
    ("of", "floor", "key", "within"),
    [
        ("softmax", 0.0, "softmax", 1e-6),
        ("softmax", 0.0, "softmax_f32", 1e-4),
        ("softmax", 1e-6, "softmax_audioldm_eps", 1e-4),
        ("sigmoid", 0.0, "sigmoid_avbench", 1e-6),
        ("sigmoid", 1e-6, "sigmoid_audioldm_eps", 1e-4),
        ("bernoulli", 0.0, "sigmoid_full_bernoulli", 1e-6),
    ],
)
def test_divergences_are_the_golden_ones(of: scores.Divergence, floor: float, key: str, within: float) -> None:
    found = scores.divergence(LOGITS["kl.c10.pred_logits"], LOGITS["kl.c10.gt_logits"], of, floor)
    assert found.shape == (20,)
    assert found.mean() == pytest.approx(float(LOGITS[f"kl.c10.{key}"]), rel=within)


def test_a_divergence_of_certainty_is_finite_and_of_itself_zero() -> None:
    sure = np.array([[500.0, -500.0]])
    assert np.isfinite(scores.divergence(-sure, sure, "bernoulli")).all()
    assert scores.divergence(sure, sure) == pytest.approx(0)
    with pytest.raises(OviError, match="pairs of clips"):
        scores.divergence(sure, np.zeros((2, 2)))


def test_cosines_are_the_golden_ones() -> None:
    """Row 3 is zero."""
    found = scores.cosines(LOGITS["clap.audio"], LOGITS["clap.text"])
    np.testing.assert_allclose(found, LOGITS["clap.cos"], rtol=0, atol=1e-6)
    assert found[3] == 0


def test_kernel_distances_are_the_golden_ones() -> None:
    x, y = LOGITS["kid.x"], LOGITS["kid.y"]
    found = scores.kernel_distance(x, y, subsets=20, size=40)
    np.testing.assert_allclose(found, (LOGITS["kid.mean"], LOGITS["kid.std"]), rtol=1e-5)
    whole = scores.kernel_distance(x, y[:60], subsets=1, size=60)[0]  # in any order
    assert whole == pytest.approx(float(LOGITS["kid.full_first60"]), rel=1e-5)
    with pytest.raises(OviError, match="there are 60 and 70"):
        scores.kernel_distance(x, y)


@pytest.mark.parametrize("case", range(6))
def test_av_align_and_its_peaks_are_the_golden_ones(case: int) -> None:
    fps = int(SEEN[f"iou{case}.fps"])
    found = scores.av_align(SEEN[f"iou{case}.audio_peaks"], SEEN[f"iou{case}.video_peaks"], fps)
    assert found == pytest.approx(float(SEEN[f"iou{case}.iou"]), abs=1e-5)
    peaks = scores.local_maxima(SEEN[f"peaks{case}.flow"], fps)
    np.testing.assert_allclose(peaks, SEEN[f"peaks{case}.times"], rtol=0, atol=1e-5)


def test_av_align_without_peaks() -> None:
    assert scores.av_align(np.zeros(0), np.ones(3), 24) == 0  # a silent clip with motion
    with pytest.raises(OviError, match="there is none"):
        scores.av_align(np.zeros(0), np.zeros(0), 24)
    assert not len(scores.local_maxima(np.array([0, 1, 1, 0]), 24))  # a plateau is above one neighbour only


@pytest.mark.parametrize("case", range(3))
def test_javis_scores_are_the_golden_ones(case: int) -> None:
    alike = scores.cosines(SEEN[f"javis{case}.frame_emb"], SEEN[f"javis{case}.audio_emb"])
    np.testing.assert_allclose(alike, SEEN[f"javis{case}.cos"], rtol=0, atol=1e-5)
    assert scores.javis(alike) == pytest.approx(float(SEEN[f"javis{case}.score"]), abs=1e-5)
    assert alike.mean() == pytest.approx(float(SEEN[f"javis{case}.avh_like_mean"]), abs=1e-5)


def test_a_window_of_two_pictures_has_no_javis_score() -> None:
    with pytest.raises(OviError, match="three pictures"):
        scores.javis(np.zeros((4, 2)))


def test_offsets_are_the_golden_ones() -> None:
    found = scores.desync_offsets(SEEN["desync.logits_first_last"])
    np.testing.assert_allclose(found, SEEN["desync.signed"], rtol=0, atol=1e-5)
    assert np.abs(found).mean() == pytest.approx(float(SEEN["desync.score"]), abs=1e-5)
    assert found.mean() == pytest.approx(float(SEEN["desync.signed_mean_as_versebench_AVA"]), abs=1e-5)


def test_steadiness_is_the_golden_one() -> None:
    assert scores.steadiness(SEEN["flicker.frames"]) == pytest.approx(float(SEEN["flicker.score"]), abs=1e-5)
    assert scores.steadiness(SEEN["flicker.frames"][[0, 0]]) == 1
    with pytest.raises(OviError, match="two frames"):
        scores.steadiness(SEEN["flicker.frames"][:1])


def test_dynamic_degree_is_the_golden_one() -> None:
    flows = [SEEN[f"dyn.flow{at}"] for at in range(8)]
    lengths = np.array([scores.fast_motion(flow) for flow in flows])
    np.testing.assert_allclose(lengths, SEEN["dyn.max_rad"], rtol=0, atol=1e-5)
    limit, count = SEEN["dyn.thres_countnum"]
    assert (limit, count) == (6 * 20 / 256, 2)
    assert scores.is_dynamic(flows) == bool(SEEN["dyn.move"])
    still = [np.zeros_like(flow) for flow in flows]
    assert scores.is_dynamic([*flows[:2], *still[:6]])
    assert not scores.is_dynamic([*flows[:1], *still[:7]])
    with pytest.raises(OviError, match="there is none"):
        scores.is_dynamic([])


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("reach", [15, 10])
def test_lip_sync_distance_and_confidence_are_the_golden_ones(case: int, reach: int) -> None:
    """LSE-D and LSE-C are SyncNet's. The published offset is in frames and positive for early sound."""
    lips, speech = (torch.from_numpy(LIPS[f"pd{case}.{side}"]) for side in ("im", "cc"))
    apart = distances(lips, speech, reach)
    np.testing.assert_allclose(apart.mean(0), LIPS[f"pd{case}.v{reach}.mdist"], rtol=0, atol=1e-4)
    offset, distance, confidence = LIPS[f"pd{case}.v{reach}.offset_mind_conf"]
    found = lip_sync(apart)
    assert found.offset_ms == -FRAME_MS * offset
    assert found.distance == pytest.approx(distance, abs=1e-4)
    assert found.confidence == pytest.approx(confidence, abs=1e-4)
