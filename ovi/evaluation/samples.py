"""Clips generated for held-out prompts, and the real clips those prompts were written for.

Prompts are captions of the test split; where it has too few for a scene, of the validation split; then they repeat with
fresh seeds. A training caption is never asked for. It does not know how clips are scored.
Try it: `ovi evaluate --set evaluation.show=1`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovi.config import Sampling, Settings
from ovi.curation import manifest, packed
from ovi.curation.shards import ShardReader
from ovi.diffusion.request import Request
from ovi.diffusion.sampler import Clip, Sampler
from ovi.progress import Progress

HELD_OUT = ("test", "val")
BATCH_VALUES = 1 << 24  # hidden values (clips x tokens x width) sampled at once: all of a tiny run, one clip of 11B
Row = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """What to generate: the n-th clip of a scene (None: the data names no scenes)."""

    scene: str | None
    index: int
    caption: str
    seed: int
    clip_id: str  # the real clip that the caption was written for

    @property
    def name(self) -> str:
        return f"{self.scene or 'clip'}_{self.index:02d}"


def held_out(clips: Path) -> list[Row]:
    """Kept audio-video rows of the manifest outside the training split: test before validation, by clip id."""
    path = clips / "manifest.parquet"
    return [
        row
        for split in HELD_OUT
        for row in sorted(manifest.rows(path, set="av", split=split), key=lambda row: str(row["clip_id"]))
    ]


def prompts(rows: Sequence[Row], settings: Settings) -> list[Prompt]:
    """`clips_per_scene` for every scored scene that has rows, and enough of every scene to show `show` in turn."""
    scenes = list(dict.fromkeys(sorted((row["scene"] for row in rows), key=lambda scene: scene or "")))
    wanted = dict.fromkeys(scenes, 1)
    for scene in itertools.islice(itertools.cycle(scenes), len(scenes), settings.evaluation.show):
        wanted[scene] += 1
    for scene in set(settings.evaluation.scenes) & set(scenes):
        wanted[scene] = max(wanted[scene], settings.evaluation.clips_per_scene)
    return [prompt for scene in scenes for prompt in _of_scene(rows, scene, wanted[scene], settings.seed)]


def shown(asked: Sequence[Prompt], count: int) -> list[int]:
    """Places of the prompts to show: first clips of each scene before second ones, at least one of each."""
    scenes = len({prompt.scene for prompt in asked})
    order = sorted(range(len(asked)), key=lambda place: (asked[place].index, asked[place].scene or ""))
    return sorted(order[: max(count, scenes)])


def generate(sampler: Sampler, asked: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Clip]:
    """One clip a prompt, in the prompts' order. The result does not depend on who shares a batch, up to rounding."""
    batches = list(_batches(asked, batch_size(sampler.model.config)))
    progress.start("sampling", sampling.steps * len(batches), "steps")
    clips: list[Clip] = []
    for batch in batches:
        for step in sampler.run(sampler.plan([Request.of(sampling, one.caption, one.seed) for one in batch])):
            progress.advance()
            if step.index == step.total:
                clips += sampler.decode(step)
    return clips


def batch_size(config: dict[str, Any]) -> int:
    """How many clips of a model folder's configuration fit into BATCH_VALUES hidden values, at least one."""
    tower, codec = config["transformer"]["video"], config["video_codec"]
    frames = (config["clip"]["frames"] - 1) // 4 + 1
    height, width = config["picture"]["height"] // codec["patch"][0], config["picture"]["width"] // codec["patch"][1]
    tokens = frames * height * width // math.prod(tower["patch_size"])
    return max(1, BATCH_VALUES // (2 * tokens * tower["dim"]))


def real_clips(clips: Path, rows: Sequence[Row]) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """(frames uint8 [T, H, W, 3], audio float32 [N]) of manifest rows, from the packed shards."""
    reader = ShardReader(clips / "shards", "av")
    return [(packed.frames(reader, row), packed.sound(reader, row)) for row in rows]


def real_sounds(clips: Path, rows: Sequence[Row]) -> dict[str, NDArray[np.float32]]:
    """The sound float32 [N] of manifest rows by clip id, from the packed shards."""
    reader = ShardReader(clips / "shards", "av")
    return {row["clip_id"]: packed.sound(reader, row) for row in rows}


def _of_scene(rows: Sequence[Row], scene: str | None, count: int, seed: int) -> list[Prompt]:
    told = itertools.cycle([row for row in rows if row["scene"] == scene])
    first = itertools.islice(told, count)
    return [
        Prompt(scene, index, row["caption"], _seed(seed, scene, index), row["clip_id"])
        for index, row in enumerate(first)
    ]


def _seed(seed: int, scene: str | None, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{scene}/{index}".encode(), digest_size=4).digest(), "big")


def _batches(asked: Sequence[Prompt], size: int) -> Iterator[Sequence[Prompt]]:
    return (asked[at : at + size] for at in range(0, len(asked), size))
