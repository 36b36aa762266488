"""Settings of evaluation, of the ablation grid and of the gate that promotes a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ovi.config.section import Count, Section, Share


class Networks(Section):
    """Files of the networks that metrics ask. None: not configured, and their figures are null."""

    panns: str | None = None  # Cnn14_16k_mAP=0.438.pth
    vggish: str | None = None  # vggish-10086976.pth
    clap: str | None = None  # music_speech_audioset_epoch_15_esc_89.98.pt, or a folder as transformers writes it
    clap_tokenizer: str | None = None  # RoBERTa's, a folder; None: it is in CLAP's folder
    whisper: str | None = None  # a folder as transformers writes it
    syncnet: str | None = None  # syncnet_v2.model
    raft: str | None = None  # raft-things.pth
    clip: str | None = None  # CLIP ViT-L/14, a folder as transformers writes it
    aesthetic: str | None = None  # sac+logos+ava1-l14-linearMSE.pth; scores what clip sees

    @model_validator(mode="after")
    def _one_works_on_what_another_sees(self) -> Networks:
        if bool(self.clip) != bool(self.aesthetic):
            raise ValueError("clip and aesthetic work together; give both, or set both to null")
        return self


class Outputs(Section):
    """What networks that are not here made of the clips: safetensors, a tensor a clip by its name. None: not given."""

    synchformer: str | None = None  # logits [2, 21] of the first and the last 4.8 s
    imagebind: str | None = None  # cosines [windows, pictures] of each window's pictures to its sound


class Evaluation(Section):
    clips_per_scene: Count = 32  # held-out prompts sampled for each scored scene
    scenes: list[str] = ["blink"]
    shuffles: Count = 8
    show: Count = 6  # clips with players in the report
    permutations: Count = 10_000
    draws: Count = 1000  # bootstrap draws behind the interval of a metric
    max_missing: Share = 0.0  # of a benchmark's files; where more are missing, scoring fails
    weights: Networks = Networks()
    outputs: Outputs = Outputs()
    formula_networks: bool = False  # networks filled by a formula: to try the whole path; nothing is comparable
    attention_layers: Annotated[list[int], Field(min_length=1)] | None = None  # of Figure 3; None: all fused ones
    attention_at: Annotated[float, Field(ge=0, lt=1)] = 0.7  # share of the steps that is over then: pictures are there


class Ablation(Section):
    """The grid of paper 5.5 and Figure 2: every combination with every seed. Others are compared with first levels."""

    prompt: Annotated[list[Literal["combined", "separate"]], Field(min_length=1)] = ["combined", "separate"]
    rope_scaling: Annotated[list[bool], Field(min_length=1)] = [True, False]
    fusion: Annotated[list[bool], Field(min_length=1)] = [True, False]
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    sets: list[str] = []  # as --set, for every cell: shorter trainings, most often
    at_once: Count = 1  # stages that run beside each other

    @model_validator(mode="after")
    def _levels_differ(self) -> Ablation:
        for name in ("prompt", "rope_scaling", "fusion", "seeds"):
            levels = getattr(self, name)
            if len(set(levels)) < len(levels):
                raise ValueError(f"{name}: {levels} names a level twice")
        return self


class Threshold(Section):
    """A gate on one figure of metrics.json: at least, at most, or both."""

    min: float | None = None
    max: float | None = None


class Promotion(Section):
    model: str = "ovi"
    thresholds: dict[str, Threshold] = {}
    approval: bool = False
    weights: str | None = None  # s3://bucket/prefix: where models are put, for whoever does not see this folder
