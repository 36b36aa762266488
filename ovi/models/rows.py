"""Sounds of many lengths laid one after another instead of each padded to the longest: who each token is of.

All tokens of a batch are one row, as are all texts, for everything that is done token by token. A sound begins at a
multiple of STEP tokens, so that one row of modulation serves STEP neighbours, and GAP tokens of nobody follow it, so
that a convolution sees nothing past its end. For attention alone, sounds and texts are moved apart into rows of about
the longest sound, where they see themselves only. Results are those of a padded batch.
Try it: `pytest tests/models/test_rows.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

STEP = 8
GAP = 3  # what a convolution of the audio tower sees on each side
NOBODY = -1


@dataclass(frozen=True)
class Places:
    """Where the tokens of one long row are in R shorter ones. A layout of attention, see attention.py."""

    there: Tensor  # [R, L] int64: which token of the long row, or NOBODY
    back: Tensor  # [T] int64: where a token is among the R*L, or NOBODY

    @classmethod
    def of(cls, whose: Tensor, hands: Sequence[Sequence[int]]) -> Places:
        """whose [T] are the tokens, and `hands` the numbers of those that are in each shorter row."""
        rows = [torch.cat([(whose == number).nonzero()[:, 0] for number in hand]) for hand in hands]
        there = _ended(pad_sequence(rows, batch_first=True, padding_value=NOBODY))
        back = torch.full_like(whose, NOBODY)
        back[there[there != NOBODY]] = (there.flatten() != NOBODY).nonzero()[:, 0]
        return cls(there, back)

    def to(self, device: torch.device) -> Places:
        return Places(self.there.to(device), self.back.to(device))

    def apart(self, x: Tensor) -> Tensor:
        """[1, T, ...] -> [R, L, ...], zeros where nobody is."""
        return _Moved.apply(x[0], self.there.flatten(), self.back).unflatten(0, self.there.shape)

    def together(self, x: Tensor) -> Tensor:
        """[R, L, ...] -> [1, T, ...]."""
        return _Moved.apply(x.flatten(0, 1), self.back, self.there.flatten())[None]


@dataclass(frozen=True)
class Rows:
    """B sounds with T tokens and N rows of text between them; NOBODY where none is."""

    sample: Tensor  # [T] int64: the sound's number
    place: Tensor  # [T] int64: which token of the sound
    text: Tensor  # [N] int64: the number of the sound whose text it is
    text_place: Tensor  # [N] int64: which row of the text
    real: Tensor  # [N] int64: of a text's last row, which stands for all padded ones, how many are real; else NOBODY
    tokens: Places
    texts: Places

    @classmethod
    def of(cls, hands: Sequence[Sequence[int]], lengths: Sequence[int], texts: Sequence[int]) -> Rows:
        """`lengths` and `texts` are the tokens of each sound and its text; `hands` who share a row of attention."""
        sample, place = _laid(lengths, [STEP * math.ceil((length + GAP) / STEP) for length in lengths])
        keys = [count + 1 for count in texts]
        text, text_place = _laid(keys, keys)
        last = text_place == torch.tensor(texts)[text]
        real = text_place.where(last, NOBODY)
        return cls(sample, place, text, text_place, real, Places.of(sample, hands), Places.of(text, hands))

    def to(self, device: torch.device) -> Rows:
        return Rows(*(part.to(device) for part in vars(self).values()))

    def lay(self, sounds: Sequence[Tensor]) -> Tensor:
        """[L, C] of each sound -> [1, T, C], zeros where nobody is."""
        laid = sounds[0].new_zeros(len(self.sample), sounds[0].shape[1])
        laid[self.sample != NOBODY] = torch.cat(list(sounds))
        return laid[None]

    def lay_text(self, texts: Sequence[Tensor]) -> Tensor:
        """[n, C] of each text -> [1, N, C], zeros in the rows that stand for padding."""
        laid = texts[0].new_zeros(len(self.text), texts[0].shape[1])
        laid[self.real == NOBODY] = torch.cat(list(texts))
        return laid[None]

    def of_tokens(self, values: Tensor) -> Tensor:
        """What holds for a sound, [B, ...], for each token: [1, T, ...]; for nobody it is the first sound's."""
        return values[self.sample.clamp(min=0)][None]

    def of_steps(self, values: Tensor) -> Tensor:
        """What holds for a sound, [B, ...], for each STEP neighbouring tokens: [1, T/STEP, ...]."""
        return values[self.sample[::STEP].clamp(min=0)][None]

    def means(self, values: Tensor, count: int) -> Tensor:
        """[1, T] -> [B], the mean over each sound's tokens: one product, whose sums no device reorders."""
        own = self.sample == torch.arange(count, device=values.device)[:, None]
        return own.to(values.dtype) @ values[0] / own.sum(1)

    def key_bias(self, dtype: torch.dtype) -> Tensor:
        """[R, 1, L, L]: -inf for the tokens of others. Nobody's see each other, so that no softmax is empty."""
        whose = _take(self.sample, self.tokens.there, NOBODY)
        return _hidden(whose[:, :, None] != whose[:, None, :]).to(dtype)[:, None]

    def text_bias(self, text_len: int, dtype: torch.dtype) -> Tensor:
        """[R, 1, L, M]: -inf for the texts of others; log(n) for a row that stands for n, see Tower.embed_text."""
        asks, told = _take(self.sample, self.tokens.there, NOBODY), _take(self.text, self.texts.there, NOBODY)
        others = (asks[:, :, None] != told[:, None, :]) & (asks != NOBODY)[:, :, None]
        real = _take(self.real, self.texts.there, NOBODY)
        folded = (text_len - real).where(real != NOBODY, 1)
        return (_hidden(others) + folded.log()[:, None]).to(dtype)[:, None]


class _Moved(torch.autograd.Function):
    """x [n, ...] -> [m, ...] by `to` [m]; `back` [n] undoes it, so that both ways are one gathering each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return _take(x, to)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _take(grad, *ctx.saved_tensors), None, None


def _take(x: Tensor, index: Tensor, nothing: int = 0) -> Tensor:
    there = (index != NOBODY).reshape(*index.shape, *[1] * (x.ndim - 1))
    return x[index.clamp(min=0)].masked_fill(~there, nothing)


def _laid(lengths: Sequence[int], taken: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Whose and which, one after another: each takes so much, and fills its length of it."""
    whose, which = torch.full((2, sum(taken)), NOBODY).unbind()
    first = 0
    for number, (length, space) in enumerate(zip(lengths, taken, strict=True)):
        whose[first : first + length], which[first : first + space] = number, torch.arange(space)
        first += space
    return whose, which.where(whose != NOBODY, 0)


def _ended(index: Tensor) -> Tensor:
    """Filled up to a multiple of STEP, as attention kernels like it."""
    return torch.nn.functional.pad(index, (0, -index.shape[1] % STEP), value=NOBODY)


def _hidden(others: Tensor) -> Tensor:
    return torch.zeros(others.shape, device=others.device).masked_fill(others, -math.inf)
