"""Is there memory for one more clip now? Asked before each job, so that a full device costs no half-made clip.

What sampling takes is known from the model alone (`ovi.diffusion.memory`); what there is, is what the device has free
and what this process holds of it already. It knows nothing of jobs. Try it: `pytest tests/services/test_worker.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ovi.diffusion import memory
from ovi.models.folder import ModelFolder

if TYPE_CHECKING:
    import torch

    from ovi.diffusion.sampler import Sampler

# How allocators of CPUs, CUDA and its libraries say it, beside their own exception types.
SIGNS = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED", "Cannot allocate memory")


class TooLittleMemory(MemoryError):
    """Sampling would not fit now."""


class Admission:
    """For one loaded model on its device."""

    def __init__(self, sampler: Sampler, model: Path) -> None:
        machine = sampler.machine
        weights = {name: part["bytes"] for name, part in ModelFolder.read(model).components.items()}
        width = 2 if "16" in str(machine.dtype) else 4
        self._device = machine.device
        self._needed = memory.need(sampler.model.config, weights, sampler.runtime, width).of(machine.mode)

    def check(self) -> None:
        """Raises TooLittleMemory with the figures."""
        there = room(self._device)
        if there < self._needed:
            gib = [number / memory.GIB for number in (self._needed, there)]
            raise TooLittleMemory(f"sampling takes about {gib[0]:.1f} GiB, {self._device} has {gib[1]:.1f} GiB for it")


def room(device: torch.device) -> int:
    """Bytes that are free there or held by this process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    held = psutil.Process().memory_info()  # not USS: reading it takes 10 ms
    return psutil.virtual_memory().available + held.rss - getattr(held, "shared", 0)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
