"""Two processes that share every sample's tokens against one that has them all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ovi.models.team import Shared, Team
from tests.models.team_probe import passed

RANKS = 2


def test_processes_with_one_sample_are_as_one_process(tmp_path: Path) -> None:
    """fp32; three frames and odd numbers of tokens, so that the last part is not full."""
    command = [sys.executable, "-m", "tests.models.team_probe"]
    ends = [str(RANKS), str(tmp_path / "meeting"), str(tmp_path / "out")]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    probes = [subprocess.Popen([*command, str(rank), *ends], env=environment) for rank in range(RANKS)]
    try:
        alone = passed(None)
        assert [probe.wait(timeout=120) for probe in probes] == [0] * RANKS
    finally:
        for probe in probes:
            probe.kill()
            probe.wait()
    first, second = (load_file(tmp_path / f"out.{rank}") for rank in range(RANKS))
    for name, want in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert (first[name] - want).norm() <= 1e-6 * want.norm(), name


def test_a_part_is_whole_pieces_and_the_last_is_filled_up() -> None:
    x = torch.arange(2 * 6).reshape(2, 6).float()[..., None]
    parts = [Shared(Team(None, rank, 4), 3, 6).part(x) for rank in range(4)]  # type: ignore[arg-type]
    assert [part.shape for part in parts] == [(2, 2, 1)] * 4
    assert torch.equal(torch.cat(parts[:3], dim=1), x)
    assert not parts[3].any()
