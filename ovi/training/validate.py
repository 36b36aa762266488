"""How well a network does on held-out clips, measured the same way every time: fixed clips, noises and timesteps.

For the fusion model also whether a tower listens to the other one: the loss with the true partner, with the partner of
another clip, and of the towers alone. Chance is keyed by clip, so figures of all stages and ranks compare. It does
not know how the network is trained.
Try it: `pytest tests/training/test_validate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ovi.training.batches import Batch, Chances, assemble
from ovi.training.latents import Pool
from ovi.training.objective import losses
from ovi.training.order import Draws
from ovi.training.state import Engine

CLIPS = 32
TIMES = (0.125, 0.375, 0.625, 0.875)  # midpoints of four equal parts of [0, 1]
CHUNK = 16  # clips a forward pass

Losses = dict[str, float | None]  # by modality; None where no clip counts


class Validation:
    def __init__(self, pool: Pool, modalities: Sequence[str], seed: int, empty: Tensor, device: torch.device,
                 together: int = 1) -> None:  # fmt: skip
        """`together` ranks at a time share the tokens of each sample, see ovi/models/team.py."""
        self._modalities, self._together = modalities, together
        self._chunks: list[list[int]] = []
        chosen = np.unique(np.linspace(0, len(pool) - 1, min(CLIPS, len(pool))).round().astype(int))
        shapes = sorted({str(pool.shapes[index]["video"]) for index in chosen})
        for shape in shapes:
            group = [int(index) for index in chosen if str(pool.shapes[index]["video"]) == shape]
            self._chunks += [part.tolist() for part in np.array_split(group, math.ceil(len(group) / CHUNK))]
        self._batches = [
            assemble(
                [pool.read(index) for index in chunk],
                [Draws(seed, "validation", pool.names[index], 0) for index in chunk],
                modalities, Chances(), empty,
            ).to(device)
            for chunk in self._chunks
        ]  # fmt: skip

    def losses(self, engine: Engine) -> Losses:
        """Mean over clips and times of the network as it is."""
        return self._mean(engine, self._batches)

    def partners(self, engine: Engine) -> dict[str, Losses]:
        """{"true": ..., "shuffled": ...} over the clips that have another clip of their shape to be mixed with."""
        mixable = [batch for batch in self._batches if len(batch.t) > 1]
        return {"true": self._mean(engine, mixable), "shuffled": self._mean(engine, mixable, shuffle=True)}

    def towers(self, engine: Engine) -> Losses:
        """Each tower without the other, over the same clips as `partners`."""
        mixable = [batch for batch in self._batches if len(batch.t) > 1]
        silent = [replace(batch, audio=None, audio_noise=None, audio_lens=None) for batch in mixable]
        blind = [replace(batch, video=None, video_noise=None) for batch in mixable]
        return self._mean(engine, silent, ("video",)) | self._mean(engine, blind, ("audio",))

    @torch.no_grad()
    def _mean(
        self, engine: Engine, batches: list[Batch], modalities: Sequence[str] | None = None, shuffle: bool = False
    ) -> Losses:
        """Passes are dealt out to the ranks; every rank gets the same sums, in the same order of addition."""
        modalities = modalities or self._modalities
        if not batches:
            return dict.fromkeys(modalities, None)
        table = torch.zeros(len(TIMES) * len(batches), len(modalities), dtype=torch.float64)
        teams, (team, member) = engine.ranks // self._together, divmod(engine.rank, self._together)
        for turn in range(math.ceil(len(table) / teams)):
            row = turn * teams + team
            mine = min(row, len(table) - 1)  # under ZeRO 3 ranks need each other in every pass: none sits one out
            batch = batches[mine // len(TIMES)]
            batch = replace(batch, t=torch.full_like(batch.t, TIMES[mine % len(TIMES)]))
            found = _shuffled(engine, batch) if shuffle else losses(engine.module, batch)
            if row == mine and member == 0:
                table[row] = torch.stack([found[name].double().sum() for name in modalities]).cpu()
        clips = len(TIMES) * sum(len(batch.t) for batch in batches)
        sums = engine.total(table).sum(0)
        return {name: float(value) / clips for name, value in zip(modalities, sums, strict=True)}


def _shuffled(engine: Engine, batch: Batch) -> dict[str, Tensor]:
    """Every video with the next clip's audio. A tower keeps its clip's text and noise: only its partner changes."""
    audio, noise = (x if x is None else x.roll(1, 0) for x in (batch.audio, batch.audio_noise))
    lens = None if batch.audio_lens is None else batch.audio_lens.roll(1, 0)
    mixed = replace(batch, audio=audio, audio_noise=noise, audio_lens=lens)
    text, text_lens = batch.audio_text, batch.audio_text_lens
    if text is None or text_lens is None:
        text, text_lens = batch.text, batch.text_lens
    texts = {"audio_text": text.roll(1, 0), "audio_text_lens": text_lens.roll(1, 0)}
    return losses(engine.module, mixed, **texts)
