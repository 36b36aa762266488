"""params.yaml -> typed settings, one model a room. Unknown keys, wrong types and impossible values are one line each.

A params file holds the demo's values at its top level and a `profiles:` section whose entries overlay them.
`ovi config show --profile small` prints the result; written to a file, that result is itself a params file
(without `profiles:`), which is how the pipeline fixes one set of values for all its stages.
Try it: `ovi config show --set training.fusion.steps=10`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ovi.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Clip(Section):
    """The one clock of the project: frames on a 1/fps grid from zero, sound by sample."""

    fps: Count = 24
    frames: Annotated[int, Field(ge=5)] = 121
    sample_rate: Count = 16000

    @model_validator(mode="after")
    def _frames_fit_the_video_codec(self) -> Clip:
        if self.frames % 4 != 1:
            raise ValueError(f"frames={self.frames} must be 4k+1: the video codec packs one frame, then fours")
        return self

    @property
    def samples(self) -> int:
        """80,640 for the paper's clip: 5.04 s at 16 kHz, whole centiseconds of 121/24 s."""
        return int(self.frames / self.fps * 100) * self.sample_rate // 100


class Corpus(Section):
    source: str | None = None  # a folder of your own files; None renders the synthetic corpus
    clips: Count = 600  # good synthetic audio-video clips
    scenes: dict[str, Positive] = {"blink": 1.0}  # scene -> share
    width: Annotated[int, Field(ge=16)] = 64
    height: Annotated[int, Field(ge=16)] = 64
    planted: bool = True  # add the deliberately bad files
    audio_files: Annotated[int, Field(ge=0)] = 120  # audio-only files for pretraining and fine-tuning
    workers: Count = 2


class Weights(Section):
    """Files of pretrained networks. None: the named weight-free estimator is used and the manifest says so."""

    raft: str | None = None
    syncnet: str | None = None
    yunet: str | None = None
    clip: str | None = None
    aesthetic: str | None = None


class Captions(Section):
    """Who writes captions. One beside a file always counts; the others come from a template or from a model."""

    source: Literal["sidecar", "http", "local"] = "sidecar"  # sidecar: no model, a template where no caption is
    url: str = "http://127.0.0.1:8000/v1"  # http: an OpenAI-compatible API
    model: str = ""  # http: the name the server knows it by; local: a folder
    key_env: str | None = None  # http: the environment variable that holds the key
    frames: Count = 7  # paper 3.2: shown to the model, evenly spaced
    concurrency: Count = 16  # http: clips asked about at once
    timeout_s: Positive = 300.0  # http: for one answer
    retries: Annotated[int, Field(ge=0)] = 5  # http: of a request without a usable reply
    patience_s: Positive = 3600.0  # http: how long a server may be down before the stage stops
    reasks: Annotated[int, Field(ge=0)] = 2  # after an answer that breaks the grammar
    input_price: Annotated[float, Field(ge=0)] = 0.0  # of a million tokens
    output_price: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _a_model_has_a_name(self) -> Captions:
        if self.source != "sidecar" and not self.model:
            raise ValueError(f"model: source={self.source} needs one")
        return self


class Curation(Section):
    min_pixels: Count = 518_400  # paper 3.2: more than 720x720
    target_pixels: Count = 518_400  # paper 3.2: resized to this area, aspect kept
    side_multiple: Count = 32  # sides the model can use
    min_motion: float = 0.0005  # mean |flow| between frames 0.5 s apart, in frame diagonals
    min_volume_db: float = -60.0  # paper 3.2
    max_offset_frames: Positive = 3.0  # paper 3.2, in 25 fps frames (40 ms each)
    min_confidence: Positive = 1.5  # paper 3.2, SyncNet's confidence
    min_sync_score: float = 0.6  # for the weight-free estimator; one cause scores above 0.75, chance below 0.68
    pretrain_seconds: tuple[float, float] = (1.0, 12.0)  # paper 3.3: up to 12 s
    validation_share: Share = 0.1
    test_share: Share = 0.05
    coding: Literal["raw"] = "raw"
    shard_mib: Count = 64
    captions: Captions = Captions()
    weights: Weights = Weights()
    workers: Count = 2


class Codec(Section):
    kind: Literal["linear", "ovi"] = "linear"  # linear: PCA and log-mel; ovi: Wan2.2 VAE, MMAudio VAE, BigVGAN
    source: str | None = None  # model folder whose codecs and text encoder are taken; None: made from clips and seed
    video_channels: Count = 16
    video_patch: tuple[int, int] = (8, 8)  # pixels of height and width a latent covers
    audio_channels: Count = 20
    fit_clips: Count = 96  # clips the linear codec is fitted on


class Text(Section):
    kind: Literal["random_t5", "umt5_xxl"] = "random_t5"
    dim: Count = 64
    layers: Count = 2
    max_tokens: Count = 160


class Model(Section):
    """The twin backbone; both towers share every size (paper Table 1)."""

    dim: Count = 96
    ffn_dim: Count = 384
    heads: Count = 4
    layers: Count = 3
    freq_dim: Count = 256
    video_patch: tuple[int, int, int] = (1, 2, 2)
    rope_theta: Annotated[float, Field(gt=1)] = 10_000.0  # the release's; narrow heads have few pairs and want less
    rope_scaling: bool = True  # paper Figure 2: audio positions on the video's clock
    local_start: bool = False  # * attention that starts among neighbours in time; the release's starts everywhere

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> Model:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim={self.dim} must split into heads={self.heads} of an even width")
        return self


class Stage(Section):
    """One training stage. Values marked * are not in the paper."""

    steps: Count
    batch: Count
    lr: Positive
    betas: tuple[float, float] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # *
    warmup: Annotated[int, Field(ge=0)] = 0  # * steps of linear warm-up
    cooldown: Annotated[int, Field(ge=0)] = 0  # * last steps of linear decay to a tenth
    clip_norm: Positive = 1.0  # *
    shift: Positive = 1.0  # * above 1, noise levels are drawn more often near noise; the paper's are uniform
    caption_dropout: Share = 0.1  # * needed because sampling uses classifier-free guidance
    validate_every: Count = 100
    checkpoint_every: Count = 100
    sample_clips: Annotated[int, Field(ge=0)] = 0  # clips sampled into MLflow at the end


class VideoStage(Stage):
    steps: Annotated[int, Field(ge=0)]  # 0 takes the source as it is
    source: str | None = None  # a folder of released Wan2.2 weights to start from; None: from scratch
    first_frame_share: Share = 0.2  # * share of samples that see their clean first frame


class FusionStage(Stage):
    video_weight: Share = 0.85
    audio_weight: Share = 0.15
    first_frame_share: Share = 0.2  # *


class Training(Section):
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    ranks: Count = 2
    threads: Count = 1  # per rank
    zero_stage: Literal[1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    keep_checkpoints: Count = 2
    video_backbone: VideoStage
    audio_pretrain: Stage
    audio_finetune: Stage
    fusion: FusionStage


class Sampling(Section):
    steps: Count = 50
    shift: Positive = 5.0
    solver: Literal["unipc", "dpm++", "euler"] = "unipc"
    guidance_video: float = 4.0
    guidance_audio: float = 3.0
    skip_layer: int = -1  # block left out of the unconditional pass; -1: none
    negative_video: str = ""
    negative_audio: str = ""
    release_noise: bool = False  # the release draws both modalities' noise from one seed; the paper's are independent
    guidance_until: Share = 1.0  # below 1, lossy: the share of steps with a negative pass
    stride: Count = 1  # above 1, lossy: between the first and the last steps the network is asked every n-th step
    display_pixels: Count | None = None  # enlarge written clips to about this width; None: as generated


class Runtime(Section):
    """How a machine samples; but for eight-bit weights and bf16, none of it changes a clip beyond rounding."""

    path: Literal["auto", "reference", "fast"] = "auto"  # auto: fast on a GPU, the plain reference elsewhere
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of weights and activations; auto: bf16 on a GPU
    weights: Literal["stored", "int8", "fp8"] = "stored"  # of the fast path's projections in memory
    memory: Literal["auto", "resident", "drop_text", "offload"] = "auto"  # what stays on the GPU between its uses
    latents: Literal["fp32", "bf16"] = "fp32"  # and the solver's state; the release has bf16
    compile: bool = True  # on a GPU, the fast path's blocks


class Evaluation(Section):
    clips_per_scene: Count = 32  # held-out prompts sampled for each scored scene
    scenes: list[str] = ["blink"]
    shuffles: Count = 8
    show: Count = 6  # clips with players in the report
    permutations: Count = 10_000


class Threshold(Section):
    """A gate on one figure of metrics.json: at least, at most, or both."""

    min: float | None = None
    max: float | None = None


class Promotion(Section):
    model: str = "ovi"
    thresholds: dict[str, Threshold] = {}
    approval: bool = False


class Service(Section):
    host: str = "127.0.0.1"
    port: Port = 3000
    queue: Count = 32
    workers: Count = 1
    prompt: str = ""  # what the pipeline asks its own service for
    seed: int = 1


class Tracking(Section):
    uri: str = "sqlite:///out/mlflow.db"
    artifacts: str = "out/mlartifacts"
    experiment: str = "ovi"


class Resources(Section):
    """What a stage needs of a machine; read by the executors, never by the stage itself."""

    cpus: Positive = 2
    memory_gib: Positive = 6
    gpus: Annotated[int, Field(ge=0)] = 0
    nodes: Count = 1
    grace_s: Count = 30  # between SIGTERM and SIGKILL
    deadline_s: Count = 3600
    retries: Annotated[int, Field(ge=0)] = 0


class Settings(Section):
    profile: str = "tiny"
    seed: int = 0
    clip: Clip = Clip()
    corpus: Corpus = Corpus()
    curation: Curation = Curation()
    codec: Codec = Codec()
    text: Text = Text()
    model: Model = Model()
    training: Training
    sampling: Sampling = Sampling()
    runtime: Runtime = Runtime()
    evaluation: Evaluation = Evaluation()
    promotion: Promotion = Promotion()
    service: Service = Service()
    tracking: Tracking = Tracking()
    resources: dict[str, Resources] = {}


def load(params: str | Path = "params.yaml", profile: str | None = None, sets: list[str] | None = None) -> Settings:
    """Settings from a params file, a profile laid over it, and `a.b=c` words laid over both.

    Raises ConfigError with one line that names the key, what was given and what is allowed.
    """
    values = _read(Path(params))
    profiles = values.pop("profiles", None) or {}
    if profile is not None and profile != values.get("profile", "tiny"):
        if profile not in profiles:
            known = ", ".join(sorted({str(values.get("profile", "tiny")), *profiles}))
            raise ConfigError(f"profile: {profile!r} is not in {params}; it has {known}")
        values = _overlay(values, profiles[profile] or {})
        values["profile"] = profile
    for word in sets or []:
        _set(values, word)
    return _validate(values, str(params))


def dump(settings: Settings) -> str:
    """The settings as YAML that `load` reads back to equal settings."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such params file; run from the repository or give --params") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings, holds {type(values).__name__}")
    return values


def _overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _set(values: dict[str, Any], word: str) -> None:
    dotted, equals, text = word.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {word!r}: write it as section.key=value")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    place = values
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {word!r}: {key!r} is a value, not a section")
    place[keys[-1]] = value


def _validate(values: dict[str, Any], where: str) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            message = f"unknown key; allowed here: {', '.join(_siblings(first['loc']))}"
        elif first["type"] == "missing":
            message = "missing, has no default"
        else:
            message = f"{first['msg'].removeprefix('Value error, ')}, given {first['input']!r}"
        raise ConfigError(" ".join(f"{where}: {key or 'settings'}: {message}{more}".split())) from None


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Settings
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    return sorted(getattr(model, "model_fields", {})) or ["any name of the right type"]
