"""How fast a stage trains: samples a second, operations a second, the share of time spent waiting for data, memory.

MFU is what the mathematics needs of a GPU's peak; HFU adds what attention kernels compute twice. It does not know what
a step does. Figures cover the time since the last call of `read`.
Try it: `python -c "from ovi.training.meter import Meter; m = Meter(); m.step(4); print(m.read())"`.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator

import torch

from ovi.training import gpus
from ovi.training.gpus import GIB


class Meter:
    def __init__(self, ranks: int = 1, peak: float | None = None) -> None:
        """peak: operations a second of one rank's GPU; None where there is none, and then neither MFU nor HFU."""
        self._ranks, self._peak = ranks, peak
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

    def step(self, samples: int, work: int = 0, repeated: int = 0) -> None:
        """A step of all ranks together: its samples, the operations they need, and those a kernel does again."""
        self._samples += samples
        self._work += work
        self._repeated += repeated

    def read(self) -> dict[str, float]:
        """{"samples_per_second", "loader_share", "tflops", "peak_memory_gib"}, "mfu" and "hfu"; since the last read."""
        spent = max(time.perf_counter() - self._began, 1e-9)
        figures = {
            "samples_per_second": self._samples / spent,
            "loader_share": self._waited / spent,
            "tflops": self._work / spent / 1e12,
            "peak_memory_gib": _peak_memory() / GIB,
        }
        if self._peak:
            figures["mfu"] = self._work / spent / self._ranks / self._peak
            figures["hfu"] = (self._work + self._repeated) / spent / self._ranks / self._peak
        self._reset()
        return figures

    def _reset(self) -> None:
        self._began, self._waited = time.perf_counter(), 0.0
        self._samples = self._work = self._repeated = 0


def peak_here(precision: str) -> float | None:
    """Operations a second of this process's GPU at best; None without one, or where products are not in bf16."""
    if precision != "bf16" or not torch.cuda.is_available():
        return None
    return gpus.peak(torch.cuda.get_device_name())


def _peak_memory() -> int:
    """Of this process: on its GPU, else in all."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
