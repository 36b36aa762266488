"""What goes over the wire: the request for a video and the job. Field names follow the common `/v1/videos` shape.

Unknown fields and wrong types are refused; `resolve` fills every default in, so that a job says exactly what runs.
It knows nothing of HTTP or of storage. Try it: `pytest tests/services/test_schemas.py`.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ovi import storage
from ovi.config import Sampling
from ovi.diffusion import sizes
from ovi.errors import OviError
from services.generation.jobs import PRIORITIES
from services.generation.table import Job

SERVED = "service.json"  # in the bundle
MAX_TEXT = 4000  # characters of a prompt
MAX_STEPS = 200
MAX_SEED = 2**63 - 1
MAX_ASPECT = 4  # of a picture's sides


# What a job has that waited while the service was updated from a version without these.
EARLIER: dict[str, Any] = {
    "pinned": True, "image": False, "wanted_size": None, "guidance_until": 1.0, "stride": 1, "release_noise": False,
}  # fmt: skip


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Text = Annotated[str, Field(max_length=MAX_TEXT)]
Scale = Annotated[float, Field(ge=0.0, le=20.0)]


class Guidance(Strict):
    """Classifier-free guidance scales; 1 is off."""

    video: Scale | None = None
    audio: Scale | None = None


class NegativePrompt(Strict):
    """What to stay away from, for the picture and for the sound."""

    video: Text | None = None
    audio: Text | None = None


def _whole_seconds(value: Any) -> Any:
    """Some clients send the number as a string."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6 else value


class VideoRequest(Strict):
    """A clip to make. Only `prompt` is needed; the answer's `effective` says what the rest became."""

    prompt: Text = Field(
        min_length=1,
        description="What to see and hear: speech inside <S>...<E>, sound inside <AUDCAP>...<ENDAUDCAP> at the end.",
        examples=["A red lamp blinks in the dark. <AUDCAP>Short high beeps.<ENDAUDCAP>"],
    )
    model: str | None = Field(default=None, max_length=200, description="The id of the served model; see /v1/models.")
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="Equal requests and seeds give equal bytes.")
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    shift: float | None = Field(default=None, gt=0.0, le=30.0)
    solver: Literal["unipc", "dpm++", "euler"] | None = None
    guidance: Guidance = Guidance()
    negative_prompt: NegativePrompt = NegativePrompt()
    guidance_until: float | None = Field(default=None, ge=0.0, le=1.0, description="Lossy: share of guided steps.")
    stride: int | None = Field(default=None, ge=1, le=10, description="Lossy: ask the network every n-th step.")
    seconds: Annotated[int, BeforeValidator(_whole_seconds)] | None = Field(default=None, ge=1, description="Whole.")
    size: str | None = Field(
        default=None, pattern="^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$",
        description="Width x height, as 1280x704; scaled to the model's area. The answer says what it became.",
    )  # fmt: skip
    priority: Literal["interactive", "batch"] = Field(default="interactive", description="Batch waits for the others.")


class Served(BaseModel):
    """The model behind the service: what it can make and what it does when not told otherwise. One JSON file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str  # the id clients see, `name:version`
    digest: str
    width: int
    height: int
    frames: int
    fps: int
    sample_rate: int
    area: int  # pixels the model was made for
    multiple: int  # of which sides are
    version: str | None  # of a released model
    max_tokens: int  # of a prompt
    tokenizer: str | None  # its file beside the model; None: bytes are tokens
    memory: int  # bytes that sampling takes
    sampling: Sampling
    queue: int  # jobs that may wait
    workers: int
    retention_s: float  # from its end until a job and its clip are forgotten
    origin: dict[str, str] = {}  # where model and code come from, for the manifest
    weights: str | None = None  # address of the model folder, where it is not in the bundle

    @classmethod
    def read(cls, bundle: Path) -> Served:
        """From the folder that `ovi package` laid out. One-line OviError when it is missing or damaged."""
        try:
            return cls.model_validate_json(storage.read_bytes(bundle / SERVED))
        except ValidationError:
            raise OviError(f"{bundle / SERVED}: not a description of a served model; package it again") from None

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def whole_seconds(self) -> int:
        return self.frames // self.fps


class Refused(ValueError):
    """A well-formed request that this model cannot do; `field` names the culprit."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def resolve(request: VideoRequest, served: Served, image: tuple[int, int] | None = None) -> dict[str, Any]:
    """Every value the worker needs, defaults filled in, as plain JSON. `image`: (height, width). Raises Refused."""
    if request.model not in (None, served.model):
        raise Refused("model", f"this service has the model {served.model!r} only")
    if request.seconds not in (None, served.whole_seconds):
        raise Refused("seconds", f"this model makes {served.whole_seconds} s only")
    defaults, guidance, negative = served.sampling, request.guidance, request.negative_prompt
    wanted = _wanted(request.size)
    height, width = _size(wanted, image, served)
    return {
        "model": served.model,
        "pinned": request.model is not None,
        "digest": served.digest,
        "prompt": request.prompt,
        "image": image is not None,
        "seed": secrets.randbelow(2**31) if request.seed is None else request.seed,
        "steps": _or(request.steps, defaults.steps),
        "shift": _or(request.shift, defaults.shift),
        "solver": _or(request.solver, defaults.solver),
        "guidance": {
            "video": _or(guidance.video, defaults.guidance_video),
            "audio": _or(guidance.audio, defaults.guidance_audio),
        },
        "negative_prompt": {
            "video": _or(negative.video, defaults.negative_video),
            "audio": _or(negative.audio, defaults.negative_audio),
        },
        "skip_layer": defaults.skip_layer,
        "guidance_until": _or(request.guidance_until, defaults.guidance_until),
        "stride": _or(request.stride, defaults.stride),
        "release_noise": defaults.release_noise,
        "wanted_size": wanted and list(wanted),  # (height, width) as the caller wrote it
        "size": f"{width}x{height}",
        "frames": served.frames,
        "fps": served.fps,
        "sample_rate": served.sample_rate,
        "display_pixels": defaults.display_pixels,
    }


def _wanted(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    width, height = map(int, size.split("x"))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Refused("size", f"one side of {size} is more than {MAX_ASPECT} times the other")
    return height, width


def _size(wanted: tuple[int, int] | None, image: tuple[int, int] | None, served: Served) -> tuple[int, int]:
    """(height, width) that the sampler will make of it."""
    if wanted is not None:
        return sizes.snap(*wanted, served.area, served.multiple)
    if image is not None and served.version:
        return sizes.image_size(*image, served.area)
    return served.height, served.width


def fingerprint(request: VideoRequest, image: bytes | None = None) -> str:
    """Equal for equal bodies; what an idempotency key is checked against."""
    return hashlib.sha256(request.model_dump_json().encode() + b"\0" + (image or b"")).hexdigest()


class JobError(BaseModel):
    code: str
    message: str
    retryable: bool


class VideoJob(BaseModel):
    """A job as clients see it. Times are whole Unix seconds, timings seconds by stage."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    progress: int = Field(description="Percent of sampling steps done.")
    step: int
    steps: int
    queue_position: int | None = Field(description="1 runs next; null when not waiting.")
    eta_s: float | None = Field(description="Seconds until it is done, by the pace of the last jobs; null if unknown.")
    priority: Literal["interactive", "batch"]
    prompt: str
    seed: int
    size: str
    seconds: str
    created_at: int
    started_at: int | None
    completed_at: int | None
    expires_at: int | None = Field(description="When the job and its clip will be forgotten.")
    cancel_requested: bool
    attempt: int
    effective: dict[str, Any] = Field(description="The request with every default filled in.")
    ran: dict[str, Any] | None = Field(description="What really ran: size, frames, solver, attention, path, seconds...")
    timings: dict[str, float] | None
    error: JobError | None
    sha256: str | None
    bytes: int | None
    trace_id: str | None = Field(description="Of the traceparent it came with, else its own.")


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[VideoJob]
    first_id: str | None
    last_id: str | None
    has_more: bool


def view(job: Job, position: int | None, eta_s: float | None) -> VideoJob:
    """The job as clients see it; `position` is its place in the queue."""
    effective = job.effective
    priority = next(name for name, number in PRIORITIES.items() if number == job.priority)
    return VideoJob(
        id=job.id, model=effective["model"], status=job.status, progress=100 * job.step // job.steps,  # type: ignore[arg-type]
        step=job.step, steps=job.steps, queue_position=position, eta_s=eta_s, priority=priority,  # type: ignore[arg-type]
        prompt=effective["prompt"], seed=effective["seed"], size=effective["size"],
        seconds=str(effective["frames"] // effective["fps"]), created_at=int(job.created_at),
        started_at=_whole(job.started_at), completed_at=_whole(job.completed_at), expires_at=_whole(job.expires_at),
        cancel_requested=bool(job.cancel_requested), attempt=job.attempt, effective=effective, ran=job.ran,
        timings=job.timings, error=job.error, sha256=job.sha256, bytes=job.bytes,  # type: ignore[arg-type]
        trace_id=job.trace and job.trace.split("-")[1],
    )  # fmt: skip


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
