"""GPUs by name: how much memory a process can have on them, and how fast their matrix products are in bf16.

Figures are the makers'; dense, without sparsity. It asks no device anything.
Try it: `python -c "from ovi.training.gpus import GPUS; print(GPUS['h200'])"`.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    memory: float  # bytes, as CUDA reports them
    flops: float  # bf16 operations a second


GPUS = {
    "b200": Gpu(178.3 * GIB, 2250e12),
    "h200": Gpu(139.8 * GIB, 989e12),
    "h100": Gpu(79.1 * GIB, 989e12),
    "a100": Gpu(79.1 * GIB, 312e12),
    "l40s": Gpu(44.4 * GIB, 362e12),
}


def peak(device_name: str) -> float | None:
    """Of the GPU that CUDA calls so ("NVIDIA H200"); None where it is not known."""
    return next((gpu.flops for name, gpu in GPUS.items() if name in device_name.lower()), None)
