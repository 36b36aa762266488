"""Recorded attention is what the layers do, in both forms of the model."""

import torch

from ovi.models.attention_maps import recording
from ovi.models.fast import FastFusion
from tests import golden
from tests.models.common import golden_model, texts


def recorded(model, layers=None):
    x = golden.tensors("e2e_t2v_unipc")
    rows, lens = texts(x["in/text_pos"], x["in/text_video_neg"])
    video, audio = torch.stack([x["in/video_noise"]] * 2), torch.stack([x["in/audio_noise"]] * 2)
    with torch.no_grad(), recording(model, layers) as maps:
        if isinstance(model, FastFusion):
            model(model.prepare([700.0], rows, rows), 0, video, audio)
        else:
            model(video, audio, torch.full((2,), 700.0), rows, lens)
    return maps


def test_rows_are_distributions_over_the_other_tower():
    maps = recorded(golden_model())
    for name, shape in (("audio_to_video", (16, 18)), ("video_to_audio", (18, 16))):
        weights = maps.mean(name)
        assert weights.shape == shape
        assert maps.counts[name] == 2
        torch.testing.assert_close(weights.sum(1), torch.ones(shape[0]))
        assert weights.min() >= 0


def test_both_forms_are_watched_alike_and_layers_can_be_chosen():
    fast = FastFusion(golden_model())
    one, other = recorded(golden_model(), [1]), recorded(fast, [1])
    assert one.counts == other.counts == {"video_to_audio": 1, "audio_to_video": 1}
    for name in one.sums:
        torch.testing.assert_close(one.mean(name), other.mean(name), rtol=1e-4, atol=1e-6)
    both = recorded(fast)
    assert not torch.allclose(both.mean("audio_to_video"), one.mean("audio_to_video"), atol=1e-4)


def test_nobody_watches_afterwards():
    maps = recorded(golden_model())
    counts = dict(maps.counts)
    recorded(golden_model())
    assert maps.counts == counts
