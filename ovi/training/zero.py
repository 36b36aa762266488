"""An engine of several ranks: DeepSpeed's ZeRO of stage 1, 2 or 3, on gloo (CPU) or NCCL, without compiling anything.

The stages differ in which part of a weight a rank looks after. `Share` says which; all that follows from it (what is
gathered into a checkpoint and dealt out again, the gradient's norm, the running mean) is the same for all stages and
any number of ranks.
Try it: `pytest tests/training/test_engine.py`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ovi.config import Stage, Training
from ovi.training.place import Place
from ovi.training.state import (
    MOMENTS,
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

TIMEOUT = timedelta(minutes=30)  # validation and checkpoints happen between two collectives
BUCKET = 500_000_000  # numbers that travel at once
PERSISTENT = 10_000  # under ZeRO 3, a weight smaller than this part of all stays whole in every rank


@dataclass(frozen=True)
class Share:
    """A rank's part of a weight: `count` numbers from `start` of its flat tensor `flat`, from `at` of the weight."""

    flat: int = 0
    start: int = 0
    at: int = 0
    count: int = 0


class DeepSpeedEngine:
    def __init__(self, model: nn.Module, training: Training, stage: Stage, place: Place) -> None:
        deepspeed = _import_deepspeed()
        self.rank, self.ranks, self._stage = place.rank, place.ranks, stage
        self.device = torch.device("cuda", place.local) if on_gpu() else torch.device("cpu")
        if not dist.is_initialized():
            dist.init_process_group(
                "nccl" if on_gpu() else "gloo",
                init_method=f"file://{place.meeting}" if place.meeting else "env://",
                rank=place.rank, world_size=place.ranks, timeout=TIMEOUT,
            )  # fmt: skip
        os.environ["LOCAL_RANK"] = str(place.local)  # DeepSpeed insists on it
        deepspeed.init_distributed(auto_mpi_discovery=False, timeout=TIMEOUT)
        self._weights = trainable(model)
        self._shapes = {name: weight.shape for name, weight in self._weights.items()}
        self._adam = adam(list(self._weights.values()), stage)
        self._deepspeed, self._zero, *_ = deepspeed.initialize(
            model=model, optimizer=self._adam, config=_config(training, stage, place, self._weights)
        )
        self._zero.unscale_and_clip_grads = self._clip
        self._gathered = deepspeed.zero.GatheredParameters if training.zero_stage == 3 else None
        self.module = self._deepspeed.module
        self.forward = self._deepspeed
        self._masters: list[Tensor] = (  # flat, what Adam really steps on
            self._zero.fp32_partitioned_groups_flat if self._gathered else self._zero.single_partition_of_fp32_groups
        )
        self._shares = {name: self._share(weight) for name, weight in self._weights.items()}
        self._means = [master.detach().clone() for master in self._masters] if stage.ema else []
        self._scale = 1.0

    def step(self, losses: Iterable[Tensor], lr: float, parts: Parts | None = None) -> dict[str, float]:
        set_lr(self._adam, lr)
        found: dict[str, float] = {}
        for number, loss in enumerate(losses, 1):
            self._deepspeed.backward(loss)
            if number == self._stage.accumulate:
                found = self._norms(parts or {})
                self._scale = clipping(found["all"], self._stage)
            self._deepspeed.step()  # a gradient that is not finite skips the update in here
        check(math.inf if self._zero.overflow else found["all"])
        follow(self._means, self._masters, self._stage.ema)
        return found

    def total(self, values: Tensor) -> Tensor:
        values = values.detach().to(self.device)
        dist.all_reduce(values)
        return values.cpu()

    def tell(self, value: Any) -> Any:
        said = json.dumps(value).encode() if self.rank == 0 else b""
        size = int(self.total(torch.tensor(len(said))))
        data = torch.frombuffer(bytearray(said or bytes(size)), dtype=torch.uint8).to(self.device)
        dist.broadcast(data, 0)
        return json.loads(bytes(data.tolist()))

    def state(self) -> State:
        states = [self._adam.state.get(master, {}) for master in self._masters]
        moments = {
            kind: self._whole([s.get(kind, torch.zeros_like(m)) for s, m in zip(states, self._masters, strict=True)])
            for kind in MOMENTS
        }
        step = max(int(state.get("step", 0)) for state in states)
        return State(step, self._whole(self._masters), moments, self._whole(self._means) if self._means else {})

    @torch.no_grad()
    def restore(self, state: State) -> None:
        step = self.tell(state.step)
        for master in self._masters:  # Adam makes its moments on its first step, which is behind us
            moments = {kind: torch.zeros_like(master) for kind in MOMENTS}
            self._adam.state[master] = {"step": torch.tensor(float(step), device=self.device), **moments}
        for kind in MOMENTS:
            self._deal(state.moments.get(kind, {}), [self._adam.state[master][kind] for master in self._masters])
        if self._means:
            self._deal(state.ema, self._means)
        self._deal(state.weights, self._masters)
        self._show()

    def frozen(self) -> dict[str, Tensor]:
        frozen = {name: weight for name, weight in self.module.named_parameters() if name not in self._weights}
        if self._gathered is None:
            return {name: weight.detach() for name, weight in frozen.items()}
        whole = {}
        for name, weight in frozen.items():
            with self._gathered([weight]):
                if self.rank == 0:
                    whole[name] = kept(weight)
        return whole

    @torch.no_grad()
    def use_mean(self) -> None:
        for master, mean in zip(self._masters, self._means, strict=True):
            master.copy_(mean)
        self._show()

    def close(self) -> None:
        self._deepspeed.destroy()
        dist.destroy_process_group()

    def _share(self, weight: nn.Parameter) -> Share:
        if self._gathered:  # every weight is cut into as many pieces as there are ranks, the last ones padded
            flat, start, size = self._zero.grad_position[self._zero.get_param_id(weight)]
            at = min(self.rank * size, weight.ds_numel)
            return Share(flat, start, at, min(size, weight.ds_numel - at))
        if weight._hp_mapping is None:  # all weights in a row are cut, so that most belong to one rank
            return Share()
        flat, whole = weight._hp_mapping.hp_fragment_address, weight._hp_mapping.lp_fragment_address
        return Share(weight._hp_mapping.param_group_index, flat.start, whole.start, flat.numel)

    def _whole(self, flats: list[Tensor]) -> dict[str, Tensor]:
        """What the ranks' shares hold, put together in the first rank."""
        whole = {}
        for name, share in self._shares.items():
            buffer = torch.zeros(self._shapes[name].numel(), device=self.device)
            buffer[share.at : share.at + share.count] = flats[share.flat][share.start : share.start + share.count]
            dist.reduce(buffer, 0)
            if self.rank == 0:
                whole[name] = buffer.view(self._shapes[name]).cpu()
        return whole

    def _deal(self, whole: dict[str, Tensor], flats: list[Tensor]) -> None:
        """Every rank takes its share of what the first rank has."""
        for name, share in self._shares.items():
            buffer = torch.empty(self._shapes[name].numel(), device=self.device)
            if self.rank == 0:
                buffer.copy_(whole[name].flatten())
            dist.broadcast(buffer, 0)
            flats[share.flat][share.start : share.start + share.count] = buffer[share.at : share.at + share.count]

    def _show(self) -> None:
        """The network computes with rounded copies of the masters."""
        if self._gathered is None:
            self._zero.update_lp_params()
            return
        self._zero._partition_all_parameters()  # whatever is whole now is no longer true
        for number in range(len(self._masters)):
            self._zero._reassign_or_swap_out_partitioned_parameters(number)

    def _norms(self, parts: Parts) -> dict[str, float]:
        """Of the whole gradient, each rank having a share of it in hand between the backward pass and the step."""
        nothing = torch.zeros((), dtype=torch.float64, device=self.device)
        squares = [
            square(self._grad(self._weights[name])[: share.count]) if share.count else nothing
            for name, share in self._shares.items()
        ]
        return norms(dict(zip(self._shares, self.total(torch.stack(squares)).tolist(), strict=True)), parts)

    def _grad(self, weight: nn.Parameter) -> Tensor:
        if self._gathered:
            return self._zero.get_local_fp32_grad_for_param(weight)
        return weight._hp_mapping.get_lp_grad_fragment(weight._index_in_param_group).flatten()

    def _clip(self, grads: Any, _norm: Tensor) -> None:
        """In place of DeepSpeed's own clipping, whose norm depends on the stage and the number of ranks.

        `grads`: the fp32 gradients of this rank's share, or the number of the flat tensor that has them.
        """
        for grad in [self._masters[grads].grad] if isinstance(grads, int) else grads:
            grad.mul_(self._scale)


def _import_deepspeed() -> Any:
    """DeepSpeed without what costs seconds at every start and is not used here.

    It imports mlflow for a tuner (a None in sys.modules is how Python says that a module is absent), sets up
    torch.compile for an optimiser we do not choose, and compiles a CPU collective, for which it would need g++.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu() else "cpu")
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
    # It calls collectives by names that torch is about to change, which torch says at every single call.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    return deepspeed


def _config(training: Training, stage: Stage, place: Place, weights: dict[str, nn.Parameter]) -> dict[str, Any]:
    numbers = sum(weight.numel() for weight in weights.values())
    bucket = min(numbers + numbers % 2, BUCKET)  # DeepSpeed reserves it at once, and wants it even
    return {
        "train_batch_size": stage.batch,
        "train_micro_batch_size_per_gpu": stage.batch // place.ranks // stage.accumulate,
        "gradient_accumulation_steps": stage.accumulate,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": training.precision == "bf16"},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if stage.accumulate > 1 else {}),
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": training.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_param_persistence_threshold": numbers // PERSISTENT,
        },
        "steps_per_print": 2**31,
    }
