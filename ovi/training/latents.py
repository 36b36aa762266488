"""Latent shards: what training reads. One safetensors member a sample: video, audio, text, as far as they are present.

`<set>-<split>-00000.tar` with its index for the sets av, pretrain and finetune, and `<set>-<split>.samples.json`, which
tells every sample's shapes and caption without reading it; `empty.safetensors` is the embedding of the empty caption.
They lie in a folder or at s3://bucket/prefix, of which only the bytes of the sample asked for are fetched.
An `av` sample has all three tensors, the other sets have no video. Tensors are float32. It does not know how latents
are made nor in what order they are read.
Try it: `python -c "from ovi.training.latents import LatentSet as L; print(L.open('data/latents', 'av', 'val').ids)"`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from ovi import storage
from ovi.curation.shards import ShardReader, ShardWriter
from ovi.errors import OviError

SETS = ("av", "pretrain", "finetune")
SPLITS = ("train", "val", "test")
EMPTY = "empty.safetensors"
CACHE_BYTES = 1 << 30  # sets below this stay in memory after their first read

Shapes = dict[str, list[int] | None]  # of video, audio and text


@dataclass(frozen=True)
class Sample:
    clip_id: str
    video: Tensor | None  # [C, F, h, w]
    audio: Tensor  # [L, C]
    text: Tensor  # [n, T], real tokens only
    caption: str


class LatentSet:
    """The samples of one set and split, by index."""

    def __init__(self, name: str, facts: dict[str, Any], reader: ShardReader) -> None:
        self.name = name
        self.ids = list(facts)
        self.shapes: list[Shapes] = [fact["shapes"] for fact in facts.values()]
        self.captions: list[str] = [fact["caption"] for fact in facts.values()]
        self._reader = reader
        sizes = (math.prod(shape) for sample in self.shapes for shape in sample.values() if shape)
        self._cache: dict[int, Sample] | None = {} if 4 * sum(sizes) < CACHE_BYTES else None

    @classmethod
    def open(cls, folder: str | Path, name: str, split: str) -> LatentSet:
        """Raises OviError when the set was never encoded, or a part of it is missing; one that was may be empty."""
        address = facts_address(folder, name, split)
        if not storage.exists(address):
            raise OviError(f"{address}: no such latents; run `ovi encode` first")
        _check_shards(folder, f"{name}-{split}")
        facts = storage.read_json(address)
        reader = ShardReader(folder, f"{name}-{split}")
        if {f"{clip_id}.safetensors" for clip_id in facts} != set(reader.members()):
            raise OviError(f"{address}: does not describe its shards; run `ovi encode` again")
        return cls(name, facts, reader)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Sample:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        clip_id = self.ids[index]
        tensors = load(self._reader.read(f"{clip_id}.safetensors"))
        sample = Sample(clip_id, tensors.get("video"), tensors["audio"], tensors["text"], self.captions[index])
        if self._cache is not None:
            self._cache[index] = sample
        return sample


class Pool:
    """Several sets read as one. A sample's name carries its set's, so that draws never collide."""

    def __init__(self, sets: Sequence[LatentSet]) -> None:
        self._places = [(latents, index) for latents in sets for index in range(len(latents))]
        self.names = [f"{latents.name}/{latents.ids[index]}" for latents, index in self._places]
        self.shapes = [latents.shapes[index] for latents, index in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> Sample:
        latents, place = self._places[index]
        return latents.read(place)


class LatentWriter:
    """Writes one set and split; a context manager."""

    def __init__(self, folder: Path, name: str, split: str, max_bytes: int) -> None:
        self._address = facts_address(folder, name, split)
        self._shards = ShardWriter(folder / f"{name}-{split}", max_bytes)
        self._samples: dict[str, Any] = {}

    def add(self, sample: Sample) -> None:
        tensors = {"video": sample.video, "audio": sample.audio, "text": sample.text}
        present = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
        place = self._shards.add(f"{sample.clip_id}.safetensors", save(present))
        shapes = {name: None if tensor is None else list(tensor.shape) for name, tensor in tensors.items()}
        self._samples[sample.clip_id] = {"shapes": shapes, "caption": sample.caption, "crc32": place.crc32}

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._shards.__exit__(kind, error, at)
        if kind is None:
            storage.write_json(self._address, self._samples)


def _check_shards(folder: str | Path, prefix: str) -> None:
    """Better now than when the order comes to a sample of the missing shard, which may be days from now."""
    names = {address.rpartition("/")[2] for address in storage.list_files(folder)}
    for name in sorted(names):
        shard = name.removesuffix(".index.json")
        if shard != name and shard.startswith(f"{prefix}-") and f"{shard}.tar" not in names:
            raise OviError(f"{folder}/{shard}.tar: no such shard, though it has an index; run `ovi encode` again")


def facts_address(folder: str | Path, name: str, split: str) -> str:
    """The file whose bytes change when anything in the set does: it holds every sample's checksum."""
    return f"{folder}/{name}-{split}.samples.json"


def write_empty_text(folder: Path, text: Tensor) -> None:
    storage.write_bytes(folder / EMPTY, save({"text": text.contiguous()}))


def read_empty_text(folder: str | Path) -> Tensor:
    """[n, T], the embedding of the empty caption: what caption dropout trains and guidance subtracts."""
    return load(storage.read_bytes(f"{folder}/{EMPTY}"))["text"]
