"""The pipeline asks its own service for a clip: starts the packaged Bento, asks over HTTP, checks the file, stops it.

What comes back must be what was promised: H.264 and AAC, the right number of frames at the right rate, sound of the
right length that is not silence, and the bytes whose sha256 the job names. Otherwise nothing is written.
Try it: `ovi clip --package out/package --out out/demo.mp4`.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from ovi import storage
from ovi.config import Settings
from ovi.errors import ConfigError, OviError, Preempted
from ovi.progress import Progress
from services.client import ENDED, Client, ClipFailed, Job
from services.generation.launch import Server, launch

POLL_S = 0.2
STALL_S = 300.0  # without a step forward
SILENCE_DB = -80.0
PRIMING = 2048  # samples an AAC coder may add at the ends


def clip(settings: Settings, package: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Writes `out`, a clip of `service.prompt` from the service in `package`, and returns facts about it.

    Raises OviError when the port is taken, the service fails, or the file is not as promised; Preempted on SIGTERM.
    """
    if not settings.service.prompt:
        raise ConfigError("service.prompt: empty; say what the service shall be asked for")
    with _sigterm_raises(), tempfile.TemporaryDirectory(prefix="ovi-service-") as folder:
        how = launch(package, Path(folder) / "state", settings.service.host, settings.service.port)
        progress.note(f"starting the service on {how.url}")
        with Server(how, Path(folder) / "log") as server:
            ready_s = server.wait_ready()
            progress.note(f"ready after {ready_s:.1f} s")
            with Client(server.url) as service:
                job = _follow(service, _ask(service, settings), progress)
                facts = _fetch(service, job, out, settings)
    facts |= {"clip": str(out), "seed": job["seed"], "model": job["model"], "ready_s": round(ready_s, 2)}
    progress.result(**facts)
    return facts


def check(path: Path, settings: Settings) -> dict[str, Any]:
    """What is in the file, when it is what the settings promise; OviError otherwise."""
    from ovi.media import audio, decode
    from ovi.media.probe import probe

    info, want = probe(path), settings.clip
    if info.video is None or info.video.codec != "h264":
        raise OviError(f"the clip's picture is {info.video and info.video.codec}, not h264")
    if info.audio is None or info.audio.codec != "aac":
        raise OviError(f"the clip's sound is {info.audio and info.audio.codec}, not aac")
    frames = sum(1 for _ in decode.frames(path, info))
    if frames != want.frames or info.video.average_rate != Fraction(want.fps):
        rate = f"{float(info.video.average_rate):g}"
        raise OviError(f"the clip has {frames} frames at {rate}/s, not {want.frames} at {want.fps}/s")
    sound = decode.audio(path)
    if sound.rate != want.sample_rate or abs(len(sound.samples) - want.samples) > PRIMING:
        raise OviError(f"the sound has {len(sound.samples)} samples at {sound.rate}/s, not about {want.samples}")
    peak = audio.peak_db(sound.samples)
    if peak < SILENCE_DB:
        raise OviError(f"the sound is silent: its peak is {peak:.0f} dB")
    return {
        "frames": frames, "samples": len(sound.samples), "peak_db": round(float(peak), 1),
        "width": info.video.width, "height": info.video.height,
    }  # fmt: skip


def _ask(service: Client, settings: Settings) -> str:
    """Submits the request; the job's id."""
    wanted = settings.sampling
    job = service.create(
        settings.service.prompt, seed=settings.service.seed, steps=wanted.steps, shift=wanted.shift,
        solver=wanted.solver, guidance={"video": wanted.guidance_video, "audio": wanted.guidance_audio},
        negative_prompt={"video": wanted.negative_video, "audio": wanted.negative_audio},
    )  # fmt: skip
    return str(job["id"])


def _follow(service: Client, identity: str, progress: Progress) -> Job:
    """Polls until the job has ended; the completed job."""
    moved, step, told = time.monotonic(), 0, False
    while True:
        job = service.get(identity)
        if not told and job["status"] != "queued":
            progress.start("generating", job["steps"], "steps")
            told = True
        if job["step"] > step:
            progress.advance(job["step"] - step)
            moved, step = time.monotonic(), job["step"]
        if job["status"] == "completed":
            return job
        if job["status"] in ENDED:
            raise ClipFailed(job)
        if time.monotonic() - moved > STALL_S:
            raise OviError(f"the service made no step in {STALL_S:.0f} s; the job is {job['status']} at step {step}")
        time.sleep(POLL_S)


def _fetch(service: Client, job: Job, out: Path, settings: Settings) -> dict[str, Any]:
    """Writes the job's clip to `out` when its bytes and its content are right."""
    with storage.atomic_path(out) as temporary:
        service.download(job["id"], temporary)
        return check(temporary, settings) | {"sha256": job["sha256"]}


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM unwinds the block, so that the server is stopped and temporary files go."""

    def stop(*_: object) -> None:
        raise Preempted("stopped by a signal; the service was stopped too, run the same command again")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
