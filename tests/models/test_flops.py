"""The count by formula against torch's own count of the running model, and against the published one of 11B."""

import re
from pathlib import Path

import pytest
import torch

from ovi.config import load
from ovi.models import codecs, flops
from ovi.models.fusion import FusionModel, init
from ovi.models.tower import TowerConfig
from ovi.training.recipes import ALL, ATTENTION

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


SIZES = {"dim": 48, "ffn_dim": 112, "freq_dim": 32, "heads": 2, "layers": 3, "text_dim": 24, "text_len": 30}
VIDEO, AUDIO = TowerConfig("video", (1, 2, 2), 6, 6, **SIZES), TowerConfig("audio", (1,), 5, 5, **SIZES)


@pytest.mark.parametrize(
    ("towers", "pattern"),
    [
        (("video", "audio"), ATTENTION),
        (("video", "audio"), ALL),
        (("video",), ALL),
        (("audio",), ALL),
        (("video", "audio"), r".*\.1\.ffn\..*"),
        (("video", "audio"), r"audio_model\.blocks\.2\.cross_attn\.[kv]_fusion\..*"),
    ],
)
def test_a_step_s_gradients_are_counted_as_torch_computes_them(towers, pattern):
    """Forward and backward, whatever is frozen; the counter counts the scores that the attention kernels repeat."""
    model = init(FusionModel(VIDEO, AUDIO), 0)
    for name, weight in model.named_parameters():
        weight.requires_grad_(re.fullmatch(pattern, name) is not None)
    with flops.counter() as counter:
        made = model(
            torch.randn(1, 6, 3, 8, 8) if "video" in towers else None,
            torch.randn(1, 40, 5) if "audio" in towers else None,
            torch.tensor([500.0]), torch.randn(1, 20, 24), torch.tensor([20]),
        )  # fmt: skip
        forward = counter.get_total_flops()
        sum(part.sum() for part in made if part is not None).backward()
    work = flops.training(
        VIDEO if "video" in towers else None,
        AUDIO if "audio" in towers else None,
        flops.Sizes(48, 40, 21),
        lambda name: re.fullmatch(pattern, name) is not None,
    )
    assert work.forward == pytest.approx(forward, rel=0.01)
    assert work.backward + work.repeated == pytest.approx(counter.get_total_flops() - forward, rel=0.01)


def test_blocks_that_are_computed_twice_are_counted_twice():
    model = init(FusionModel(VIDEO, AUDIO), 0)
    model.video_model.recompute = 2
    with flops.counter() as counter:
        made, _ = model(
            torch.randn(1, 6, 3, 8, 8), None, torch.tensor([500.0]), torch.randn(1, 20, 24), torch.tensor([20])
        )
        made.sum().backward()
    work = flops.training(VIDEO, None, flops.Sizes(48, 0, 21), lambda name: True, recompute=2)
    assert work.forward + work.backward + work.repeated == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_two_counts_of_a_forward_pass_agree():
    sizes = flops.Sizes(48, 40, 21)
    assert flops.training(VIDEO, AUDIO, sizes, lambda name: False).forward == flops.forward(VIDEO, AUDIO, sizes)


def test_the_11b_model_s_training():
    """634.8 TFLOP a sample when all but attention is frozen (240 forward, 395 backward)."""
    towers = codecs.tower_configs(load(PARAMS, "ovi-11b"))
    work = flops.training(
        *towers, flops.Sizes(31 * 22 * 22, 157, 512), lambda name: bool(re.fullmatch(ATTENTION, name))
    )
    assert work.forward / 1e12 == pytest.approx(237.8, abs=1.0)
    assert work.backward / 1e12 == pytest.approx(395.0, abs=3.0)


def test_the_11b_model_s_forward():
    """239.8 TFLOP at 704x704x121, of which 3.2 are work on text and time that need not be done in every step."""
    video, audio = codecs.tower_configs(load(PARAMS, "ovi-11b"))
    total = flops.forward(video, audio, flops.Sizes(31 * 22 * 22, 157, 512))
    assert total / 1e12 == pytest.approx(237.8, abs=1.0)
