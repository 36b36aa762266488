"""The Wan2.2 video codec against the golden vectors; chunk by chunk and whole are one and the same."""

import json

import pytest
import torch
from torch import nn

from ovi.errors import ConfigError, OviError
from ovi.models.video_vae import MEAN, STD, WanVideoCodec, patched, unpatched
from tests import golden

TINY = {"channels": 6, "dim": 4, "dec_dim": 4, "mean": [0.1] * 6, "std": [0.5] * 6}


@pytest.fixture(scope="module")
def case():
    return golden.tensors("wan22_vae_tiny")


@pytest.fixture(scope="module")
def released(case):
    """The golden codec, loaded as model folders are: built on the meta device from plain JSON."""
    sizes = golden.config("wan22_vae_tiny")
    names = {
        "channels": "z_dim",
        "dim": "dim",
        "dec_dim": "dec_dim",
        "dim_mult": "dim_mult",
        "res_blocks": "num_res_blocks",
        "temporal_downsample": "temperal_downsample",
    }
    statistics = {key: case[f"in/{key}"].tolist() for key in ("mean", "std")}
    config = json.loads(json.dumps({key: sizes[name] for key, name in names.items()} | statistics))
    with torch.device("meta"):
        codec = WanVideoCodec(**config)
    codec.load_state_dict({key[2:]: value for key, value in case.items() if key.startswith("w/")}, assign=True)
    return codec


@pytest.fixture(scope="module")
def codec():
    """Small and random, also in its norms, whose gamma starts at one."""
    torch.manual_seed(0)
    codec = WanVideoCodec(**TINY)
    for name, weight in codec.named_parameters():
        if name.endswith("gamma"):
            weight.uniform_(0.5, 1.5)
    return codec


def clip(frames, seed=1, batch=2, height=32, width=48):
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def latent_clip(frames, seed=1):
    return torch.randn(2, 6, frames, 2, 3, generator=torch.Generator().manual_seed(seed))


def test_the_state_dict_is_the_released_one():
    with torch.device("meta"):
        state = WanVideoCodec().state_dict()
    table = golden.table("table_wan22_vae_state_dict_shapes")
    assert {key: list(value.shape) for key, value in state.items()} == table["tensors"]
    assert len(state) == 196
    assert sum(value.numel() for value in state.values()) == 704_688_668


def test_the_statistics_are_the_released_ones():
    table = golden.table("table_wan22_vae_latent_stats")
    assert (list(MEAN), list(STD)) == (table["mean"], table["std"])
    with torch.device("meta"):
        codec = WanVideoCodec()
    assert (codec.mean, codec.std) == (MEAN, STD)


def test_the_paper_s_clip_has_31_latent_frames():
    with torch.device("meta"):
        codec = WanVideoCodec()
        assert codec.shape(121, 704, 704) == (48, 31, 44, 44)
        latents = codec.encode(torch.empty(1, 3, 5, 704, 704))
        assert latents.shape == (1, *codec.shape(5, 704, 704))
        assert codec.decode(latents).shape == (1, 3, 5, 704, 704)


@pytest.mark.parametrize("encode", ["encode", "encode_whole"])
def test_encoding_is_the_golden_one(released, case, encode):
    encode = getattr(released, encode)
    golden.check("wan22_vae_tiny", encode(case["in/video"]), case["out/latent"])
    golden.check("wan22_vae_tiny", encode(case["in/video"][:, :, :1]), case["out/latent_image"])


@pytest.mark.parametrize("decode", ["decode", "decode_whole"])
def test_decoding_is_the_golden_one(released, case, decode):
    decode = getattr(released, decode)
    golden.check("wan22_vae_tiny", decode(case["out/latent"]), case["out/recon"])
    golden.check("wan22_vae_tiny", decode(case["in/latent5"]), case["out/recon5"])


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_chunk_by_chunk_is_the_whole_clip(codec, frames):
    video = clip(frames)
    latents = codec.encode(video)
    assert latents.shape == (2, *codec.shape(frames, 32, 48)) == (2, 6, (frames + 3) // 4, 2, 3)
    torch.testing.assert_close(codec.encode_whole(video), latents, rtol=0, atol=1e-5)
    latents = latent_clip(latents.shape[2])
    again = codec.decode(latents)
    assert again.shape == video.shape
    torch.testing.assert_close(codec.decode_whole(latents), again, rtol=0, atol=1e-5)


def test_pictures_come_in_chunks_of_one_and_then_four(codec):
    latents = latent_clip(3)
    chunks = list(codec.decode_chunks(latents))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4]
    assert torch.equal(torch.cat(chunks, dim=2), codec.decode(latents))


@pytest.mark.parametrize("form", ["", "_whole"])
def test_later_frames_change_nothing_before_them(codec, form):
    encode, decode = getattr(codec, "encode" + form), getattr(codec, "decode" + form)
    video, other = clip(13), clip(13, seed=2)
    other[:, :, :5] = video[:, :, :5]
    one, two = encode(video), encode(other)
    torch.testing.assert_close(one[:, :, :2], two[:, :, :2], rtol=0, atol=1e-6)
    assert (one[:, :, 2:] - two[:, :, 2:]).abs().amax((0, 1, 3, 4)).min() > 1e-3
    torch.testing.assert_close(encode(video[:, :, :5]), one[:, :, :2], rtol=0, atol=1e-6)
    latents = latent_clip(4)
    torch.testing.assert_close(decode(latents[:, :, :2]), decode(latents)[:, :, :5], rtol=0, atol=1e-6)


def test_samples_of_a_batch_and_two_decodings_at_once_do_not_meet(codec):
    video, latents = clip(5), latent_clip(2)
    both = codec.encode(video), codec.decode(latents)
    alone = codec.encode(video[1:]), codec.decode(latents[1:])
    for one, two in zip(both, alone, strict=True):
        torch.testing.assert_close(one[1:], two, rtol=0, atol=1e-5)
    halves = zip(codec.decode_chunks(latents[:1]), codec.decode_chunks(latents[1:]), strict=True)
    torch.testing.assert_close(torch.cat([torch.cat(pair) for pair in halves], dim=2), both[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [5, 17])
def test_no_layer_is_given_more_than_four_frames_however_long_the_clip(codec, frames):
    seen = []
    layers = [layer for layer in codec.modules() if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] > 1]
    hooks = [layer.register_forward_hook(lambda _, x, y: seen.append(x[0].shape[2])) for layer in layers]
    codec.encode(clip(frames))
    codec.decode(latent_clip((frames + 3) // 4))
    for hook in hooks:
        hook.remove()
    assert max(seen) == 4


@pytest.mark.parametrize("form", ["", "_whole"])
def test_half_precision_weights_give_float32_latents_and_pictures(codec, form):
    half = WanVideoCodec(**TINY).bfloat16()
    half.load_state_dict(codec.state_dict())
    video, latents = clip(5), latent_clip(2)
    for do, x in (("encode", video), ("decode", latents)):
        got, want = getattr(half, do + form)(x), getattr(codec, do + form)(x)
        assert got.dtype == torch.float32
        assert (got - want).norm() < 0.05 * want.norm()


def test_the_layout_of_weights_in_memory_changes_nothing(codec):
    turned = WanVideoCodec(**TINY)
    state = codec.state_dict()
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    turned.load_state_dict(
        {k: v.to(memory_format=layouts.get(v.dim(), torch.preserve_format)) for k, v in state.items()}, assign=True
    )
    video, latents = clip(5), latent_clip(2)
    torch.testing.assert_close(turned.encode(video), codec.encode(video), rtol=0, atol=1e-5)
    torch.testing.assert_close(turned.decode(latents), codec.decode(latents), rtol=0, atol=1e-5)


def test_pictures_stay_within_black_and_white(codec):
    video = codec.decode(latent_clip(2) * 1e3)
    assert video.abs().max() <= 1


def test_patches_of_pixels_come_back_and_their_rows_are_fastest():
    video = clip(1, height=4, width=4)
    assert torch.equal(unpatched(patched(video)), video)
    assert torch.equal(patched(video)[:, 4 + 2 + 0], video[:, 1, :, 0::2, 1::2])


def test_what_does_not_fit_is_one_line(codec):
    with pytest.raises(OviError, match=r"4 pictures of 32x32; it takes 4k\+1 pictures and multiples of 16x16"):
        codec.encode(torch.zeros(1, 3, 4, 32, 32))
    with pytest.raises(OviError, match="5 pictures of 24x32"):
        codec.encode_whole(torch.zeros(1, 3, 5, 32, 24))
    with pytest.raises(ConfigError, match=r"video_codec.patch: \[8, 8\], but .* 16x16 pixels"):
        WanVideoCodec(**TINY, patch=[8, 8])
    with pytest.raises(ConfigError, match=r"video_codec.temporal_downsample: 3 values for 3 stages"):
        WanVideoCodec(**TINY, dim_mult=[1, 2, 4])
    with pytest.raises(ConfigError, match=r"video_codec.mean, std: 48 and 48 values for 6 channels"):
        WanVideoCodec(channels=6, dim=4, dec_dim=4)
