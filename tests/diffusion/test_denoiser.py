"""Three ways to ask the same network: one after the other, in one batch, on two devices."""

import pytest
import torch

from ovi.diffusion.denoiser import Fast, Reference, Split
from ovi.diffusion.guidance import Condition, Guidance, Texts
from ovi.diffusion.solvers import schedule
from ovi.models.fast import FastFusion
from tests import golden
from tests.models.common import golden_model

SCHEDULE = schedule("unipc", 6, 5.0)


def asked():
    """Two clips of which one has its first frame given, and what they are told."""
    x = golden.tensors("e2e_t2v_unipc")
    prompt, for_video, for_audio = (x[f"in/text_{name}"] for name in ("pos", "video_neg", "audio_neg"))
    condition = Condition(
        Texts.of([prompt, prompt[:4]]), Texts.of([for_video] * 2), Texts.of([for_audio[:1], for_audio]),
        torch.tensor([True, False]),
    )  # fmt: skip
    return condition, torch.stack([x["in/video_noise"]] * 2), torch.stack([x["in/audio_noise"]] * 2)


@pytest.fixture(scope="module")
def denoisers():
    model = golden_model()
    return [Reference(model), Fast(FastFusion(model)), Split(FastFusion(model), FastFusion(model))]


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("guidance", [Guidance(4.0, 1.5), Guidance(2.0, 3.0, skip_layer=1), Guidance()])
@torch.no_grad()
def test_all_say_the_same(denoisers, guidance, guided):
    condition, video, audio = asked()
    answers = [one.prepare(condition, guidance, SCHEDULE)(2, video, audio, guided) for one in denoisers]
    for other in answers[1:]:
        torch.testing.assert_close(other[0], answers[0][0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other[1], answers[0][1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_scales_are_the_modalities_own(denoisers):
    condition, video, audio = asked()
    told, kept, guided = (
        denoisers[0].prepare(condition, guidance, SCHEDULE)(0, video, audio, True)
        for guidance in (Guidance(), Guidance(0.0, 0.0), Guidance(4.0, 1.5))
    )
    torch.testing.assert_close(guided[0], kept[0] + 4.0 * (told[0] - kept[0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guided[1], kept[1] + 1.5 * (told[1] - kept[1]), rtol=1e-4, atol=1e-4)
