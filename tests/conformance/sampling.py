"""Cases of the way from noise to a clip: solvers on a toy velocity, and whole runs of tiny released pipelines."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ovi.config import Runtime
from ovi.diffusion import solvers
from ovi.diffusion.denoiser import Reference
from ovi.diffusion.guidance import Condition, Guidance, Texts
from ovi.diffusion.machine import Machine
from ovi.diffusion.request import Request, read_image
from ovi.diffusion.sampler import Plan, Sampler, Step
from ovi.diffusion.sizes import preprocess_image
from ovi.models.folder import OviModel
from ovi.models.linear_codec import pixels
from tests.conformance.case import Case
from tests.conformance.codecs import audio_codec, video_codec
from tests.conformance.kind import Kind
from tests.conformance.tolerance import NUMBER, Tolerance
from tests.conformance.towers import fusion_model

PATHS = ("reference", "fast")


def trajectories(case: Case) -> None:
    """From in/<solver>_<steps>[_<variant>]/x by the toy velocity, and by the recorded ones where there are some."""
    for found in list(case.matches(r"in/((.+?)_(\d+)(?:_(\w+))?)/x")):
        run, solver, steps, variant = found.groups()
        grid = solvers.schedule(solver, int(steps), case.config["shift"])
        for name in ("timesteps", "sigmas"):
            if f"out/{run}/{name}" in case.arrays:
                case.check(f"out/{run}/{name}", getattr(grid, name))
        dtype, tolerance = torch.float32, None
        if variant == "bf16":
            near = float(re.search(rf"bf16 run has tolerance {NUMBER}", case.config["note"])[1])
            dtype, tolerance = torch.bfloat16, Tolerance(near, near)
        x = case.take(found[0]).to(dtype)
        ways = [lambda i, x, grid=grid: _toy(x, grid.timesteps[i])]
        if f"in/{run}/velocities" in case.arrays:
            recorded = case.take(f"in/{run}/velocities")
            ways.append(lambda i, x, recorded=recorded: recorded[i])
        for velocity in ways:
            points = _walk(solvers.make(solver, grid), x, velocity, int(steps))
            case.check(f"out/{run}/traj", points, tolerance=tolerance)


def _walk(solver: solvers.Solver, x: Tensor, velocity: Any, steps: int) -> Tensor:
    points = []
    for i in range(steps):
        x = solver.step(i, x, velocity(i, x)).to(x.dtype)
        points.append(x)
    return torch.stack(points)


def _toy(x: Tensor, timestep: float) -> Tensor:
    s = timestep / 1000
    return torch.sin(1.3 * x + 0.7 * s) - 0.2 * x + (0.5 - s)


def end_to_end(case: Case) -> None:
    """The sampler on the case's own networks, from its noise to pictures and sound, by either path."""
    config, sound_codec = case.config, audio_codec(case)
    codec, fusion = video_codec(case.source(r"w/encoder\.downsamples\..+")), fusion_model(case)
    first = None
    if config["mode"] == "i2v":
        picture = pixels(read_image(case.folder.picture(str(config.get("first_frame"))))[None])
        first = codec.encode(preprocess_image(picture.transpose(0, 1), config["target_area"])[:, :, None])
    texts = (Texts.of([case.take(f"in/text_{name}")]) for name in ("pos", "video_neg", "audio_neg"))
    guidance = Guidance(config["video_guidance_scale"], config["audio_guidance_scale"], config.get("slg_layer", -1))
    plan = Plan(
        requests=(Request("As the embeddings say.", solver=config["solver"], steps=config["sample_steps"]),),
        schedule=solvers.schedule(config["solver"], config["sample_steps"], config["shift"]),
        guidance=guidance,
        condition=Condition(*texts, None if first is None else torch.tensor([True])),
        video=case.take("in/video_noise")[None],
        audio=case.take("in/audio_noise")[None],
        first=first,
        truncated=(False,),
    )
    case.check("out/timesteps", plan.schedule.timesteps, (slice(None), 0))
    _passes(case, plan, Reference(fusion))
    for path in PATHS:
        model, runtime = OviModel({}, fusion, codec, sound_codec, None, {}), Runtime(path=path, precision="fp32")
        steps = list(Sampler(model, machine=Machine(model, runtime, device="cpu")).run(plan))
        _latents(case, plan, steps)
        case.check("out/video", codec.decode(steps[-1].video)[0])
        case.check("out/audio", sound_codec.decode(steps[-1].audio)[0])


def _passes(case: Case, plan: Plan, denoiser: Reference) -> None:
    """Both passes of guidance at every recorded input. A scale of 1 is the positive one, of 0 the negative one."""
    for name, scale in (("pos", 1.0), ("neg", 0.0)):
        ask = denoiser.prepare(plan.condition, Guidance(scale, scale, plan.guidance.skip_layer), plan.schedule)
        points = zip(case.take("out/vid_in_per_step"), case.take("out/audio_in_per_step"), strict=True)
        answers = [ask(i, video[None], audio[None], True) for i, (video, audio) in enumerate(points)]
        case.check(f"out/pred_vid_{name}_per_step", torch.cat([video for video, _ in answers]))
        case.check(f"out/pred_audio_{name}_per_step", torch.cat([audio for _, audio in answers]))


def _latents(case: Case, plan: Plan, steps: list[Step]) -> None:
    """Entering every step, and at the end."""
    begin = plan.video if plan.first is None else torch.cat((plan.first, plan.video[:, :, 1:]), dim=2)
    case.check("out/vid_in_per_step", torch.cat([begin, *(step.video for step in steps[:-1])]))
    case.check("out/audio_in_per_step", torch.cat([plan.audio, *(step.audio for step in steps[:-1])]))
    case.check("out/final_video_latent", steps[-1].video)
    case.check("out/final_audio_latent", steps[-1].audio.transpose(1, 2))


KINDS = (
    Kind("sampler", (r"in/.+_\d+/x", r"out/.+_\d+/traj"), trajectories),
    Kind("e2e", (r"in/video_noise", r"in/audio_noise", r"in/text_pos", r"out/video", r"out/audio"), end_to_end),
)
