"""Settings -> the components of a model: which networks, of which sizes, and new ones of each kind.

A component's configuration is plain JSON with a `kind`; a model folder keeps it, so that a folder needs no settings.
Try it: `python -c "from ovi.config import load; from ovi.models import codecs; print(codecs.model_config(load()))"`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ovi.config import Settings
from ovi.errors import ConfigError
from ovi.models.fusion import FusionModel
from ovi.models.linear_codec import PACK, PAIR, LinearAudioCodec, LinearVideoCodec
from ovi.models.mel import HOP
from ovi.models.text_encoder import RandomT5
from ovi.models.tower import TowerConfig

COMPONENTS = ("transformer", "video_codec", "audio_codec", "text_encoder")


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
    audio = dataclasses.replace(
        video, modality="audio", patch_size=(1,), in_dim=channels, out_dim=channels, rope_scale=scale
    )
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
    """What a model folder keeps as config.json: the clock, the picture size, and every component's configuration."""
    codec, text = settings.codec, settings.text
    video, audio = tower_configs(settings)
    height, width = picture_size(settings)
    return {
        "clip": settings.clip.model_dump(),
        "picture": {"height": height, "width": width},
        "transformer": {"kind": "fusion", "video": _plain(video), "audio": _plain(audio)},
        "video_codec": {"kind": codec.kind, "channels": codec.video_channels, "patch": list(codec.video_patch)},
        "audio_codec": {"kind": codec.kind, "channels": codec.audio_channels},
        "text_encoder": {"kind": text.kind, "dim": text.dim, "layers": text.layers, "max_tokens": text.max_tokens},
    }


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """The component `name` as its configuration says, its weights yet to be filled."""
    kind, sizes = config["kind"], {key: value for key, value in config.items() if key != "kind"}
    return _builder(name, kind)(**sizes)


def fit_video_codec(settings: Settings, clips: Iterable[NDArray[np.uint8]]) -> LinearVideoCodec:
    """The video codec of the settings, fitted on clips [T, H, W, 3] uint8."""
    _builder("video_codec", settings.codec.kind)
    return LinearVideoCodec.fit(clips, settings.codec.video_channels, settings.codec.video_patch)


def fit_audio_codec(settings: Settings, clips: Iterable[NDArray[np.float32]]) -> LinearAudioCodec:
    """The audio codec of the settings, fitted on sounds [N] float32 at 16 kHz."""
    _builder("audio_codec", settings.codec.kind)
    return LinearAudioCodec.fit(clips, settings.codec.audio_channels)


def new_text_encoder(settings: Settings) -> RandomT5:
    """The text encoder of the settings, its random weights drawn from settings.seed."""
    _builder("text_encoder", settings.text.kind)
    return RandomT5(settings.text.dim, settings.text.layers, settings.text.max_tokens).init(settings.seed)


def _transformer(video: dict[str, Any], audio: dict[str, Any]) -> FusionModel:
    return FusionModel(
        *(TowerConfig(**{**tower, "patch_size": tuple(tower["patch_size"])}) for tower in (video, audio))
    )


def _video_codec(channels: int, patch: list[int]) -> LinearVideoCodec:
    return LinearVideoCodec(channels, (patch[0], patch[1]))


KINDS: dict[tuple[str, str], Callable[..., nn.Module]] = {
    ("transformer", "fusion"): _transformer,
    ("video_codec", "linear"): _video_codec,
    ("audio_codec", "linear"): LinearAudioCodec,
    ("text_encoder", "random_t5"): RandomT5,
}
SETTINGS = {"video_codec": "codec.kind", "audio_codec": "codec.kind", "text_encoder": "text.kind"}


def _builder(name: str, kind: str) -> Callable[..., nn.Module]:
    try:
        return KINDS[name, kind]
    except KeyError:
        known = ", ".join(sorted(other for component, other in KINDS if component == name))
        setting = SETTINGS.get(name, name)
        raise ConfigError(f"{setting}: {kind!r} is not available in this version; available: {known}") from None


def _plain(tower: TowerConfig) -> dict[str, Any]:
    return {**dataclasses.asdict(tower), "patch_size": list(tower.patch_size)}
