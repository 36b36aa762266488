"""The fast form of the fusion model says what the reference form says."""

import pytest
import torch

from ovi.models.fast import FastFusion
from tests import golden
from tests.models.common import golden_model, texts

T = [999.0, 500.0, 24.5]


def case():
    x = golden.tensors("e2e_t2v_unipc")
    video = torch.stack([x["in/video_noise"], x["in/video_noise"].flip(1)])
    audio = torch.stack([x["in/audio_noise"], x["in/audio_noise"].flip(0)])
    return video, audio, [x[f"in/text_{name}"] for name in ("pos", "video_neg", "audio_neg")]


def reference(video, audio, t, rows, lens, audio_rows, clean, skip_layer=-1):
    with torch.no_grad():
        return golden_model()(
            video, audio, torch.full((len(video),), t), rows, lens,
            audio_text=audio_rows, first_frame_clean=False if clean is None else clean, skip_layer=skip_layer,
        )  # fmt: skip


@pytest.mark.parametrize("storage", ["stored", "int8", "fp8"])
@pytest.mark.parametrize("clean", [None, torch.tensor([True, False])])
def test_one_pass(clean, storage):
    video, audio, (prompt, _, other) = case()
    rows, lens = texts(prompt, prompt[:4])
    audio_rows, _ = texts(prompt[:3], other)
    model = FastFusion(golden_model(), storage=storage)
    run = model.prepare(T, rows, audio_rows, clean)
    for i, t in enumerate(T):
        want = reference(video, audio, t, rows, lens, audio_rows, clean)
        for got, expected in zip(model(run, i, video, audio), want, strict=True):
            if storage == "stored":
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
            assert (got - expected).norm() / expected.norm() < {"stored": 1e-5, "int8": 0.02, "fp8": 0.1}[storage]


@pytest.mark.parametrize("skip_layer", [-1, 0, 1])
@pytest.mark.parametrize("clean", [None, torch.tensor([True, False])])
def test_two_passes_in_one_batch(clean, skip_layer):
    video, audio, (prompt, for_video, for_audio) = case()
    told, lens = texts(prompt, prompt[:4])
    kept, kept_lens = texts(for_video, for_video[:2])
    rows, _ = texts(prompt, prompt[:4], for_video, for_video[:2])
    audio_rows, _ = texts(prompt, prompt[:4], for_audio, for_audio)
    model = FastFusion(golden_model())
    run = model.prepare(T, rows, audio_rows, None if clean is None else torch.cat((clean, clean)), copies=2)
    got = [x.chunk(2) for x in model(run, 1, video, audio, skip_layer)]
    positive = reference(video, audio, T[1], told, lens, told, clean)
    negative = reference(video, audio, T[1], kept, kept_lens, torch.stack([for_audio] * 2), clean, skip_layer)
    for modality in (0, 1):
        torch.testing.assert_close(got[modality][0], positive[modality], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[modality][1], negative[modality], rtol=1e-4, atol=1e-5)


def test_a_pair_is_one_graph():
    """What torch.compile is given has no breaks: traced without a code generator, it says the same."""
    video, audio, (prompt, *_) = case()
    rows, _ = texts(prompt, prompt)
    model = FastFusion(golden_model())
    run = model.prepare(T, rows, rows)
    want = model(run, 0, video, audio)
    for pair in model.pairs:
        pair.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    for got, expected in zip(model(run, 0, video, audio), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_need_no_folding_are_shared():
    model = golden_model()
    fast = FastFusion(model)
    assert fast.pairs[0].video.look_out.weight.data_ptr() == model.video_model.blocks[0].self_attn.o.weight.data_ptr()
    assert fast.video.head.head.weight.data_ptr() == model.video_model.head.head.weight.data_ptr()
