"""One thread, because arrays here are small and the machine is shared; no GPU, where numbers round otherwise."""

import pytest
import torch

from ovi.diffusion import machine

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "default_device", lambda: torch.device("cpu"))
