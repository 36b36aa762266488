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

    raft: str | None = None  # raft-things.pth, or torchvision's; small or large
    syncnet: str | None = None  # syncnet_v2.model; reads the faces that yunet finds
    yunet: str | None = None  # face_detection_yunet_2023mar.onnx
    clip: str | None = None  # CLIP ViT-L/14, a folder as transformers writes it
    aesthetic: str | None = None  # sac+logos+ava1-l14-linearMSE.pth; scores what clip sees

    @model_validator(mode="after")
    def _one_works_on_what_another_finds(self) -> Weights:
        if self.syncnet and not self.yunet:
            raise ValueError("syncnet reads faces and needs yunet to find them; give both, or set syncnet to null")
        if bool(self.clip) != bool(self.aesthetic):
            raise ValueError("clip and aesthetic work together; give both, or set both to null")
        return self


class People(Section):
    """The most that clips without, with one and with several people may be of those that are kept. All 1: any mix."""

    none: Share = 1.0
    single: Share = 1.0
    multi: Share = 1.0

    @model_validator(mode="after")
    def _shares_reach_one(self) -> People:
        if self.none + self.single + self.multi < 1 - 1e-9:
            raise ValueError("none, single and multi must reach 1 together, or no clip could be kept")
        return self


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
    min_pixels: Count = 518_401  # paper 3.2: more than 720x720
    target_pixels: Count = 518_400  # paper 3.2: resized to this area, aspect kept
    side_multiple: Count = 32  # sides the model can use
    min_motion: float = 0.0005  # mean |flow| between frames 0.5 s apart, in frame diagonals
    min_flow: float = 0.001  # the same by RAFT, which also sees what is less than noise: 0.6 pixels of 512
    min_aesthetic: float | None = None  # mean of a picture a second, about 1 to 10; others ask for 4.5 to 5.5
    min_volume_db: float = -60.0  # paper 3.2
    max_offset_frames: Positive = 3.0  # paper 3.2, in whole 25 fps frames (40 ms each)
    max_shift_frames: Annotated[float, Field(ge=0)] = 0.0  # up to it sound that is off is moved instead of rejected
    min_confidence: Positive = 1.5  # paper 3.2, SyncNet's confidence
    min_sync_score: float = 0.6  # for the weight-free estimator; one cause scores above 0.75, chance below 0.68
    pretrain_seconds: tuple[float, float] = (1.0, 12.0)  # paper 3.3: up to 12 s
    validation_share: Share = 0.1
    test_share: Share = 0.05
    coding: Literal["raw", "h264"] = "raw"  # h264: near-lossless, some forty times smaller; sound as FLAC
    require_licence: bool = False  # clips of files without a licence are rejected
    duplicate_bits: Annotated[int, Field(ge=0, le=48)] | None = None  # of 192 that may differ between equal looks
    shard_mib: Count = 64
    captions: Captions = Captions()
    people: People = People()  # paper 3.2: a mix of clips with none, one and several
    weights: Weights = Weights()
    work: str | None = None  # folder or s3://bucket/prefix of this clone alone, where shares meet; None: by the clips
    part_files: Count = 64  # files that are worked on again at most after a crash
    workers: Count = 2

    @model_validator(mode="after")
    def _who_is_counted_is_found(self) -> Curation:
        if self.people != People() and not self.weights.yunet:
            raise ValueError("people: nobody is counted without weights.yunet; give it, or leave people out")
        return self


class Codec(Section):
    kind: Literal["linear", "ovi"] = "linear"  # linear: PCA and log-mel; ovi: Wan2.2 VAE, MMAudio VAE, BigVGAN
    source: str | None = None  # model folder whose codecs and text encoder are taken; None: made from clips and seed
    video_channels: Count = 16
    video_patch: tuple[int, int] = (8, 8)  # pixels of height and width a latent covers
    audio_channels: Count = 20
    fit_clips: Count = 96  # clips the linear codec is fitted on


class Text(Section):
    kind: Literal["random_t5", "umt5_xxl"] = "random_t5"
    prompt: Literal["combined", "separate"] = "combined"  # separate, an ablation: CLAP for sounds, T5 for words
    dim: Count = 64
    layers: Count = 2
    max_tokens: Count = 160

    @model_validator(mode="after")
    def _what_is_separate_is_there(self) -> Text:
        if self.prompt == "separate" and self.kind != "random_t5":
            raise ValueError(f"prompt: separate has no CLAP beside kind={self.kind}; use combined, or kind=random_t5")
        return self


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


class Service(Section):
    host: str = "127.0.0.1"
    port: Port = 3000
    queue: Count = 32  # jobs that may wait
    workers: Annotated[int, Field(ge=0)] = 1  # sampler processes, spread over the GPUs; 0: one a GPU
    retention_hours: Positive = 24.0  # from its end until a job and its clip are forgotten
    database: str | None = None  # postgresql+psycopg://... for several servers; None: SQLite in the state folder
    results: str | None = None  # folder or s3://bucket/prefix, for all servers of a database; None: in the state folder
    model: str | None = None  # models:/NAME@ALIAS of tracking.uri, followed when it moves; None: the packed one
    bundle: str | None = None  # folder or link with service.json and model/; when it changes, workers change over
    keys: str | None = None  # file written by `ovi key`; None: only callers on this machine are served
    policy: str | None = None  # your own rules over prompts and clips, module:name
    certificate: str | None = None  # PEM chain: clips are signed with it (C2PA)
    certificate_key: str | None = None  # its private key, PEM
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
    apart: bool = False  # nodes work a share each (the command's --shard i/n), each retried alone; else they are a gang
    grace_s: Count = 30  # between SIGTERM and SIGKILL
    deadline_s: Count = 3600
    retries: Annotated[int, Field(ge=0)] = 0
    devices: dict[str, Count] = {}  # others that a cluster gives out by name, such as rdma/hca: 8
    executor: Literal["local", "kubernetes"] | None = None  # where this stage runs; None: where all do


class Cluster(Section):
    """The cluster that stages run in with `executor: kubernetes`; read by the flow alone."""

    context: str | None = None  # of the kubeconfig; None: the current one, and in a pod its service account
    namespace: str = "ovi"
    image: str = "ovi-train:0.1.0"
    service_account: str = "ovi-stage"
    claim: str | None = "ovi-work"  # the volume claim that this clone's folder is on; None: all goes by data.remote
    clone: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] | None = None  # whose runs these are;
    # None: the claim's, and without one this machine's and folder's
    kind: Literal["auto", "jobset", "job"] = "auto"  # auto: a JobSet where the server has them
    queue: str | None = None  # Kueue's LocalQueue; None: no Kueue
    priority: str | None = None  # Kueue's WorkloadPriorityClass
    secrets: list[str] = []  # Secrets whose keys become a stage's environment
    env: dict[str, str] = {}  # of every pod, such as NCCL_SOCKET_IFNAME
    shared_memory_gib: Positive = 1.0  # /dev/shm, counted as memory
    start_s: Count = 86_400  # until all pods of a stage run, the queue included
    stuck_s: Count = 120  # for what does not mend itself, such as an image that is not there
    preemptions: Annotated[int, Field(ge=0)] = 100  # times a stage is started again after one; they are no failures


class Data(Section):
    remote: str | None = None  # folder or s3://bucket/prefix that outputs are pushed to; None: they stay here


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
    ablation: Ablation = Ablation()
    promotion: Promotion = Promotion()
    service: Service = Service()
    tracking: Tracking = Tracking()
    data: Data = Data()
    executor: Literal["local", "kubernetes"] = "local"
    resources: dict[str, Resources] = {}
    cluster: Cluster = Cluster()


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
