"""A small world to evaluate: a model of random weights, held-out clips of two scenes, and what the stages wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ovi import config, storage
from ovi.config import Settings
from ovi.curation import manifest
from ovi.curation.shards import ShardWriter
from ovi.evaluation.learning import STAGES
from ovi.media.encode import pcm16
from ovi.models import codecs
from ovi.models.folder import save_folder
from ovi.models.fusion import init
from ovi.synthetic.scenes import Scene, render

ROOT = Path(__file__).parents[2]
SMALL = (
    "model.dim=24", "model.ffn_dim=32", "model.heads=2", "model.layers=2", "text.dim=32", "sampling.steps=2",
    "sampling.display_pixels=64", "evaluation.clips_per_scene=5", "evaluation.show=3", "evaluation.permutations=500",
    "evaluation.draws=200", "training.ranks=1",
)  # fmt: skip


def settings(tmp: Path, *more: str) -> Settings:
    tracked = (f"tracking.uri=sqlite:///{tmp}/mlflow.db", f"tracking.artifacts={tmp}/artifacts")
    return config.load(ROOT / "params.yaml", sets=[*SMALL, *tracked, *more])


def model(path: Path, chosen: Settings) -> None:
    scenes = [render("blink", seed, size=(32, 32)) for seed in range(2)]
    about = codecs.model_config(chosen)
    parts = {
        "transformer": init(codecs.build("transformer", about["transformer"]), 0).state_dict(),
        "video_codec": codecs.fit_video_codec(chosen, (scene.frames for scene in scenes)).state_dict(),
        "audio_codec": codecs.fit_audio_codec(chosen, (scene.audio for scene in scenes)).state_dict(),
        "text_encoder": codecs.new_text_encoder(chosen).state_dict(),
    }
    save_folder(path, about, parts, {"stage": "test"})


def clips(folder: Path, scenes: list[tuple[str | None, str]]) -> list[Scene]:
    """Packed clips and their manifest; `scenes`: a (scene name, split) for each. None: a blink without its name."""
    rows: list[manifest.Row] = []
    made = []
    with ShardWriter(folder / "shards" / "av", 1 << 26) as shard:
        for seed, (name, split) in enumerate(scenes):
            scene = render(name or "blink", seed, size=(32, 32))
            made.append(scene)
            identity = hashlib.blake2b(f"{seed}".encode(), digest_size=16).hexdigest()
            shard.add(f"{identity}.frames", scene.frames.tobytes())
            shard.add(f"{identity}.pcm", pcm16(scene.audio).tobytes())
            rows.append({
                "clip_id": identity, "set": "av", "split": split, "status": manifest.KEPT, "scene": name,
                "caption": scene.caption, "frames": 121, "height": 32, "width": 32, "samples": 80640,
            })  # fmt: skip
    rows.append({"clip_id": "0" * 32, "set": "av", "split": "test", "status": manifest.REJECTED, "scene": "blink"})
    manifest.write(folder / "manifest.parquet", rows)
    return made


def learned(models: Path, latents: Path) -> None:
    """What the training stages and the encoder leave behind."""
    for stage, modalities in STAGES.items():
        curve = [{"step": s, "loss": 2 - s / 20} | {f"val_{m}": 2 - s / 25 for m in modalities} for s in (0, 10, 20)]
        record: dict[str, Any] = {
            "stage": stage, "steps": 20, "curve": curve,
            "val": {"start": dict.fromkeys(modalities, 2.0), "end": dict.fromkeys(modalities, 1.2)},
        }  # fmt: skip
        if stage == "fusion":
            record["partner"] = {m: {"true": 1.2, "shuffled": 1.5, "tower": 1.3} for m in modalities}
        (models / stage).mkdir(parents=True, exist_ok=True)
        (models / stage / "metrics.json").write_text(json.dumps(record))
    storage.write_json(latents / "codec.json", {"video_psnr_db": 27.3, "audio_log_mel_error": 0.31, "counts": {}})
