"""Sequence parallelism in a whole stage: two DeepSpeed ranks with one share of each batch against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovi.training import towers
from ovi.training.recipes import RECIPES
from tests.training import made
from tests.training.sequence_probe import trained


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in numbers(value[key])]
    if isinstance(value, list):
        return [x for one in value for x in numbers(one)]
    return [] if value is None or isinstance(value, str) else [float(value)]


def test_ranks_that_share_samples_train_as_one_process(tmp_path: Path) -> None:
    """Losses, gradient norms and validation of two steps, within rounding of fp32."""
    made.latents(tmp_path / "latents")
    settings = made.settings()
    made.codec(tmp_path / "models" / "codec", settings)
    for stage in ("video_backbone", "audio_finetune"):
        recipe = RECIPES[stage]
        model = towers.build(RECIPES["audio_pretrain"] if recipe.parents else recipe, settings, tmp_path)
        towers.save(recipe, settings, tmp_path / "models", model, {}, {})
    (tmp_path / "shared").mkdir()
    command = [sys.executable, "-m", "tests.training.sequence_probe"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    shared = json.loads((tmp_path / "metrics.json").read_text())
    alone = trained(tmp_path, tmp_path / "alone", 0, 1)
    assert [point["step"] for point in alone["curve"]] == [0, 1, 2]
    assert numbers(shared) == pytest.approx(numbers(alone), rel=1e-5)
