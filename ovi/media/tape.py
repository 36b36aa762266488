"""A sound that is read only as far as it is asked for, and forgotten behind: hours of it take seconds of memory.

It knows neither files nor pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from ovi.media.clock import sample_at
from ovi.media.decode import Sound

SLACK = Fraction(1, 10)  # s around a stretch that come with it, for filters to look at


class Tape:
    """Plays the blocks of `decode.sound`, each of which begins where the one before ends. Raises as they do."""

    def __init__(self, blocks: Iterator[Sound]) -> None:
        self._blocks = blocks
        self._held: deque[Sound] = deque()
        self._start: Fraction | None = None

    @property
    def start(self) -> Fraction:
        """When the sound begins, in s."""
        if self._start is None:
            self._held.append(next(self._blocks))
            self._start = self._held[0].start
        return self._start

    @property
    def end(self) -> Fraction:
        """How far it has been read, in s."""
        return self._held[-1].end if self._held else self.start

    def between(self, start: Fraction, end: Fraction) -> Sound:
        """What sounds from `start` to `end`, with SLACK around it where there is any. `start` must not run backwards.

        Without any sound in that stretch it is an empty one.
        """
        start, end = max(self.start, start - SLACK), end + SLACK
        while self.end < end and (block := next(self._blocks, None)) is not None:
            self._held.append(block)
            while len(self._held) > 1 and self._held[0].end <= start:
                self._held.popleft()
        rate, first = self._held[0].rate, self._held[0].start
        samples = np.concatenate([block.samples for block in self._held])
        past, last = (min(max(0, sample_at(at, rate, first)), len(samples)) for at in (start, end))
        return Sound(samples[past:last], rate, first + Fraction(past, rate))

    def rest(self) -> None:
        """Read to the end, so that whatever is wrong with the rest is raised."""
        for block in self._blocks:
            self._held = deque([block])
