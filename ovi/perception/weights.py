"""A file of released weights -> the network it belongs to, checked tensor by tensor.

Such files come from elsewhere: nothing in them is run. It knows no network and no other layout of keys than the
network's own; who has to rename keys does so in between.
Try it: `pytest tests/perception/test_weights.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors.torch import load_file
from torch import Tensor, nn

from ovi.errors import OviError

Network = TypeVar("Network", bound=nn.Module)
COUNTER = "num_batches_tracked"  # batch norm's count of training steps: old files lack it, inference has no use for it
WRAPPED = ("model", "state_dict")  # where files that were written in training keep the weights
# Such files count in numpy's numbers beside them: data like tensors, whichever numpy wrote them.
NUMBERS = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def read(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file or of a state dict saved by PyTorch, bare or in WRAPPED, on the CPU.

    Raises OviError when there is no such file and when it holds anything but named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise OviError(f"{path}: no such file; give the network's released weights")
    try:
        with torch.serialization.safe_globals(NUMBERS):
            safe = path.suffix == ".safetensors"
            state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file or a foreign object in it makes of the reader
        raise OviError(f"{path}: cannot be read as weights ({type(error).__name__}); get the file again") from None
    if isinstance(state, dict):
        state = next((state[key] for key in WRAPPED if isinstance(state.get(key), dict)), state)
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named or not state:
        raise OviError(f"{path}: holds something else than named tensors; give the network's released weights")
    return dict(state)


def fill(network: Network, state: dict[str, Tensor], path: str | Path, device: str | torch.device) -> Network:
    """`network` with the tensors of `state`, which was read from `path`, on `device`, for inference alone.

    Raises OviError, with counts and first names, unless every tensor is there in its shape and none is left over.
    """
    wanted = {key: tensor.shape for key, tensor in network.state_dict().items() if not key.endswith(COUNTER)}
    given = {key: tensor for key, tensor in state.items() if not key.endswith(COUNTER)}
    wrong = {
        "missing": [key for key in wanted if key not in given],
        "unknown": [key for key in given if key not in wanted],
        "of another shape": [key for key in wanted if key in given and given[key].shape != wanted[key]],
    }
    found = [f"{len(keys)} {what} (first {keys[0]})" for what, keys in wrong.items() if keys]
    if found:
        raise OviError(f"{path}: not the weights of {type(network).__name__}: {', '.join(found)}; give the right file")
    network.load_state_dict(given, strict=False)
    return network.to(device).eval().requires_grad_(False)
