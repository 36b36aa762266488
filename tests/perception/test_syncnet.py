"""SyncNet against the golden network and offsets; the sign, the ends and the ties with points made for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ovi.errors import OviError
from ovi.perception import syncnet
from ovi.perception.mfcc import mfcc
from ovi.perception.syncnet import LipSync, SyncNet, distances, embed, lip_sync
from tests.golden import curation as golden

CASE = golden.arrays("syncnet")
SEED = int(CASE["seed"])


def state() -> dict[str, Tensor]:
    return golden.filled(SyncNet().state_dict(), SEED, float(CASE["gain"]))


@cache
def network() -> SyncNet:
    made = SyncNet().eval().requires_grad_(False)
    made.load_state_dict(state(), strict=False)
    return made


@cache
def clip(frames: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    faces = rng.integers(0, 256, (frames, 224, 224, 3), dtype=np.uint8)
    return faces, rng.integers(-5000, 5000, frames * 640).astype(np.int16)


def test_the_file_has_the_released_layout(tmp_path: Path) -> None:
    """102 tensors; old files lack batch norm's counters."""
    assert len(SyncNet().state_dict()) == 102
    assert sum(weight.numel() for weight in SyncNet().parameters()) == 13_631_616
    torch.save(state(), tmp_path / "syncnet_v2.model")
    loaded = syncnet.load(tmp_path / "syncnet_v2.model").state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state().items())


def test_a_file_of_another_network(tmp_path: Path) -> None:
    torch.save({f"module.{key}": tensor for key, tensor in state().items()}, tmp_path / "other.model")
    with pytest.raises(OviError, match=r"not the weights of SyncNet: 88 missing \(first netcnnaud\.0\.weight"):
        syncnet.load(tmp_path / "other.model")


def test_points_are_the_golden_ones() -> None:
    lips = golden.symmetric(SEED, 1000, (int(CASE["n_lip"]), 3, 5, 224, 224), 1) * np.float32(127.5) + np.float32(127.5)
    rows = golden.symmetric(SEED, 1001, (int(CASE["n_aud"]), 1, 13, 20), 20)
    shown, heard = torch.from_numpy(np.floor(lips)), torch.from_numpy(rows)
    golden.check(network().lips(shown)[:, 0], CASE["lip_out"], rtol=1e-4, atol=1e-4)
    golden.check(network().netcnnlip(shown).flatten(1), CASE["lip_feat"], rtol=1e-4, atol=1e-4)
    golden.check(network().netcnnlip[:4](shown[:1])[:, :, 0, ::6, ::6], CASE["lip_stage1"], rtol=1e-4, atol=1e-4)
    golden.check(network().speech(heard), CASE["aud_out"], rtol=1e-4, atol=1e-4)
    golden.check(network().netcnnaud(heard), CASE["aud_cnn"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", range(6))
def test_offsets_are_the_golden_ones_under_our_sign(case: int) -> None:
    arrays = {name.removeprefix(f"c{case}_"): value for name, value in golden.arrays("syncnet_offset").items()}
    apart = distances(torch.from_numpy(arrays["im"]), torch.from_numpy(arrays["cc"]), int(arrays["vshift"]))
    found = lip_sync(apart)
    np.testing.assert_allclose(apart.mean(0), arrays["mdist"], rtol=1e-5)
    assert found.offset_ms == -40 * arrays["offset"]
    assert found.distance == pytest.approx(float(arrays["min_dist"]), rel=1e-5)
    assert found.confidence == pytest.approx(float(arrays["conf"]), rel=1e-5)
    if abs(arrays["offset"]) < arrays["vshift"]:  # otherwise it is the ends that were found
        assert found.offset_ms == found.masked_offset_ms == 40 * arrays["delay_frames"]


def test_a_clip_s_points_are_those_of_its_windows() -> None:
    """In any batches, from RGB pictures, with the sound rows that begin with the first picture."""
    faces, audio = clip()
    lips, speech = embed(network(), faces, audio)
    assert lips.shape == speech.shape == (4, 1024)  # the last window of five pictures is not used
    rows = torch.from_numpy(mfcc(audio)).float()
    for at in range(4):
        bgr = torch.from_numpy(faces[at : at + 5, ..., ::-1].copy()).permute(3, 0, 1, 2)[None].float()
        heard = rows[4 * at : 4 * at + 20].T[None, None]
        golden.check(lips[at], network().lips(bgr)[0, 0].numpy(), rtol=1e-4, atol=1e-4)
        golden.check(speech[at], network().speech(heard)[0].numpy(), rtol=1e-4, atol=1e-4)


def test_the_batch_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embed(network(), *clip())
    monkeypatch.setattr(syncnet, "BATCH", 3)
    for one, other in zip(whole, embed(network(), *clip()), strict=True):
        golden.check(one, other.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("frames", "samples"), [(5, 5 * 640), (9, 6 * 640 - 1), (0, 0)])
def test_too_short_a_clip(frames: int, samples: int) -> None:
    faces, audio = clip()
    with pytest.raises(OviError, match="lip sync needs 6 pictures"):
        embed(network(), faces[:frames], audio[:samples])


def points(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("late", [-15, -4, 0, 1, 15])
def test_late_sound_is_positive(late: int) -> None:
    """Sound window i holds what the picture showed `late` windows before."""
    lips = points(60)
    speech = points(60, 1)
    for at in range(60):
        if 0 <= at - late < 60:
            speech[at] = lips[at - late]
    found = lip_sync(distances(lips, speech))
    assert found.offset_ms == found.masked_offset_ms == 40 * late
    assert found.masked_confidence > 3


def test_the_ends_attract_the_offset_but_not_the_masked_one() -> None:
    """Points far from zero and from each other, yet best in step: the zeros beyond the ends are nearer still."""
    lips = 10 * points(40)
    found = lip_sync(distances(lips, lips + 20 * points(40, 2)))
    assert abs(found.offset_ms) == 600
    assert found.masked_offset_ms == 0


def test_of_equal_minima_the_earliest_sound_counts_and_nothing_is_certain() -> None:
    tie = torch.full((50, 31), 3.0)
    assert lip_sync(tie) == LipSync(-600.0, 0.0, 3.0, -600.0, 0.0)
    tie[:, 10] = tie[:, 20] = 1.0
    found = lip_sync(tie)
    assert (found.offset_ms, found.confidence, found.distance) == (-200.0, 2.0, 1.0)


def test_a_clip_shorter_than_the_reach_masks_offsets_that_nobody_heard() -> None:
    lips = points(4)
    found = lip_sync(distances(lips, torch.cat((points(1, 1), lips[:3]))))
    assert found.masked_offset_ms == 40
    assert np.isfinite(found.masked_confidence)
