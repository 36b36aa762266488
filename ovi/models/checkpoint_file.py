"""Tensors by name from files that others wrote: .safetensors, their shards, and torch's .pth and .pt.

Nothing in such a file is run: a pickle that asks for more than tensors and plain containers is refused. It knows
nothing of networks.
Try it: `pytest tests/models/test_checkpoint_file.py`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ovi import storage
from ovi.errors import OviError, one_line

# Where a pickle's tensors are: at its top, as vocoders are kept, as DeepSpeed dumps a module, as others wrap that.
PLACES = ((), ("generator",), ("module",), ("app", "model"))
INDEX = ".index.json"
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def read(file: Path) -> dict[str, Tensor]:
    """All tensors of the file, or of the shards beside it when it is an index; mapped, so that they are not copied.

    Raises OviError for a file that is missing or damaged, or that holds something else or more than tensors.
    """
    return _tensors(file, load_file)


def outline(file: Path) -> dict[str, Tensor]:
    """As `read`, on the meta device: names, shapes and dtypes, for which the tensors need not be read.

    Only torch's oldest format has to be read as a whole.
    """
    return {name: tensor.to("meta") for name, tensor in _tensors(file, _outline).items()}


def _tensors(file: Path, safetensors: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    if not file.is_file():
        raise OviError(f"{file}: no such file")
    if file.name.endswith(INDEX):
        return {name: tensor for shard in _shards(file) for name, tensor in _tensors(shard, safetensors).items()}
    if file.suffix == ".safetensors":
        try:
            return safetensors(file)
        except SafetensorError as error:
            raise OviError(f"{file}: not a whole safetensors file ({error}); download it again") from None
    return _named(file, _unpickled(file))


def _outline(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as content:
        slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118 - no mapping
        kinds = {one.get_dtype() for one in slices.values()}
        if kinds - DTYPES.keys():
            raise OviError(f"{file}: holds numbers of the kind {min(kinds - DTYPES.keys())}, which is not known here")
        return {
            name: torch.empty(one.get_shape(), dtype=DTYPES[one.get_dtype()], device="meta")
            for name, one in slices.items()
        }


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(storage.read_json(index)["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (KeyError, TypeError, AttributeError):
        raise OviError(f"{index}: not an index of safetensors shards; download it again") from None
    if any(file.parent != index.parent for file in files):
        raise OviError(f"{index}: names shards in other folders; download it again")
    return files


def _unpickled(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle can raise anything
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise OviError(
                f"{file}: its pickle asks for {wanted[1]}, only tensors are read; save it as a plain state dict"
            ) from None
        raise OviError(f"{file}: not a checkpoint of tensors ({one_line(error)[:100]}); download it again") from None


def _named(file: Path, content: Any) -> dict[str, Tensor]:
    for place in PLACES:
        state = content
        for key in place:
            state = state.get(key) if isinstance(state, Mapping) else None
        if isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values()):
            return {str(name): tensor.detach() for name, tensor in state.items()}
    raise OviError(f"{file}: holds no tensors by name, neither at its top nor in 'generator', 'module' or 'app.model'")
