"""What a user asks of the sampler, checked: every way to be wrong is one line that names the field.

It knows nothing of models; limits that depend on one (the number of blocks) are the sampler's to check.
Try it: `python -c "from ovi.diffusion.request import prompt_problems; print(prompt_problems('A dog. <AUDCAP>Woof'))"`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.config import Sampling
from ovi.diffusion.solvers import SOLVERS
from ovi.errors import OviError

MAX_STEPS, MAX_SHIFT, MAX_GUIDANCE, MAX_SEED, MAX_PROMPT = 200, 100.0, 20.0, 2**63 - 1, 4000
TAG = re.compile(r"</?(?:S|E|AUDCAP|ENDAUDCAP)>")
CLOSES = {"<E>": "<S>", "<ENDAUDCAP>": "<AUDCAP>"}


@dataclass(frozen=True, eq=False)
class Request:
    """One clip. `image`, a file or uint8 [H, W, 3], is its first frame; without one the prompt decides."""

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
    def batch_key(self) -> tuple[int, float, str, float, float, int]:
        """Requests with equal keys can be sampled in one batch."""
        return self.steps, self.shift, self.solver, self.guidance_video, self.guidance_audio, self.skip_layer


def prompt_problems(prompt: str) -> list[str]:
    """What is wrong with a prompt, one line each; empty when it can be sampled.

    A prompt is a description with speech in <S>...<E>, and one <AUDCAP>...<ENDAUDCAP> for the sounds (paper 3.4).
    """
    if not TAG.sub("", prompt).strip():
        return ["is empty; describe what is seen and heard"]
    problems = []
    if len(prompt) > MAX_PROMPT:
        problems.append(f"has {len(prompt)} characters; at most {MAX_PROMPT}")
    opened: str | None = None
    for tag in TAG.findall(prompt):
        if tag.startswith("</"):
            problems.append(f"{tag} is no tag; speech ends with <E>, the sounds with <ENDAUDCAP>")
        elif tag in CLOSES:
            if opened != CLOSES[tag]:
                problems.append(f"{tag} without {CLOSES[tag]} before it")
            opened = None
        else:
            if opened:
                problems.append(f"{tag} inside {opened}, which is not closed")
            opened = tag
    if opened:
        problems.append(f"{opened} is not closed; add {next(end for end, start in CLOSES.items() if start == opened)}")
    if prompt.count("<AUDCAP>") > 1:
        problems.append("has more than one <AUDCAP>; describe all sounds in one")
    return problems


def read_image(image: str | Path | NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The picture as uint8 [height, width, 3] RGB: cut about its middle to the aspect asked for, then resized."""
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
