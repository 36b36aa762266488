"""The count by formula against torch's own count of the running model, and against the published one of 11B."""

from pathlib import Path

import pytest
import torch

from ovi.config import load
from ovi.models import codecs, flops
from ovi.models.fusion import FusionModel, init
from ovi.models.tower import TowerConfig

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.mark.parametrize(("frames", "side", "length", "text"), [(3, 4, 17, 9), (7, 8, 40, 30)])
def test_formula_and_counter_agree(frames, side, length, text):
    sizes = {"dim": 48, "ffn_dim": 112, "freq_dim": 32, "heads": 2, "layers": 3, "text_dim": 24, "text_len": 30}
    video = TowerConfig("video", (1, 2, 2), 6, 6, **sizes)
    audio = TowerConfig("audio", (1,), 5, 5, **sizes)
    model = init(FusionModel(video, audio), 0)
    with flops.counter() as counter, torch.no_grad():
        model(
            torch.randn(1, 6, frames, side, side), torch.randn(1, length, 5), torch.tensor([500.0]),
            torch.randn(1, text, 24), torch.tensor([text]),
        )  # fmt: skip
    keys = text + (text < video.text_len)  # one key stands for all padded ones
    want = flops.forward(video, audio, flops.Sizes(frames * side * side // 4, length, keys))
    assert counter.get_total_flops() == pytest.approx(want, rel=0.01)


def test_the_11b_model_s_forward():
    """239.8 TFLOP at 704x704x121, of which 3.2 are work on text and time that need not be done in every step."""
    video, audio = codecs.tower_configs(load(PARAMS, "ovi-11b"))
    total = flops.forward(video, audio, flops.Sizes(31 * 22 * 22, 157, 512))
    assert total / 1e12 == pytest.approx(237.8, abs=1.0)
