"""How many threads compute: as many as the settings say, whatever the machine has.

A sum in other parts has other last bits, so a stage that took a thread a core would leave other files on another
machine. numpy's and scipy's linear algebra gets one: what it does in a stage takes seconds, and its threads spin for
each other, for ever if there are more of them than processors. Training sets torch's alone; it needs no other.
Try it: `pytest tests/test_threads.py`.
"""

from __future__ import annotations

import scipy.linalg  # noqa: F401 - it brings a BLAS of its own, and only one that is loaded can be told
import torch
from threadpoolctl import threadpool_limits

from ovi.config import Training


def use(training: Training) -> None:
    """One stage is alone in its process: torch may have all the threads that the ranks of a training have."""
    torch.set_num_threads(training.ranks * training.threads)
    threadpool_limits(1, "blas")
