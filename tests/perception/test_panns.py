"""Cnn14 against the golden features and logits, the released layout, and files that are not its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovi.errors import OviError
from ovi.perception import panns
from ovi.perception.mel import log_mel
from ovi.perception.panns import Cnn14, describe
from tests.golden import evaluation as golden

CASE = golden.arrays("cnn14")


@cache
def network() -> Cnn14:
    made = Cnn14().eval().requires_grad_(False)
    state = {key: tensor for key, tensor in made.state_dict().items() if "logmel" not in key}
    made.load_state_dict(golden.filled(state, "cnn14"), strict=False)
    return made


def test_the_layout_is_the_released_one() -> None:
    released = {key: shape for key, shape in golden.layout("cnn14").items() if not key.startswith(panns.FRONT_END)}
    assert {key: list(tensor.shape) for key, tensor in network().state_dict().items()} == released


def test_the_front_end_is_the_golden_one() -> None:
    bank = network().logmel_extractor["melW"]
    np.testing.assert_allclose(bank, CASE["melW"], rtol=0, atol=1e-8)
    heard = log_mel(torch.from_numpy(CASE["wav"]), bank.T, panns.HOP).numpy()
    np.testing.assert_allclose(heard, CASE["logmel"], rtol=0, atol=0.2)  # dB
    loud = CASE["logmel"] > -60  # elsewhere there is little but rounding
    np.testing.assert_allclose(heard[loud], CASE["logmel"][loud], rtol=0, atol=0.01)


def test_features_and_logits_are_the_golden_ones() -> None:
    features, logits = describe(network(), list(CASE["wav"]))
    assert golden.relative_error(features, CASE["embedding"]) < 1e-4
    assert golden.relative_error(logits, CASE["logits"]) < 1e-4
    assert golden.relative_error(torch.from_numpy(logits).sigmoid(), CASE["clipwise"]) < 1e-4


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panns, "CHANNELS", (2, 2, 2, 3, 3, 4))
    monkeypatch.setattr(panns, "FEATURES", 5)


@pytest.mark.usefixtures("small")
def test_clips_of_any_lengths_do_not_know_of_each_other() -> None:
    made, rng = Cnn14().eval(), np.random.default_rng(0)
    clips = [rng.normal(size=size).astype(np.float32) for size in (4960, 9999, 16_000)]
    together = describe(made, clips)
    for at, clip in enumerate(clips):
        for one, other in zip(describe(made, [clip]), together, strict=True):
            np.testing.assert_array_equal(one[0], other[at])
    assert [found.shape for found in describe(made, [])] == [(0, 5), (0, 527)]
    with pytest.raises(OviError, match=r"sound of 0\.31 s is too short"):
        describe(made, [clips[0][1:]])


def released(**more: Any) -> dict[str, Any]:
    """A file as it is released: front end included, inside of what training wrote."""
    front = {f"{panns.FRONT_END}stft.conv_{part}.weight": torch.zeros(257, 1, 512) for part in ("real", "imag")}
    return {"iteration": 3, "model": {**Cnn14().state_dict(), **front, **more}}


@pytest.mark.usefixtures("small")
def test_a_released_file_is_read(tmp_path: Path) -> None:
    file = released()
    torch.save(file, tmp_path / "cnn14.pth")
    loaded = panns.load(tmp_path / "cnn14.pth").state_dict()
    assert all(torch.equal(loaded[key], file["model"][key]) for key in loaded)


@pytest.mark.usefixtures("small")
def test_the_network_for_another_rate_is_refused(tmp_path: Path) -> None:
    """All its other tensors have the same shapes."""
    torch.save(released(**{"logmel_extractor.melW": torch.zeros(513, 64)}), tmp_path / "cnn14.pth")
    with pytest.raises(OviError, match=r"1 of another shape \(first logmel_extractor\.melW\)"):
        panns.load(tmp_path / "cnn14.pth")
