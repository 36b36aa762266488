"""Cases of what tells positions and times: rotary tables and rotations, and the sinusoids of timesteps."""

from __future__ import annotations

import torch
from torch import Tensor

from ovi.models.rope import audio_table, rotate, video_table, widths
from ovi.models.tower import sinusoid
from tests.conformance.case import Case
from tests.conformance.kind import Kind

CPU = torch.device("cpu")
PARTS = {"re": 0, "im": 1}


def rope(case: Case) -> None:
    width, theta, scale = case.config["head_dim"], case.config["theta"], case.config["audio_scale"]
    for found in case.matches(r"out/video_freqs_first(\d+)_(re|im)"):
        n, part = int(found[1]), PARTS[found[2]]
        axes = [video_table(*grid, width, CPU, theta)[..., part] for grid in ((n, 1, 1), (1, n, 1), (1, 1, n))]
        ladders = [axis.split([channels // 2 for channels in widths(width)], dim=1)[i] for i, axis in enumerate(axes)]
        case.check(found[0], torch.cat(ladders, dim=1))
    for found in case.matches(r"out/audio_freqs_first(\d+)_(re|im)"):
        table = audio_table(int(found[1]), width, scale, CPU, theta)[..., PARTS[found[2]]]
        case.check(found[0], table[:, : widths(width)[0] // 2])
    for i, grid in enumerate(case.config["video_grids"]):
        _turned(case, "video", i, video_table(*grid, width, CPU, theta))
    for i, (length,) in enumerate(case.config["audio_grids"]):
        _turned(case, "audio", i, audio_table(length, width, scale, CPU, theta))


def _turned(case: Case, modality: str, i: int, table: Tensor) -> None:
    """Rows past a grid are padding, which is not turned (and which this project never makes)."""
    x = case.take(f"in/q_{modality}")[i : i + 1]
    still = torch.tensor([1.0, 0.0]).expand(x.shape[1] - len(table), *table.shape[1:])
    case.check(f"out/q_{modality}_rot", rotate(x, torch.cat((table, still))), slice(i, i + 1))


def timesteps(case: Case) -> None:
    case.check("out/emb", sinusoid(case.take("in/t"), case.config["dim"]))


KINDS = (
    Kind("rope", (r"in/q_(video|audio)", r"out/q_(video|audio)_rot"), rope),
    Kind("time_sinusoid", (r"in/t", r"out/emb"), timesteps),
)
