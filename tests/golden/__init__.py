"""Reads the golden vectors beside it: index.json describes every case, safetensors files hold inputs and outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in json.loads((FOLDER / "index.json").read_text())["cases"]
}


def tensors(case: str) -> dict[str, Tensor]:
    return load_file(FOLDER / CASES[case]["file"])


def config(case: str) -> dict[str, Any]:
    return CASES[case]["config"]


def table(case: str) -> Any:
    return json.loads((FOLDER / CASES[case]["file"]).read_text())


def check(case: str, got: Tensor, want: Tensor) -> None:
    """Equal within the tolerance that the index states for the case."""
    assert got.shape == want.shape
    torch.testing.assert_close(got, want.to(got.dtype), **CASES[case]["tolerance"])
