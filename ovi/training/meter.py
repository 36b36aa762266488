"""How fast a stage trains: samples a second, and the share of the time spent waiting for data.

It does not know what a step does. Figures cover the time since the last call of `read`.
Try it: `python -c "from ovi.training.meter import Meter; m = Meter(); m.step(4); print(m.read())"`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Meter:
    def __init__(self) -> None:
        self._reset()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the loader: what is spent inside counts as waiting."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around validation and checkpoints: what is spent inside counts for nothing."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - began

    def step(self, samples: int) -> None:
        self._samples += samples

    def read(self) -> dict[str, float]:
        """{"samples_per_second", "loader_share"} since the last read."""
        spent = max(time.perf_counter() - self._began, 1e-9)
        figures = {"samples_per_second": self._samples / spent, "loader_share": self._waited / spent}
        self._reset()
        return figures

    def _reset(self) -> None:
        self._began, self._waited, self._samples = time.perf_counter(), 0.0, 0
