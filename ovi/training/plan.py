"""What a stage will cost, before anything is spent: parameters, operations, memory of a GPU by item, GPU-hours.

Parameters and what the backward pass keeps are read off the stage's real network on the meta device, where shapes
exist and numbers do not; operations are counted by formula (ovi/models/flops.py). It measures no device.
Try it: `ovi train plan --profile ovi-11b --stage fusion --gpu h200`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from ovi.config import Settings, Stage
from ovi.errors import ConfigError
from ovi.models import codecs, flops
from ovi.models.linear_codec import PACK, PAIR
from ovi.models.mel import HOP
from ovi.training import recipes, towers
from ovi.training.gpus import GIB, GPUS
from ovi.training.latents import Shapes
from ovi.training.recipes import Recipe
from ovi.training.watch import Workload

CONTEXT = 2 * GIB  # CUDA's own, NCCL's buffers, kernels
FRAGMENTATION = 0.05  # of what is allocated anew in every step
BUCKET = 500_000_000  # numbers that DeepSpeed reduces or gathers at once, see zero.py
LIVE = 1_000_000_000  # weights that DeepSpeed holds whole at once with ZeRO 3 (its stage3_max_live_parameters)
MOST_RANKS = 1024


@dataclass(frozen=True)
class Layout:
    """How a stage is spread: over processes, and a process's share of a batch over parts. See config.Training."""

    engine: str
    ranks: int
    zero_stage: int
    accumulate: int
    recompute: int
    sequence: int


@dataclass(frozen=True)
class Plan:
    """One stage on GPUs of one kind. Operations are of one sample; memory is bytes of one GPU, by item."""

    stage: str
    gpu: str
    mfu: float
    layout: Layout
    steps: int
    batch: int
    parameters: int
    trainable: int
    tokens: dict[str, int]
    work: flops.Work
    memory: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.memory.values())

    @property
    def step_flops(self) -> int:
        return self.batch * (self.work.forward + self.work.backward)

    @property
    def gpu_hours(self) -> float:
        return self.steps * self.step_flops / GPUS[self.gpu].flops / self.mfu / 3600

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("stage", "parameters", "trainable", "tokens", "steps", "batch")},
            "samples": self.steps * self.batch,
            "layout": vars(self.layout),
            "flops": {**vars(self.work), "step": self.step_flops},
            "gpu": self.gpu,
            "mfu": self.mfu,
            "gpu_hours": round(self.gpu_hours, 1),
            "memory_gib": {name: round(size / GIB, 2) for name, size in self.memory.items()},
            "total_gib": round(self.total / GIB, 2),
        }

    def lines(self) -> list[str]:
        """For people."""
        layout, work = self.layout, self.work
        tokens = ", ".join(f"{count} {name}" for name, count in self.tokens.items())
        forward, backward = work.forward / 1e12, work.backward / 1e12
        micro = self.batch * layout.sequence // layout.ranks // layout.accumulate
        share = "a GPU" if layout.sequence == 1 else f"for each {layout.sequence} GPUs"
        return [
            f"{self.stage}: {self.parameters / 1e9:.3f} billion parameters, {self.trainable / 1e9:.3f} of them trained",
            f"  a sample: {tokens} tokens, {forward:.4g} TFLOP forward, {backward:.4g} backward",
            f"  a step: {self.batch} samples, {layout.accumulate} x {micro} {share}, "
            f"{self.step_flops / 1e15:.4g} PFLOP",
            f"  the stage: {self.steps} steps, {self.steps * self.batch / 1e6:.4g} million samples, "
            f"{self.gpu_hours:,.1f} {self.gpu}-hours at {self.mfu:.0%} MFU",
            f"  each of {layout.ranks} {self.gpu} holds, with ZeRO {layout.zero_stage}:",
            *(f"  {size / GIB:8.2f} GiB  {name}" for name, size in self.memory.items()),
            f"  {self.total / GIB:8.2f} GiB  in all, of {GPUS[self.gpu].memory / GIB:.1f}",
        ]


def plan(stage: str, settings: Settings, gpu: str = "h200", mfu: float = 0.4) -> Plan:
    """Raises ConfigError for a GPU that is not known, and where memory is short, with the nearest that is enough."""
    if gpu not in GPUS:
        raise ConfigError(f"--gpu: {gpu!r} is not known; known are {', '.join(GPUS)}")
    training, facts = settings.training, _Facts(recipes.get(stage, settings), settings)
    ranks = training.ranks if training.engine == "deepspeed" else 1
    asked = Layout(
        training.engine, ranks, training.zero_stage, facts.stage.accumulate, training.recompute, training.sequence
    )
    room = GPUS[gpu].memory
    needed = sum(facts.memory(asked).values())
    if needed > room:
        short = f"training.{stage}: needs {needed / GIB:.1f} GiB on each of {ranks} {gpu}, which have {room / GIB:.1f}"
        for other in _others(asked, facts.stage.batch, settings.model.layers, training.precision):
            enough = sum(facts.memory(other).values())
            if enough <= room:
                raise ConfigError(f"{short}; the nearest that fits, in {enough / GIB:.1f}: {_words(other, stage)}")
        raise ConfigError(f"{short}, and {MOST_RANKS} would not do either; take a larger one, or set training.lora")
    return Plan(
        stage, gpu, mfu, asked, facts.stage.steps, facts.stage.batch, facts.parameters, facts.trainable,
        facts.tokens, facts.work, facts.memory(asked),
    )  # fmt: skip


def _others(asked: Layout, batch: int, layers: int, precision: str) -> Iterator[Layout]:
    """Other layouts of the same training, cheapest first: smaller parts, ZeRO 2, blocks twice, ZeRO 3, more GPUs."""
    ranks = asked.ranks
    while ranks <= min(MOST_RANKS, batch):
        engine = asked.engine if ranks == 1 else "deepspeed"
        seats = ranks // asked.sequence
        fewest = asked.accumulate if ranks == asked.ranks else 1
        for stages in (range(asked.zero_stage, 3), [3]):
            for twice, zero in product(range(asked.recompute, layers + 1), stages):
                for parts in range(fewest, batch // seats + 1):
                    if batch % (seats * parts) == 0 and not (zero == 1 and parts > 1 and precision == "bf16"):
                        yield Layout(engine, ranks, zero, parts, twice, asked.sequence)
        ranks *= 2


def _words(layout: Layout, stage: str) -> str:
    values = {
        "engine": layout.engine, "ranks": layout.ranks, "zero_stage": layout.zero_stage,
        f"{stage}.accumulate": layout.accumulate, "recompute": layout.recompute,
    }  # fmt: skip
    return " ".join(f"--set training.{name}={value}" for name, value in values.items())


class _Facts:
    """What of a plan does not depend on its layout."""

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        self.stage: Stage = recipe.settings(settings)
        self._precision = settings.training.precision
        largest = shapes(recipe, settings)
        workload = Workload(recipe, settings)
        self.tokens, self.work = workload.tokens(largest), workload.of(largest)
        dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
        weights = dict(towers.outline(recipe, settings).named_parameters())
        self._held = sum(weight.numel() for weight in weights.values())
        self.parameters = sum(weight.numel() for name, weight in weights.items() if towers.has_use(name, recipe))
        self.trainable = sum(weight.numel() for weight in weights.values() if weight.requires_grad)
        two, self._largest = kept(
            _shallow(recipe, settings, 2).to(dtype), largest, recipe.first_frame_share(settings) > 0
        )
        three, _ = kept(_shallow(recipe, settings, 3).to(dtype), largest, recipe.first_frame_share(settings) > 0)
        self._a_block, self._layers = three - two, settings.model.layers
        self._kept = two + (self._layers - 2) * self._a_block
        self._between = sum(self.tokens[name] for name in recipe.modalities) * settings.model.dim * dtype.itemsize

    def memory(self, layout: Layout) -> dict[str, float]:
        """Bytes of one GPU while it computes, by item; the optimiser's numbers are fp32."""
        number = 2 if self._precision == "bf16" else 4
        learned, shared = self.trainable, self.trainable / layout.ranks
        if layout.engine == "torch":
            gradients = number * learned + (4 * learned if number == 2 else 0)
            buckets = added = 0.0
        else:
            gradients = number * (learned if layout.zero_stage == 1 else shared)
            added = 4 * shared if layout.accumulate > 1 else 0
            buckets = 2 * number * min(learned, BUCKET)
        micro = self.stage.batch / layout.ranks / layout.accumulate  # of shared samples each rank has a part
        twice = min(layout.recompute, self._layers)
        activations = micro * (self._kept - twice * (self._a_block - self._between) + self._a_block * (twice > 0))
        gathered = layout.zero_stage == 3 and layout.engine == "deepspeed"
        items = {
            "weights": number * (self._held / layout.ranks + min(self._held, LIVE) if gathered else self._held),
            "gradients": gradients,
            "gradients added up": added,
            "master weights": 4 * shared,
            "Adam's moments": 8 * shared,
            "running mean": 4 * shared if self.stage.ema else 0,
            "buckets": buckets,
            "kept for the backward pass": activations,
            "at work": max(4 * micro * self._largest, 8 * shared - activations),  # in a block; in the optimiser's step
        }
        passing = items["kept for the backward pass"] + items["at work"]
        items["context and fragmentation"] = CONTEXT + FRAGMENTATION * passing
        return {name: float(size) for name, size in items.items() if size}


def _shallow(recipe: Recipe, settings: Settings, layers: int) -> nn.Module:
    """The stage's network with so many blocks, none of them computed twice."""
    model, training = settings.model.model_copy(update={"layers": layers}), settings.training
    changed = {"model": model, "training": training.model_copy(update={"recompute": 0})}
    return towers.outline(recipe, settings.model_copy(update=changed))


def shapes(recipe: Recipe, settings: Settings) -> Shapes:
    """Of the stage's largest sample: the whole clip, or the longest sound it is pretrained on.

    Of packed sounds it is the mean one, all lengths taken to be as frequent: parts of a batch are of one size.
    """
    clip, codec = settings.clip, settings.codec
    height, width = codecs.picture_size(settings)
    frames = (clip.frames - 1) // PACK + 1
    shortest, longest = settings.curation.pretrain_seconds
    seconds = (shortest + longest) / 2 if recipe.packs(settings) else longest
    samples = int(seconds * clip.sample_rate) if recipe.sets == ("pretrain",) else clip.samples
    return {
        "video": [codec.video_channels, frames, height // codec.video_patch[0], width // codec.video_patch[1]],
        "audio": [samples // HOP // PAIR, codec.audio_channels],
        "text": [settings.text.max_tokens, settings.text.dim],
    }


def kept(model: nn.Module, shapes: Shapes, first_frame: bool) -> tuple[int, int]:
    """Bytes that one sample's forward pass keeps for the backward pass: in all, and of the largest tensor.

    model is on the meta device. Attention and RMS norms are those of a GPU's fused kernels, which keep little.
    """
    sizes: dict[int, int] = {}
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    def noise(name: str) -> Tensor | None:
        there = name == "text" or hasattr(model, f"{name}_model")
        return torch.empty(1, *(shapes[name] or []), device=device) if there else None

    device = next(model.parameters()).device
    lens, t = torch.empty(1, dtype=torch.long, device=device), torch.empty(1, device=device)
    clean = torch.empty(1, dtype=torch.bool, device=device) if first_frame else False
    with saved_tensors_hooks(pack, lambda tensor: tensor), _FusedKernels():
        made = model(noise("video"), noise("audio"), t, noise("text"), lens, first_frame_clean=clean)
    del made  # until here the graph has held every storage, so that no two had the same address
    return sum(sizes.values()), max(sizes.values())


class _FusedKernels(TorchFunctionMode):
    """Off a GPU both are put together of operations that keep far more."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        if func is F.rms_norm:
            return _Norm.apply(args[0], (kwargs or {})["weight"])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Keeps its inputs, its result, and one number a query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:3], dtype=torch.float32))
        return out


class _Norm(torch.autograd.Function):
    """Keeps its input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)
