"""A captioning model on this machine: Qwen2.5-Omni's thinker through transformers, from a local folder alone.

One clip at a time and greedily; for many clips serve the model and use captioner.py. The model's inputs are put
together here from its tokenizer and its two feature extractors, because transformers' own processor for it needs
torchvision. It does not know what the answers mean.
Try it: `ovi curate --set curation.captions.source=local --set curation.captions.model=/path/to/Qwen2.5-Omni-7B`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError

from ovi.config import Captions
from ovi.curation.caption_dialogue import Answer
from ovi.curation.caption_prompts import Picture, Track, Turn
from ovi.errors import ConfigError

FAMILY = "qwen2_5_omni"  # the model_type of the whole model; its thinker alone has a longer one
SYSTEM = "You are a helpful assistant."
START, END = "<|im_start|>", "<|im_end|>"


class LocalCaptioner:
    """A Backend. ConfigError when the folder holds no such model; weights are read when the first question comes."""

    concurrency = 1

    def __init__(self, settings: Captions) -> None:
        self._folder = Path(settings.model)
        try:
            family = json.loads((self._folder / "config.json").read_bytes())["model_type"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"curation.captions.model: {self._folder} is no folder with a model") from None
        if not str(family).startswith(FAMILY):
            raise ConfigError(f"curation.captions.model: {self._folder} holds {family}, not {FAMILY}")
        self.name = f"{self._folder.resolve().name}@{_version(self._folder)}"

    async def ask(self, turns: list[Turn], max_tokens: int) -> Answer:
        return await asyncio.to_thread(self._generate, turns, max_tokens)

    async def close(self) -> None: ...

    def _generate(self, turns: list[Turn], max_tokens: int) -> Answer:
        inputs = self.inputs(turns)
        length = inputs["input_ids"].shape[1]
        tokenizer, model = self._parts.tokenizer, self._parts.model
        end = tokenizer.convert_tokens_to_ids(END)
        with torch.inference_mode():
            ids = model.generate(
                **inputs, max_new_tokens=max_tokens, do_sample=False, eos_token_id=end, pad_token_id=end
            )[0, length:]  # fmt: skip
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return Answer(text, whole=int(ids[-1]) == end, input_tokens=length, output_tokens=len(ids))

    def inputs(self, turns: list[Turn]) -> dict[str, Any]:
        """What the model takes: ids of the whole talk, patches of its pictures, the spectrogram of its sound."""
        parts = [part for turn in turns for part in turn.parts]
        pictures = [part.pixels for part in parts if isinstance(part, Picture)]
        (track,) = [part for part in parts if isinstance(part, Track)]
        model, tokenizer = self._parts.model, self._parts.tokenizer
        sound = np.frombuffer(track.pcm, "<i2").astype(np.float32) / 32768
        heard = self._parts.sounds(
            [sound], sampling_rate=track.rate, padding="max_length", return_attention_mask=True, return_tensors="pt"
        )
        inputs = {"input_features": heard["input_features"], "feature_attention_mask": heard["attention_mask"]}
        counts: list[int] = []  # tokens of each picture
        if pictures:
            seen = self._parts.pictures(images=pictures, return_tensors="pt")
            inputs |= {"pixel_values": seen["pixel_values"], "image_grid_thw": seen["image_grid_thw"]}
            counts = (seen["image_grid_thw"].prod(1) // self._parts.pictures.merge_size**2).tolist()
        text = chat(turns, tokenizer, counts, sound_tokens(int(heard["attention_mask"].sum())))
        inputs |= tokenizer(text, return_tensors="pt")
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
        return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}

    @cached_property
    def _parts(self) -> _Parts:
        from transformers import (
            AutoTokenizer,
            Qwen2_5OmniThinkerForConditionalGeneration,
            Qwen2VLImageProcessorPil,
            WhisperFeatureExtractor,
        )

        gpu = torch.cuda.is_available()
        try:
            tokenizer, pictures, sounds = (
                kind.from_pretrained(self._folder, local_files_only=True)
                for kind in (AutoTokenizer, Qwen2VLImageProcessorPil, WhisperFeatureExtractor)
            )
            model, found = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
                self._folder, local_files_only=True, use_safetensors=True, output_loading_info=True,
                dtype=torch.bfloat16 if gpu else torch.float32,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            words = " ".join(str(error).split())[:200]
            raise ConfigError(f"curation.captions.model: {self._folder} cannot be read: {words}") from None
        if missing := sorted(found["missing_keys"]):
            raise ConfigError(f"curation.captions.model: {self._folder} lacks {missing[0]} and {len(missing) - 1} more")
        return _Parts(tokenizer, pictures, sounds, model.eval().to("cuda" if gpu else "cpu"))


class _Parts(NamedTuple):
    tokenizer: Any
    pictures: Any
    sounds: Any
    model: Any


def chat(turns: list[Turn], names: Any, picture_tokens: list[int], track_tokens: int) -> str:
    """The talk as the model reads it, up to where it goes on. `names` has the special tokens, as the tokenizer does."""
    counts = iter(picture_tokens)
    text = f"{START}system\n{SYSTEM}{END}\n"
    for turn in turns:
        text += f"{START}{turn.role}\n"
        for part in turn.parts:
            if isinstance(part, str):
                text += part
            elif isinstance(part, Picture):
                text += names.vision_bos_token + names.image_token * next(counts) + names.vision_eos_token
            else:
                text += names.audio_bos_token + names.audio_token * track_tokens + names.audio_eos_token
        text += f"{END}\n"
    return f"{text}{START}assistant\n"


def sound_tokens(frames: int) -> int:
    """Tokens for so many spectrogram frames (100 a second): the audio encoder halves them twice."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def _version(folder: Path) -> str:
    """Tells apart models that have the same folder name: by their config and by the files' sizes."""
    sizes = "".join(f"{path.name} {path.stat().st_size}\n" for path in sorted(folder.iterdir()) if path.is_file())
    return hashlib.sha256((folder / "config.json").read_bytes() + sizes.encode()).hexdigest()[:8]
