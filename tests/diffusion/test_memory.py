"""Estimates for the 11B model, whose real numbers are known, and what they decide."""

import json
from pathlib import Path

import pytest

from ovi.config import Runtime, load
from ovi.diffusion.memory import GIB, choose, need
from ovi.errors import OviError
from ovi.models.codecs import model_config

WEIGHTS = {"transformer": 23_321_506_216, "text_encoder": 11_361_820_672, "video_codec": 1_409_377_336,
           "audio_codec": 1_135_000_000}  # fmt: skip
CONFIG = model_config(load(Path(__file__).parents[2] / "params.yaml", "ovi-11b"))


def test_the_11b_model_in_each_mode():
    """The release needs 80 GB resident, 32 GB with offload, and 24 GB with eight-bit weights (its README)."""
    full, narrow = (need(CONFIG, WEIGHTS, Runtime(weights=weights), 2) for weights in ("stored", "fp8"))
    assert 38 * GIB < full.of("resident") < 60e9
    assert 26 * GIB < full.of("drop_text") < 32 * GIB
    assert 25 * GIB < full.of("offload") < 31 * GIB
    assert 14 * GIB < narrow.of("offload") < 23 * GIB
    assert narrow.denoising == full.denoising


def test_two_clips_need_more_than_one_and_big_pictures_more_than_small():
    one, two = (need(CONFIG, WEIGHTS, Runtime(), 2, batch) for batch in (1, 2))
    assert two.denoising == 2 * one.denoising
    big = json.loads(json.dumps(CONFIG)) | {"picture": CONFIG["picture"] | {"height": 960, "width": 960}}
    assert 1.5 < need(big, WEIGHTS, Runtime(), 2).denoising / one.denoising < 2
    assert need(big, WEIGHTS, Runtime(), 2).decoding > one.decoding


@pytest.mark.parametrize(
    ("gib", "mode"), [(141, "resident"), (79, "resident"), (44, "resident"), (29.8, "drop_text"), (26.5, "offload")]
)
def test_the_most_comfortable_mode_that_fits(gib, mode):
    assert choose(need(CONFIG, WEIGHTS, Runtime(), 2), Runtime(), int(gib * GIB), "the GPU") == mode


def test_what_does_not_fit_says_what_would():
    full = need(CONFIG, WEIGHTS, Runtime(), 2)
    assert choose(full, Runtime(memory="offload"), 80 * GIB, "the GPU") == "offload"
    with pytest.raises(OviError, match=r"\(resident\), the GPU has 32.0 GiB free; set runtime.memory=drop_text"):
        choose(full, Runtime(memory="resident"), 32 * GIB, "the GPU")
    with pytest.raises(OviError, match=r"set runtime\.weights=fp8 and runtime\.memory=offload"):
        choose(full, Runtime(), 22 * GIB, "the GPU")
    with pytest.raises(OviError, match="use a device with more memory or a smaller model"):
        choose(full, Runtime(), 6 * GIB, "the GPU")
