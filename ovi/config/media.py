"""Settings of the data: the clip's clock, the corpus, curation and its captions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ovi.config.section import Count, Positive, Section, Share


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
    work: str | None = None  # folder or s3://bucket/prefix of this clone: shares, captions; None: by the clips
    part_files: Count = 64  # files that are worked on again at most after a crash
    workers: Count = 2

    @model_validator(mode="after")
    def _who_is_counted_is_found(self) -> Curation:
        if self.people != People() and not self.weights.yunet:
            raise ValueError("people: nobody is counted without weights.yunet; give it, or leave people out")
        return self
