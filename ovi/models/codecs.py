"""Settings -> the components of a model: which networks, of which sizes, and new ones of each kind.

A component's configuration is plain JSON with a `kind`; a model folder keeps it, so that a folder needs no settings.
Try it: `python -c "from ovi.config import load; from ovi.models import codecs; print(codecs.model_config(load()))"`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ovi.config import Clip, Settings
from ovi.errors import ConfigError
from ovi.models.fusion import FusionModel
from ovi.models.linear_codec import PACK, PAIR, LinearAudioCodec, LinearVideoCodec
from ovi.models.mel import HOP
from ovi.models.mmaudio_codec import MMAudioCodec
from ovi.models.separate_text import SeparateText
from ovi.models.text_encoder import RandomT5
from ovi.models.tower import TowerConfig
from ovi.models.video_vae import WanVideoCodec

COMPONENTS = ("transformer", "video_codec", "audio_codec", "text_encoder")


class VideoCodec(Protocol):
    """Pictures <-> latents."""

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Latents of such a clip: (channels, latent frames, rows, columns)."""

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] in [-1, 1] -> latents [B, C, F, h, w] float32."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, F, h, w] -> pictures [B, 3, T, H, W] in [-1, 1]."""

    def decode_chunks(self, latents: Tensor) -> Iterator[Tensor]:
        """The same pictures in parts [B, 3, t, H, W], in time."""


class AudioCodec(Protocol):
    """Sound at 16 kHz <-> latents, 31.25 a second."""

    def length(self, samples: int) -> int:
        """Latents of so many samples."""

    def encode(self, audio: Tensor) -> Tensor:
        """[B, N] in [-1, 1] -> latents [B, L, C] float32."""

    def spectrogram(self, latents: Tensor) -> Tensor:
        """Latents [B, L, C] -> log10 of mel magnitudes [B, 80, 2L]."""

    def decode(self, latents: Tensor, samples: int | None = None) -> Tensor:
        """Latents [B, L, C] -> sound [B, samples] in [-1, 1]."""


class TextEncoder(Protocol):
    """Texts -> rows of an embedding."""

    max_tokens: int

    def tokens(self, text: str) -> list[int]:
        """The whole text's tokens."""

    def encode(self, texts: list[str]) -> list[Tensor]:
        """One [n_tokens, dim] float32 a text, of at most max_tokens rows; see separate_text.told."""


def tower_configs(settings: Settings) -> tuple[TowerConfig, TowerConfig]:
    """The video tower and the audio tower that the settings describe."""
    model = settings.model
    video = TowerConfig(
        modality="video",
        patch_size=model.video_patch,
        in_dim=settings.codec.video_channels,
        out_dim=settings.codec.video_channels,
        dim=model.dim,
        ffn_dim=model.ffn_dim,
        freq_dim=model.freq_dim,
        heads=model.heads,
        layers=model.layers,
        text_dim=settings.text.dim,
        text_len=settings.text.max_tokens,
        rope_theta=model.rope_theta,
    )
    channels = settings.codec.audio_channels
    scale = rope_scale(settings) if model.rope_scaling else 1.0
    sound_dim = settings.text.dim if settings.text.prompt == "separate" else 0
    audio = dataclasses.replace(
        video, modality="audio", patch_size=(1,), in_dim=channels, out_dim=channels, rope_scale=scale,
        sound_dim=sound_dim,
    )  # fmt: skip
    return video, audio


def rope_scale(settings: Settings) -> float:
    """Video latent frames over audio latents of the same time: 31 / (121/24 s * 31.25/s) = 0.19676 (paper Figure 2)."""
    clip = settings.clip
    latent_frames = (clip.frames - 1) // PACK + 1
    return latent_frames * clip.fps * HOP * PAIR / (clip.frames * clip.sample_rate)


def picture_size(settings: Settings) -> tuple[int, int]:
    """(height, width) of the square picture of curation.target_pixels, in sides the model can use: 518,400 -> 704."""
    multiple = settings.curation.side_multiple
    side = max(multiple, round(math.sqrt(settings.curation.target_pixels) / multiple) * multiple)
    tokens = [a * b for a, b in zip(settings.codec.video_patch, settings.model.video_patch[1:], strict=True)]
    if any(multiple % pixels for pixels in tokens):  # then some picture that curation makes would not split either
        raise ConfigError(
            f"curation.side_multiple: {multiple}, but a token of codec.video_patch and model.video_patch takes "
            f"{tokens[0]}x{tokens[1]} pixels; set a multiple of these"
        )
    return side, side


def model_config(settings: Settings) -> dict[str, Any]:
    """What a model folder of these settings keeps as config.json."""
    codec, text, curation = settings.codec, settings.text, settings.curation
    video_kind, audio_kind = CODECS[codec.kind]
    text_kind = TEXTS[text.kind] if text.prompt == "combined" else "separate"
    components: dict[str, dict[str, Any]] = {
        "video_codec": {"kind": video_kind, "channels": codec.video_channels, "patch": list(codec.video_patch)},
        "audio_codec": {"kind": audio_kind, "channels": codec.audio_channels},
        "text_encoder": {"kind": text_kind, "dim": text.dim, "layers": text.layers, "max_tokens": text.max_tokens},
    }
    for about in components.values():
        about |= RELEASED_SIZES.get(about["kind"], {})
    height, width = picture_size(settings)
    return folder_config(
        tower_configs(settings),
        components,
        settings.clip,
        picture={"height": height, "width": width, "area": curation.target_pixels, "multiple": curation.side_multiple},
        audio_latents=settings.clip.samples // HOP // PAIR,
    )


def folder_config(
    towers: tuple[TowerConfig, TowerConfig],
    components: Mapping[str, dict[str, Any]],
    clip: Clip,
    picture: dict[str, int],
    audio_latents: int,
    version: str | None = None,
) -> dict[str, Any]:
    """config.json: the clock, the picture's size, and every component's configuration.

    picture {"height", "width": of a clip nobody asked another size for, "area": the pixels the model was made for,
    "multiple": of which sides are}; version names a released model, and is None for one trained here.
    """
    video, audio = towers
    config: dict[str, Any] = {
        "version": version,
        "clip": clip.model_dump(),
        "audio_latents": audio_latents,
        "picture": picture,
        "transformer": {"kind": "fusion", "video": _plain(video), "audio": _plain(audio)},
        **components,
    }
    if config.get("text_encoder", {}).get("kind") == "umt5":
        config["tokenizer"] = {"kind": "tokenizers"}
    return config


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """The component `name` as its configuration says, its weights yet to be filled."""
    kind, sizes = config["kind"], {key: value for key, value in config.items() if key != "kind"}
    if (name, kind) not in KINDS:
        known = ", ".join(sorted(other for component, other in KINDS if component == name))
        raise ConfigError(f"{name}: {kind!r} is not available in this version; available: {known}")
    return KINDS[name, kind](**sizes)


def fit_video_codec(settings: Settings, clips: Iterable[NDArray[np.uint8]]) -> LinearVideoCodec:
    """The linear video codec of the settings, fitted on clips [T, H, W, 3] uint8."""
    _made_here("codec.kind", settings.codec.kind, "linear")
    return LinearVideoCodec.fit(clips, settings.codec.video_channels, settings.codec.video_patch)


def fit_audio_codec(settings: Settings, clips: Iterable[NDArray[np.float32]]) -> LinearAudioCodec:
    """The linear audio codec of the settings, fitted on sounds [N] float32 at 16 kHz."""
    _made_here("codec.kind", settings.codec.kind, "linear")
    return LinearAudioCodec.fit(clips, settings.codec.audio_channels)


def new_text_encoder(settings: Settings) -> RandomT5 | SeparateText:
    """The random text encoder of the settings, its weights drawn from settings.seed."""
    _made_here("text.kind", settings.text.kind, "random_t5")
    kind = RandomT5 if settings.text.prompt == "combined" else SeparateText
    return kind(settings.text.dim, settings.text.layers, settings.text.max_tokens).init(settings.seed)


def _made_here(setting: str, kind: str, ours: str) -> None:
    if kind != ours:
        raise ConfigError(f"{setting}: {kind!r} has released weights, nothing makes new ones here; set it to {ours!r}")


def _transformer(video: dict[str, Any], audio: dict[str, Any]) -> FusionModel:
    return FusionModel(
        *(TowerConfig(**{**tower, "patch_size": tuple(tower["patch_size"])}) for tower in (video, audio))
    )


def _video_codec(channels: int, patch: list[int]) -> LinearVideoCodec:
    return LinearVideoCodec(channels, (patch[0], patch[1]))


def _umt5(**sizes: Any) -> nn.Module:
    from ovi.models.umt5 import UmT5  # its tokenizer's libraries take a while to import

    return UmT5(**sizes)


KINDS: dict[tuple[str, str], Callable[..., nn.Module]] = {
    ("transformer", "fusion"): _transformer,
    ("video_codec", "linear"): _video_codec,
    ("video_codec", "wan22"): WanVideoCodec,
    ("audio_codec", "linear"): LinearAudioCodec,
    ("audio_codec", "mmaudio"): MMAudioCodec,
    ("text_encoder", "random_t5"): RandomT5,
    ("text_encoder", "separate"): SeparateText,
    ("text_encoder", "umt5"): _umt5,
}
CODECS = {"linear": ("linear", "linear"), "ovi": ("wan22", "mmaudio")}  # codec.kind -> of video, of audio
RELEASED_SIZES = {  # that no setting asks for
    "wan22": {"dim": 160, "dec_dim": 256},
    "mmaudio": {"hidden": 384, "vocoder_channels": 1536},
    "umt5": {"vocabulary": 256384, "ffn_dim": 10240, "heads": 64},
}
TEXTS = {"random_t5": "random_t5", "umt5_xxl": "umt5"}  # text.kind -> kind


def _plain(tower: TowerConfig) -> dict[str, Any]:
    return {**dataclasses.asdict(tower), "patch_size": list(tower.patch_size)}
