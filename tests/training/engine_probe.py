"""What test_engine.py runs in rank processes: `python -m tests.training.engine_probe RANK RANKS MEETING OUT [STATE]`.

One DeepSpeed import for all cases. Writes OUT/<case>-<moment>.safetensors (weights and moments) and OUT/losses.json.
With STATE, a file that other ranks wrote after six steps, only continues from it, with every ZeRO stage.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovi import config
from ovi.config import Stage, Training
from ovi.training import engine as engines

STAGE = Stage(steps=20, batch=8, lr=1e-2, betas=(0.9, 0.95), clip_norm=0.5, ema=0.9)
IN_PARTS = STAGE.model_copy(update={"accumulate": 2})
PARTS = {"body": ["body.weight", "body.bias"], "ends": ["open.weight", "close.bias"]}


class Toy(nn.Module):
    """Two layers used twice a step, one of them frozen, and a weight no loss ever reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.body, self.frozen, self.close = (nn.Linear(7, 7) for _ in range(4))
        self.unused = nn.Linear(3, 3)
        draw = torch.Generator().manual_seed(0)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.5, generator=draw)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.open(x.to(self.open.weight.dtype))
        for _ in range(2):
            x = self.frozen(torch.tanh(self.body(x)))
        return self.close(x).float()


def training(**values: object) -> Training:
    base = config.load(Path(__file__).parents[2] / "params.yaml").training
    return base.model_copy(update=values)


def batch(step: int, rank: int, ranks: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    x = torch.randn(STAGE.batch, 7, generator=draw)
    return x[rank::ranks], x.flip(1)[rank::ranks] ** 2


def run(engine: engines.Engine, first: int, last: int, parts: int = 1) -> list[float]:
    return [row[0] for row in watched(engine, first, last, parts)]


def watched(engine: engines.Engine, first: int, last: int, parts: int = 1) -> list[list[float]]:
    """Of every step the loss, the gradient's norm and those of PARTS."""
    rows = []
    for step in range(first, last):
        x, y = batch(step, engine.rank, engine.ranks)
        seen: list[Tensor] = []

        def losses(x: Tensor = x, y: Tensor = y, seen: list[Tensor] = seen) -> Iterator[Tensor]:
            for part in range(parts):
                seen.append(((engine.forward(x[part::parts]) - y[part::parts]) ** 2).mean())
                yield seen[-1]

        norms = engine.step(losses(), STAGE.lr * (0.5 if step > 10 else 1.0), PARTS)
        total = float(engine.total(torch.stack(seen).detach().sum())) / engine.ranks / parts
        rows.append([total, *norms.values()])
    return rows


def save(state: engines.State, path: Path) -> None:
    moments = {f"{kind}.{name}": x for kind, values in state.moments.items() for name, x in values.items()}
    tensors = {f"weights.{name}": x for name, x in state.weights.items()} | moments
    tensors |= {f"ema.{name}": x for name, x in state.ema.items()}
    save_file({name: x.detach().contiguous() for name, x in tensors.items()} | {"step": torch.tensor(state.step)}, path)


def load(path: Path) -> engines.State:
    tensors = load_file(path)
    parts = {
        kind: {n.removeprefix(f"{kind}."): x for n, x in tensors.items() if n.startswith(f"{kind}.")}
        for kind in ("weights", "ema", *engines.MOMENTS)
    }
    weights, ema = parts.pop("weights"), parts.pop("ema")
    return engines.State(int(tensors["step"]), weights, parts, ema)


def main(rank: int, ranks: int, meeting: Path, out: Path, start: Path | None = None) -> None:
    torch.set_num_threads(1)
    place = engines.Place(rank, ranks, meeting)
    losses = _continued(place, start) if start else _straight(place, out)
    if rank == 0:
        (out / "losses.json").write_text(json.dumps(losses))
    torch.distributed.destroy_process_group()
    os._exit(0)  # as a rank ends: threads of gloo may outlive the interpreter and abort it


def _straight(place: engines.Place, out: Path) -> dict[str, Any]:
    losses: dict[str, Any] = {}
    for case, values in {
        "zero1": {"zero_stage": 1}, "zero2": {"zero_stage": 2}, "zero3": {"zero_stage": 3},
        "bf16": {"zero_stage": 2, "precision": "bf16"}, "bf16-3": {"zero_stage": 3, "precision": "bf16"},
    }.items():  # fmt: skip
        set_up = training(**values)
        straight = engines.make(Toy(), set_up, STAGE, place)
        states = {"start": straight.state()}
        losses[case] = run(straight, 0, 1)
        states["first"] = straight.state()
        losses[case] += run(straight, 1, 6)
        states["middle"] = straight.state()
        losses[case] += run(straight, 6, 20)
        resumed = engines.make(Toy(), set_up, STAGE, place)
        resumed.restore(states["middle"])
        losses[f"{case}-resumed"] = run(resumed, 6, 20)
        states |= {"end": straight.state(), "resumed": resumed.state()}
        resumed.use_mean()
        states["mean"] = resumed.state()
        losses[f"{case}-mean"] = [float(resumed.forward(batch(0, 0, 1)[0]).sum())]
        frozen = resumed.frozen()
        if place.rank == 0:
            for name, state in states.items():
                save(state, out / f"{case}-{name}.safetensors")
            save_file(frozen, out / f"{case}-frozen.safetensors")
    for case, values in {"parts1": {"zero_stage": 1}, "parts2": {"zero_stage": 2}, "parts3": {"zero_stage": 3}}.items():
        losses[case] = watched(engines.make(Toy(), training(**values), IN_PARTS, place), 0, 20, 2)
    bf16 = training(zero_stage=2, precision="bf16")
    losses["parts-bf16"] = watched(engines.make(Toy(), bf16, IN_PARTS, place), 0, 20, 2)
    losses["told"] = [straight.tell({"rank": place.rank, "text": "\u00e4" * place.rank}), straight.tell(None)]
    losses["diverged"] = _diverged(place)
    return losses


def _diverged(place: engines.Place) -> list[str]:
    """What each stage says of a gradient that is not finite in one rank only, and whether it goes on as before."""
    said = []
    for zero in (1, 2, 3):
        engine = engines.make(Toy(), training(zero_stage=zero), STAGE, place)
        rows = run(engine, 0, 1)
        bad = torch.full((4, 7), torch.inf if place.rank else 1.0)
        try:
            engine.step([engine.forward(bad).mean()], STAGE.lr)
            said.append("nothing")
        except engines.Diverged as error:
            said.append(f"{error}")
        said.append(json.dumps(rows + run(engine, 1, 3)))
    return said


def _continued(place: engines.Place, start: Path) -> dict[str, Any]:
    losses = {}
    for zero in (1, 2, 3):
        engine = engines.make(Toy(), training(zero_stage=zero), STAGE, place)
        engine.restore(load(start) if place.rank == 0 else engines.State(0, {}, {}))
        losses[f"zero{zero}"] = run(engine, 6, 20)
    return losses


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *map(Path, sys.argv[3:]))
