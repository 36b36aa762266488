"""Low-rank additions to projections (Hu et al. 2021): W x + alpha/rank * up(down(x)), merged into W when training ends.

`up` starts at zero, so that nothing changes before the first step. It does not know which projections are chosen.
Try it: `ovi train fusion --set training.lora.rank=16 --set training.lora.alpha=16`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi.config import Lora
from ovi.training.order import keyed_seed
from ovi.training.recipes import LOW_RANK

DOWN, UP = LOW_RANK


class LoraLinear(nn.Linear):
    """A linear layer that keeps its parameters' names and has two more, [rank, in] and [out, rank]."""

    def __init__(self, base: nn.Linear, lora: Lora, seed: int) -> None:
        super().__init__(base.in_features, base.out_features, device="meta")
        self.weight, self.bias, self.scale = base.weight, base.bias, lora.alpha / lora.rank
        device = base.weight.device
        draw = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
        bound = 1 / math.sqrt(base.in_features)
        down = torch.empty(lora.rank, base.in_features, device=device).uniform_(-bound, bound, generator=draw)
        self.lora_down = nn.Parameter(down)
        self.lora_up = nn.Parameter(torch.zeros(base.out_features, lora.rank, device=device))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + self.scale * F.linear(F.linear(input, self.lora_down), self.lora_up)


def add(model: nn.Module, lora: Lora, seed: int, chosen: Callable[[str], object]) -> None:
    """Give every linear layer whose weight's name is `chosen` its addition; draws are keyed by seed and name."""
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and chosen(f"{name}.weight"):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, LoraLinear(layer, lora, keyed_seed(seed, "lora", name)))


def merge(state: dict[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """A state dict with additions -> one without, as if they had been in the weights all along; computed in fp32."""
    merged = {name: tensor for name, tensor in state.items() if not name.endswith(LOW_RANK)}
    for name, down in state.items():
        if name.endswith(DOWN):
            layer = name.removesuffix(DOWN)
            product = state[layer + UP].float() @ down.float()
            merged[layer + "weight"] = merged[layer + "weight"].float() + lora.alpha / lora.rank * product
    return merged
