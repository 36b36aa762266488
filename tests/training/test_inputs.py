"""What a training reads: the same samples, noises, levels and captions however the work is spread."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from torch import Tensor

from ovi.models.rows import NOBODY
from ovi.training import loop
from ovi.training.batches import Batch
from ovi.training.engine import Place
from ovi.training.job import Job
from ovi.training.loader import Loader
from ovi.training.rank import Mute
from tests.training import made

BATCH, BATCHES = 8, 5
PACKED = "training.audio_pretrain.pack=true"  # sounds of 6 to 18 latents
Row = tuple[object, ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    made.latents(folder / "latents", {"av": {"train": 21, "val": 2}, "pretrain": {"train": 13, "val": 2}})
    return folder


def rows(batch: Batch) -> list[Row]:
    """Everything chance and the data decide about each sample, padding left out."""
    found = []
    for index in range(len(batch.t)):
        bits = tuple(None if x is None else x.numpy().tobytes() for x in parts(batch, index))
        found.append((float(batch.t[index]), bool(batch.clean[index]), *bits))
    return found


def parts(batch: Batch, index: int) -> list[Tensor | None]:
    """Pictures, sounds, their noises and the text of one sample."""
    pictures = [None if x is None else x[index] for x in (batch.video, batch.video_noise)]
    if batch.rows is not None:
        mine, told = batch.rows.sample == index, (batch.rows.text == index) & (batch.rows.real == NOBODY)
        return [*pictures, batch.audio[0, mine], batch.audio_noise[0, mine], batch.text[0, told]]
    length = None if batch.audio_lens is None else int(batch.audio_lens[index])
    sounds = [None if x is None else x[index, :length] for x in (batch.audio, batch.audio_noise)]
    return [*pictures, *sounds, batch.text[index, : int(batch.text_lens[index])]]


def inputs(folder: Path, stage: str, ranks: int, accumulate: int, workers: int, *more: str) -> list[set[Row]]:
    """Of each batch, what all ranks together compute on."""
    sets = (
        f"training.{stage}.accumulate={accumulate}", f"training.loader_workers={workers}", "training.zero_stage=2",
        f"training.{stage}.caption_dropout=0.3", *more,
        *([f"training.{stage}.first_frame_share=0.3"] * ("video" in stage)),
    )  # fmt: skip
    settings = made.settings(*sets, batch=BATCH)
    job = Job.make(stage, settings, folder / "latents", folder / "models", folder / f"c{ranks}{accumulate}{workers}")
    training = loop._Training(job, Place(), Mute(), Mute(), lambda: False)  # type: ignore[arg-type]
    seen: list[set[Row]] = []
    for number in range(BATCHES):
        found: list[Row] = []
        for rank in range(ranks):
            training.engine.rank, training.engine.ranks = rank, ranks
            training.loader = Loader(training._parts, workers)
            batches = training.loader.take(number)
            assert len(batches) == accumulate
            found += [row for batch in batches for row in rows(batch)]
            training.loader.close()
        assert len(found) == BATCH
        seen.append(set(found))
    return seen


@pytest.mark.parametrize(
    ("stage", "more"), [("video_backbone", []), ("audio_pretrain", []), ("audio_pretrain", [PACKED])]
)
def test_inputs_do_not_depend_on_how_work_is_spread(folder: Path, stage: str, more: list[str]) -> None:
    straight = inputs(folder, stage, 1, 1, 0, *more)
    assert len({row for batch in straight for row in batch}) == BATCHES * BATCH
    for ranks, accumulate, workers in ((2, 1, 0), (4, 1, 0), (1, 2, 0), (1, 4, 2), (2, 4, 0), (2, 2, 2), (4, 2, 2)):
        assert inputs(folder, stage, ranks, accumulate, workers, *more) == straight


@pytest.mark.parametrize("more", [[], [PACKED]])
def test_every_sample_is_seen_once_an_epoch(folder: Path, more: list[str]) -> None:
    settings = made.settings(*more, batch=BATCH)
    job = Job.make("audio_pretrain", settings, folder / "latents", folder / "models", folder / "c")
    training = loop._Training(job, Place(), Mute(), Mute(), lambda: False)  # type: ignore[arg-type]
    size = len(training.pool)
    picks = [pick for number in range(3 * size) for pick in training.order.batch(number)]
    for visit in range(3 * BATCH):
        assert Counter(p.index for p in picks if p.visit == visit) == dict.fromkeys(range(size), 1)


def test_packed_parts_are_of_one_size(folder: Path) -> None:
    """So that no rank waits for another: parts hold as many tokens, and few of nobody."""
    settings = made.settings(PACKED, "training.audio_pretrain.accumulate=4", "training.zero_stage=2", batch=32)
    job = Job.make("audio_pretrain", settings, folder / "latents", folder / "models", folder / "c")
    training = loop._Training(job, Place(), Mute(), Mute(), lambda: False)  # type: ignore[arg-type]
    for number in range(BATCHES):
        tokens = [int((batch.rows.sample != NOBODY).sum()) for batch in training._parts(number)]
        assert max(tokens) - min(tokens) <= 18 - 6


def test_threads_make_what_is_asked_for_and_what_comes_next() -> None:
    made_of: list[int] = []

    def make(number: int) -> int:
        made_of.append(number)
        return -number

    loader = Loader(make, 2)
    assert [loader.take(number) for number in (0, 1, 2, 7, 3)] == [0, -1, -2, -7, -3]
    loader.close()
    assert set(made_of) <= {0, 1, 2, 3, 4, 5, 7, 8, 9}
