"""Settings of the model and of sampling from it: codecs, text, backbone, sampler, machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ovi.config.section import Count, Positive, Section, Share


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
