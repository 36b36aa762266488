"""The sampling loop against the release's, and what services build on: determinism, batches, cancelling."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovi.config import Runtime, load
from ovi.diffusion import solvers
from ovi.diffusion.guidance import Condition, Guidance, Texts
from ovi.diffusion.request import Request
from ovi.diffusion.sampler import Plan, Sampler, noise
from ovi.errors import OviError
from ovi.models import codecs
from ovi.models.folder import OviModel
from ovi.models.fusion import init
from tests import golden
from tests.models.common import PATCHES, golden_model

SMALL = ["model.dim=24", "model.ffn_dim=32", "model.heads=2", "model.layers=3", "text.dim=32", "clip.frames=25"]
SETTINGS = load(Path(__file__).parents[2] / "params.yaml", sets=[*SMALL, *PATCHES])
PROMPT = "A red lamp blinks in the dark. <AUDCAP>Short high beeps.<ENDAUDCAP>"


@pytest.fixture(scope="module")
def sampler():
    """A small model of random weights whose head says something."""
    draw = np.random.default_rng(0)
    config = codecs.model_config(SETTINGS)
    fusion = init(codecs.build("transformer", config["transformer"]), 0)
    with torch.no_grad():
        for tower in (fusion.video_model, fusion.audio_model):
            tower.head.head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    clips = [draw.integers(0, 255, (9, 32, 32, 3), dtype=np.uint8) for _ in range(3)]
    sounds = [draw.normal(0, 0.1, 16000).astype(np.float32) for _ in range(3)]
    return Sampler(
        OviModel(
            config,
            fusion.eval(),
            codecs.fit_video_codec(SETTINGS, clips),
            codecs.fit_audio_codec(SETTINGS, sounds),
            codecs.new_text_encoder(SETTINGS),
            {},
        )
    )


def last(sampler, *requests):
    *_, step = sampler.run(sampler.plan(requests))
    return step


@pytest.mark.parametrize("path", ["reference", "fast"])
@pytest.mark.parametrize("case", ["e2e_t2v_unipc", "e2e_i2v_euler"])
def test_the_release_s_loop(case, path):
    """Latents entering and leaving every step of the released pipeline, with guidance and a skipped layer."""
    x, config = golden.tensors(case), golden.config(case)
    texts = [Texts.of([x[f"in/text_{name}"]]) for name in ("pos", "video_neg", "audio_neg")]
    given = config["mode"] == "i2v"
    plan = Plan(
        requests=(Request("A dog barks.", solver=config["solver"]),),
        schedule=solvers.schedule(config["solver"], config["sample_steps"], config["shift"]),
        guidance=Guidance(config["video_guidance_scale"], config["audio_guidance_scale"], config["slg_layer"]),
        condition=Condition(*texts, torch.tensor([True]) if given else None),
        video=x["in/video_noise"][None],
        audio=x["in/audio_noise"][None],
        first=x["out/vid_in_per_step"][0][None, :, :1] if given else None,
        truncated=(False,),
    )
    model = OviModel({}, golden_model(), None, None, None, {})
    for step in Sampler(model, Runtime(path=path)).run(plan):
        if step.index < step.total:
            golden.check(case, step.video[0], x["out/vid_in_per_step"][step.index])
            golden.check(case, step.audio[0], x["out/audio_in_per_step"][step.index])
    golden.check(case, step.video, x["out/final_video_latent"])
    golden.check(case, step.audio.transpose(1, 2), x["out/final_audio_latent"])
    assert (step.index, step.sigma) == (config["sample_steps"], 0.0)


def test_a_seed_is_a_clip(sampler):
    request = Request(PROMPT, seed=5, steps=3)
    one, same, other = (last(sampler, r) for r in (request, request, replace(request, seed=6)))
    assert torch.equal(one.video, same.video)
    assert torch.equal(one.audio, same.audio)
    assert not torch.allclose(one.video, other.video, atol=0.1)
    clip, again = sampler.decode(one)[0], sampler.decode(same)[0]
    assert np.array_equal(clip.frames, again.frames)
    assert np.array_equal(clip.audio, again.audio)


def test_clips_have_the_sizes_of_the_settings(sampler):
    clips = sampler.decode(last(sampler, Request(PROMPT, steps=1), Request("Another.", steps=1)))
    assert len(clips) == 2
    for clip in clips:
        assert (clip.frames.shape, clip.frames.dtype) == ((25, 32, 32, 3), np.uint8)
        assert (clip.audio.shape, clip.audio.dtype) == ((SETTINGS.clip.samples,), np.float32)
        assert np.abs(clip.audio).max() <= 1


@pytest.mark.parametrize("options", [{}, {"skip_layer": 1}, {"guidance_video": 1.0, "guidance_audio": 1.0}])
def test_neighbours_in_a_batch_do_not_matter(sampler, options):
    image = np.full((40, 60, 3), 200, np.uint8)
    requests = [
        Request(PROMPT, seed=1, steps=4, **options),
        Request("A dog.", seed=2, steps=4, image=image, negative_audio="noise", **options),
        Request(
            "A very long description of a lamp. " * 4, seed=3, steps=4, negative_video="blur, distortion", **options
        ),
    ]
    together = last(sampler, *requests)
    for i, request in enumerate(requests):
        alone = last(sampler, request)
        torch.testing.assert_close(together.video[i], alone.video[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.audio[i], alone.audio[0], rtol=1e-4, atol=1e-4)


def test_the_prompt_the_negatives_and_the_scales_matter(sampler):
    base = Request(PROMPT, seed=1, steps=2)
    want = last(sampler, base)
    for change in ({"prompt": PROMPT.replace("red", "blue")}, {"guidance_video": 2.0}, {"negative_video": "blur"}):
        got = last(sampler, replace(base, **change))
        assert not torch.equal(got.video, want.video), change
    got = last(sampler, replace(base, negative_audio="hum"))
    assert not torch.equal(got.audio, want.audio)


def test_a_given_image_is_the_first_frame(sampler):
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:24, 8:24] = 255
    steps = list(sampler.run(sampler.plan([Request(PROMPT, steps=3, image=image), Request(PROMPT, steps=3)])))
    codec = sampler.model.video_codec
    first = codec.encode(torch.from_numpy(image).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1)
    for step in steps:
        torch.testing.assert_close(step.video[0, :, :1], first[0])
        assert not torch.allclose(step.video[1, :, :1], first[0], atol=0.1)


def test_noise_is_independent_per_modality():
    video, audio = noise(7, "video", (16, 31, 4, 4)).flatten(), noise(7, "audio", (157, 20)).flatten()
    n = len(audio)
    assert abs(float(torch.corrcoef(torch.stack((video[:n], audio)))[0, 1])) < 0.1
    assert torch.equal(noise(7, "video", (16, 31, 4, 4)).flatten(), video)


def test_the_loop_counts_and_stops_when_closed(sampler):
    plan = sampler.plan([Request(PROMPT, steps=5)])
    loop = sampler.run(plan)
    step = next(loop)
    assert (step.index, step.total) == (1, 5)
    assert torch.is_grad_enabled()  # the loop leaves its caller's mode alone between steps
    loop.close()
    assert list(loop) == []
    assert [step.index for step in sampler.run(plan)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
def test_going_on_from_any_step_is_the_same_run(sampler, solver):
    plan = sampler.plan([Request(PROMPT, steps=6, stride=2, solver=solver)])
    steps = list(sampler.run(plan))
    for kept in steps[:-1]:
        rest = list(sampler.run(plan, after=kept))
        assert [step.index for step in rest] == list(range(kept.index + 1, 7))
        assert torch.equal(rest[-1].video, steps[-1].video)
        assert torch.equal(rest[-1].audio, steps[-1].audio)


def test_the_estimate_comes_to_be_the_clip(sampler):
    steps = list(sampler.run(sampler.plan([Request(PROMPT, steps=8)])))
    errors = [float((step.estimate - steps[-1].video).norm()) for step in steps]
    assert errors[-1] < 1e-3 < errors[4] < errors[0]


def test_lossy_accelerators_ask_less_and_are_named(sampler, monkeypatch):
    asked = []
    model, forward = sampler.model.fusion, sampler.model.fusion.forward
    monkeypatch.setattr(model, "forward", lambda *args, **named: asked.append(1) or forward(*args, **named))
    exact = Request(PROMPT, steps=20)
    last(sampler, exact)
    assert (len(asked), exact.accelerators) == (40, ())
    for changes, passes, names in [
        ({"guidance_until": 0.5}, 30, ("guidance_until=0.5",)),
        ({"stride": 2}, 26, ("stride=2",)),
        ({"stride": 3, "guidance_until": 0.0}, 11, ("guidance_until=0", "stride=3")),
    ]:
        asked.clear()
        request = replace(exact, **changes)
        assert last(sampler, request).video.isfinite().all()
        assert (len(asked), request.accelerators) == (passes, names)


def test_the_release_s_noise_repeats_itself(sampler):
    plan = sampler.plan([Request(PROMPT, seed=3, steps=1, release_noise=True)])
    assert torch.equal(plan.video.flatten()[:400], plan.audio.flatten()[:400])
    want = torch.randn(plan.audio[0].shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(plan.audio[0], want)


def test_half_precision_latents_stay_near(sampler):
    request = Request(PROMPT, steps=10)
    rough = Sampler(sampler.model, Runtime(latents="bf16"))
    want, got = last(sampler, request), last(rough, request)
    assert got.video.dtype == torch.bfloat16
    assert 1e-4 < (got.video.float() - want.video).norm() / want.video.norm() < 0.1


def test_a_size_is_made_one_that_the_model_can_make(sampler):
    for size, used in [((32, 32), (32, 32)), ((700, 705), (32, 32)), ((16, 64), (32, 64)), (None, (32, 32))]:
        plan = sampler.plan([Request(PROMPT, steps=1, size=size)])
        assert plan.size == used
        assert plan.video.shape[-2:] == (used[0] // 16, used[1] // 16)
    with pytest.raises(ValueError, match="one size"):
        sampler.plan([Request(PROMPT, size=(16, 64)), Request(PROMPT)])


def test_numbers_that_are_none_are_refused(sampler):
    step = last(sampler, Request(PROMPT, steps=1))
    with pytest.raises(OviError, match="numbers that are none"):
        sampler.decode(replace(step, video=step.video * float("nan")))


def test_a_long_prompt_is_cut_and_said_so(sampler, caplog):
    plan = sampler.plan([Request("A lamp. " * 40, steps=1), Request(PROMPT, steps=1)])
    assert plan.truncated == (True, False)
    assert "cut to 160" in caplog.text


def test_what_a_plan_refuses(sampler):
    with pytest.raises(OviError, match="skip_layer: 3, but this model has blocks 0 to 2"):
        sampler.plan([Request(PROMPT, skip_layer=3)])
    with pytest.raises(ValueError, match="one batch_key"):
        sampler.plan([Request(PROMPT, steps=2), Request(PROMPT, steps=3)])
    with pytest.raises(ValueError, match="one or more"):
        sampler.plan([])
