"""Small latents made of nothing but a seed, and settings to train on them in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ovi import config
from ovi.config import Settings
from ovi.curation import manifest
from ovi.curation.shards import ShardWriter
from ovi.models import codecs
from ovi.models.folder import save_folder
from ovi.training.latents import SETS, SPLITS, LatentWriter, Sample, write_empty_text

PARAMS = Path(__file__).parents[2] / "params.yaml"
TINY = [
    "model.dim=16", "model.ffn_dim=32", "model.heads=2", "model.layers=2", "model.freq_dim=16", "text.dim=8",
    "codec.video_channels=4", "codec.video_patch=[16,16]", "model.video_patch=[1,2,2]", "codec.audio_channels=3",
    "text.max_tokens=16",
    "training.engine=torch",
    "training.ranks=1",
]  # fmt: skip
STAGES = ("video_backbone", "audio_pretrain", "audio_finetune", "fusion")
COUNTS = {
    "av": {"train": 10, "val": 4, "test": 0},
    "pretrain": {"train": 5, "val": 2},
    "finetune": {"train": 4, "val": 0},
}


def settings(*sets: str, folder: Path | None = None, steps: int = 6, batch: int = 4) -> Settings:
    """Tiny sizes for all stages; MLflow in `folder`."""
    words = [
        *TINY,
        *(
            f"training.{stage}.{name}={value}"
            for stage in STAGES
            for name, value in {
                "steps": steps,
                "batch": batch,
                "warmup": 2,
                "cooldown": 2,
                "validate_every": 4,
                "checkpoint_every": 2,
            }.items()
        ),
    ]
    if folder is not None:
        words += [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifacts={folder}/mlartifacts"]
    return config.load(PARAMS, sets=[*words, *sets])


def latents(folder: Path, counts: dict[str, dict[str, int]] | None = None) -> Path:
    """Two picture sizes in av; sounds of many lengths in pretrain."""
    counts = COUNTS if counts is None else counts
    for number, name in enumerate(SETS):
        for split in SPLITS:
            with LatentWriter(folder, name, split, 1 << 20) as writer:
                for index in range(counts.get(name, {}).get(split, 0)):
                    writer.add(sample(name, f"{name}{split}{index:03d}", 1000 * number + index, index))
    write_empty_text(folder, torch.full((1, 8), 0.5))
    return folder


def codec(folder: Path, chosen: Settings) -> Path:
    """The frozen parts, fitted on noise."""
    draw = np.random.default_rng(0)
    video = codecs.fit_video_codec(chosen, [draw.integers(0, 255, (5, 16, 16, 3), dtype=np.uint8) for _ in range(2)])
    audio = codecs.fit_audio_codec(chosen, [draw.normal(0, 0.1, 16000).astype(np.float32) for _ in range(2)])
    parts = {"video_codec": video, "audio_codec": audio, "text_encoder": codecs.new_text_encoder(chosen)}
    state = {name: part.state_dict() for name, part in parts.items()}
    save_folder(folder, codecs.model_config(chosen), state, {})
    return folder


def sample(name: str, clip_id: str, seed: int, index: int) -> Sample:
    draw = torch.Generator().manual_seed(seed)
    shape = (4, 3, 4, 2) if index % 3 == 2 else (4, 3, 2, 2)
    length = 6 + index if name == "pretrain" else 9
    video = torch.randn(shape, generator=draw).cumsum(1) if name == "av" else None
    text = torch.randn(2 + index % 3, 8, generator=draw)
    return Sample(clip_id, video, torch.randn(length, 3, generator=draw).cumsum(0), text, f"clip {index}")


def clips(folder: Path, count: int = 12, size: tuple[int, int] = (16, 16), frames: int = 121) -> Path:
    """A curated folder: a moving square that beeps, every fifth clip wider, every fourth held out; and some sounds."""
    rows: list[dict[str, object]] = []
    for name in manifest.SETS:
        with ShardWriter(folder / "shards" / name, 1 << 26) as writer:
            number = count if name == "av" else count // 3
            rows += [_clip(writer, name, index, size, frames) for index in range(number)]
    manifest.write(folder / "manifest.parquet", rows)
    return folder


def _clip(writer: ShardWriter, name: str, index: int, size: tuple[int, int], frames: int) -> dict[str, object]:
    clip_id = f"{name}{7919 * index % 1000:04d}"
    height, width = size[0], size[1] * (2 if index % 5 == 4 else 1)
    samples = 16000 + 1000 * index if name == "pretrain" else 80640
    row: dict[str, object] = {
        "clip_id": clip_id, "set": name, "split": "val" if index % 4 == 3 else "train", "status": "kept",
        "samples": samples, "caption": f"A square at {index % 6}. <AUDCAP>Beeps.<ENDAUDCAP>",
    }  # fmt: skip
    if name == "av":
        picture = np.zeros((frames, height, width, 3), np.uint8)
        for frame in range(frames):
            at = (frame + index) % (height - 4)
            picture[frame, at : at + 4, 2:6, index % 3] = 200
        writer.add(f"{clip_id}.frames", picture.tobytes())
        row |= {"frames": frames, "height": height, "width": width}
    wave = 0.3 * np.sin(np.arange(samples) * 0.01 * (index + 1)) * (np.arange(samples) % 8000 < 1000)
    writer.add(f"{clip_id}.pcm", (32767 * wave).astype("<i2").tobytes())
    return row
