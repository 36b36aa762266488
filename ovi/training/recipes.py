"""The four stages of the paper's training (4.2) as a table: what each reads, starts from, trains and weighs.

It holds facts only; networks are built in towers.py and trained in loop.py.
Try it: `python -c "from ovi.training.recipes import RECIPES; print(RECIPES['fusion'])"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ovi.config import FusionStage, Settings, Stage, VideoStage
from ovi.errors import ConfigError

ALL = r".*"
ATTENTION = r".*\.blocks\.\d+\.(self_attn|cross_attn)\..*"  # with the fusion parameters, which live in cross_attn


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
        """The folder of released weights that it starts from instead of from scratch."""
        stage = self.settings(settings)
        return Path(stage.source) if isinstance(stage, VideoStage) and stage.source else None

    def weights(self, settings: Settings) -> dict[str, float]:
        """The share of each modality in the loss (paper: 0.85 video, 0.15 audio)."""
        stage = self.settings(settings)
        if isinstance(stage, FusionStage):
            return {"video": stage.video_weight, "audio": stage.audio_weight}
        return dict.fromkeys(self.modalities, 1.0)

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
    if training.engine == "deepspeed":
        batch = RECIPES[stage].settings(settings).batch
        if batch % training.ranks:
            raise ConfigError(f"training.{stage}.batch: {batch} is not a multiple of training.ranks={training.ranks}")
        if training.zero_stage == 3:
            raise ConfigError("training.zero_stage: 3 has no checkpoints that any number of ranks can read; use 1 or 2")
    if len(RECIPES[stage].modalities) == 1 and RECIPES[stage].settings(settings).sample_clips:
        raise ConfigError(f"training.{stage}.sample_clips: one tower alone makes no clips; set it for training.fusion")
    return RECIPES[stage]
