"""How fast does the model denoise here? The fast path beside the reference, in one run, with deviations and FLOPs.

Builds the transformer of a profile with random weights (nothing else is needed), asks both paths for guided velocities
of the same noise and texts, and prints seconds a forward pass, a step and a clip, TFLOP/s by an exact count and its
share of what matrix products reach on this device, peak memory, and the largest deviation between the paths. Lossy
accelerators are run over whole clips and printed with how far they move the result.
Try it: `.venv/bin/python benchmarks/denoise.py --reference --accelerators`, on a GPU with `--profile ovi-11b --whole`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from ovi import config, storage
from ovi.config import Settings
from ovi.diffusion import solvers
from ovi.diffusion.denoiser import Ask, Reference
from ovi.diffusion.guidance import Condition, Guidance, Texts
from ovi.diffusion.machine import Machine, default_device, precision
from ovi.diffusion.request import Request
from ovi.diffusion.sampler import Plan, Sampler
from ovi.models import codecs, flops, kernels
from ovi.models.folder import OviModel
from ovi.models.fusion import FusionModel, init

ROOT = Path(__file__).resolve().parents[1]
PROMPT_TOKENS, NEGATIVE_TOKENS = 150, 12
RATIO_MIN, COUNT_TOLERANCE = 1.5, 0.01  # on two CPU cores; formula against counter
OTHERS = ("video_codec", "audio_codec", "text_encoder")
DEVIATION_MAX = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # relative L2 of guided velocities
FORWARD_MS_MAX, DENOISE_S_MAX, CLIP_S_MAX, PEAK_GB_MAX = 400.0, 39.0, 45.0, 60.0  # one H200, profile ovi-11b


@dataclass(frozen=True)
class Case:
    """What both paths are asked."""

    settings: Settings
    device: torch.device
    dtype: torch.dtype
    machine: Machine
    plan: Plan
    passes: tuple[flops.Sizes, flops.Sizes]  # the positive one and the negative one

    @property
    def work(self) -> int:
        """Operations of one guided step as the reference does it, for one clip."""
        towers = codecs.tower_configs(self.settings)
        total = sum(flops.forward(*towers, sizes) for sizes in self.passes)
        if self.plan.guidance.skip_layer > 0:
            kept = self.passes[1]
            for tower, own, other in zip(towers, (kept.video, kept.audio), (kept.audio, kept.video), strict=True):
                total -= flops.block(tower, own, other, kept.text)
        return total


def main() -> int:
    options = _options()
    settings = config.load(ROOT / "params.yaml", options.profile, options.sets)
    device = torch.device(options.device) if options.device else default_device()
    case = make_case(settings, device, beside=options.reference, parts=options.whole)
    rate = matmul_rate(case)
    asks = _asks(case, options.reference)
    results: dict[str, Any] = {
        "profile": options.profile, "command": " ".join(sys.argv), "machine": _machine(device),
        "dtype": str(case.dtype), "tokens": vars(case.passes[0]), "attention": _kernel(case),
        "matmul_tflops": rate / 1e12,
        "paths": measure(asks, case, options.rounds),
    }  # fmt: skip
    for name, figures in results["paths"].items():
        _report(name, figures, case, rate)
    bars = _bars(results, asks, case)
    if options.accelerators:
        results["accelerators"] = accelerators(case)
    if options.whole:
        results["whole"] = whole(case, results["paths"]["fast"]["step_s"])
        if device.type == "cuda":
            _on_gpu(results, bars)
    results["bars"] = [{"name": name, "passed": passed, "figure": figure} for name, passed, figure in bars]
    for name, passed, figure in bars:
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}")
    out = options.out or ROOT / f"benchmarks/results/denoise-{options.profile}-{device.type}.json"
    storage.write_json(out, results)
    failed = sum(not passed for _, passed, _ in bars)
    print(f"{len(bars) - failed} passed, {failed} failed")
    return 1 if failed or not bars else 0


def make_case(settings: Settings, device: torch.device, beside: bool, parts: bool) -> Case:
    """A model of random weights and a plan for one clip of it.

    beside: the reference stays on the device beside the fast path; parts: with codecs and text encoder.
    """
    dtype = precision(settings.runtime, device) or torch.float32
    configuration = codecs.model_config(settings)
    model = _built("transformer", configuration, device, dtype)
    assert isinstance(model, FusionModel)
    init(model, 0)
    draw = torch.Generator(device).manual_seed(1)
    for tower in (model.video_model, model.audio_model):  # a new model's head is zero
        tower.head.head.weight.normal_(0, tower.config.dim**-0.5, generator=draw)
    if not beside:
        model.to("cpu")  # as a loaded model's weights are
    others = {name: _random(name, configuration, device, dtype) if parts else None for name in OTHERS}
    runtime = settings.runtime.model_copy(update={"path": "fast"})
    machine = Machine(OviModel(configuration, model, lineage={}, **others), runtime, device=device)  # type: ignore[arg-type]
    plan, sizes = _plan(settings, configuration, draw)
    return Case(settings, device, dtype, machine, plan, sizes)


def _plan(
    settings: Settings, configuration: dict[str, Any], draw: torch.Generator
) -> tuple[Plan, tuple[flops.Sizes, flops.Sizes]]:
    """Noise and texts of one clip, and how large both passes are."""
    sampling, picture, patch = settings.sampling, configuration["picture"], settings.codec.video_patch
    grid = ((settings.clip.frames - 1) // 4 + 1, picture["height"] // patch[0], picture["width"] // patch[1])
    length = configuration["audio_latents"]

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=draw.device)

    def text(rows: int) -> Texts:
        return Texts.of([noise(rows, settings.text.dim)])

    plan = Plan(
        requests=(Request.of(sampling, "A red lamp blinks."),),
        schedule=solvers.schedule(sampling.solver, sampling.steps, sampling.shift),
        guidance=Guidance(sampling.guidance_video, sampling.guidance_audio, sampling.skip_layer),
        condition=Condition(text(PROMPT_TOKENS), text(NEGATIVE_TOKENS), text(NEGATIVE_TOKENS)),
        video=noise(1, settings.codec.video_channels, *grid),
        audio=noise(1, length, settings.codec.audio_channels),
        first=None,
        truncated=(False,),
    )
    tokens = grid[0] * grid[1] * grid[2] // (settings.model.video_patch[1] * settings.model.video_patch[2])
    told, kept = (flops.Sizes(tokens, length, rows + 1) for rows in (PROMPT_TOKENS, NEGATIVE_TOKENS))  # one for padding
    return plan, (told, kept)


def _built(name: str, configuration: dict[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        part = codecs.build(name, configuration[name])
    return part.to(dtype).to_empty(device=device).eval().requires_grad_(False)


def _random(name: str, configuration: dict[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A codec or text encoder that makes numbers, whatever they are; sound is made in full precision."""
    part = _built(name, configuration, device, torch.float32 if name == "audio_codec" else dtype)
    for tensor in (*part.parameters(), *part.buffers()):
        if tensor.is_floating_point():
            tensor.normal_(0, 0.02)
    return part


def measure(asks: dict[str, Ask], case: Case, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of a guided step of each path, taken in turns so that a slow moment of the machine meets both."""
    seconds: dict[str, list[float]] = {name: [] for name in asks}
    for turn in range(-2, rounds):  # two to warm up, which also compile
        for name, ask in asks.items():
            took = _timed(lambda ask=ask: ask(3, case.plan.video, case.plan.audio, True), case.device)
            if turn >= 0:
                seconds[name].append(took)
    return {
        name: {"step_s": statistics.median(took), "peak_gb": _peak_gb(case.device)} for name, took in seconds.items()
    }


def accelerators(case: Case) -> dict[str, dict[str, float]]:
    """Whole clips with each lossy accelerator: how much faster, and how far from the exact latents (relative L2)."""
    sampler = Sampler(case.machine.model, machine=case.machine)
    exact, exact_s = _clip(sampler, case.plan)
    again, _ = _clip(sampler, case.plan)
    found = {"none": {"speedup": 1.0, "video": _deviation(again[0], exact[0]), "audio": _deviation(again[1], exact[1])}}
    steps = case.settings.sampling.steps
    for changes in ({"guidance_until": 0.6}, {"stride": 2}, {"steps": round(steps * 0.6)}):
        request = Request.of(case.settings.sampling, "A red lamp blinks.", **changes)
        schedule = solvers.schedule(request.solver, request.steps, request.shift)
        (video, audio), seconds = _clip(sampler, _replaced(case.plan, request, schedule))
        name = " ".join(f"{key}={value}" for key, value in changes.items())
        found[name] = {
            "speedup": exact_s / seconds, "video": _deviation(video, exact[0]), "audio": _deviation(audio, exact[1])
        }  # fmt: skip
    for name, figures in found.items():
        print(
            f"accelerator {name}: {figures['speedup']:.2f} times as fast; "
            f"moves video by {figures['video']:.1%}, audio by {figures['audio']:.1%}"
        )
    return found


def whole(case: Case, step_s: float) -> dict[str, float]:
    """Seconds of a clip's parts with random weights: text, all steps, sound, pictures written to a file."""
    from ovi.media.encode import write_clip

    sampler, clip = Sampler(case.machine.model, machine=case.machine), case.settings.clip
    seconds = {"denoise_s": step_s * case.settings.sampling.steps}
    ids = torch.ones(3, PROMPT_TOKENS, dtype=torch.long, device=case.device)
    with case.machine.text_encoder() as encoder:
        seconds["text_s"] = min(_timed(lambda: encoder.t5(input_ids=ids), case.device) for _ in range(2))
    *_, step = sampler.run(_replaced(case.plan, case.plan.requests[0], solvers.schedule("euler", 1, 5.0)))
    out = ROOT / "benchmarks/results/.clip.mp4"
    for turn in ("cold", "warm"):
        began = time.perf_counter()
        sound = sampler.sounds(step)[0]
        seconds[f"sound_{turn}_s"] = time.perf_counter() - began
        began = time.perf_counter()
        write_clip(out, sampler.frames(step), clip.fps, sound, clip.sample_rate)
        seconds[f"pictures_{turn}_s"] = time.perf_counter() - began
        out.unlink()
    seconds["clip_s"] = sum(seconds[name] for name in ("text_s", "denoise_s", "sound_warm_s", "pictures_warm_s"))
    print(", ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    return seconds


def matmul_rate(case: Case) -> float:
    """Operations a second of one large matrix product on this device: what can be hoped for at all."""
    size = 8192 if case.device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=case.device, dtype=case.dtype) for _ in range(2))
    best = min(_timed(lambda: a @ b, case.device) for _ in range(8))
    return 2 * size**3 / best


def _asks(case: Case, reference: bool) -> dict[str, Ask]:
    told = (case.plan.condition, case.plan.guidance, case.plan.schedule)
    with torch.no_grad(), case.machine.denoiser() as fast:
        asks = {"fast": fast.prepare(*told)}
    return asks | {"reference": Reference(case.machine.model.fusion).prepare(*told)} if reference else asks


def _bars(results: dict[str, Any], asks: dict[str, Ask], case: Case) -> list[tuple[str, bool, str]]:
    x = (3, case.plan.video, case.plan.audio, True)
    bars = []
    if case.device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.no_grad():
                asks["fast"](*x)
            bars.append(("no step waits for the device", True, "set_sync_debug_mode('error') passed"))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    if "reference" not in asks:
        return bars
    with torch.no_grad(), flops.counter() as counter:
        want = asks["reference"](*x)
    counted = counter.get_total_flops()
    off = abs(case.work - counted) / counted
    bars.append(("FLOPs by formula and by counter agree", off <= COUNT_TOLERANCE, f"{case.work:.5g}, {counted:.5g}"))
    with torch.no_grad():
        deviations = [_deviation(got, right) for got, right in zip(asks["fast"](*x), want, strict=True)]
    results["deviation"] = {"video": deviations[0], "audio": deviations[1]}
    limit = DEVIATION_MAX[case.dtype] if case.settings.runtime.weights == "stored" else 0.1
    bars.append(
        ("fast path says what the reference says", max(deviations) <= limit, f"{max(deviations):.2g} of its norm")
    )
    ratio = results["paths"]["reference"]["step_s"] / results["paths"]["fast"]["step_s"]
    results["ratio"] = ratio
    bars.append((f"fast path at least {RATIO_MIN} times as fast", ratio >= RATIO_MIN, f"{ratio:.2f}"))
    return bars


def _on_gpu(results: dict[str, Any], bars: list[tuple[str, bool, str]]) -> None:
    fast, parts = results["paths"]["fast"], results["whole"]
    for name, figure, most, unit in (
        ("forward pass", fast["step_s"] * 500, FORWARD_MS_MAX, "ms"),
        ("all steps", parts["denoise_s"], DENOISE_S_MAX, "s"),
        ("whole clip", parts["clip_s"], CLIP_S_MAX, "s"),
        ("peak memory", _peak_gb(torch.device("cuda")), PEAK_GB_MAX, "GB"),
    ):
        bars.append((f"{name} at most {most:g} {unit}", figure <= most, f"{figure:.1f} {unit}"))


def _report(name: str, figures: dict[str, Any], case: Case, rate: float) -> None:
    step_s, steps = figures["step_s"], case.settings.sampling.steps
    figures["tflops"], figures["roofline"] = case.work / step_s / 1e12, case.work / step_s / rate
    print(
        f"{name}: forward {step_s * 500:.1f} ms, guided step {step_s * 1e3:.1f} ms, "
        f"{steps} steps {step_s * steps:.2f} s, {figures['tflops']:.3f} TFLOP/s "
        f"({figures['roofline']:.0%} of matrix products), peak {figures['peak_gb']:.2f} GB"
    )


def _clip(sampler: Sampler, plan: Plan) -> tuple[tuple[Tensor, Tensor], float]:
    began = time.perf_counter()
    *_, step = sampler.run(plan)
    result = (step.video.cpu(), step.audio.cpu())
    return result, time.perf_counter() - began


def _replaced(plan: Plan, request: Request, schedule: solvers.Schedule) -> Plan:
    return Plan(**{**vars(plan), "requests": (request,), "schedule": schedule})


def _deviation(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want.float()).norm() / want.float().norm())


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    with torch.no_grad():
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _peak_gb(device: torch.device) -> float:
    """Of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9


def _kernel(case: Case) -> str:
    tower = case.machine.model.fusion.video_model.config
    return kernels.choose(case.device, case.dtype, tower.heads, tower.dim // tower.heads, case.passes[0].video)


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the denoising network of a profile, with random weights.")
    parser.add_argument("--profile", default="tiny", help="of params.yaml")
    parser.add_argument("--set", dest="sets", action="append", help="one setting, as section.key=value")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--rounds", type=int, default=20, help="steps that are timed")
    parser.add_argument("--reference", action="store_true", help="the reference path beside the fast one")
    parser.add_argument("--accelerators", action="store_true", help="lossy ones, with how far they move a clip")
    parser.add_argument("--whole", action="store_true", help="also text encoder, codecs and the written file")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
