from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ovi.training.batches import Batch, Chances, assemble
from ovi.training.objective import losses
from ovi.training.order import Draws
from tests.training import made


def batch(name: str = "av", modalities: tuple[str, ...] = ("video", "audio")) -> Batch:
    chosen = [made.sample(name, f"{index}", index, 3 * index) for index in range(3)]
    drawn = [Draws(0, "fusion", sample.clip_id, 0) for sample in chosen]
    return assemble(chosen, drawn, modalities, Chances(), torch.zeros(1, 8))


class Oracle:
    """A network that knows the batch and answers its true velocities, plus an error of its own."""

    def __init__(self, known: Batch, error: float = 0.0) -> None:
        self.known, self.error = known, error

    def __call__(
        self, video: Tensor | None, audio: Tensor | None, t: Tensor, text: Tensor, lens: Tensor, **named: Any
    ) -> Any:
        self.video, self.audio, self.t, self.named = video, audio, t, named
        known = self.known
        answer_video = None if video is None else known.video_noise - known.video + self.error
        answer_audio = None if audio is None else known.audio_noise - known.audio + self.error
        return answer_video, answer_audio


def test_the_true_velocity_has_no_loss_and_an_error_its_square() -> None:
    known = batch()
    for error in (0.0, 2.0):
        found = losses(Oracle(known, error), known)
        for name in ("video", "audio"):
            torch.testing.assert_close(found[name], torch.full((3,), error**2), atol=1e-5, rtol=1e-5)


def test_inputs_lie_on_the_straight_path_and_t_counts_to_a_thousand() -> None:
    known = batch()
    known = dataclasses.replace(known, t=torch.tensor([0.0, 1.0, 0.25]))
    oracle = Oracle(known)
    losses(oracle, known)
    torch.testing.assert_close(oracle.video[0], known.video[0])
    torch.testing.assert_close(oracle.audio[1], known.audio_noise[1])
    torch.testing.assert_close(oracle.video[2], 0.75 * known.video[2] + 0.25 * known.video_noise[2])
    assert oracle.t.tolist() == [0.0, 1000.0, 250.0]


def test_each_modality_may_have_its_own_t() -> None:
    known = dataclasses.replace(batch(), t=torch.tensor([0.0, 1.0, 0.25]), audio_t=torch.tensor([1.0, 0.0, 0.5]))
    oracle = Oracle(known)
    losses(oracle, known)
    torch.testing.assert_close(oracle.video[1], known.video_noise[1])
    torch.testing.assert_close(oracle.audio[1], known.audio[1])
    assert oracle.named["audio_t"].tolist() == [1000.0, 0.0, 500.0]


def test_a_given_first_frame_is_clean_and_not_scored() -> None:
    known = dataclasses.replace(batch(), clean=torch.tensor([True, False, True]))
    oracle = Oracle(known)
    answer = oracle.__call__

    def wrong_in_frame_one(*given: Any, **named: Any) -> Any:
        video, audio = answer(*given, **named)
        video[:, :, 0] += 3
        return video, audio

    found = losses(wrong_in_frame_one, known)
    torch.testing.assert_close(oracle.video[0, :, 0], known.video[0, :, 0])
    assert torch.equal(oracle.named["first_frame_clean"], known.clean)
    torch.testing.assert_close(
        found["video"], torch.tensor([0.0, 3.0, 0.0]), atol=1e-5, rtol=1e-5
    )  # 9 in one of 3 frames


def test_padding_of_sounds_is_not_scored() -> None:
    known = batch("pretrain", ("audio",))
    oracle = Oracle(known)
    answer = oracle.__call__

    def wrong_past_the_end(*given: Any, **named: Any) -> Any:
        video, audio = answer(*given, **named)
        for index, length in enumerate(known.audio_lens):
            audio[index, length:] += 5
        return video, audio

    found = losses(wrong_past_the_end, known)
    assert list(found) == ["audio"]
    torch.testing.assert_close(found["audio"], torch.zeros(3), atol=1e-6, rtol=0)
    assert torch.equal(oracle.named["audio_lens"], known.audio_lens)
