"""How fast does a stage train here, and does its loader keep up?

Trains a stage of a profile for some steps on latents of its real shapes, made of noise, with the engine, the loader and
the meter of a real training (one process, real AdamW). Prints samples and operations a second, MFU and HFU (of the
GPU's peak, or on a CPU of what a large matrix product reaches), the time spent waiting for data from a store of 200
MB/s, memory beside the plan's, and the plan's operations beside torch's own count; of packed sounds also how much
faster they are than padded. Then the loader alone reads samples of the paper's size.
Try it: `.venv/bin/python benchmarks/training.py`, on a GPU with `--profile small` or `--profile ovi-11b`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ovi import config, storage
from ovi.config import Settings
from ovi.models import flops
from ovi.models.linear_codec import PAIR
from ovi.models.mel import HOP
from ovi.training import engine as engines
from ovi.training import gpus, recipes, towers
from ovi.training.batches import Batch, Chances, assemble, packed
from ovi.training.latents import LatentSet, LatentWriter, Pool, Sample, Shapes
from ovi.training.loader import Loader
from ovi.training.meter import Meter
from ovi.training.objective import losses
from ovi.training.order import Draws, Order, dealt
from ovi.training.place import Place
from ovi.training.plan import plan, shapes
from ovi.training.recipes import Recipe
from ovi.training.state import Engine
from ovi.training.watch import Workload

ROOT = Path(__file__).resolve().parents[1]
STORE = 200e6  # bytes a second
SAMPLES, SOUNDS, PAPER_SAMPLES = 24, 512, 24
WAIT_MAX, READ_MIN, COUNT_TOLERANCE = 0.01, 1e9, 0.01
PACKED_MIN = 1.6
MFU_MIN, MEMORY_GIB_MAX = {"fusion": 0.40, "audio_pretrain": 0.35}, 135.0  # one H200, profile ovi-11b

Bars = list[tuple[str, bool, str]]


def main() -> int:
    options = _options()
    settings = config.load(ROOT / "params.yaml", options.profile, [*_sets(options), *(options.sets or [])])
    recipe = recipes.get(options.stage, settings)
    results: dict[str, Any] = {
        "profile": options.profile, "stage": options.stage, "command": " ".join(sys.argv), "machine": _machine(),
    }  # fmt: skip
    bars: Bars = []
    if options.steps:
        with tempfile.TemporaryDirectory() as folder:
            latents = _written(Path(folder), recipe.sets[0], _sizes(recipe, settings))
            results["training"] = train(recipe, settings, latents, options, bars)
    with tempfile.TemporaryDirectory() as folder:
        results["loader"] = read(Path(folder), bars)
    for name, passed, figure in bars:
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}")
    results["bars"] = [{"name": name, "passed": passed, "figure": figure} for name, passed, figure in bars]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = options.out or ROOT / f"benchmarks/results/training-{options.profile}-{options.stage}-{device}.json"
    storage.write_json(out, results)
    failed = sum(not passed for _, passed, _ in bars)
    print(f"{len(bars) - failed} passed, {failed} failed")
    return 1 if failed or not bars else 0


def train(recipe: Recipe, settings: Settings, latents: Path, options: argparse.Namespace, bars: Bars) -> dict[str, Any]:
    """Figures of a few steps; of packed sounds also of the same sounds padded, with the same network."""
    stage = recipe.settings(settings)
    engine = engines.make(_network(recipe, settings), settings.training, stage, Place())
    peak = gpus.peak(_machine()["device"]) or _matmul_rate(engine.device, settings)
    packs = recipe.packs(settings)
    figures = timed(engine, recipe, settings, latents, options, peak, packs)
    figures["peak_tflops"] = peak / 1e12
    print(
        f"{options.profile} {recipe.stage}: {figures['samples_per_second']:.3g} samples/s, {figures['tflops']:.4g} "
        f"TFLOP/s, MFU {figures['mfu']:.1%}, HFU {figures['hfu']:.1%} of {peak / 1e12:.4g}, waiting "
        f"{figures['loader_share']:.2%}, peak {figures['peak_memory_gib']:.2f} GiB"
    )
    bars.append((f"waiting for a store of {STORE / 1e6:g} MB/s less than {WAIT_MAX:.0%} of the time",
                 figures["loader_share"] < WAIT_MAX, f"{figures['loader_share']:.2%}"))  # fmt: skip
    if packs:
        padded = timed(engine, recipe, settings, latents, options, peak, False)
        ratio = figures["samples_per_second"] / padded["samples_per_second"]
        figures["padded"], figures["packed_over_padded"] = padded, ratio
        words = f"{ratio:.2f} times the samples/s of padded batches"
        if options.count:
            words += f"; computed beyond what sounds need: {figures['surplus']:+.1%} packed, {padded['surplus']:+.1%}"
        if engine.device.type == "cuda":
            bars.append((f"packed at least {PACKED_MIN} times as fast as padded", ratio >= PACKED_MIN, words))
        else:
            print(words)
    elif options.count:
        off = -figures["surplus"] / (1 + figures["surplus"])
        bars.append(("operations by plan and by torch's counter agree", abs(off) <= COUNT_TOLERANCE, f"{off:+.2%}"))
    if engine.device.type == "cuda":
        _on_gpu(recipe, settings, figures, options, bars)
    return figures


def timed(
    engine: Engine, recipe: Recipe, settings: Settings, latents: Path, options: argparse.Namespace,
    peak: float, packs: bool,
) -> dict[str, Any]:  # fmt: skip
    """What the meter says of `options.steps` steps after two to warm up, the second of which torch counts."""
    stage, work = recipe.settings(settings), Workload(recipe, settings)
    pool = Pool([SlowSet.open(latents, recipe.sets[0], "train")])
    order = Order([0] * len(pool), settings.seed, stage.batch)
    chances, empty = Chances(stage.caption_dropout, 0.0, stage.shift), torch.zeros(1, settings.text.dim)

    def parts(number: int) -> list[Batch]:
        found, picks = [], order.batch(number)
        sizes = [(pool.shapes[pick.index]["audio"] or [0])[0] for pick in picks]
        for hand in dealt(sizes, stage.accumulate):
            mine = [picks[place] for place in hand]
            draws = [Draws(settings.seed, recipe.stage, pool.names[pick.index], pick.visit) for pick in mine]
            batch = assemble([pool.read(pick.index) for pick in mine], draws, recipe.modalities, chances, empty)
            found.append(packed(batch) if packs else batch)
        return found

    loader, meter, counted, each = Loader(parts, settings.training.loader_workers), Meter(1, peak), 0, []
    for number in range(-2, options.steps):
        with meter.waiting():
            batches = loader.take(number + 2)
        counting = number == -1 and options.count
        with flops.counter() if counting else contextlib.nullcontext() as counter:
            engine.step((_loss(engine, recipe, settings, batch) for batch in batches), stage.lr)
        each = [work.of(pool.shapes[pick.index]) for pick in order.batch(number + 2)]
        if counting:
            counted = counter.get_total_flops() / sum(w.forward + w.backward + w.repeated for w in each)
        if number == -1:
            meter.read()
        else:
            meter.step(len(each), sum(w.forward + w.backward for w in each), sum(w.repeated for w in each))
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    figures: dict[str, Any] = {**meter.read(), "tokens": work.tokens(pool.shapes[0])}
    loader.close()
    return {**figures, "surplus": counted - 1} if options.count else figures


def read(folder: Path, bars: Bars) -> dict[str, float]:
    """Bytes a second of one thread that reads samples of the paper's size which are in the page cache.

    By the thread's own clock, so that other programs on the machine do not count, and by the wall's.
    """
    settings = config.load(ROOT / "params.yaml", "ovi-11b")
    sizes = {**shapes(recipes.get("fusion", settings), settings), "text": [128, settings.text.dim]}
    _written(folder, "av", [sizes] * PAPER_SAMPLES)
    latents = LatentSet.open(folder, "av", "train")
    latents._cache = None  # as a set that is larger than memory
    size = sum(4 * math.prod(shape) for shape in sizes.values() if shape)
    torch.set_num_threads(1)
    best = wall = math.inf
    for _ in range(3):
        began = time.thread_time(), time.perf_counter()
        for index in range(len(latents)):
            latents.read(index)
        best, wall = min(best, time.thread_time() - began[0]), min(wall, time.perf_counter() - began[1])
    rate = size * len(latents) / best
    bars.append((f"one thread reads at least {READ_MIN / 1e9:g} GB/s of warm samples", rate >= READ_MIN,
                 f"{rate / 1e9:.2f} GB/s, {size / 1e6:.1f} MB a sample"))  # fmt: skip
    return {"bytes_per_second": rate, "bytes_per_wall_second": size * len(latents) / wall, "sample_bytes": size}


class SlowSet(LatentSet):
    """A set that comes from a store of so many bytes a second, every time anew."""

    def read(self, index: int) -> Sample:
        self._cache = None
        began = time.perf_counter()
        sample = super().read(index)
        size = sum(4 * math.prod(shape) for shape in self.shapes[index].values() if shape)
        time.sleep(max(0.0, size / STORE - (time.perf_counter() - began)))
        return sample


def _written(folder: Path, name: str, sizes: list[Shapes]) -> Path:
    """A set of noise in these shapes."""
    draw = torch.Generator().manual_seed(0)

    def noise(shape: list[int] | None) -> Tensor | None:
        return None if shape is None else torch.randn(shape, generator=draw)

    with LatentWriter(folder, name, "train", 1 << 30) as writer:
        for number, shape in enumerate(sizes):
            video, audio, text = (noise(shape[part]) for part in ("video", "audio", "text"))
            writer.add(Sample(f"{number:04d}", video, cast(Tensor, audio), cast(Tensor, text), "A sound."))
    return folder


def _sizes(recipe: Recipe, settings: Settings) -> list[Shapes]:
    """Clips of the stage's size, or sounds of all lengths it is pretrained on, their texts no shorter than a tenth."""
    whole = shapes(recipe, settings)
    assert whole["audio"] is not None
    assert whole["text"] is not None
    (_, channels), (keys, dim) = whole["audio"], whole["text"]
    if recipe.sets != ("pretrain",):
        return [{**whole, "text": [keys - 1, dim]}] * SAMPLES
    second = settings.clip.sample_rate / HOP / PAIR
    low, high = (int(seconds * second) for seconds in settings.curation.pretrain_seconds)
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(low, high + 1, (SOUNDS,), generator=draw).tolist()
    texts = torch.randint(keys // 10, keys, (SOUNDS,), generator=draw).tolist()
    return [{"video": None, "audio": [length, channels], "text": [text, dim]}
            for length, text in zip(lengths, texts, strict=True)]  # fmt: skip


def _network(recipe: Recipe, settings: Settings) -> torch.nn.Module:
    """The stage's network with random weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    outline = towers.outline(recipe, settings)
    model = outline.to(engines._dtype(settings.training)).to_empty(device=device)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.02)
    return model


def _loss(engine: Engine, recipe: Recipe, settings: Settings, part: Batch) -> Tensor:
    weights = recipe.weights(settings)
    found = losses(engine.forward, part.to(engine.device))
    return torch.stack([weights[name] * value.mean() for name, value in found.items()]).sum()


def _on_gpu(
    recipe: Recipe, settings: Settings, figures: dict[str, Any], options: argparse.Namespace, bars: Bars
) -> None:
    planned = plan(recipe.stage, settings, options.gpu).total / gpus.GIB
    figures["planned_memory_gib"] = planned
    off = figures["peak_memory_gib"] / planned - 1
    bars.append(("memory as planned within 10 %", abs(off) <= 0.1, f"{figures['peak_memory_gib']:.1f} GiB, {off:+.1%}"))
    least = MFU_MIN.get(recipe.stage)
    if options.profile == "ovi-11b" and least:
        bars.append((f"MFU at least {least:.0%}", figures["mfu"] >= least, f"{figures['mfu']:.1%}"))
        most = figures["peak_memory_gib"]
        bars.append((f"peak memory under {MEMORY_GIB_MAX:g} GiB", most < MEMORY_GIB_MAX, f"{most:.1f} GiB"))


def _matmul_rate(device: torch.device, settings: Settings) -> float:
    """Operations a second of a large matrix product: what can be hoped for where no peak is known."""
    size = 1024
    a, b = (torch.randn(size, size, device=device, dtype=engines._dtype(settings.training)) for _ in range(2))
    best = math.inf
    for _ in range(8):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _machine() -> dict[str, Any]:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _sets(options: argparse.Namespace) -> list[str]:
    """One process, and batches that it can compute in one go."""
    sets = ["training.engine=torch", "training.ranks=1", "training.loader_workers=2"]
    if options.batch:
        sets += [f"training.{options.stage}.batch={options.batch}", f"training.{options.stage}.accumulate=1"]
    return sets


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time a training stage of a profile, with random weights and noise.")
    parser.add_argument("--profile", default="tiny", help="of params.yaml")
    parser.add_argument("--stage", default="fusion", choices=list(recipes.RECIPES))
    parser.add_argument("--set", dest="sets", action="append", help="one setting, as section.key=value")
    parser.add_argument("--batch", type=int, help="samples a step, in one part, instead of the profile's")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed; 0: the loader alone")
    parser.add_argument("--gpu", default="h200", help="whose plan memory is compared with")
    parser.add_argument("--no-count", dest="count", action="store_false", help="without torch's count of operations")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
