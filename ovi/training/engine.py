"""What takes a loss and moves the weights: one process with plain torch, or several ranks with DeepSpeed's ZeRO.

An engine knows nothing of data, stages or losses. Both kinds hold fp32 master weights and Adam moments, give them
out whole (`state`) and take them back (`restore`), so that a checkpoint of one can be continued by the other and by
any number of ranks.
Try it: `pytest tests/training/test_engine.py`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ovi.config import Stage, Training
from ovi.errors import OviError

MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names of Adam's first and second moment
TIMEOUT = timedelta(minutes=30)  # validation and checkpoints happen between two collectives


@dataclass(frozen=True)
class Place:
    """Where this process stands among the ranks, and the file they meet at."""

    rank: int = 0
    ranks: int = 1
    meeting: Path | None = None  # a file that does not exist yet; needed by DeepSpeed


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
    """Trains the parameters of `model` that require a gradient when the engine is made; the others are left alone."""

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

    def state(self) -> State:
        """Every rank must ask; every rank gets all of it."""

    def restore(self, state: State) -> None: ...

    def close(self) -> None: ...


def make(model: nn.Module, training: Training, stage: Stage, place: Place) -> Engine:
    """The engine that `training.engine` names."""
    if training.engine == "torch":
        return TorchEngine(model, training, stage)
    return DeepSpeedEngine(model, training, stage, place)


class TorchEngine:
    def __init__(self, model: nn.Module, training: Training, stage: Stage) -> None:
        self.rank, self.ranks = 0, 1
        self.device = torch.device("cuda" if _cuda() else "cpu")
        self.module = model.to(self.device, _dtype(training))
        self.forward = self.module
        self._stage = stage
        self._weights = _trainable(self.module)
        self._masters = {name: _master(weight) for name, weight in self._weights.items()}
        self._means = {name: _copy_here(master) for name, master in self._masters.items()} if stage.ema else {}
        self._adam = _adam(list(self._masters.values()), stage)

    def step(self, losses: Iterable[Tensor], lr: float, parts: Parts | None = None) -> dict[str, float]:
        self._adam.zero_grad()
        for loss in losses:
            _share(loss, self._stage.accumulate).backward()
            for name, master in self._masters.items():
                grad = _take_grad(self._weights[name])
                master.grad = grad if master.grad is None else master.grad.add_(grad)
        norms = {part: _norm(self._masters[name].grad for name in names) for part, names in (parts or {}).items()}
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters.values(), self._stage.clip_norm))
        _check(norm)
        _set_lr(self._adam, lr)
        self._adam.step()
        self._adam.zero_grad()
        _follow(self._means.values(), self._masters.values(), self._stage.ema)
        self._show()
        return {"all": norm, **norms}

    def total(self, values: Tensor) -> Tensor:
        return values.detach().cpu()

    def state(self) -> State:
        moments = {
            kind: {n: _copy(self._adam.state[m].get(kind, torch.zeros_like(m))) for n, m in self._masters.items()}
            for kind in MOMENTS
        }
        first = self._adam.state[next(iter(self._masters.values()))]
        weights = {name: _copy(master) for name, master in self._masters.items()}
        ema = {name: _copy(mean) for name, mean in self._means.items()}
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

    def close(self) -> None: ...

    @torch.no_grad()
    def _show(self) -> None:
        """The masters are what is learned; the network computes with their rounded copies."""
        for name, weight in self._weights.items():
            weight.copy_(self._masters[name])


class DeepSpeedEngine:
    """ZeRO 1 or 2 over `place.ranks` processes, on gloo (CPU) or NCCL, without compiling anything."""

    def __init__(self, model: nn.Module, training: Training, stage: Stage, place: Place) -> None:
        deepspeed = _import_deepspeed()
        self.rank, self.ranks, self._stage = place.rank, place.ranks, stage
        self.device = torch.device("cuda", place.rank % torch.cuda.device_count()) if _cuda() else torch.device("cpu")
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                "nccl" if _cuda() else "gloo", init_method=f"file://{place.meeting}", rank=place.rank,
                world_size=place.ranks, timeout=TIMEOUT,
            )  # fmt: skip
        os.environ["LOCAL_RANK"] = str(place.rank)  # DeepSpeed insists on it
        deepspeed.init_distributed(auto_mpi_discovery=False, timeout=TIMEOUT)
        self._weights = _trainable(model)
        self._adam = _adam(list(self._weights.values()), stage)
        self._deepspeed, self._zero, *_ = deepspeed.initialize(
            model=model, optimizer=self._adam, config=_config(training, stage, place, self._weights)
        )
        self.module = self._deepspeed.module
        self.forward = self._deepspeed
        self._means = [_copy_here(flat) for flat in self._partitions()] if stage.ema else []

    def step(self, losses: Iterable[Tensor], lr: float, parts: Parts | None = None) -> dict[str, float]:
        _set_lr(self._adam, lr)
        norms: dict[str, float] = {}
        for number, loss in enumerate(losses, 1):
            self._deepspeed.backward(loss)
            if parts and number == self._stage.accumulate:
                norms = self._norms(parts)
            self._deepspeed.step()  # a gradient that is not finite skips the update in here
        norm = float(self._deepspeed.get_global_grad_norm())
        _check(norm)
        _follow(self._means, self._partitions(), self._stage.ema)
        return {"all": norm, **norms}

    def total(self, values: Tensor) -> Tensor:
        values = values.detach().to(self.device)
        torch.distributed.all_reduce(values)
        return values.cpu()

    def state(self) -> State:
        from deepspeed.utils import safe_get_full_optimizer_state

        step = max(
            (int(self._adam.state[flat]["step"]) for flat in self._partitions() if self._adam.state[flat]), default=0
        )
        weights, ema = self._whole(), {}
        if self._means:
            kept = [flat.clone() for flat in self._partitions()]
            self._fill(self._means)
            ema = self._whole()
            self._fill(kept)
        if step == 0:
            moments = {kind: {n: torch.zeros_like(w) for n, w in weights.items()} for kind in MOMENTS}
        else:
            moments = {
                kind: {name: safe_get_full_optimizer_state(w, kind).cpu() for name, w in self._weights.items()}
                for kind in MOMENTS
            }
        return State(step, weights, moments, ema)

    @torch.no_grad()
    def restore(self, state: State) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if self._means:
            for name, weight in self._weights.items():
                safe_set_full_fp32_param(weight, state.ema[name].to(self.device))
            self._means = [_copy_here(flat) for flat in self._partitions()]
        for flat in self._partitions():  # Adam makes its moments on its first step, which is behind us
            moments = {kind: torch.zeros_like(flat) for kind in MOMENTS}
            self._adam.state[flat] = {"step": torch.tensor(float(state.step), device=self.device), **moments}
        self._zero._hp_optimizer_states_linked = False
        self._zero._lazy_init_hp_params_optimizer_state()
        for name, weight in self._weights.items():
            safe_set_full_fp32_param(weight, state.weights[name].to(self.device))
            for kind in MOMENTS:
                safe_set_full_optimizer_state(weight, state.moments[kind][name].to(self.device), kind)
            weight.copy_(state.weights[name])  # the network computes with these until the next step gathers them

    def close(self) -> None:
        self._deepspeed.destroy()
        torch.distributed.destroy_process_group()

    def _whole(self) -> dict[str, Tensor]:
        """What the ranks' shares of the master weights hold, put together."""
        from deepspeed.utils import safe_get_full_fp32_param

        return {name: safe_get_full_fp32_param(weight).cpu() for name, weight in self._weights.items()}

    @torch.no_grad()
    def _fill(self, values: list[Tensor]) -> None:
        for flat, value in zip(self._partitions(), values, strict=True):
            flat.copy_(value)

    def _norms(self, parts: Parts) -> dict[str, float]:
        """Of the whole gradient, each rank having a share of it in hand between the backward pass and the step."""
        squares = torch.zeros(len(parts), dtype=torch.float64, device=self.device)
        for number, names in enumerate(parts.values()):
            for weight in (self._weights[name] for name in names):
                if weight._hp_mapping is not None:
                    share = weight._hp_mapping.get_lp_grad_fragment(weight._index_in_param_group)
                    squares[number] += share.double().square().sum()
        return dict(zip(parts, self.total(squares).sqrt().tolist(), strict=True))

    def _partitions(self) -> list[Tensor]:
        """This rank's flat share of the master weights: what Adam really steps on."""
        return [flat for group in self._adam.param_groups for flat in group["params"]]


def _import_deepspeed() -> Any:
    """DeepSpeed without what costs seconds at every start and is not used here.

    It imports mlflow for a tuner (a None in sys.modules is how Python says that a module is absent), sets up
    torch.compile for an optimiser we do not choose, and compiles a CPU collective, for which it would need g++.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if _cuda() else "cpu")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    hidden = {"mlflow": None} if "mlflow" not in sys.modules else {}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        import deepspeed
        import deepspeed.ops
    finally:
        for name in hidden:
            del sys.modules[name]
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _config(training: Training, stage: Stage, place: Place, weights: dict[str, nn.Parameter]) -> dict[str, Any]:
    numbers = sum(weight.numel() for weight in weights.values())
    bucket = min(numbers + numbers % 2, 500_000_000)  # DeepSpeed reserves it at once, and wants it even
    return {
        "train_batch_size": stage.batch,
        "train_micro_batch_size_per_gpu": stage.batch // place.ranks // stage.accumulate,
        "gradient_accumulation_steps": stage.accumulate,
        "gradient_clipping": stage.clip_norm,
        "bf16": {"enabled": training.precision == "bf16"},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if stage.accumulate > 1 else {}),
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": training.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "steps_per_print": 2**31,
    }


def _adam(weights: list[Any], stage: Stage) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        weights, lr=stage.lr, betas=stage.betas, eps=stage.eps, weight_decay=stage.weight_decay, fused=True
    )


def _set_lr(adam: torch.optim.AdamW, lr: float) -> None:
    for group in adam.param_groups:
        group["lr"] = lr


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _master(weight: nn.Parameter) -> Tensor:
    return weight.detach().float().clone().requires_grad_()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _copy_here(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _share(loss: Tensor, accumulate: int) -> Tensor:
    return loss if accumulate == 1 else loss / accumulate


def _norm(grads: Iterable[Tensor | None]) -> float:
    return math.sqrt(sum(float(grad.double().square().sum()) for grad in grads if grad is not None))


@torch.no_grad()
def _follow(means: Iterable[Tensor], weights: Iterable[Tensor], decay: float) -> None:
    """Move the running means towards the weights; element by element, so that it does not matter who holds which."""
    for mean, weight in zip(means, weights, strict=False):
        mean.lerp_(weight, 1 - decay)


def _take_grad(weight: nn.Parameter) -> Tensor:
    """The gradient in fp32 (zeros where the loss did not reach the weight), taken off the parameter."""
    grad, weight.grad = weight.grad, None
    return torch.zeros_like(weight, dtype=torch.float32) if grad is None else grad.float()


def _cuda() -> bool:
    return torch.cuda.is_available()


def _dtype(training: Training) -> torch.dtype:
    return torch.bfloat16 if training.precision == "bf16" else torch.float32


def _check(norm: float) -> None:
    if not math.isfinite(norm):
        raise Diverged("the gradient is not finite")
