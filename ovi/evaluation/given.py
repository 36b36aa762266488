"""DeSync and JavisScore from what their networks, Synchformer and ImageBind, made of the clips; they are not here.

`evaluation.outputs` names a safetensors file for each, with a tensor for every clip by its name: Synchformer's logits
[2, 21] of the first and the last 4.8 s, ImageBind's cosines [windows, pictures] of each window's pictures to its sound.
So published figures can be had with intervals, and compared, without weights that may not be passed on.
Try it: `ovi benchmark score javis-bench --set evaluation.outputs.imagebind=cosines.safetensors ...`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ovi import storage
from ovi.config import Outputs
from ovi.errors import OviError
from ovi.evaluation import measured, scores
from ovi.evaluation.measured import How, Measured, absent, each
from ovi.evaluation.results import NOT_APPLICABLE
from ovi.evaluation.take import Take

Array = NDArray[np.floating]
CLASSES = len(scores.OFFSETS_S)


def give(takes: Sequence[Take], outputs: Outputs, how: How) -> list[Measured]:
    """Both, in the catalogue's names. Raises OviError for a file that is missing or no safetensors."""
    return [
        _figure("desync_synchformer", "synchformer", outputs.synchformer, _desync, takes, how),
        _figure("javis_imagebind", "imagebind", outputs.imagebind, _javis, takes, how),
    ]


def offsets(outputs: Outputs) -> dict[str, float]:
    """Synchformer's mean offset in s of each clip, positive = sound late; empty where no file is given."""
    if outputs.synchformer is None:
        return {}
    return {name: float(_offsets(logits).mean()) for name, logits in _read(outputs.synchformer).items()}


def _figure(
    name: str, key: str, path: str | None, compute: Callable[[Array], float], takes: Sequence[Take], how: How
) -> Measured:
    if path is None:
        return absent(name, f"{NOT_APPLICABLE}its network's outputs are not given (evaluation.outputs.{key})")
    made = _read(path)

    def of(take: Take) -> float:
        if take.name not in made:
            raise OviError(f"{Path(path).name} has nothing of this clip")
        return compute(made[take.name])

    return measured.mean(name, takes, *each(takes, of), how, storage.sha256(path))


def _desync(logits: Array) -> float:
    return float(np.abs(_offsets(logits)).mean())


def _offsets(logits: Array) -> Array:
    if logits.ndim != 2 or logits.shape[1] != CLASSES:
        raise OviError(f"logits of {CLASSES} offsets are expected, [2, {CLASSES}], not {list(logits.shape)}")
    return scores.desync_offsets(logits)


def _javis(cosines: Array) -> float:
    if cosines.ndim != 2:
        raise OviError(f"cosines [windows, pictures] are expected, not {list(cosines.shape)}")
    return scores.javis(cosines)


def _read(path: str) -> dict[str, Array]:
    try:
        found: dict[str, Array] = load_file(path)
    except FileNotFoundError:
        raise OviError(f"{path}: no such file") from None
    except (SafetensorError, TypeError) as error:
        raise OviError(f"{path}: not a safetensors file ({error})") from None
    return found
