"""What takes a loss and moves the weights: one process with plain torch, or several ranks with DeepSpeed's ZeRO.

An engine knows nothing of data, stages or losses. Every kind holds fp32 master weights and Adam moments, gives them
out whole (`state`) and takes them back (`restore`), so that a checkpoint of one can be continued by any other, of any
ZeRO stage and by any number of ranks.
Try it: `pytest tests/training/test_engine.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ovi.config import Stage, Training
from ovi.training.place import Place
from ovi.training.state import (
    MOMENTS,
    Diverged,
    Engine,
    Parts,
    State,
    adam,
    check,
    clipping,
    follow,
    kept,
    norms,
    on_gpu,
    set_lr,
    square,
    trainable,
)  # fmt: skip
from ovi.training.zero import DeepSpeedEngine

__all__ = ["MOMENTS", "Diverged", "Engine", "Place", "State", "TorchEngine", "make"]


def make(model: nn.Module, training: Training, stage: Stage, place: Place) -> Engine:
    """The engine that `training.engine` names."""
    if training.engine == "torch":
        return TorchEngine(model, training, stage)
    return DeepSpeedEngine(model, training, stage, place)


class TorchEngine:
    """The plain twin of the ranks: one process, no library but torch, the same numbers."""

    def __init__(self, model: nn.Module, training: Training, stage: Stage) -> None:
        self.rank, self.ranks = 0, 1
        self.device = torch.device("cuda" if on_gpu() else "cpu")
        self.module = model.to(self.device, _dtype(training))
        self.forward = self.module
        self._stage = stage
        self._weights = trainable(self.module)
        self._masters = {name: _master(weight) for name, weight in self._weights.items()}
        self._means = {name: master.detach().clone() for name, master in self._masters.items()} if stage.ema else {}
        self._adam = adam(list(self._masters.values()), stage)

    def step(self, losses: Iterable[Tensor], lr: float, parts: Parts | None = None) -> dict[str, float]:
        self._adam.zero_grad()
        for loss in losses:
            (loss if self._stage.accumulate == 1 else loss / self._stage.accumulate).backward()
            for name, master in self._masters.items():
                grad = _take_grad(self._weights[name])
                master.grad = grad if master.grad is None else master.grad.add_(grad)
        found = self._norms(parts or {})
        check(found["all"])
        scale = clipping(found["all"], self._stage)
        for master in self._masters.values():
            master.grad.mul_(scale)
        set_lr(self._adam, lr)
        self._adam.step()
        self._adam.zero_grad()
        follow(self._means.values(), self._masters.values(), self._stage.ema)
        self._show()
        return found

    def total(self, values: Tensor) -> Tensor:
        return values.detach().cpu()

    def tell(self, value: Any) -> Any:
        return value

    def state(self) -> State:
        moments = {
            kind: {n: kept(self._adam.state[m].get(kind, torch.zeros_like(m))) for n, m in self._masters.items()}
            for kind in MOMENTS
        }
        first = self._adam.state[next(iter(self._masters.values()))]
        weights = {name: kept(master) for name, master in self._masters.items()}
        ema = {name: kept(mean) for name, mean in self._means.items()}
        return State(int(first.get("step", 0)), weights, moments, ema)

    @torch.no_grad()
    def restore(self, state: State) -> None:
        for name, mean in self._means.items():
            mean.copy_(state.ema[name])
        for name, master in self._masters.items():
            master.copy_(state.weights[name])
            moments = {kind: state.moments[kind][name].to(self.device, copy=True) for kind in MOMENTS}
            self._adam.state[master] = {"step": torch.tensor(float(state.step), device=self.device), **moments}
        self._show()

    def frozen(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.module.named_parameters() if name not in self._weights}

    @torch.no_grad()
    def use_mean(self) -> None:
        for name, mean in self._means.items():
            self._masters[name].copy_(mean)
        self._show()

    def close(self) -> None: ...

    def _norms(self, parts: Parts) -> dict[str, float]:
        squares = torch.stack([square(master.grad) for master in self._masters.values()]).tolist()
        return norms(dict(zip(self._masters, squares, strict=True)), parts)

    @torch.no_grad()
    def _show(self) -> None:
        """The masters are what is learned; the network computes with their rounded copies."""
        for name, weight in self._weights.items():
            weight.copy_(self._masters[name])


def _dtype(training: Training) -> torch.dtype:
    return torch.bfloat16 if training.precision == "bf16" else torch.float32


def _master(weight: nn.Parameter) -> Tensor:
    return weight.detach().float().clone().requires_grad_()


def _take_grad(weight: nn.Parameter) -> Tensor:
    """The gradient in fp32 (zeros where the loss did not reach the weight), taken off the parameter."""
    grad, weight.grad = weight.grad, None
    return torch.zeros_like(weight, dtype=torch.float32) if grad is None else grad.float()
