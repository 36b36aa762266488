from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from ovi.training.batches import Batch, Chances, assemble
from ovi.training.latents import LatentSet, Pool, Sample, read_empty_text
from ovi.training.order import Draws, Order
from tests.training import made

EMPTY = torch.full((1, 8), 0.5)


def draws(names: list[str], visit: int = 0) -> list[Draws]:
    return [Draws(0, "fusion", name, visit) for name in names]


def samples(name: str, count: int) -> list[Sample]:
    return [made.sample(name, f"{name}{index}", index, 3 * index if name == "av" else index) for index in range(count)]


def test_a_batch_holds_what_the_network_wants() -> None:
    chosen = samples("av", 4)
    batch = assemble(chosen, draws([s.clip_id for s in chosen]), ("video", "audio"), Chances(), EMPTY)
    assert batch.video is not None
    assert batch.video.shape == batch.video_noise.shape == (4, 4, 3, 2, 2)
    assert batch.audio.shape == batch.audio_noise.shape == (4, 9, 3)
    assert batch.audio_lens is None
    assert batch.t.shape == (4,)
    assert torch.all((batch.t >= 0) & (batch.t < 1))
    assert not batch.clean.any()
    for index, sample in enumerate(chosen):
        length = int(batch.text_lens[index])
        assert torch.equal(batch.text[index, :length], sample.text)
        assert not batch.text[index, length:].any()


def test_sounds_of_many_lengths_are_padded_with_nothing() -> None:
    chosen = samples("pretrain", 3)
    batch = assemble(chosen, draws([s.clip_id for s in chosen]), ("audio",), Chances(), EMPTY)
    assert batch.video is None
    assert batch.audio_lens.tolist() == [6, 7, 8]
    assert not batch.audio[0, 6:].any()
    assert not batch.audio_noise[0, 6:].any()


def test_chance_does_not_depend_on_neighbours_or_modalities() -> None:
    chosen = samples("av", 4)
    names = [sample.clip_id for sample in chosen]
    chances = Chances(no_caption=0.5, first_frame=0.5)
    whole = assemble(chosen, draws(names), ("video", "audio"), chances, EMPTY)
    for index in range(4):
        alone = assemble(chosen[index : index + 1], draws(names[index : index + 1]), ("video",), chances, EMPTY)
        assert torch.equal(alone.video_noise[0], whole.video_noise[index])
        assert alone.t[0] == whole.t[index]
        assert alone.clean[0] == whole.clean[index]
        assert torch.equal(alone.text[0], whole.text[index, : len(alone.text[0])])


def test_noises_are_independent_and_change_with_the_visit() -> None:
    sample = Sample("one", torch.zeros(4, 3, 2, 2), torch.zeros(16, 3), EMPTY, "")
    first, second = (
        assemble([sample], draws(["one"], visit), ("video", "audio"), Chances(), EMPTY) for visit in (0, 1)
    )
    assert not torch.equal(first.video_noise.flatten()[:48], first.audio_noise.flatten()[:48])
    assert not torch.equal(first.video_noise, second.video_noise)
    assert first.t != second.t


def test_a_tenth_of_the_captions_is_dropped_for_both_towers_at_once() -> None:
    sample = made.sample("av", "one", 0, 0)
    visits = 2000
    found = [Draws(0, "fusion", "one", visit).uniform("caption") < 0.1 for visit in range(visits)]
    assert abs(sum(found) / visits - 0.1) < 0.02
    dropped = draws(["one"], found.index(True))
    batch = assemble([sample], dropped, ("video", "audio"), Chances(no_caption=0.1), EMPTY)
    assert torch.equal(batch.text, EMPTY[None])
    assert batch.text_lens.tolist() == [1]


def test_a_shift_leans_the_same_draw_towards_noise() -> None:
    chosen = samples("av", 4)
    plain, leaning = (
        assemble(chosen, draws([s.clip_id for s in chosen]), ("video",), Chances(shift=shift), EMPTY)
        for shift in (1.0, 3.0)
    )
    torch.testing.assert_close(leaning.t, 3 * plain.t / (1 + 2 * plain.t))
    assert torch.all(leaning.t > plain.t)


def test_levels_are_drawn_as_asked() -> None:
    """Uniform, or the logistic function of a normal draw; shared, or each modality its own."""
    chosen = samples("av", 4)
    names = [sample.clip_id for sample in chosen]
    found: dict[str, list[float]] = {"uniform": [], "logit_normal": [], "audio": []}
    for visit in range(500):
        plain = assemble(chosen, draws(names, visit), ("audio",), Chances(), EMPTY)
        apart = assemble(chosen, draws(names, visit), ("audio",), Chances(t="logit_normal", shared_t=False), EMPTY)
        assert plain.audio_t is None
        found["uniform"] += plain.t.tolist()
        found["logit_normal"] += apart.t.tolist()
        found["audio"] += apart.audio_t.tolist()
    assert stats.kstest(found["uniform"], "uniform").pvalue > 0.01
    for name in ("logit_normal", "audio"):
        t = np.array(found[name])
        assert stats.kstest(np.log(t / (1 - t)), "norm").pvalue > 0.01
    assert abs(np.corrcoef(found["logit_normal"], found["audio"])[0, 1]) < 0.08


def test_dropped_captions_are_a_tenth_and_independent_between_epochs() -> None:
    """Chi-square of 5,000 samples by how many of their 8 epochs had no caption, against the binomial distribution."""
    dropped = np.array([
        [Draws(0, "fusion", f"av/{sample}", visit).uniform("caption") < 0.1 for visit in range(8)]
        for sample in range(5000)
    ])  # fmt: skip
    assert abs(dropped.mean() - 0.1) < 0.005
    counts = np.bincount(dropped.sum(1), minlength=9)
    binomial = stats.binom.pmf(np.arange(9), 8, 0.1) * len(dropped)
    counts, binomial = (np.append(x[:4], x[4:].sum()) for x in (counts, binomial))
    assert stats.chisquare(counts, binomial).pvalue > 0.01


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_together_see_what_one_process_sees(tmp_path: Path, ranks: int) -> None:
    """Ids, noises, t, dropped captions and given first frames, for five batches."""
    made.latents(tmp_path)
    pool = Pool([LatentSet.open(tmp_path, "av", "train")])
    empty = read_empty_text(tmp_path)
    order = Order([str(shape["video"]) for shape in pool.shapes], seed=3, batch=8)

    def batch(step: int, rank: int, of: int) -> tuple[list[str], Batch]:
        picks = order.batch(step)[rank::of]
        keyed = [Draws(3, "fusion", pool.names[pick.index], pick.visit) for pick in picks]
        read = [pool.read(pick.index) for pick in picks]
        return [s.clip_id for s in read], assemble(read, keyed, ("video", "audio"), Chances(0.3, 0.3), empty)

    for step in range(5):
        ids, whole = batch(step, 0, 1)
        for rank in range(ranks):
            mine, part = batch(step, rank, ranks)
            assert mine == ids[rank::ranks]
            for name in ("video", "video_noise", "audio", "audio_noise", "t", "text_lens", "clean"):
                assert torch.equal(getattr(part, name), getattr(whole, name)[rank::ranks])
