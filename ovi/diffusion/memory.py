"""How much memory sampling takes in each of its modes, and which mode fits: answered before anything is loaded.

    resident    all components stay on the device
    drop_text   the text encoder is there only while it reads, and the transformer then is not
    offload     each component is there only while it works

Estimates are of weights and of the largest arrays alive at once; they are meant to be a little too high. It knows
nothing of devices: the caller says how much is free.
Try it: `pytest tests/diffusion/test_memory.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovi.config import Runtime
from ovi.errors import OviError

MODES = ("resident", "drop_text", "offload")
BLOCK_ARRAYS = 16  # arrays of all tokens alive in a block: input, norms, q, k, v, the wide FFN twice
DECODE_ARRAYS = 16  # arrays of four frames at half size alive in the last stage of the video decoder, with its caches
GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Bytes of a model's parts: weights as they are held, and what working with them takes on top."""

    text: int
    transformer: int
    codecs: int
    denoising: int
    decoding: int

    def of(self, mode: str) -> int:
        """Bytes that a mode takes at its worst moment."""
        if mode == "offload":
            return max(self.text, self.transformer + self.denoising, self.codecs + self.decoding)
        rest = self.transformer + self.codecs + max(self.denoising, self.decoding)
        return rest + self.text if mode == "resident" else max(rest, self.text + self.codecs)


def need(config: dict[str, Any], weights: Mapping[str, int], runtime: Runtime, width: int, batch: int = 1) -> Need:
    """What a model of this config.json and these bytes of weights by component takes for pictures of its own size.

    `width` is the bytes of a number in activations. Eight-bit weights halve the projections of 16-bit ones.
    """
    tower, picture = config["transformer"]["video"], config["picture"]
    patch = config["video_codec"]["patch"]
    rows, columns = picture["height"] // patch[0], picture["width"] // patch[1]
    frames = (config["clip"]["frames"] - 1) // 4 + 1
    tokens = frames * rows * columns // math.prod(tower["patch_size"]) + config["audio_latents"]
    samples = 2 * batch  # of both passes
    caches = 4 * tower["layers"] * samples * tower["text_len"] * tower["dim"] * width
    area = picture["height"] * picture["width"] // 4
    transformer = weights["transformer"] // 2 if runtime.weights != "stored" else weights["transformer"]
    return Need(
        text=weights["text_encoder"],
        transformer=transformer,
        codecs=weights["video_codec"] + weights["audio_codec"],
        denoising=samples * tokens * tower["dim"] * width * BLOCK_ARRAYS + caches,
        decoding=4 * area * config["video_codec"].get("dec_dim", 3) * width * DECODE_ARRAYS,
    )


def choose(needed: Need, runtime: Runtime, free: int, where: str, modes: Sequence[str] = MODES) -> str:
    """The most comfortable of the modes that fits into `free` bytes, or the one that the settings name.

    OviError when it does not fit, with what would.
    """
    wanted: str = runtime.memory if runtime.memory in modes else "auto"
    fitting = [mode for mode in modes if needed.of(mode) <= free]
    if fitting and wanted == "auto":
        return fitting[0]
    if wanted in fitting:
        return wanted
    wanted = modes[-1] if wanted == "auto" else wanted
    advice = f"set runtime.memory={fitting[0]}" if fitting else _smaller(needed, runtime, free, modes)
    raise OviError(
        f"memory: sampling takes about {needed.of(wanted) / GIB:.1f} GiB ({wanted}), {where} has "
        f"{free / GIB:.1f} GiB free; {advice}"
    )


def _smaller(needed: Need, runtime: Runtime, free: int, modes: Sequence[str]) -> str:
    halved = Need(needed.text, needed.transformer // 2, needed.codecs, needed.denoising, needed.decoding)
    if runtime.weights == "stored" and halved.of(modes[-1]) <= free:
        return f"set runtime.weights=fp8 and runtime.memory={modes[-1]}"
    return "use a device with more memory or a smaller model"
