"""Cases of what stands around the towers: text encoder, video codec, audio VAE, mel, vocoder."""

from __future__ import annotations

from typing import Any

import torch

from ovi.models import mel
from ovi.models.audio_vae import AudioVAE
from ovi.models.mmaudio_codec import MMAudioCodec
from ovi.models.text_encoder import TextEncoder
from ovi.models.umt5 import from_released
from ovi.models.video_vae import PIXELS, WanVideoCodec
from ovi.models.vocoder import DILATIONS, KERNELS, RATES, BigVGAN
from tests.conformance.case import Case
from tests.conformance.kind import Kind
from tests.conformance.tolerance import Unfit

CPU = torch.device("cpu")


def text_encoder(case: Case) -> None:
    """Rows past a text's length mean nothing."""
    sizes = case.config
    encoder = TextEncoder(
        max_tokens=case.take("in/ids").shape[1],
        vocab_size=sizes["vocab"],
        d_model=sizes["dim"],
        d_kv=sizes["dim_attn"] // sizes["num_heads"],
        d_ff=sizes["dim_ffn"],
        num_layers=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        relative_attention_num_buckets=sizes["num_buckets"],
        relative_attention_max_distance=sizes["max_dist"],
        layer_norm_epsilon=sizes["eps"],
    )
    encoder.load_state_dict(from_released(case.weights()))
    lens = case.take("in/mask").sum(1).tolist()
    rows = encoder.embed([ids[:n].tolist() for ids, n in zip(case.take("in/ids"), lens, strict=True)])
    for i, (row, n) in enumerate(zip(rows, lens, strict=True)):
        case.check("out/emb", row, (i, slice(0, n)))


def video_codec(case: Case) -> WanVideoCodec:
    sizes = case.config
    if sizes.get("attn_scales"):
        raise Unfit(f"attn_scales {sizes['attn_scales']}: the released codec has no attention but in its middle")
    side = PIXELS * 2 ** len(sizes["temperal_downsample"])
    codec = WanVideoCodec(
        channels=sizes["z_dim"],
        patch=(side, side),
        dim=sizes["dim"],
        dec_dim=sizes["dec_dim"],
        dim_mult=sizes["dim_mult"],
        res_blocks=sizes["num_res_blocks"],
        temporal_downsample=sizes["temperal_downsample"],
        mean=case.take("in/mean").tolist(),
        std=case.take("in/std").tolist(),
    )
    codec.load_state_dict(case.weights())
    return codec


def video(case: Case) -> None:
    """Chunk by chunk and whole."""
    codec, clip = video_codec(case), case.take("in/video")
    for encode in (codec.encode, codec.encode_whole):
        case.check("out/latent", encode(clip))
        case.check("out/latent_image", encode(clip[:, :, :1]))
    latents = {found[1]: case.take(found[0]) for found in case.matches(r"in/latent(\d+)")}
    for decode in (codec.decode, codec.decode_whole):
        case.check("out/recon", decode(case.take("out/latent")))
        for frames, latent in latents.items():
            case.check(f"out/recon{frames}", decode(latent))


def audio_vae(case: Case) -> None:
    vae = AudioVAE(**_vae_sizes(case))
    vae.load_state_dict(case.weights())
    mean, logvar = vae.encode(case.take("in/mel"))
    case.check("out/mean", mean)
    case.check("out/logvar", logvar)
    case.check("out/mel", vae.decode(case.take("in/z")))


def _vae_sizes(case: Case) -> dict[str, Any]:
    names = {
        "channels": "embed_dim", "hidden": "hidden_dim", "ch_mult": "ch_mult", "res_blocks": "num_res_blocks",
        "down_layers": "down_layers",
    }  # fmt: skip
    return {ours: case.config[released] for ours, released in names.items()}


def audio_codec(case: Case) -> MMAudioCodec:
    """Of a case that names files of weights, the VAE's and the vocoder's among them."""
    vae, vocoder = case.source("w/data_mean"), case.source(r"w/conv_pre\.bias")
    codec = MMAudioCodec(**_vae_sizes(vae), vocoder_channels=_channels(vocoder))
    parts = {"vae": vae, "vocoder": vocoder}
    codec.load_state_dict({f"{part}.{name}": x for part, of in parts.items() for name, x in of.weights().items()})
    return codec


def spectrogram(case: Case) -> None:
    case.check("out/mel", mel.log_mel(case.take("in/wav")))
    case.check("out/mel_basis", mel.filterbank(CPU))
    case.check("out/hann_window", mel._hann(CPU))


def vocoder(case: Case) -> None:
    network = BigVGAN(_channels(case))
    network.load_state_dict(case.weights())
    case.check("out/wav", network(case.take("in/mel")), (slice(None), 0))


def _channels(case: Case) -> int:
    """Of the vocoder's first layer. All else about it is fixed."""
    sizes = case.config
    fixed = {
        "upsample_rates": list(RATES), "upsample_kernel_sizes": [2 * rate for rate in RATES],
        "resblock_kernel_sizes": list(KERNELS), "resblock_dilation_sizes": [list(DILATIONS)] * len(KERNELS),
        "activation": "snakebeta", "snake_logscale": True,
    }  # fmt: skip
    for name, value in fixed.items():
        if sizes.get(name, value) != value:
            raise Unfit(f"{name} {sizes[name]}: this vocoder is made with {value} alone")
    return sizes["upsample_initial_channel"]


KINDS = (
    Kind("umt5", (r"in/ids", r"in/mask", r"out/emb", r"w/token_embedding\.weight"), text_encoder),
    Kind("wan22_vae", (r"in/video", r"in/mean", r"in/std", r"out/latent", r"w/encoder\.downsamples\..+"), video),
    Kind("mmaudio_vae", (r"in/mel", r"in/z", r"out/mean", r"out/mel", r"w/data_mean"), audio_vae),
    Kind("mel", (r"in/wav", r"out/mel", r"out/mel_basis"), spectrogram),
    Kind("bigvgan", (r"in/mel", r"out/wav", r"w/conv_pre\.bias"), vocoder),
)
