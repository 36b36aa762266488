"""One training stage to be run: its settings, its folders, and the digests of everything its result depends on.

Light on purpose: the process that starts the ranks needs this and no torch.
Try it: `pytest tests/training/test_job.py`.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovi import storage
from ovi.config import Settings
from ovi.errors import OviError
from ovi.training import recipes
from ovi.training.recipes import Recipe

CODEC = "codec"  # the model folder of the frozen parts, beside those of the stages

# What a stage's weights do not depend on: a checkpoint made under other values of these is still good.
INDIFFERENT = {"accumulate", "validate_every", "checkpoint_every", "sample_clips", "sample_every", "source"}


@dataclass(frozen=True)
class Job:
    stage: str
    settings: Settings
    latents: str  # a folder or s3://bucket/prefix
    models: Path
    checkpoints: Path  # of all stages; this one's are in checkpoints/<stage>
    key: dict[str, str]  # {"settings", "data", "parents"}: hex digests
    began: float  # time.time() when this attempt was started

    @classmethod
    def make(cls, stage: str, settings: Settings, latents: str | Path, models: Path, checkpoints: Path) -> Job:
        """Raises OviError for missing inputs, ConfigError for settings that can never work."""
        recipe = recipes.get(stage, settings)
        key = {
            "settings": _digest(_what_matters(recipe, settings)),
            "data": _data(latents),
            "parents": _digest(_start(recipe, settings, models)),
        }
        if len(recipe.modalities) > 1:
            _parent(models, CODEC, "encode")  # its result can generate, and needs the frozen parts for that
        return cls(stage, settings, str(latents), Path(models), Path(checkpoints), key, time.time())

    @property
    def recipe(self) -> Recipe:
        return recipes.get(self.stage, self.settings)

    @property
    def out(self) -> Path:
        return self.models / self.stage

    @property
    def folder(self) -> Path:
        return self.checkpoints / self.stage

    @property
    def name(self) -> str:
        """Names this very training, the same in every process and attempt."""
        return f"{self.stage}-{_digest(self.key)[:16]}"

    def to_json(self) -> dict[str, Any]:
        folders = {name: str(getattr(self, name).absolute()) for name in ("models", "checkpoints")}
        folders["latents"] = self.latents if storage.is_remote(self.latents) else str(Path(self.latents).absolute())
        settings = self.settings.model_dump(mode="json")
        return {"stage": self.stage, "settings": settings, "key": self.key, "began": self.began, **folders}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Job:
        settings = Settings.model_validate(value["settings"])
        models, checkpoints = Path(value["models"]), Path(value["checkpoints"])
        return cls(value["stage"], settings, value["latents"], models, checkpoints, value["key"], value["began"])


def _what_matters(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    low_rank = recipe.lora(settings)
    return {
        "stage": recipe.settings(settings).model_dump(mode="json", exclude=INDIFFERENT),
        "model": settings.model.model_dump(mode="json"),
        "text": settings.text.model_dump(mode="json"),
        "lora": None if low_rank is None else low_rank.model_dump(mode="json"),
        "precision": settings.training.precision,
        "seed": settings.seed,
    }


def _data(latents: str | Path) -> str:
    """Of all sets: their facts hold every sample's checksum."""
    files = [file for file in storage.list_files(latents) if file.endswith((".samples.json", "/empty.safetensors"))]
    if not files:
        raise OviError(f"{latents}: no latents in here; run `ovi encode` first")
    return _digest([(Path(file).name, storage.sha256(file)) for file in files])


def _start(recipe: Recipe, settings: Settings, models: Path) -> list[Any]:
    """Of all weights the stage starts from."""
    source = recipe.source(settings)
    if source is None:
        return [_parent(models, name, f"train {name.replace('_', '-')}") for name in recipe.parents]
    if len(recipe.modalities) > 1:
        return [_parent(source.parent, source.name, "weights import")]
    return _source(source)


def _parent(models: Path, name: str, command: str) -> str:
    address = Path(models) / name / "model.json"
    if not storage.exists(address):
        raise OviError(f"{address}: no such model; run `ovi {command}` first")
    return storage.sha256(address)


def _source(folder: Path) -> list[tuple[str, str]]:
    """Of all released weights in it."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise OviError(
            f"training.video_backbone.source: no safetensors files in {folder}; "
            "get them with `ovi weights download --version wan2.2-ti2v-5b`, or set it to null"
        )
    return [(file.name, storage.sha256(file)) for file in files]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
