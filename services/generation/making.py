"""One job becomes files: the clip, its sound, a thumbnail, and a manifest that says where they come from.

It drives the sampler step by step and shows its caller each one, with a picture of the clip as it looks by then.
It knows nothing of leases or processes. Try it: `pytest tests/services/test_server.py`.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovi import storage
from ovi.errors import OviError, one_line
from services.generation.log import log
from services.generation.policy import Policy, Withheld
from services.generation.results import VARIANTS, ResultStore
from services.generation.schemas import Served
from services.generation.signing import Signer
from services.generation.table import Job

if TYPE_CHECKING:
    from ovi.diffusion.request import Request
    from ovi.diffusion.sampler import Plan, Sampler, Step

MEDIA = ("video", "audio", "thumbnail")
PREVIEW_S = 0.4  # between two previews, at least
PREVIEW_SHARE = 0.01  # of the time may go into previews
PREVIEW_SIDE = 320


class Listener(Protocol):
    """Whoever wants the clip. Either raises when the job shall stop."""

    def tell(self, step: int, preview: bytes | None = None) -> None:
        """The step reached and a picture of it."""

    def settle(self, step: int) -> None:
        """The same, and returns when it is certain that the job is still wanted here."""


@dataclass(frozen=True)
class Made:
    sha256: str  # of the clip
    size: int  # its bytes
    seconds: dict[str, float]  # by stage
    ran: dict[str, Any]


class NotStored(Exception):
    """The disk is full, the bucket away: nothing that the model or the request could mend."""


class Making:
    """Makes the files of one job after the other."""

    def __init__(
        self, sampler: Sampler, served: Served, results: ResultStore, policy: Policy | None = None,
        signer: Signer | None = None,
    ) -> None:  # fmt: skip
        self.sampler, self._served, self.results = sampler, served, results
        self._policy, self._signer = policy, signer
        self.clock = Clock()  # of the job in hand or the last one

    def run(self, job: Job, image: bytes | None, listener: Listener) -> Made:
        """Raises OviError for what the model cannot do, NotStored, Withheld, and whatever `listener` raises."""
        try:
            return self._run(job, image, listener)
        finally:
            self.results.clear(job.id, job.attempt)

    def _run(self, job: Job, image: bytes | None, listener: Listener) -> Made:
        self.clock = clock = Clock(queue=(job.started_at or job.created_at) - job.created_at)
        wanted, previews = request(job.effective, image), _Previews(self.sampler)
        with clock("text"):
            plan = self.sampler.plan([wanted])
        with clock("denoise"):
            for step in self.sampler.run(plan):
                listener.tell(step.index, previews.of(step))
        with clock("decode"):
            sound = self.sampler.sounds(step)[0]
        listener.tell(job.steps)
        with clock("mux"):  # pictures are decoded while those before them are written
            self._write(job, self.sampler.frames(step), sound)
        path = self.results.made(job.id, job.attempt)
        if self._policy is not None and (reason := self._policy.clip(job.effective, path)):
            raise Withheld(reason)
        ran = self._ran(plan, wanted)
        if self._signer is not None:
            ran["unsigned_sha256"] = storage.sha256(path)
            with clock("sign"):
                self._sign(job, self._signer)
        digest, size = storage.sha256(path), path.stat().st_size
        ran |= {"seconds": clock.seconds, "sha256": digest}
        listener.settle(job.steps)  # who has lost the job publishes nothing
        with _storing(job):
            self._write_manifest(job, ran)
            self.results.publish(job.id, job.attempt)
        return Made(digest, size, clock.seconds, ran)

    def _write(self, job: Job, frames: Iterable[NDArray[np.uint8]], sound: NDArray[np.float32]) -> None:
        from ovi.media.encode import write_clip, write_m4a, write_png

        followed = self._policy is None and self._signer is None  # nothing leaves before it is seen and signed
        effective, made = job.effective, partial(self.results.made, job.id, job.attempt)
        with _storing(job), ThreadPoolExecutor(1) as beside:
            written = [beside.submit(write_m4a, made("audio"), sound, effective["sample_rate"])]

            def passing(parts: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
                """The parts; the picture in their middle becomes the thumbnail."""
                left = effective["frames"] // 2
                for part in parts:
                    if 0 <= left < len(part):
                        written.append(beside.submit(write_png, made("thumbnail"), part[left].copy()))
                    left -= len(part)
                    yield part

            write_clip(
                made(), passing(frames), effective["fps"], sound, effective["sample_rate"],
                width=effective["display_pixels"], live=self.results.live(job.id, job.attempt) if followed else None,
            )  # fmt: skip
            for one in written:
                one.result()

    def _ran(self, plan: Plan, wanted: Request) -> dict[str, Any]:
        from ovi.models import kernels

        sampler, (height, width) = self.sampler, plan.size
        encoder = sampler.model.text_encoder
        return {
            "model": self._served.model, "digest": self._served.digest, "size": f"{width}x{height}",
            "frames": sampler.model.clip.frames, "steps": wanted.steps, "solver": wanted.solver, "seed": wanted.seed,
            "path": sampler.machine.path, "attention": kernels.in_use(), "device": sampler.machine.device.type,
            "memory_mode": sampler.machine.mode, "accelerators": list(wanted.accelerators),
            "prompt_tokens": len(encoder.tokens(plan.prompts[0])), "max_tokens": encoder.max_tokens,
            "truncated": plan.truncated[0], "image": wanted.image is not None,
        }  # fmt: skip

    def _sign(self, job: Job, signer: Signer) -> None:
        about = {"model": self._served.model, "digest": self._served.digest} | self._served.origin
        with _storing(job):
            for variant in MEDIA:
                signer.sign(self.results.made(job.id, job.attempt, variant), VARIANTS[variant][1], about)

    def _write_manifest(self, job: Job, ran: dict[str, Any]) -> None:
        """It names the bytes, so whoever has the files can tell that they belong to it; signed are only the files."""
        files = {
            variant: {
                "media_type": VARIANTS[variant][1],
                "sha256": storage.sha256(self.results.made(job.id, job.attempt, variant)),
            }
            for variant in MEDIA
        }
        manifest = {
            "format": "ovi-provenance/1", "id": job.id, "made_by": "a generative model; nothing in it was recorded",
            "created_at": int(job.created_at), "request": job.effective, "ran": ran, "files": files,
            "origin": self._served.origin, "signed": self._signer is not None,
        }  # fmt: skip
        storage.write_json(self.results.made(job.id, job.attempt, "manifest"), manifest)


def request(effective: dict[str, Any], image: bytes | None = None) -> Request:
    """The sampler's request for a job's resolved values."""
    from ovi.diffusion.request import Request

    guidance, negative, size = effective["guidance"], effective["negative_prompt"], effective["wanted_size"]
    return Request(
        prompt=effective["prompt"], seed=effective["seed"], steps=effective["steps"], shift=effective["shift"],
        solver=effective["solver"], guidance_video=guidance["video"], guidance_audio=guidance["audio"],
        skip_layer=effective["skip_layer"], negative_video=negative["video"], negative_audio=negative["audio"],
        guidance_until=effective["guidance_until"], stride=effective["stride"],
        release_noise=effective["release_noise"], size=None if size is None else (size[0], size[1]),
        image=None if image is None else np.asarray(Image.open(io.BytesIO(image)).convert("RGB")),
    )  # fmt: skip


class _Previews:
    """Pictures of a clip under way, so many that they take little of the time."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler, self._next = sampler, 0.0

    def of(self, step: Step) -> bytes | None:
        """The middle of the clip as JPEG; None when the last one is too fresh."""
        began = time.monotonic()
        if began < self._next:
            return None
        middle = step.estimate.shape[2] // 2
        alone = dataclasses.replace(step, video=step.estimate[:, :, middle : middle + 1])
        picture = Image.fromarray(next(iter(self._sampler.frames(alone)))[0])
        picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        kept = io.BytesIO()
        picture.save(kept, "JPEG", quality=80)
        took = time.monotonic() - began
        self._next = began + took + max(PREVIEW_S, took / PREVIEW_SHARE)
        return kept.getvalue()


@contextmanager
def _storing(job: Job) -> Iterator[None]:
    """The log says why it did not work; the caller learns that much."""
    try:
        yield
    except (OviError, OSError) as error:
        log("not_stored", job=job.id, error=one_line(error))
        raise NotStored("The clip could not be stored; the service's log says why.") from None


class Clock:
    """Seconds by stage, and when each began and ended in Unix time."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = {stage: round(value, 4) for stage, value in seconds.items()}
        self.times: dict[str, tuple[float, float]] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began, at = time.perf_counter(), time.time()
        yield
        took = time.perf_counter() - began
        self.seconds[stage], self.times[stage] = round(took, 4), (at, at + took)
