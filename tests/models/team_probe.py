"""The golden fusion model on one sample's tokens, alone or as one of several processes; run by test_team.py.

`python -m tests.models.team_probe RANK RANKS MEETING OUT` writes losses and gradients, meant over the processes.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from ovi.models.team import Team
from tests.models.common import golden_model


def passed(team: Team | None) -> dict[str, Tensor]:
    """A batch with a given first frame and sounds of two lengths; then each tower alone."""
    model, draw = golden_model(), torch.Generator().manual_seed(0)
    for tower in model.children():
        tower.team = team
    video = torch.randn(2, model.video_model.config.in_dim, 3, 4, 6, generator=draw)
    audio = torch.randn(2, 7, model.audio_model.config.in_dim, generator=draw)
    text = torch.randn(2, 5, model.video_model.config.text_dim, generator=draw)
    t, lens, heard = torch.tensor([300.0, 800.0]), torch.tensor([5, 3]), torch.tensor([7, 4])
    found: dict[str, Tensor] = {}
    both = {"both": (video, audio), "video": (video, None), "audio": (None, audio)}
    for name, (v, a) in both.items():
        clean = torch.tensor([True, False]) if name == "both" else False
        model.zero_grad()
        out = model(v, a, t, text, lens, audio_lens=heard if a is not None else None, first_frame_clean=clean)
        loss = torch.stack([one.square().mean() for one in out if one is not None]).sum()
        loss.backward()
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        found |= {f"{name}/loss": loss.detach(), f"{name}/grad": torch.cat([grad.flatten() for grad in grads])}
        found |= {f"{name}/{i}": one.detach() for i, one in enumerate(out) if one is not None}
    return found


def main() -> None:
    rank, ranks, meeting, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    found = passed(Team.of(rank, ranks, ranks))
    for name, value in found.items():
        if name.endswith("/grad"):
            dist.all_reduce(value)
            value /= ranks
    save_file({name: value.contiguous() for name, value in found.items()}, f"{out}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
