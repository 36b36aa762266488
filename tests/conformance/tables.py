"""Cases that are tables: keys and shapes of state dicts, latent statistics, texts and sizes; and a resized picture."""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from ovi.diffusion import prompts, sizes
from ovi.diffusion.request import read_image
from ovi.models import released_layout, umt5, video_vae
from ovi.models.audio_vae import AudioVAE
from ovi.models.linear_codec import pixels
from ovi.models.mel import MELS
from ovi.models.released_layout import Network
from ovi.training.recipes import RECIPES
from tests.conformance.case import Case
from tests.conformance.kind import Kind
from tests.conformance.tolerance import Unfit

NETWORKS = {  # a name that only this network has -> the network
    "video_model.head.head.weight": released_layout.fusion("", {}),
    "blocks.0.modulation": released_layout.backbone("", {}),
    "decoder.conv1.weight": released_layout.VIDEO,
    "data_mean": released_layout.AUDIO,
    "token_embedding.weight": released_layout.TEXT,
    "conv_pre.parametrizations.weight.original0": released_layout.VOICE,
    "conv_pre.weight_g": released_layout.OLDER_VOICE,
}
GROUPS = {  # of a fusion model's parameters: patterns of their whole names
    "total": r".*",
    "video_model": r"video_model\..*",
    "audio_model": r"audio_model\..*",
    "fusion_added": r".*_fusion\..*",
    "ffn_video": r"video_model\..*\.ffn\..*",
    "ffn_audio": r"audio_model\..*\.ffn\..*",
    "trainable_if_only_block_ffn_frozen": r"(?!.*\.ffn\.).*",
    "self_attn": r".*\.self_attn\..*",
    "cross_attn_without_fusion": r"(?!.*_fusion\.).*\.cross_attn\..*",
    "cross_attn_fusion": r".*_fusion\..*",
    "trainable_attention_modules_only": RECIPES["fusion"].trains,
    "norm3": r".*\.norm3\..*",
    "block_modulation": r".*\.modulation\.modulation",
    "head": r".*\.head\..*",
    "patch_embedding_video": r"video_model\.patch_embedding\..*",
    "patch_embedding_audio": r"audio_model\.patch_embedding\..*",
    "text_embedding": r".*\.text_embedding\..*",
    "time_embedding": r".*\.time_embedding\..*",
    "time_projection": r".*\.time_projection\..*",
    "attention_plus_norm3": r".*\.(self_attn|cross_attn|norm3)\..*",
    "attention_fusion_and_text_cross_only": r".*\.cross_attn\..*",
    "qkvo_linear_weights_only": r".*_attn\.([qkvo]|[kv]_fusion)\.weight",
}


def state_dict(case: Case) -> None:
    """The released networks on the meta device, of the sizes that the shapes tell."""
    for table in case.matches(r"tensors(_\w+)?"):
        network = _network(case.arrays[table[0]])
        with torch.device("meta"):
            shapes = {name: tuple(shape) for name, shape in case.arrays[table[0]].items()}
            model = network.build(**network.sizes(shapes))
        state = network.released(model.state_dict())
        case.check(table[0], {name: list(tensor.shape) for name, tensor in state.items()})
        parameters = sum(parameter.numel() for parameter in model.parameters())
        total = sum(tensor.numel() for tensor in state.values())
        for name, count in {"n_tensors": len(state), "total": total, "parameters": parameters}.items():
            if name in case.arrays:
                case.check(name, count)
        if "counts" in case.arrays:
            known = {name: _count(state, GROUPS[name]) for name in case.take("counts") if name in GROUPS}
            case.check("counts", known)


def _network(table: dict[str, Any]) -> Network:
    for name, network in NETWORKS.items():
        if name in table:
            return network
    raise Unfit("no network here has tensors of these names")


def _count(state: dict[str, torch.Tensor], pattern: str) -> int:
    return sum(math.prod(tensor.shape) for name, tensor in state.items() if re.fullmatch(pattern, name))


def video_statistics(case: Case) -> None:
    case.check("z_dim", len(video_vae.MEAN))
    case.check("mean", video_vae.MEAN)
    case.check("std", video_vae.STD)


@torch.no_grad()
def mel_statistics(case: Case) -> None:
    """They are part of a checkpoint and nowhere in the code: they must be those of the folder's VAEs, and matter."""
    mean, std = (torch.tensor(case.take(name))[None, :, None] for name in ("mean", "std"))
    case.compare("number", [mean.numel(), std.numel()], [MELS, MELS])
    for other in case.folder.cases:
        if "w/data_mean" in other.about.get("tensors", ()):
            case.compare(f"mean of {other.id}", other.arrays["w/data_mean"], mean)
            case.compare(f"std of {other.id}", other.arrays["w/data_std"], std)
    plain = AudioVAE(channels=2, hidden=4)
    given = AudioVAE(channels=2, hidden=4)
    given.load_state_dict({**plain.state_dict(), "data_mean": mean, "data_std": std})
    mel = torch.linspace(-5, 1, MELS * 6).view(1, MELS, 6)
    latents, want = given.encode(mel)[0], plain.encode((mel - mean) / std)[0]
    case.compare("encoding", latents, want)
    case.compare("decoding", given.decode(latents), plain.decode(want) * std + mean)


def texts_and_sizes(case: Case) -> None:
    by_text = {
        "clean_text": prompts.clean_text,
        "filename": prompts.file_stem,
        "t5_clean_whitespace": umt5.clean,
    }
    by_size = {
        "snap_hw": lambda row: sizes.snap(row["h"], row["w"], row["area"]),
        "scale_hw_div16_area1M": lambda row: sizes.scale_to_area(row["h"], row["w"], 1024**2, 16),
        "calc_dims_from_area": lambda row: sizes.from_ratio(row["ratio"], row["area"]),
        "preprocess_image_hw": lambda row: sizes.image_size(row["h"], row["w"], row["area"]),
    }
    for name, rule in by_text.items():
        wanted = case.take(name)
        if name == "filename":
            wanted = {text: _without_harm(stem) for text, stem in wanted.items()}
        case.compare(name, {text: rule(text) for text in wanted}, wanted)
    for name, find in by_size.items():
        rows = case.take(name)
        case.compare(name, [list(find(row)) for row in rows], [row.get("out", row.get("out_hw")) for row in rows])
    for version, wanted in case.take("formatter").items():
        case.compare(f"formatter {version}", {text: prompts.formatted(text, version) for text in wanted}, wanted)


def _without_harm(stem: str) -> str:
    """A file name of the release without what ours never have: line ends, backslashes, dots in pairs or first."""
    safe = "".join(letter if letter.isprintable() and letter != "\\" else "_" for letter in stem)
    return re.sub(r"\.{2,}", ".", safe).lstrip(".") or "clip"


def picture(case: Case) -> None:
    image = pixels(read_image(case.folder.picture(case.what))[None])
    case.check("out/image", sizes.preprocess_image(image.transpose(0, 1), case.config["target_area"]))


KINDS = (
    Kind("table", (r"tensors", r"n_tensors"), state_dict),
    Kind("table_wan22_vae_latent_stats", (r"z_dim", r"mean", r"std"), video_statistics),
    Kind("table_mmaudio_mel80_stats", (r"mean", r"std"), mel_statistics),
    Kind("text_and_resolution", (r"formatter", r"snap_hw", r"preprocess_image_hw"), texts_and_sizes),
    Kind("image_preprocess", (r"out/image",), picture),
)
