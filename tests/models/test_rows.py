"""Sounds laid in rows against the same sounds padded to the longest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ovi.models.rows import GAP, NOBODY, STEP, Rows
from tests.models.common import golden_model

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=9)


def dealt(count: int, hands: int) -> list[list[int]]:
    return [list(range(hand, count, hands)) for hand in range(min(hands, count))]


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(1, 4))
def test_every_token_is_laid_once_and_never_beside_another_sound(lengths: list[int], hands: int) -> None:
    rows = Rows.of(dealt(len(lengths), hands), lengths, [length % 5 + 1 for length in lengths])
    there = rows.sample != NOBODY
    found = list(zip(rows.sample[there].tolist(), rows.place[there].tolist(), strict=True))
    assert found == [(sound, place) for sound, length in enumerate(lengths) for place in range(length)]
    whose = rows.sample.tolist()
    ends = [i for i in range(1, len(whose)) if whose[i - 1] not in (NOBODY, whose[i])]
    assert all(whose[i : i + GAP] == [NOBODY] * GAP for i in ends)
    assert all(len(set(steps.tolist()) - {NOBODY}) <= 1 for steps in rows.sample.split(STEP))


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(1, 4))
def test_for_attention_each_hand_has_a_row_and_all_come_back(lengths: list[int], hands: int) -> None:
    dealt_to = dealt(len(lengths), hands)
    rows = Rows.of(dealt_to, lengths, [length % 5 + 1 for length in lengths])
    x = torch.randn(1, len(rows.sample), 2, 3, requires_grad=True)
    apart = rows.tokens.apart(x)
    for row, hand in enumerate(dealt_to):
        mine = torch.cat([x[0, rows.sample == sound] for sound in hand])
        assert torch.equal(apart[row, : len(mine)], mine)
        assert not apart[row, len(mine) :].any()
    back = rows.tokens.together(apart)
    there = (rows.sample != NOBODY)[None, :, None, None]
    assert torch.equal(back, x * there)
    weight = torch.randn_like(x)
    (back * weight).sum().backward()
    assert torch.equal(x.grad, weight * there)


def sounds(lengths: list[int], texts: list[int]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    draw = torch.Generator().manual_seed(3)
    config = golden_model().audio_model.config
    audio = [torch.randn(length, config.in_dim, generator=draw) for length in lengths]
    told = [torch.randn(length, config.text_dim, generator=draw) for length in texts]
    return audio, told, torch.rand(len(lengths), generator=draw) * 1000


def means(out: Tensor, lengths: list[int]) -> Tensor:
    return torch.stack([row[:length].square().mean() for row, length in zip(out, lengths, strict=True)])


@pytest.mark.parametrize("hands", [1, 2, 5])
def test_rows_give_what_padding_gives(hands: int) -> None:
    """Velocities, losses and gradients in fp32; one text is as long as the tower takes, one has a single row."""
    tower = golden_model().audio_model
    longest = tower.config.text_len
    lengths, texts = [17, 40, 5, 33, 8], [longest, 1, longest - 1, 2, 3]
    audio, told, t = sounds(lengths, texts)
    laid = Rows.of(dealt(len(lengths), hands), lengths, texts)
    padded = tower(
        pad_sequence(audio, batch_first=True), t, pad_sequence(told, batch_first=True), torch.tensor(lengths)
    )
    packed = tower(laid.lay(audio), t, laid.lay_text(told), rows=laid)
    for sound, length in enumerate(lengths):
        mine = packed[0, laid.sample == sound]
        torch.testing.assert_close(mine, padded[sound, :length], atol=1e-5, rtol=1e-5)
    grads = []
    for losses in (means(padded, lengths), laid.means(packed.square().mean(2), len(lengths))):
        tower.zero_grad()
        losses.sum().backward()
        gradient = torch.cat([weight.grad.flatten() for weight in tower.parameters() if weight.grad is not None])
        grads.append((losses.detach(), gradient))
    (want, wanted), (got, gotten) = grads
    torch.testing.assert_close(got, want, atol=0, rtol=1e-6)
    assert (gotten - wanted).norm() <= 1e-6 * wanted.norm()
    tower.zero_grad()
