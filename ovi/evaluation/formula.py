"""Networks filled by a formula, so that all of evaluation can be tried without a file of weights.

Their figures mean nothing and are comparable with nothing, which every place that shows one says. The two that need a
tokenizer are small ones of the same kinds, with an alphabet for words.
Try it: `ovi evaluate --set evaluation.formula_networks=true`.
"""

from __future__ import annotations

import zlib
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

from ovi.perception.aesthetic import EMBEDDING, SIDE, Aesthetic, Head
from ovi.perception.asr import Recogniser
from ovi.perception.clap import Clap

Network = TypeVar("Network", bound=nn.Module)

LEVELS = ("bn0", "batch_norm")  # norms that stand behind decibels
COMPUTED = ("melW", "num_batches_tracked")  # no weights
MARKS = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def filled(network: Network) -> Network:
    """Every weight drawn by its name; the same on every machine up to rounding."""
    state = network.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and not name.endswith(COMPUTED):
            tensor.copy_(_values(name, tensor))
    return network.eval().requires_grad_(False)


def clap() -> Clap:
    """A small CLAP that reads letters."""
    from transformers import ClapConfig, ClapModel, RobertaTokenizer

    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *map(chr, range(33, 127)), "Ġ"]
    tokenizer = RobertaTokenizer(vocab={word: at for at, word in enumerate(letters)}, merges=[])
    config = ClapConfig(
        projection_dim=32,
        audio_config={
            "patch_embeds_hidden_size": 16, "hidden_size": 128, "depths": [1, 1, 1, 1], "num_hidden_layers": 4,
            "num_attention_heads": [1, 2, 4, 8], "projection_dim": 32,
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
            "intermediate_size": 64, "max_position_embeddings": 90, "projection_dim": 32,
        },
    )  # fmt: skip
    return Clap(filled(ClapModel(config)), tokenizer)


def aesthetic() -> Aesthetic:
    """A small CLIP under a head of the released size."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                              image_size=SIDE, patch_size=56, projection_dim=EMBEDDING)  # fmt: skip
    return filled(Aesthetic(CLIPVisionModelWithProjection(config), Head()))


def recogniser() -> Recogniser:
    """A small Whisper that writes letters."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    tokenizer = WhisperTokenizer(vocab={chr(at): at - 33 for at in range(33, 127)}, merges=[])
    tokenizer.add_tokens(list(MARKS), special_tokens=True)
    start, english, transcribe, no_times = tokenizer.convert_tokens_to_ids(list(MARKS))
    ends = dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), tokenizer.eos_token_id)
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder")
             for name, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    network = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=len(tokenizer), num_mel_bins=8, d_model=16, max_target_positions=16,
                      decoder_start_token_id=start, suppress_tokens=None, begin_suppress_tokens=None, **sizes, **ends)
    )  # fmt: skip
    network.generation_config = GenerationConfig(
        decoder_start_token_id=start, is_multilingual=True, lang_to_id={"<|en|>": english},
        task_to_id={"transcribe": transcribe}, no_timestamps_token_id=no_times, max_length=12, **ends,
    )  # fmt: skip
    processor = WhisperProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer)
    return Recogniser(filled(network), processor, {"colour": "color"})


def _values(name: str, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    drawn = torch.rand(like.shape, generator=generator)
    behind_levels = any(level in name for level in LEVELS)
    if name.endswith("running_var"):
        return 200 + 100 * drawn if behind_levels else 1 + drawn / 2
    if name.endswith("running_mean"):
        return 20 * drawn - 30 if behind_levels else drawn / 5 - 0.1
    if like.ndim > 1:
        return (2 * drawn - 1) * (6 / prod(like.shape[1:])) ** 0.5
    return 1 + drawn / 10 if name.endswith("weight") else (drawn - 0.5) / 10
