"""Settings of training: one stage, what stages add to it, and the engine they share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ovi.config.section import Count, Positive, Section, Share


class Stage(Section):
    """One training stage. Values marked * are not in the paper."""

    steps: Count
    batch: Count
    accumulate: Count = 1  # * parts of a rank's share that are computed one after the other and added up in fp32
    lr: Positive
    betas: tuple[float, float] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # *
    warmup: Annotated[int, Field(ge=0)] = 0  # * steps of linear warm-up
    cooldown: Annotated[int, Field(ge=0)] = 0  # * last steps of linear decay to a tenth
    clip_norm: Positive = 1.0  # *
    t: Literal["uniform", "logit_normal"] = "uniform"  # how noise levels are drawn; logit_normal: *
    shift: Positive = 1.0  # * above 1, noise levels are drawn more often near noise; the paper's are uniform
    caption_dropout: Share = 0.1  # * needed because sampling uses classifier-free guidance
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # * decay of a running mean of the weights; 0: none is kept
    export_ema: bool = False  # * the model folder gets that mean instead of the last weights
    spike: Annotated[float, Field(ge=0)] = 0.0  # * a loss so many times the recent mean goes back; 0: only NaN does
    validate_every: Count = 100
    checkpoint_every: Count = 100
    sample_clips: Annotated[int, Field(ge=0)] = 0  # clips sampled into MLflow, of the running mean where there is one
    sample_every: Annotated[int, Field(ge=0)] = 0  # steps between them; 0: only at the end

    @model_validator(mode="after")
    def _what_is_exported_exists(self) -> Stage:
        if self.export_ema and not self.ema:
            raise ValueError("export_ema: there is no running mean to export; set ema, such as 0.999")
        return self


class VideoStage(Stage):
    steps: Annotated[int, Field(ge=0)]  # 0 takes the source as it is
    source: str | None = None  # a folder of released Wan2.2 weights to start from; None: from scratch
    first_frame_share: Share = 0.2  # * share of samples that see their clean first frame


class AudioStage(Stage):
    pack: bool = False  # * clips of any lengths are laid one after another; false: those of like lengths are padded


class FusionStage(Stage):
    source: str | None = None  # * model folder of both towers to fine-tune, released or ours; None: the stages before
    video_weight: Share = 0.85
    audio_weight: Share = 0.15
    first_frame_share: Share = 0.2  # *
    shared_t: bool = True  # one noise level for both modalities; false: * each draws its own
    fusion: bool = True  # false, an ablation: * the towers never hear each other
    joint: bool = False  # * no stages before it: both towers from scratch, and everything is trained


class Lora(Section):
    """* The fusion stage learns low-rank additions to its attention's projections; they are merged when it ends."""

    rank: Count
    alpha: Positive  # additions are scaled by alpha / rank


class Training(Section):
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    ranks: Count = 2
    threads: Count = 1  # per rank
    zero_stage: Literal[1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    sequence: Count = 1  # * ranks that share the tokens of one sample, for long clips; a divisor of heads and ranks
    recompute: Annotated[int, Field(ge=0)] = 0  # * first blocks that are computed twice, which saves their memory
    keep_checkpoints: Count = 2  # the last ones; the best one is kept besides
    mirror: str | None = None  # s3://bucket/prefix that gets copies of checkpoints, for an empty machine to go on from
    loader_workers: Annotated[int, Field(ge=0)] = 0  # threads a rank that prepare batches ahead
    lora: Lora | None = None  # *
    video_backbone: VideoStage
    audio_pretrain: AudioStage
    audio_finetune: AudioStage
    fusion: FusionStage
