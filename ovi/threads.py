"""How many threads compute: as many as the settings say, whatever the machine has.

A sum in other parts has other last bits, so a stage that took a thread a core would leave other files on another
machine. Training sets torch's alone: nothing of it goes through numpy's or scipy's linear algebra.
Try it: `pytest tests/test_threads.py`.
"""

from __future__ import annotations

import scipy.linalg  # noqa: F401 - it brings a BLAS of its own, and only one that is loaded can be told
import torch
from threadpoolctl import threadpool_limits

from ovi.config import Training


def use(training: Training) -> None:
    """One stage is alone in its process: all the threads that the ranks of a training have."""
    count = training.ranks * training.threads
    torch.set_num_threads(count)
    threadpool_limits(count, "blas")
