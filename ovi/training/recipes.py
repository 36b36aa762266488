"""The four stages of the paper's training (4.2) as a table: what each reads, starts from, trains and weighs.

It holds facts only; networks are built in towers.py and trained in loop.py.
Try it: `python -c "from ovi.training.recipes import RECIPES; print(RECIPES['fusion'])"`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from ovi.config import AudioStage, FusionStage, Lora, Settings, Stage, VideoStage
from ovi.errors import ConfigError

ALL = r".*"
ATTENTION = r".*\.blocks\.\d+\.(self_attn|cross_attn)\..*"  # with the fusion parameters, which live in cross_attn
LOW_RANK = ("lora_down", "lora_up")  # ends of the names of a projection's low-rank addition


@dataclass(frozen=True)
class Recipe:
    stage: str
    modalities: tuple[str, ...]  # the towers that take part
    sets: tuple[str, ...]  # latent sets, read as one
    spare: tuple[str, ...] = ()  # read instead where those hold no training sample
    parents: tuple[str, ...] = ()  # stages whose towers it starts from; without any, it starts from scratch
    trains: str = ALL  # pattern of the parameters that learn; the others are frozen

    def settings(self, settings: Settings) -> Stage:
        return getattr(settings.training, self.stage)

    def source(self, settings: Settings) -> Path | None:
        """What it starts from instead of its parents: a folder of released files, or a model folder for both towers."""
        stage = self.settings(settings)
        return Path(stage.source) if isinstance(stage, (VideoStage, FusionStage)) and stage.source else None

    def lora(self, settings: Settings) -> Lora | None:
        return settings.training.lora if self.stage == "fusion" else None

    def hears(self, settings: Settings) -> bool:
        """Whether the towers hear each other."""
        stage = self.settings(settings)
        return isinstance(stage, FusionStage) and stage.fusion

    def learns(self, name: str, settings: Settings) -> bool:
        """Whether the parameter is trained; the fusion parameters only where something uses them."""
        if "fusion" in name and not self.hears(settings):
            return False
        if self.lora(settings) is not None and not name.endswith(LOW_RANK):
            return False
        return re.fullmatch(self.trains, name) is not None

    def weights(self, settings: Settings) -> dict[str, float]:
        """The share of each modality in the loss (paper: 0.85 video, 0.15 audio)."""
        stage = self.settings(settings)
        if isinstance(stage, FusionStage):
            return {"video": stage.video_weight, "audio": stage.audio_weight}
        return dict.fromkeys(self.modalities, 1.0)

    def packs(self, settings: Settings) -> bool:
        """Whether sounds are laid one after another instead of padded."""
        stage = self.settings(settings)
        return isinstance(stage, AudioStage) and stage.pack

    def first_frame_share(self, settings: Settings) -> float:
        stage = self.settings(settings)
        return stage.first_frame_share if isinstance(stage, (VideoStage, FusionStage)) else 0.0


RECIPES = {
    recipe.stage: recipe
    for recipe in (
        Recipe("video_backbone", ("video",), ("av",)),
        Recipe("audio_pretrain", ("audio",), ("pretrain",), spare=("finetune", "av")),
        Recipe("audio_finetune", ("audio",), ("finetune", "av"), parents=("audio_pretrain",)),
        Recipe("fusion", ("video", "audio"), ("av",), parents=("video_backbone", "audio_finetune"), trains=ATTENTION),
    )
}


def get(stage: str, settings: Settings) -> Recipe:
    """Raises ConfigError for a stage that is not known, or that asks for what does not exist or cannot work."""
    training = settings.training
    if stage not in RECIPES:
        raise ConfigError(f"{stage}: no such training stage; there are {', '.join(RECIPES)}")
    asked = RECIPES[stage].settings(settings)
    ranks = training.ranks if training.engine == "deepspeed" else 1
    _check_sequence(RECIPES[stage], settings, ranks)
    if asked.batch % (ranks // training.sequence * asked.accumulate):
        over = f" / sequence={training.sequence}" if training.sequence > 1 else ""
        times = f" times accumulate={asked.accumulate}" if asked.accumulate > 1 else ""
        raise ConfigError(
            f"training.{stage}.batch: {asked.batch} is not a multiple of training.ranks={ranks}{over}{times}"
        )
    in_bf16 = training.engine == "deepspeed" and training.precision == "bf16"
    if in_bf16 and training.zero_stage == 1 and asked.accumulate > 1:
        raise ConfigError(
            f"training.zero_stage: 1 adds the gradients of training.{stage}.accumulate={asked.accumulate} parts "
            "up in bf16, which loses some; use 2"
        )
    if len(RECIPES[stage].modalities) == 1 and RECIPES[stage].settings(settings).sample_clips:
        raise ConfigError(f"training.{stage}.sample_clips: one tower alone makes no clips; set it for training.fusion")
    if isinstance(asked, FusionStage) and asked.joint:
        if asked.source or training.lora:
            raise ConfigError("training.fusion.joint: trains everything from scratch; set source and lora to null")
        return replace(RECIPES[stage], parents=(), trains=ALL)
    return RECIPES[stage]


def _check_sequence(recipe: Recipe, settings: Settings, ranks: int) -> None:
    """Ranks that share a sample need equal shares of its heads, and samples that are not packed."""
    together, heads = settings.training.sequence, settings.model.heads
    if heads % together or ranks % together:
        allowed = [n for n in range(1, heads + 1) if heads % n == 0 and ranks % n == 0]
        raise ConfigError(
            f"training.sequence: {together} does not divide model.heads={heads} and the {ranks} rank(s); "
            f"use one of {', '.join(map(str, allowed))}"
        )
    if together > 1 and recipe.packs(settings):
        raise ConfigError(
            f"training.sequence: {together} ranks cannot share packed clips; set training.{recipe.stage}.pack=false"
        )
