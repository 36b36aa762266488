"""The paper's ablations as settings: encoded, trained, written into a model folder and sampled from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from ovi.config import Runtime
from ovi.diffusion.request import Request
from ovi.diffusion.sampler import Sampler, Step
from ovi.models.codecs import rope_scale
from ovi.models.folder import ModelFolder
from ovi.progress import Silent
from ovi.training import loop
from ovi.training.encode import encode
from ovi.training.engine import Place
from ovi.training.job import Job
from ovi.training.latents import LatentSet
from ovi.training.rank import Mute
from tests.training import made

SETTINGS = (
    "codec.video_patch=[8,8]", "codec.video_channels=8", "text.max_tokens=48", "curation.side_multiple=16",
    "curation.target_pixels=256", "training.audio_pretrain.pack=true",
)  # fmt: skip
FIRST, SECOND = "A square. <AUDCAP>Beeps.<ENDAUDCAP>", "A square. <AUDCAP>Long low tones.<ENDAUDCAP>"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.clips(tmp_path_factory.mktemp("clips"), count=8, frames=121)


def trained(clips: Path, out: Path, *sets: str) -> Path:
    """The fusion model's folder after two steps of each stage with these settings."""
    settings = made.settings(*SETTINGS, *sets, steps=2)
    encode(settings, clips, out / "models" / "codec", out / "latents", Silent())
    for stage in made.STAGES:
        job = Job.make(stage, settings, out / "latents", out / "models", out / "checkpoints")
        loop.train(job, Place(), Silent(), Mute(), lambda: False)
    return out / "models" / "fusion"


def sampled(model: Path, prompt: str, path: str = "reference", video_noise: float = 0.0) -> Step:
    sampler = Sampler.open(model, Runtime(path=path, precision="fp32"))
    plan = sampler.plan([Request(prompt, steps=2, guidance_video=2.0, guidance_audio=2.0, negative_audio="hum")])
    *_, last = sampler.run(dataclasses.replace(plan, video=plan.video + video_noise))
    return last


@pytest.fixture(scope="module")
def ablated(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablated")
    return trained(clips, out, "text.prompt=separate", "training.fusion.fusion=false", "model.rope_scaling=false")


@pytest.fixture(scope="module")
def plain(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(clips, tmp_path_factory.mktemp("plain"))


def test_separate_prompts_reach_each_tower(ablated: Path) -> None:
    """Two prompts' sounds alone differ: pictures hear of that through the audio tower only, which is cut off here."""
    assert LatentSet.open(ablated.parents[1] / "latents", "av", "train").shapes[0]["text"][0] == 2
    config = ModelFolder.open(ablated).config
    assert config["text_encoder"]["kind"] == "separate"
    assert config["transformer"]["audio"]["sound_dim"] == 8
    first, second, fast = sampled(ablated, FIRST), sampled(ablated, SECOND), sampled(ablated, FIRST, "fast")
    assert torch.equal(first.video, second.video)
    assert not torch.equal(first.audio, second.audio)
    torch.testing.assert_close(fast.audio, first.audio, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast.video, first.video, atol=1e-4, rtol=1e-4)


def test_a_combined_prompt_is_one_for_both(plain: Path) -> None:
    assert len(LatentSet.open(plain.parents[1] / "latents", "av", "train").shapes[0]["text"]) == 2
    assert not torch.equal(sampled(plain, FIRST).video, sampled(plain, SECOND).video)


@pytest.mark.parametrize("path", ["reference", "fast"])
def test_towers_hear_each_other_or_not(plain: Path, ablated: Path, path: str) -> None:
    """Other noise for the pictures changes the sound where they do."""
    for model, hears in ((plain, True), (ablated, False)):
        sound, other = (sampled(model, FIRST, path, noise).audio for noise in (0.0, 0.5))
        assert torch.equal(sound, other) != hears


def test_rope_scaling_is_in_the_folder(plain: Path, ablated: Path) -> None:
    scales = [ModelFolder.open(model).config["transformer"]["audio"]["rope_scale"] for model in (plain, ablated)]
    assert scales == [rope_scale(made.settings()), 1.0]
