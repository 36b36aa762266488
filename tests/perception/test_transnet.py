"""TransNet V2 against the golden probabilities, and what its windows do not change."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovi.errors import OviError
from ovi.perception import transnet
from ovi.perception.transnet import TransNet, change_probability
from tests.golden import curation as golden

CASE = golden.arrays("transnetv2")
SEED, COUNT = int(CASE["seed"]), int(CASE["T"])


def state() -> dict[str, Tensor]:
    return golden.filled(TransNet().state_dict(), SEED, gain=1.2)


@cache
def network() -> TransNet:
    made = TransNet().eval().requires_grad_(False)
    made.load_state_dict(state(), strict=False)
    return made


@cache
def frames() -> np.ndarray:
    """Two still pictures, one after the other."""
    drawn = np.floor(golden.uniform(SEED, 8000, (COUNT, 27, 48, 3)) * 256).astype(np.uint8)
    return drawn[np.repeat([0, COUNT // 2], COUNT // 2)]


def test_probabilities_are_the_golden_ones() -> None:
    golden.check(network()(torch.from_numpy(frames())[None])[..., None], CASE["out"], rtol=1e-4, atol=1e-5)


def test_pairs_of_clips_do_not_know_of_each_other() -> None:
    both = torch.from_numpy(np.stack([frames()[30:50], frames()[40:60]]))
    torch.testing.assert_close(network()(both), torch.cat([network()(one[None]) for one in both]))


def test_the_file_has_the_released_layout(tmp_path: Path) -> None:
    assert len(TransNet().state_dict()) == 90
    torch.save(state(), tmp_path / "transnet.pth")
    loaded = transnet.load(tmp_path / "transnet.pth").state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state().items())
    torch.save({key: tensor for key, tensor in state().items() if "fc1" not in key}, tmp_path / "part.pth")
    with pytest.raises(OviError, match=r"2 missing \(first fc1.weight\)"):
        transnet.load(tmp_path / "part.pth")


class Elsewhere(nn.Module):
    """Tells, of each picture in a window, the first value of the picture `ahead` of it."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.ahead = nn.Parameter(torch.tensor(float(ahead)))

    def forward(self, frames: Tensor) -> Tensor:
        assert frames.shape == (1, 100, 27, 48, 3)
        return frames[..., 0, 0, 0].float().roll(-int(self.ahead), 1)


@pytest.mark.parametrize("count", [1, 49, 50, 51, 120])
@pytest.mark.parametrize("ahead", [-25, 0, 25])
def test_every_picture_is_judged_once_and_sees_25_on_either_side(count: int, ahead: int) -> None:
    shown = np.zeros((count, 27, 48, 3), np.uint8)
    shown[:, 0, 0, 0] = np.arange(count)
    found = change_probability(Elsewhere(ahead), shown)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, np.clip(np.arange(count) + ahead, 0, count - 1))
