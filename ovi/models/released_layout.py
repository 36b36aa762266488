"""The released models as facts: their files, versions and licences, and what their tensors' names and shapes tell.

Networks of other sizes in the same files are understood too: sizes are read from shapes, and what no shape tells from
the release's own config files where they lie beside. Nothing here reads or writes a file.
Try it: `python -c "from ovi.models.released_layout import VERSIONS; print(VERSIONS)"`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

from ovi.errors import ConfigError, OviError
from ovi.models import umt5
from ovi.models.audio_vae import AudioVAE
from ovi.models.fusion import FusionModel
from ovi.models.tower import Tower, TowerConfig
from ovi.models.video_vae import MEAN, WanVideoCodec
from ovi.models.vocoder import BigVGAN

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Version:
    """A released Ovi model. All have the same networks; they differ in what they were trained on."""

    file: str
    frames: int
    audio_latents: int
    area: int  # pixels


OVI, WAN, MMAUDIO = "Ovi", "Wan2.2-TI2V-5B", "MMAudio"  # folders
VERSIONS = {
    "720x720_5s": Version(f"{OVI}/model.safetensors", 121, 157, 518_400),
    "960x960_5s": Version(f"{OVI}/model_960x960.safetensors", 121, 157, 921_600),
    "960x960_10s": Version(f"{OVI}/model_960x960_10s.safetensors", 241, 314, 921_600),
}
BACKBONE = "wan2.2-ti2v-5b"  # the video tower that Ovi was trained from; not a model that hears
EIGHT_BITS = f"{OVI}/model_fp8_e4m3fn.safetensors"
DIT = "diffusion_pytorch_model"  # .safetensors, or shards and .safetensors.index.json
VIDEO_CODEC = f"{WAN}/Wan2.2_VAE.pth"
TEXT_ENCODER = f"{WAN}/models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = f"{WAN}/google/umt5-xxl/tokenizer.json"
AUDIO_CODEC, VOCODER = f"{MMAUDIO}/ext_weights/v1-16.pth", f"{MMAUDIO}/ext_weights/best_netG.pt"
TOWER_FILES = {"video": f"{OVI}/video.json", "audio": f"{OVI}/audio.json"}  # the release's code keeps these two
MD5 = {AUDIO_CODEC: "69f56803f59a549a1a507c93859fd4d7", VOCODER: "eeaf372a38a9c31c362120aba2dde292"}
TOLD = {  # what the release's configs tell that no shape does
    "num_heads": int, "text_len": int, "eps": float, "rope_theta": float, "temporal_rope_scaling_factor": float
}  # fmt: skip
SIDES = 32  # pixels: sides of pictures are multiples
HEAD_DIM, AUDIO_ROPE_SCALE = 128, 0.19676
AN_OVI_MODEL = "an Ovi model"


@dataclass(frozen=True)
class Source:
    """Where a folder of the layout is published."""

    folder: str
    repository: str
    patterns: tuple[str, ...]
    licence: str


def sources(version: str) -> tuple[Source, ...]:
    """What a version, or the backbone, is downloaded from. ConfigError when there is no such version."""
    if version not in (*VERSIONS, BACKBONE):
        raise ConfigError(f"version: {version!r} is not released; there are {', '.join((*VERSIONS, BACKBONE))}")
    if version == BACKBONE:
        return (Source(WAN, "Wan-AI/Wan2.2-TI2V-5B", (f"{DIT}*", "config.json"), "Apache-2.0"),)
    wan = ("google/*", "models_t5_umt5-xxl-enc-bf16.pth", "Wan2.2_VAE.pth")
    audio = ("ext_weights/best_netG.pt", "ext_weights/v1-16.pth")
    return (
        Source(OVI, "chetwinlow1/Ovi", (VERSIONS[version].file.partition("/")[2],), "Apache-2.0"),
        Source(WAN, "Wan-AI/Wan2.2-TI2V-5B", wan, "Apache-2.0"),
        Source(MMAUDIO, "hkchengrex/MMAudio", audio, "CC-BY-NC-4.0 (no commercial use)"),
    )


@dataclass(frozen=True)
class Network:
    """What one released file holds: a network, and how the file's names differ from those of its state dict."""

    file: str
    component: str  # of a model folder
    build: Callable[..., nn.Module]
    sizes: Callable[[Shapes], dict[str, Any]]  # the tensors' shapes, named as in the file -> arguments of build
    prefix: str = ""  # of its tensors in the component
    ours: Callable[[Mapping[str, T]], dict[str, T]] = dict
    released: Callable[[Mapping[str, T]], dict[str, T]] = dict


def tower_config(modality: Literal["video", "audio"], shapes: Shapes, about: Mapping[str, Any]) -> TowerConfig:
    """A tower's sizes from its tensors' shapes (names without video_model. or audio_model.).

    `about` is the release's config of it, or empty: the number of heads and the length of the text are in no shape.
    """
    kernel = ("patch_embedding.weight", 5) if modality == "video" else ("patch_embedding.0.weight", 3)
    patch = size(shapes, *kernel)
    dim, text_dim = size(shapes, "text_embedding.0.weight", 2)
    heads = about.get("num_heads", max(1, dim // HEAD_DIM))
    if dim % heads or dim // heads % 2:
        raise OviError(f"{modality} tower: {heads} heads do not split {dim} channels; mend the config beside the model")
    return TowerConfig(
        modality=modality,
        patch_size=patch[2:] if modality == "video" else (1,),
        in_dim=patch[1],
        out_dim=patch[1],
        dim=dim,
        ffn_dim=size(shapes, "blocks.0.ffn.0.bias", 1)[0],
        freq_dim=size(shapes, "time_embedding.0.weight", 2)[1],
        heads=heads,
        layers=_layers(shapes),
        text_dim=text_dim,
        text_len=about.get("text_len", 512),
        eps=about.get("eps", 1e-6),
        rope_theta=about.get("rope_theta", 10_000.0),
        rope_scale=about.get("temporal_rope_scaling_factor", AUDIO_ROPE_SCALE) if modality == "audio" else 1.0,
    )


def tower_about(tower: TowerConfig) -> dict[str, Any]:
    """The release's config of a tower; rope_theta, which it does not have, where it is another than the release's."""
    about: dict[str, Any] = {
        "patch_size": list(tower.patch_size), "model_type": "ti2v" if tower.modality == "video" else "t2a",
        "dim": tower.dim, "ffn_dim": tower.ffn_dim, "freq_dim": tower.freq_dim, "num_heads": tower.heads,
        "num_layers": tower.layers, "in_dim": tower.in_dim, "out_dim": tower.out_dim, "text_len": tower.text_len,
        "text_dim": tower.text_dim, "window_size": [-1, -1], "qk_norm": True, "cross_attn_norm": True, "eps": tower.eps,
    }  # fmt: skip
    if tower.modality == "audio":
        about["temporal_rope_scaling_factor"] = tower.rope_scale
    if tower.rope_theta != 10_000:
        about["rope_theta"] = tower.rope_theta
    return about


def as_audio(video: TowerConfig) -> TowerConfig:
    """The audio tower that goes with a video tower."""
    return dataclasses.replace(
        video, modality="audio", patch_size=(1,), in_dim=20, out_dim=20, rope_scale=AUDIO_ROPE_SCALE
    )


def what_it_is(shapes: Shapes) -> str:
    """The kind of checkpoint that has tensors of these names, in words."""
    towers = [tower for tower in ("video", "audio") if any(name.startswith(f"{tower}_model.") for name in shapes)]
    if len(towers) == 2:
        return AN_OVI_MODEL
    if towers:
        return f"the {towers[0]} tower of an Ovi model alone"
    if any(".k_img." in name for name in shapes):
        return "a Wan model of another kind (k_img: image to video)"
    if "blocks.0.modulation" in shapes:
        width, channels = size(shapes, "patch_embedding.weight", 5)[:2]
        return f"a Wan video model of {width} channels for latents of {channels}"
    return "no transformer of this family"


def size(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that tells a network's size. Raises OviError when it is not there or cannot be."""
    if name not in shapes:
        raise OviError(f"lacks {name}, and without it the sizes are unknown")
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise OviError(f"{name} is {list(shapes[name])}, which is no shape of {axes} axes")
    return shapes[name]


def _layers(shapes: Shapes) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})


def _video_codec_sizes(shapes: Shapes) -> dict[str, Any]:
    deepest = inspect.signature(WanVideoCodec).parameters["dim_mult"].default[-1]
    channels = size(shapes, "conv2.weight", 5)[0]
    if channels != len(MEAN):
        raise OviError(f"has latents of {channels} channels, and is not the codec of Wan2.2 with its {len(MEAN)}")
    return {
        "channels": channels,
        "dim": size(shapes, "encoder.conv1.weight", 5)[0],
        "dec_dim": size(shapes, "decoder.conv1.weight", 5)[0] // deepest,
    }


def _text_encoder_sizes(shapes: Shapes) -> dict[str, Any]:
    vocabulary, dim = size(shapes, "token_embedding.weight", 2)
    return {
        "dim": dim,
        "layers": _layers(shapes),
        "vocabulary": vocabulary,
        "ffn_dim": size(shapes, "blocks.0.ffn.fc1.weight", 2)[0],
        "heads": size(shapes, "blocks.0.pos_embedding.embedding.weight", 2)[1],
    }


def _vae_sizes(shapes: Shapes) -> dict[str, Any]:
    return {
        "channels": size(shapes, "decoder.conv_in.weight", 3)[1],
        "hidden": size(shapes, "encoder.conv_in.weight", 3)[0],
    }


def _vocoder_sizes(shapes: Shapes) -> dict[str, Any]:
    return {"channels": size(shapes, "conv_pre.bias", 1)[0]}


def _vocoder_from_older(state: Mapping[str, T]) -> dict[str, T]:
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    return {re.sub(r"weight_[gv]$", lambda found: names[found[0]], name): value for name, value in state.items()}


def _vocoder_to_older(state: Mapping[str, T]) -> dict[str, T]:
    pattern = r"parametrizations\.weight\.original([01])$"
    return {re.sub(pattern, lambda found: f"weight_{'gv'[int(found[1])]}", name): x for name, x in state.items()}


VIDEO = Network(VIDEO_CODEC, "video_codec", WanVideoCodec, _video_codec_sizes)
TEXT = Network(TEXT_ENCODER, "text_encoder", umt5.UmT5, _text_encoder_sizes, "", umt5.from_released, umt5.to_released)
AUDIO = Network(AUDIO_CODEC, "audio_codec", AudioVAE, _vae_sizes, "vae.")
# torch has had two ways to name the parts of a normalised weight, and both are in use.
VOICE = Network(VOCODER, "audio_codec", BigVGAN, _vocoder_sizes, "vocoder.")
OLDER_VOICE = dataclasses.replace(VOICE, ours=_vocoder_from_older, released=_vocoder_to_older)


def fusion(file: str, abouts: Mapping[str, Mapping[str, Any]]) -> Network:
    """An Ovi model; abouts has the release's configs by modality, where there are some."""

    def sizes(shapes: Shapes) -> dict[str, Any]:
        if what_it_is(shapes) != AN_OVI_MODEL:
            raise OviError(f"is {what_it_is(shapes)}, not {AN_OVI_MODEL}")
        modality: Literal["video", "audio"]
        towers: dict[str, Any] = {}
        for modality in ("video", "audio"):
            prefix = f"{modality}_model."
            own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
            towers[modality] = tower_config(modality, own, abouts.get(modality, {}))
        video, audio = towers["video"], towers["audio"]
        if (video.dim, video.heads, video.layers) != (audio.dim, audio.heads, audio.layers):
            raise OviError("has towers of different widths or depths, which cannot hear each other")
        return towers

    return Network(file, "transformer", FusionModel, sizes)


def backbone(file: str, about: Mapping[str, Any]) -> Network:
    """The Wan2.2 video model, which is a video tower without fusion parameters; `about` is its config.json."""

    def sizes(shapes: Shapes) -> dict[str, Any]:
        if "blocks.0.modulation" not in shapes:
            raise OviError(f"is {what_it_is(shapes)}, not a Wan2.2 text and image to video model")
        return {"config": tower_config("video", shapes, about)}

    return Network(file, "transformer", Tower, sizes, "video_model.", _backbone_from_released, _backbone_to_released)


def _backbone_from_released(state: Mapping[str, T]) -> dict[str, T]:
    return {re.sub(r"^(blocks\.\d+\.modulation)$", r"\1.modulation", name): x for name, x in state.items()}


def _backbone_to_released(state: Mapping[str, T]) -> dict[str, T]:
    return {name.replace("modulation.modulation", "modulation"): x for name, x in state.items() if "fusion" not in name}
