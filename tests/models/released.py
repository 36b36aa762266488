"""A folder as the release is laid out, of tiny networks whose weights are filled by a formula."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ovi.models import released_layout as layout
from ovi.models.released_layout import AUDIO, OLDER_VOICE, TEXT, VIDEO, VOICE, Network
from ovi.models.tower import TowerConfig
from tests.models.test_umt5 import tokenizer_file

TEXT_DIM = 32
SIZES: dict[str, dict[str, Any]] = {
    VIDEO.file: {"channels": 48, "dim": 4, "dec_dim": 4},
    TEXT.file: {"dim": TEXT_DIM, "layers": 2, "vocabulary": 40, "ffn_dim": 8, "heads": 4},
    AUDIO.file: {"channels": 20, "hidden": 4},
    VOICE.file: {"channels": 64},
}


def towers(dim: int = 128, heads: int = 1, layers: int = 2) -> dict[str, TowerConfig]:
    video = TowerConfig(
        "video", (1, 2, 2), 48, 48, dim=dim, ffn_dim=16, freq_dim=8, heads=heads, layers=layers, text_dim=TEXT_DIM
    )
    return {"video": video, "audio": layout.as_audio(video)}


def filled(shapes: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Small numbers that differ with the name and the place."""
    state = {}
    for name, like in shapes.items():
        steps = torch.arange(like.numel(), dtype=torch.float32) + zlib.crc32(name.encode()) % 1000
        state[name] = (0.1 * torch.sin(steps)).reshape(like.shape).to(dtype)
    return state


def weights(network: Network, sizes: dict[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """All tensors of the network under the names of its file."""
    with torch.device("meta"):
        shapes = network.released(network.build(**sizes).state_dict())
    return filled(shapes, dtype)


def transformer(**sizes: int) -> dict[str, Tensor]:
    return weights(layout.fusion("", {}), towers(**sizes), torch.bfloat16)


def backbone() -> dict[str, Tensor]:
    return weights(layout.backbone("", {}), {"config": towers()["video"]})


def release(folder: Path, versions: Iterable[str] = ("720x720_5s",), older_names: bool = True) -> Path:
    """Every file of the versions; the vocoder's names in either style."""
    for place in ("Ovi", "MMAudio/ext_weights", "Wan2.2-TI2V-5B/google/umt5-xxl"):
        (folder / place).mkdir(parents=True)
    for version in versions:
        save_file(transformer(), folder / layout.VERSIONS[version].file)
    torch.save(weights(VIDEO, SIZES[VIDEO.file]), folder / VIDEO.file)
    torch.save(weights(TEXT, SIZES[TEXT.file], torch.bfloat16), folder / TEXT.file)
    torch.save(weights(AUDIO, SIZES[AUDIO.file]), folder / AUDIO.file)
    voice = weights(OLDER_VOICE if older_names else VOICE, SIZES[VOICE.file])
    torch.save({"generator": voice}, folder / VOICE.file)
    tokenizer_file(folder / layout.TOKENIZER)
    return folder


def shards(folder: Path, state: dict[str, Tensor]) -> None:
    """A Wan2.2 video model in two shards and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    parts = {f"{layout.DIT}-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / file)
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / f"{layout.DIT}.safetensors.index.json").write_text(json.dumps(index))
