"""Rotary positions against golden tables and rotations."""

import torch

from ovi.models.rope import audio_table, rotate, video_table, widths
from tests import golden

CPU = torch.device("cpu")


def test_a_head_of_128_splits_as_released():
    assert widths(128) == (44, 42, 42)


def test_video_ladders_are_the_golden_ones():
    case = golden.tensors("rope_head128")
    table = video_table(8, 8, 8, 128, CPU).unflatten(0, (8, 8, 8))
    for part, rows in ((slice(0, 22), table[:, 0, 0]), (slice(22, 43), table[0, :, 0]), (slice(43, 64), table[0, 0])):
        golden.check("rope_head128", rows[:, part, 0], case["out/video_freqs_first64_re"][:8, part])
        golden.check("rope_head128", rows[:, part, 1], case["out/video_freqs_first64_im"][:8, part])


def test_audio_turns_only_the_temporal_pairs():
    case = golden.tensors("rope_head128")
    table = audio_table(320, 128, 0.19676, CPU)
    golden.check("rope_head128", table[:, :22, 0], case["out/audio_freqs_first320_re"])
    golden.check("rope_head128", table[:, :22, 1], case["out/audio_freqs_first320_im"])
    assert torch.equal(table[:, 22:, 0], torch.ones(320, 42))
    assert torch.equal(table[:, 22:, 1], torch.zeros(320, 42))


def test_rotation():
    case, config = golden.tensors("rope_head128"), golden.config("rope_head128")
    for row, grid in enumerate(config["video_grids"]):
        table = video_table(*grid, 128, CPU)
        tokens = (slice(row, row + 1), slice(0, len(table)))
        golden.check("rope_head128", rotate(case["in/q_video"][tokens], table), case["out/q_video_rot"][tokens])
    for row, (length,) in enumerate(config["audio_grids"]):
        tokens = (slice(row, row + 1), slice(0, length))
        table = audio_table(length, 128, config["audio_scale"], CPU)
        golden.check("rope_head128", rotate(case["in/q_audio"][tokens], table), case["out/q_audio_rot"][tokens])


def test_an_audio_latent_turns_like_the_video_latent_of_its_moment():
    """Paper Figure 2: with the scale 1/5 every fifth audio position meets a video frame."""
    video = video_table(7, 1, 1, 24, CPU)[:, :4]
    audio = audio_table(31, 24, 0.2, CPU)[::5, :4]
    torch.testing.assert_close(audio, video)


def test_a_table_made_while_sampling_can_train():
    with torch.inference_mode():
        table = audio_table(13, 24, 0.5, CPU)
    x = torch.randn(1, 13, 1, 24, requires_grad=True)
    rotate(x, table).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x)  # a rotation keeps lengths
