"""What an engine is, what it holds and gives out, and the arithmetic that all kinds of it share.

Try it: `pytest tests/training/test_engine.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ovi.config import Stage
from ovi.errors import OviError

MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names of Adam's first and second moment
TINY = 1e-6  # added to the gradient's norm before anything is divided by it, as torch's own clipping does


@dataclass
class State:
    """All that an optimiser step changes, in fp32 and whole: by parameter name. `step` counts Adam's steps."""

    step: int
    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]  # of exp_avg and exp_avg_sq
    ema: dict[str, Tensor] = field(default_factory=dict)  # the weights' running mean, where the stage keeps one


class Diverged(OviError):
    """A step that must not count: its gradient is not finite, or its loss has left all bounds."""


Parts = Mapping[str, Sequence[str]]  # names of parameters, whose gradient's norm is asked for


class Engine(Protocol):
    """Trains the parameters of `model` that require a gradient when the engine is made; the others are left alone.

    All but `forward` is asked of every rank, or none: ranks exchange what they hold.
    """

    rank: int
    ranks: int
    device: torch.device
    module: nn.Module  # the network itself, for validation; training must call `forward`

    def forward(self, *inputs: Any, **named: Any) -> Any: ...

    def step(self, losses: Iterable[Tensor], lr: float, parts: Parts | None = None) -> dict[str, float]:
        """One optimiser step on the mean of the ranks' losses, each rank having `stage.accumulate` of them.

        A loss is taken when the one before it is done with. Returns the gradient's norm before clipping as "all", and
        those of `parts`. Raises Diverged when the gradient is not finite; the weights are then as before.
        """

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over the ranks, on the CPU."""

    def tell(self, value: Any) -> Any:
        """What the first rank says, in all of them: any JSON value."""

    def state(self) -> State:
        """The first rank gets all of it, on the CPU; the others get its step and no tensors."""

    def restore(self, state: State) -> None:
        """Continue from what the first rank was given; what the others were given does not count."""

    def frozen(self) -> dict[str, Tensor]:
        """The parameters that do not learn, as the network computes with them; for the first rank, as in `state`."""

    def use_mean(self) -> None:
        """Put the running mean in the place of the weights; training ends with this."""

    def close(self) -> None: ...


def adam(weights: list[Any], stage: Stage) -> torch.optim.AdamW:
    """On a CPU not the fused kind: it rounds the last numbers of a tensor otherwise, and ranks cut tensors anywhere."""
    return torch.optim.AdamW(
        weights, lr=stage.lr, betas=stage.betas, eps=stage.eps, weight_decay=stage.weight_decay, fused=on_gpu()
    )


def set_lr(optimizer: torch.optim.AdamW, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def kept(tensor: Tensor) -> Tensor:
    """A copy on the CPU."""
    return tensor.detach().to("cpu", copy=True)


def square(tensor: Tensor) -> Tensor:
    """The sum of squares in fp64, so that it hardly matters in which shares a sum is taken."""
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).square()


def norms(squares: Mapping[str, float], parts: Parts) -> dict[str, float]:
    """Of the whole as "all", and of parts, from the sum of squares of every parameter.

    In fp32, where it no longer shows in which shares the squares were added up.
    """
    chosen = {"all": tuple(squares), **parts}
    whole = torch.tensor([math.fsum(squares[name] for name in names) for names in chosen.values()], dtype=torch.float64)
    return dict(zip(chosen, whole.sqrt().float().tolist(), strict=True))


def clipping(norm: float, stage: Stage) -> float:
    """What to multiply a gradient of this norm by. Raises nothing: a norm that is not finite gives no number."""
    return min(1.0, stage.clip_norm / (norm + TINY))


def check(norm: float) -> None:
    if not math.isfinite(norm):
        raise Diverged("the gradient is not finite")


@torch.no_grad()
def follow(means: Iterable[Tensor], weights: Iterable[Tensor], decay: float) -> None:
    """Move the running means towards the weights; element by element, so that it does not matter who holds which."""
    for mean, weight in zip(means, weights, strict=False):
        mean.lerp_(weight, 1 - decay)


def on_gpu() -> bool:
    return torch.cuda.is_available()
