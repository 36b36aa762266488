"""Figures 2 to 4: the ridge of the paper's own sizes, attention against a known source, and pictures that open."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ovi import storage
from ovi.diffusion.sampler import Sampler
from ovi.errors import ConfigError, OviError
from ovi.evaluation import affinity, gaze, paper_figures, plots
from ovi.evaluation.plots import WinRate
from ovi.evaluation.results import Results
from ovi.progress import Silent
from ovi.synthetic.scenes import render
from tests.evaluation import made


def opened(png: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.std() > 10
    return picture


def test_scaling_makes_the_ridge_a_diagonal() -> None:
    """157 sound latents, 31 latent frames, heads of 128, as in the paper."""
    scaled, unscaled = (affinity.matrix(157, 31, 128, scale) for scale in (31 / 157, 1.0))
    assert affinity.ridge_correlation(scaled) >= 0.999
    assert abs(affinity.ridge_correlation(unscaled)) <= 0.2
    place = np.arange(157) * 31 / 157
    assert np.abs(affinity.ridge(scaled) - place).max() < 1
    assert np.abs(affinity.ridge(unscaled) - place).mean() > 8
    assert affinity.matrix(5, 5, 128, 1.0)[2, 2] == pytest.approx(1)
    opened(plots.affinities({"with": (scaled, 0.9995), "without": (unscaled, -0.1)}))


def test_attention_is_measured_against_the_source() -> None:
    shot = render("bounce", 1, size=(64, 64))
    frames, cells = 31, (8, 8)
    even = gaze.measured(shot, np.full((frames, *cells), 1 / 64))
    assert even.ratio == pytest.approx(1)
    assert even.area == pytest.approx(0.15, abs=0.03)  # the square about a ball of a fifth of the side
    assert even.auc == 0.5
    on_it = np.stack([gaze._box(shot, frame, frames, cells) for frame in range(frames)])
    there, elsewhere = (gaze.measured(shot, heat / heat.sum(axis=(1, 2), keepdims=True)) for heat in (on_it, 1 - on_it))
    assert there.ratio > 3.5
    assert there.auc > 0.95
    assert elsewhere.ratio < 0.7
    assert elsewhere.auc == pytest.approx(1 - there.auc)


def test_each_frame_is_seen_by_the_sound_of_its_own_time() -> None:
    weights = np.zeros((10, 5 * 4))  # ten sound latents, five frames of two by two cells
    for latent in range(10):
        weights[latent, latent // 2 * 4 + 3] = 1  # the last cell of its own frame
    heat = gaze._under(weights, [5, 2, 2])
    assert (heat[:, 1, 1] == 1).all()


def test_figures_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_figures, "CLIPS", 3)
    monkeypatch.setattr(paper_figures, "SCENES", ("blink", "bounce"))
    chosen = made.settings(tmp_path, "codec.video_patch=[4,4]")  # four by four tokens a frame
    made.model(tmp_path / "model", chosen)
    study = {"questions": {name: {"pairs": [
        {"first": "ovi", "second": "other", "rate": 0.7, "interval": [0.6, 0.8]},
        {"first": "ovi", "second": "third", "rate": None, "interval": None},
    ]} for name in ("audio", "video")}}  # fmt: skip
    study |= {
        "metrics": {"study/audio/ovi_over_other/rate": 0.7, "study/audio/ovi_over_third/rate": None},
        "reasons": {"study/audio/ovi_over_third/rate": "nobody was asked"},
    }
    storage.write_json(tmp_path / "study.json", study)
    sampler = Sampler.open(tmp_path / "model", chosen.runtime)
    results = Results()
    drawn = paper_figures.draw(sampler, chosen, tmp_path / "study.json", results, Silent())
    assert set(drawn) == {"rope_affinity", "attention", "win_rates"}
    assert results.values["study/audio/ovi_over_other/rate"] == 0.7
    assert results.reasons["study/audio/ovi_over_third/rate"] == "nobody was asked"
    for png in drawn.values():
        opened(png)
    for scene in ("blink", "bounce"):
        assert results.values[f"figures/attention/{scene}/ratio"] == pytest.approx(1, abs=0.5)  # untrained
        assert results.values[f"figures/attention/{scene}/auc"] == pytest.approx(0.5, abs=0.2)
        inside = f"figures/attention/{scene}/inside"
        assert (
            0 < results.values[f"{inside}/ci_low"] <= results.values[inside] <= results.values[f"{inside}/ci_high"] < 1
        )
        assert results.values[f"{inside}/n"] == 3
    assert results.values["figures/rope/scaled/ridge_correlation"] > 0.99
    elsewhere = made.settings(tmp_path, "evaluation.attention_layers=[7]")
    with pytest.raises(ConfigError, match=r"attention_layers: \[7\]"):
        paper_figures._attention(sampler, elsewhere, Results(), Silent())
    coarse = made.settings(tmp_path)
    made.model(tmp_path / "coarse", coarse)
    drawn = paper_figures.draw(Sampler.open(tmp_path / "coarse", chosen.runtime), coarse, None, results, Silent())
    assert set(drawn) == {"rope_affinity"}
    assert results.reasons["figures/attention/blink/ratio"] == "not applicable: a frame is 1 token(s)"
    assert results.values["figures/attention/blink/ratio/n"] == 0
    one, again = (gaze.look(sampler, chosen, "blink", 0, 1, [0]) for _ in range(2))
    assert one.heat.sum(axis=(1, 2)) == pytest.approx(1)
    assert np.array_equal(one.heat, again.heat)
    other_layer, earlier = (
        gaze.look(sampler, chosen, "blink", 0, 1, [1]),
        gaze.look(sampler, chosen, "blink", 0, 0, [0]),
    )
    assert not np.allclose(one.heat, other_layer.heat)
    assert not np.allclose(one.heat, earlier.heat)
    with pytest.raises(ConfigError, match=r"attention_layers: \[2\]; the model has layers 0 to 1"):
        gaze.look(sampler, chosen, "blink", 0, 1, [2])
    (tmp_path / "study.json").write_text(json.dumps({"questions": []}))
    with pytest.raises(OviError, match="not the analysis of a study"):
        paper_figures.draw(sampler, chosen, tmp_path / "study.json", results, Silent())


def test_bars_of_win_rates_show_their_rates() -> None:
    rows = [WinRate("ovi over a", "sync", 0.9, 0.8, 0.95), WinRate("ovi over b", "sync", 0.2, 0.1, 0.3)]
    tall = (opened(plots.win_rates(rows))[..., 0] > 150).sum()
    low = (opened(plots.win_rates([replace(row, rate=0.1, low=0.05, high=0.2) for row in rows]))[..., 0] > 150).sum()
    assert tall != low
    assert plots.win_rates(rows) == plots.win_rates(rows)
