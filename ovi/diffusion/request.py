"""What a user asks of the sampler, checked: every way to be wrong is one line that names the field.

It knows nothing of models; limits that depend on one (the number of blocks) are the sampler's to check.
Try it: `python -c "from ovi.diffusion.request import Request; print(Request('A dog. <AUDCAP>Woof<ENDAUDCAP>'))"`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.config import Sampling
from ovi.diffusion.prompts import MAX_PROMPT, prompt_problems
from ovi.diffusion.solvers import SOLVERS
from ovi.errors import OviError

MAX_STEPS, MAX_SHIFT, MAX_GUIDANCE, MAX_SEED, MAX_SIDE = 200, 100.0, 20.0, 2**63 - 1, 16_384


@dataclass(frozen=True, eq=False)
class Request:
    """One clip. `image`, a file or uint8 [H, W, 3], is its first frame; without one the prompt decides.

    `size` (height, width) is scaled to the area that the model was made for. None: as the image is, else the model's.
    """

    prompt: str
    seed: int = 0
    steps: int = 50
    shift: float = 5.0
    solver: str = "unipc"
    guidance_video: float = 4.0
    guidance_audio: float = 3.0
    skip_layer: int = -1
    negative_video: str = ""
    negative_audio: str = ""
    release_noise: bool = False
    guidance_until: float = 1.0
    stride: int = 1
    size: tuple[int, int] | None = None
    image: str | Path | NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if problems := prompt_problems(self.prompt):
            raise OviError(f"prompt: {problems[0]}")
        _whole("seed", self.seed, 0, MAX_SEED)
        _whole("steps", self.steps, 1, MAX_STEPS)
        _number("shift", self.shift, 0.01, MAX_SHIFT)
        _number("guidance_video", self.guidance_video, 0, MAX_GUIDANCE)
        _number("guidance_audio", self.guidance_audio, 0, MAX_GUIDANCE)
        _whole("skip_layer", self.skip_layer, -1, 1000)
        _number("guidance_until", self.guidance_until, 0, 1)
        _whole("stride", self.stride, 1, MAX_STEPS)
        for side, value in zip(("height", "width"), self.size or (), strict=False):
            _whole(side, value, 1, MAX_SIDE)
        if self.solver not in SOLVERS:
            raise OviError(f"solver: {self.solver!r} is not one of {', '.join(sorted(SOLVERS))}")
        for name in ("negative_video", "negative_audio"):
            if len(getattr(self, name)) > MAX_PROMPT:
                raise OviError(f"{name}: {len(getattr(self, name))} characters; at most {MAX_PROMPT}")

    @classmethod
    def of(cls, sampling: Sampling, prompt: str, seed: int = 0, **changes: Any) -> Request:
        """A request with the settings' sampling values, some of them changed."""
        values = sampling.model_dump(exclude={"display_pixels"})
        return cls(**{**values, "prompt": prompt, "seed": seed, **changes})

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Requests with equal keys, for pictures of one size, can be sampled in one batch."""
        guidance = (self.guidance_video, self.guidance_audio, self.guidance_until, self.skip_layer)
        return self.steps, self.shift, self.solver, self.stride, self.release_noise, *guidance

    @property
    def accelerators(self) -> tuple[str, ...]:
        """What was asked for that trades likeness to the exact result for time."""
        asked = {"guidance_until": (self.guidance_until, 1.0), "stride": (self.stride, 1)}
        return tuple(f"{name}={value:g}" for name, (value, exact) in asked.items() if value != exact)


def read_image(image: str | Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture as uint8 [H, W, 3] RGB."""
    if isinstance(image, str | Path):
        try:
            encoded = np.frombuffer(Path(image).read_bytes(), np.uint8)
        except OSError as error:
            raise OviError(f"image: {image}: {error.strerror}") from None
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
        if decoded is None:
            raise OviError(f"image: {image}: not a picture this program reads (PNG, JPEG, WebP)")
        image = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise OviError(f"image: {image.dtype} of shape {list(image.shape)}; it must be uint8 [H, W, 3]")
    return image


def fit_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] -> [height, width, 3]: cut about its middle to the aspect asked for, then resized."""
    rows, columns = image.shape[:2]
    high, wide = min(rows, max(1, columns * height // width)), min(columns, max(1, rows * width // height))
    top, left = (rows - high) // 2, (columns - wide) // 2
    middle = np.ascontiguousarray(image[top : top + high, left : left + wide])
    method = cv2.INTER_AREA if high > height else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(middle, (width, height), interpolation=method), np.uint8)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise OviError(f"{name}: {value!r} is not a whole number from {low} to {high}")


def _number(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise OviError(f"{name}: {value!r} is not a number from {low:g} to {high:g}")
    if not low <= value <= high:
        raise OviError(f"{name}: {value!r} is not a number from {low:g} to {high:g}")
