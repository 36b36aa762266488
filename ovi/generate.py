"""From prompts to files: one clip or a table of them, from a model folder or a registry address.

Beside each mp4 may lie its sound as WAV, its latents, and where the towers looked in each other. A table's clips are
made one after the other, or by several processes that each take every n-th row, one GPU each where there are any.
It knows nothing of services; `ovi generate` is thin over it.
Try it: `ovi generate --prompt "A red lamp blinks. <AUDCAP>High beeps.<ENDAUDCAP>" --out clip.mp4`.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ovi import storage, tracking
from ovi.config import Sampling, Settings
from ovi.diffusion.prompts import file_stem, prompt_warnings
from ovi.diffusion.request import Request
from ovi.diffusion.sampler import Plan, Sampler, Step
from ovi.errors import EXIT_FAILED, ConfigError, OviError, one_line
from ovi.media.encode import write_clip, write_wav
from ovi.models import attention_maps, kernels
from ovi.models.folder import digest
from ovi.progress import Progress

BESIDE = {"wav": ".wav", "latents": ".latents.safetensors", "attention": ".attention.safetensors"}
COLUMNS = ("text_prompt", "image_path", "seed")  # of a table; the first two as in the release's


@dataclass(frozen=True)
class Wanted:
    """What to write beside the clip."""

    wav: bool = False
    latents: bool = False
    attention: bool = False


@dataclass(frozen=True)
class Written:
    """What ran for one clip and what it left."""

    clip: str
    sha256: str
    seed: int
    height: int
    width: int
    frames: int
    truncated: bool
    path: str  # reference or fast
    attention: str
    accelerators: list[str]
    seconds: dict[str, float]
    files: list[str]  # beside the clip


def model_folder(address: str, settings: Settings) -> Path:
    """The model folder at a path or a registry URI (models:/ovi@champion), in the latter case as it was registered."""
    if not address.startswith("models:/"):
        return Path(address)
    source, registered = tracking.model_source(settings.tracking, address)
    if storage.is_remote(source):
        raise OviError(f"model: {address} is at {source}; copy that folder here and give its path")
    if digest(source) != registered:
        raise OviError(f"model: {source} is no longer the model that was registered as {address}; pull it again")
    return Path(source)


def open_sampler(address: str, settings: Settings, seconds: float | None, second: str | None) -> Sampler:
    """The sampler of a model, when it makes clips of the length that was asked for."""
    sampler = Sampler.open(model_folder(address, settings), settings.runtime, second)
    clip = sampler.model.clip
    length = clip.frames / clip.fps
    if seconds is not None and abs(seconds - length) > 0.1:
        raise OviError(f"seconds: {seconds:g}, but this model makes clips of {length:.2f} s; take one made for yours")
    return sampler


def wanted_size(size: str | None, aspect: str | None) -> tuple[int, int] | None:
    """(height, width) of "704x1280", or of an aspect "16:9", which the model's area scales up."""
    if size is not None and aspect is not None:
        raise ConfigError("--size, --aspect: give one of them")
    for option, text, between in (("--size", size, "x"), ("--aspect", aspect, ":")):
        if text is None:
            continue
        sides = text.split(between)
        if len(sides) != 2 or not all(side.isascii() and side.isdigit() and 0 < len(side) < 6 for side in sides):
            raise ConfigError(f"{option}: {text!r}; write it as {'704x1280' if between == 'x' else '16:9'}")
        first, other = map(int, sides)
        return (first, other) if between == "x" else (other, first)
    return None


def share_of(text: str) -> tuple[int, int]:
    """(1, 4) of "1/4"."""
    first, _, every = text.partition("/")
    if not (first.isdigit() and every.isdigit() and int(first) < int(every)):
        raise ConfigError(f"--share: {text!r}; write it as i/n with i from 0 to n-1")
    return int(first), int(every)


def requests(
    listed: Sequence[tuple[str, Path | None, int]], sampling: Sampling, changes: dict[str, Any]
) -> list[Request]:
    """A request a row; all are checked before anything is loaded."""
    asked = []
    for number, (prompt, image, seed) in enumerate(listed):
        try:
            asked.append(Request.of(sampling, prompt, seed, image=image, **changes))
        except OviError as error:
            raise OviError(f"row {number + 1}: {error}" if len(listed) > 1 else str(error)) from None
    if not asked:
        raise OviError("the table has no rows")
    return asked


def rows(table: Path, seed: int) -> list[tuple[str, Path | None, int]]:
    """(prompt, first frame or None, seed) of a CSV or TSV; a row without a seed gets `seed` plus its number."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ",")
            if "text_prompt" not in (reader.fieldnames or []):
                raise OviError(f"{table}: has no column text_prompt; columns: {', '.join(COLUMNS)}")
            return [_row(table, number, row, seed) for number, row in enumerate(reader)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise OviError(f"{table}: not a table in UTF-8 ({error})") from None


def generate(
    sampler: Sampler, request: Request, out: Path, settings: Settings, wanted: Wanted, progress: Progress
) -> Written:
    """One clip. Raises OviError for what cannot be sampled or written; then nothing is left behind."""
    clock, version = _Clock(), sampler.model.config["version"]
    for warning in prompt_warnings(request.prompt, version) if version else []:
        progress.note(f"prompt {warning}")
    with clock("text"):
        plan = sampler.plan([request])
    _say_what_is_used(request, plan, sampler, progress)
    progress.start("sampling", request.steps, "steps")
    with clock("denoise"):
        step, maps = _sampled(sampler, plan, wanted, progress)
    with clock("sound"):
        sound = sampler.sounds(step)[0]
    clip = sampler.model.clip
    with clock("pictures"):
        write_clip(out, sampler.frames(step), clip.fps, sound, clip.sample_rate, width=settings.sampling.display_pixels)
    beside = {name: out.with_suffix(suffix) for name, suffix in BESIDE.items() if getattr(wanted, name)}
    if wanted.wav:
        write_wav(beside["wav"], sound, clip.sample_rate)
    if wanted.latents:
        _save(beside["latents"], {"video": step.video[0], "audio": step.audio[0]})
    if maps is not None:
        _save(beside["attention"], _grids(maps, plan, sampler))
    return Written(
        clip=str(out), sha256=storage.sha256(out), seed=request.seed, height=plan.size[0], width=plan.size[1],
        frames=sampler.model.clip.frames, truncated=plan.truncated[0], path=sampler.machine.path,
        attention=kernels.in_use(), accelerators=list(request.accelerators), seconds=clock.seconds,
        files=[str(path) for path in beside.values()],
    )  # fmt: skip


def generate_table(
    sampler: Sampler, asked: Sequence[Request], out: Path, share: tuple[int, int], settings: Settings, wanted: Wanted,
    progress: Progress,
) -> tuple[list[Written], list[str]]:  # fmt: skip
    """Every n-th clip of a table into the folder `out`, share (i, n); what was written, and a line for each failure."""
    written, failed = [], []
    first, every = share
    for number, request in list(enumerate(asked))[first::every]:
        name = f"{number:04d}_{file_stem(request.prompt)}_{request.seed}.mp4"
        progress.note(f"{number + 1} of {len(asked)}: {name}")
        try:
            written.append(generate(sampler, request, out / name, settings, wanted, progress))
        except OviError as error:
            failed.append(f"row {number + 1}: {one_line(error)}")
            progress.note(failed[-1])
    return written, failed


def in_processes(count: int, words: Sequence[str]) -> int:
    """Run this command `count` times at once, each for its share of the table; the first exit code that is not 0."""
    gpus = torch.cuda.device_count()
    if gpus and count > gpus:
        raise OviError(f"processes: {count}, but there are {gpus} GPUs; ask for at most one process a GPU")
    children = []
    for i in range(count):
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": str(i)} if gpus else {})
        command = [sys.executable, "-m", "ovi.cli", *words, "--share", f"{i}/{count}"]
        children.append(subprocess.Popen(command, env=environment))
    try:
        codes = [child.wait() for child in children]
    except BaseException:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        raise
    return next((code if code > 0 else EXIT_FAILED for code in codes if code), 0)


def _sampled(
    sampler: Sampler, plan: Plan, wanted: Wanted, progress: Progress
) -> tuple[Step, attention_maps.Maps | None]:
    """The last step, and what was seen of attention at the middle one."""
    steps, middle, maps = sampler.run(plan), len(plan.schedule.timesteps) // 2, None
    began = time.perf_counter()
    for i in range(len(plan.schedule.timesteps)):
        if wanted.attention and i == middle:
            with attention_maps.recording(sampler.machine.network) as maps:
                step = next(steps)
        else:
            step = next(steps)
        progress.advance(seconds_a_step=(time.perf_counter() - began) / (i + 1))
    steps.close()
    return step, maps


def _grids(maps: attention_maps.Maps, plan: Plan, sampler: Sampler) -> dict[str, torch.Tensor]:
    """audio_to_video [L, F, h, w] and video_to_audio [F, h, w, L] of the tokens' grid."""
    patch = sampler.model.config["transformer"]["video"]["patch_size"]
    grid = [size // by for size, by in zip(plan.video.shape[2:], patch, strict=True)]
    return {
        "audio_to_video": maps.mean("audio_to_video").unflatten(1, grid),
        "video_to_audio": maps.mean("video_to_audio").unflatten(0, grid),
    }


def _say_what_is_used(request: Request, plan: Plan, sampler: Sampler, progress: Progress) -> None:
    """Nothing is changed in silence."""
    height, width = plan.size
    if request.size is not None and tuple(request.size) != plan.size:
        area = sampler.model.config["picture"]["area"]
        progress.note(f"size {request.size[0]}x{request.size[1]} is not one this model makes ({area} pixels); "
                      f"using {height}x{width}")  # fmt: skip
    if plan.truncated[0]:
        progress.note("the prompt is longer than the text encoder reads; its end is cut off")
    if request.accelerators:
        progress.note(f"lossy accelerators: {', '.join(request.accelerators)}")


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with storage.atomic_path(path) as temporary:
        save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def _row(table: Path, number: int, row: dict[str, str | None], seed: int) -> tuple[str, Path | None, int]:
    image, own = (row.get("image_path") or "").strip(), (row.get("seed") or "").strip()
    if own and not (own.isascii() and own.isdigit()):
        raise OviError(f"{table}: row {number + 1}: seed {own!r} is not a whole number")
    return row["text_prompt"] or "", table.parent / image if image else None, int(own) if own else seed + number


class _Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - began, 3)
