"""Prompts for two towers that are told different things: the paper's first design, which Table 3 compares with.

The video tower gets T5's rows of what is seen and said; the audio tower one point of CLAP's space for the sounds, and
T5's rows of the words that are said. How the point entered the tower is not in the paper: here it is the first row of
the audio tower's text, which has an embedding of its own (`sound_dim` of TowerConfig).
Try it: `ovi encode --set text.prompt=separate`.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ovi.models.prompt_parts import split
from ovi.models.text_encoder import RandomT5

TOWERS = ("video", "audio")


def told(rows: Tensor, tower: str) -> Tensor:
    """What a tower is told, [n, T], of a prompt's rows: [n, T] where both are told the same, else [2, n, T]."""
    return rows if rows.ndim == 2 else rows[TOWERS.index(tower)]


class SeparateText(nn.Module):
    """Frozen encoders of random weights, as `RandomT5`: T5, and for CLAP one whose rows are averaged to a point."""

    def __init__(self, dim: int, layers: int, max_tokens: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.t5, self.clap = RandomT5(dim, layers, max_tokens), RandomT5(dim, layers, max_tokens)

    def init(self, seed: int) -> Self:
        """Draw all weights from the seed."""
        self.t5.init(seed)
        self.clap.init(seed + 1)
        return self

    def tokens(self, text: str) -> list[int]:
        """Of what the video tower is told, the longest part."""
        return self.t5.tokens(split(text).seen)

    def encode(self, texts: list[str]) -> list[Tensor]:
        """One [2, n, dim] float32 a text, for the video and the audio tower, zeros past the shorter one's rows."""
        parts = [split(text) for text in texts]
        seen, said = (self.t5.encode(list(found)) for found in zip(*((p.seen, p.said) for p in parts), strict=True))
        points = self.points([part.heard for part in parts])
        return [
            pad_sequence([video, torch.cat((point[None], words))[: self.max_tokens]], batch_first=True)
            for video, point, words in zip(seen, points, said, strict=True)
        ]

    def points(self, sounds: list[str]) -> Tensor:
        """[B, dim]: CLAP's points have length one; here it is sqrt(dim), the size of T5's rows."""
        means = torch.stack([rows.mean(0) for rows in self.clap.encode(sounds)])
        return F.normalize(means, dim=1) * means.shape[1] ** 0.5
