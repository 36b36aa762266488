"""Does a clip sound as its text says? CLAP (Wu et al., 2023, arXiv 2211.06687): both become points of one space.

The networks are those of transformers, the weights LAION's. Where LAION crops a longer clip at random, the middle is
taken here, so that a clip has one score. Fused checkpoints, which cannot be had without chance, are refused.
Try it: `pytest tests/perception/test_clap.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ovi.errors import OviError, one_line
from ovi.perception import weights
from ovi.perception.mel import log_mel, slaney

METHOD = "clap-laion-htsat"
RATE = 48_000
LENGTH = 10 * RATE  # samples that the network hears
SIZE, HOP, MELS, LOW, HIGH = 1024, 480, 64, 50, 14_000
TOKENS = 77
FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder as transformers writes it
HEAD = 64  # values of a RoBERTa head
EPSILON = 1e-5  # of RoBERTa's norms; transformers' default for CLAP is another

# LAION's names -> transformers', in this order.
NAMES = (
    (r"^module\.", ""),
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"\.bn0\.", ".batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
)
# The front end's sines and filters, AudioSet's classifier, and layers that only training used.
UNUSED = re.compile(r"spectrogram_extractor|logmel_extractor|tscam_conv|\.head\.|\.attn_mask$|(text|audio)_transform\.")


@dataclass(frozen=True)
class Clap:
    """transformers' ClapModel and the tokenizer of its texts."""

    network: Any
    tokenizer: Any


def load(path: str | Path, tokenizer: str | Path | None = None, device: str | torch.device = "cpu") -> Clap:
    """CLAP from a file as LAION releases it (music_speech_audioset_epoch_15_esc_89.98.pt), and RoBERTa's tokenizer from
    a folder; or from a folder as transformers writes it, which holds both.

    Nothing is downloaded. Raises OviError for what is missing, damaged or of another network.
    """
    path = Path(path)
    network = _from_folder(path, device) if path.is_dir() else from_laion(weights.read(path), path, device)
    return Clap(network, _tokenizer(Path(tokenizer or path), network.config.text_config.vocab_size))


@torch.no_grad()
def hear(clap: Clap, clips: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mono clips float32 [N] at 48 kHz, of any lengths -> points [B, 512] of length one.

    One after the other: a clip's point does not depend on its company. Raises OviError for a clip without samples.
    """
    network, device = clap.network, clap.network.logit_scale_a.device
    points = []
    for clip in clips:
        heard = log_mels(torch.from_numpy(ten_seconds(clip)).to(device)[None])[:, None]
        points.append(network.audio_projection(network.audio_model(input_features=heard).pooler_output))
    return _unit(points, network.projection_dim)


@torch.no_grad()
def read(clap: Clap, texts: Sequence[str]) -> NDArray[np.float32]:
    """Texts -> points [B, 512] of length one; of a long text the first 77 tokens are read."""
    network, device = clap.network, clap.network.logit_scale_a.device
    points = []
    for text in texts:
        tokens = clap.tokenizer([text], truncation=True, max_length=TOKENS, return_tensors="pt").to(device)
        seen = network.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        points.append(network.text_projection(seen.pooler_output))
    return _unit(points, network.projection_dim)


def ten_seconds(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N] -> [480000]: whole repeats and then silence, or the middle. Raises OviError for a clip without samples."""
    if not len(clip):
        raise OviError("CLAP cannot hear a clip without samples")
    if len(clip) > LENGTH:
        first = (len(clip) - LENGTH) // 2
        return clip[first : first + LENGTH]
    repeated = np.tile(clip, LENGTH // len(clip))
    return np.pad(repeated, (0, LENGTH - len(repeated)))


def log_mels(audio: Tensor) -> Tensor:
    """[B, 480000] -> dB [B, 1001, 64]."""
    return log_mel(audio, slaney(RATE, SIZE, MELS, LOW, HIGH).to(audio.device), HOP)


def from_laion(state: Mapping[str, Tensor], path: str | Path, device: str | torch.device) -> Any:
    """ClapModel of a state dict in LAION's names, read from `path`; its sizes are those of the tensors."""
    from transformers import ClapConfig

    named = transformers_names(state)
    try:
        config = ClapConfig(**_sizes(named))
    except KeyError as error:
        raise OviError(f"{path}: not a checkpoint of CLAP (no {error.args[0]}); give the right file") from None
    return _fill(config, named, path, device)


def transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LAION's tensors under transformers' names, without what ClapModel has no use for."""
    named: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if UNUSED.search(key):
            continue
        name = key
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:  # queries, keys and values are one matrix there, three here
            thirds = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            named |= {name.replace("qkv", part): third.clone() for part, third in thirds}
        else:
            named[name] = tensor
    return named


def _sizes(named: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ClapConfig, read off the tensors. Raises KeyError for a tensor that is not there."""
    audio, text = "audio_model.audio_encoder.", "text_model."
    table = re.compile(rf"{re.escape(audio)}layers\.(\d+)\.blocks\.\d+\..*bias_table$")
    blocks = [(int(found[1]), named[found[0]].shape[1]) for found in map(table.match, named) if found]
    heads = dict(sorted(blocks))
    if not heads:
        raise KeyError(f"{audio}layers")
    width = named[f"{audio}patch_embed.proj.weight"].shape[0]
    vocabulary, hidden = named[f"{text}embeddings.word_embeddings.weight"].shape
    points = named["audio_projection.linear2.weight"].shape[0]
    return {
        "projection_dim": points,
        "audio_config": {
            "patch_embeds_hidden_size": width,
            "hidden_size": width << (len(heads) - 1),
            "depths": [sum(stage == at for stage, _ in blocks) for at in heads],
            "num_attention_heads": list(heads.values()),
            "num_hidden_layers": len(heads),
            "projection_dim": points,
        },
        "text_config": {
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "num_attention_heads": max(1, hidden // HEAD),
            "num_hidden_layers": sum(key.endswith(".intermediate.dense.weight") for key in named if text in key),
            "intermediate_size": named[f"{text}encoder.layer.0.intermediate.dense.weight"].shape[0],
            "max_position_embeddings": named[f"{text}embeddings.position_embeddings.weight"].shape[0],
            "layer_norm_eps": EPSILON,
            "projection_dim": points,
        },
    }


def _from_folder(folder: Path, device: str | torch.device) -> Any:
    from transformers import ClapConfig

    if not (folder / "config.json").is_file():
        raise OviError(f"{folder}: not a folder of CLAP (no config.json); give one as transformers writes it")
    try:
        config = ClapConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a foreign or damaged folder makes of transformers
        raise OviError(f"{folder}: not the configuration of CLAP ({one_line(error)})") from None
    file = next((folder / name for name in FILES if (folder / name).is_file()), folder / FILES[0])
    return _fill(config, weights.read(file), file, device)


def _fill(config: Any, named: Mapping[str, Tensor], path: str | Path, device: str | torch.device) -> Any:
    from transformers import ClapModel

    if config.audio_config.enable_fusion:
        raise OviError(f"{path}: a fused CLAP, which hears long clips by chance; give an unfused one")
    network = ClapModel(config)
    # Whole numbers are positions, which transformers counts itself, in its files or not.
    counted = {key: tensor for key, tensor in network.state_dict().items() if not tensor.is_floating_point()}
    given = {key: tensor for key, tensor in named.items() if tensor.is_floating_point()}
    return weights.fill(network, {**given, **counted}, path, device)


def _tokenizer(folder: Path, words: int) -> Any:
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise OviError(f"{folder}: not a folder; give the one that holds RoBERTa's tokenizer")
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a foreign or damaged folder makes of transformers
        raise OviError(f"{folder}: no tokenizer can be loaded from it ({one_line(error)})") from None
    if len(found) != words:  # of a folder without its files transformers makes a tokenizer that knows no word
        raise OviError(f"{folder}: a tokenizer of {len(found)} words, CLAP has {words}; give RoBERTa's")
    return found


def _unit(points: Sequence[Tensor], width: int) -> NDArray[np.float32]:
    return F.normalize(torch.cat(list(points)), dim=-1).cpu().numpy() if points else np.zeros((0, width), np.float32)
