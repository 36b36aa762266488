"""Sound by way of the VAE and the vocoder: lengths, ends, and what survives a file."""

import json

import pytest
import torch
from safetensors.torch import load, save

from ovi.models.linear_codec import LinearAudioCodec
from ovi.models.mmaudio_codec import MMAudioCodec
from tests import golden

TINY = {"channels": 5, "hidden": 8, "vocoder_channels": 64}
PARTS = {"vae": "mmaudio_vae_tiny", "vocoder": "bigvgan_tiny"}


def golden_codec():
    """Both golden networks as one codec."""
    codec = MMAudioCodec(**TINY)
    codec.load_state_dict(
        {
            f"{part}.{key[2:]}": value
            for part, case in PARTS.items()
            for key, value in golden.tensors(case).items()
            if key.startswith("w/")
        }
    )
    return codec


@pytest.fixture(scope="module")
def codec():
    return golden_codec()


@pytest.fixture(scope="module")
def latents():
    return torch.randn(1, 20, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def released():
    """Shapes and names without numbers."""
    with torch.device("meta"):
        return MMAudioCodec()


@pytest.mark.parametrize(("samples", "length"), [(80_640, 157), (80_666, 157), (160_666, 313), (192_000, 375)])
def test_lengths_at_released_sizes(released, samples, length):
    latents = released.encode(torch.zeros(2, samples, device="meta"))
    assert latents.shape == (2, length, 20)
    assert released.length(samples) == LinearAudioCodec().length(samples) == length
    assert released.decode(latents).shape == (2, 512 * length)
    assert released.decode(latents, samples).shape == (2, samples)


def test_latents_are_the_means_for_the_golden_mel(codec):
    case = golden.tensors("mel_16k")
    got, (want, _) = codec.encode(case["in/wav"]), codec.vae.encode(case["out/mel"])
    assert got.is_contiguous()
    torch.testing.assert_close(got, want.transpose(1, 2), rtol=1e-3, atol=1e-3)


def test_sound_is_the_vocoder_s_for_the_decoded_mel(codec, latents):
    sound = codec.decode(latents)
    assert torch.equal(sound, codec.vocoder(codec.vae.decode(latents.transpose(1, 2))))
    assert sound.shape == (1, 10_240)
    assert torch.equal(codec.decode(latents, 9_000), sound[:, :9_000])


def test_the_last_mel_frame_is_held_to_the_end(codec, latents):
    """The vocoder sees the held frames, so the sound goes on; what is far from the end does not change."""
    spectrogram = codec.vae.decode(latents.transpose(1, 2))
    held = torch.cat((spectrogram, spectrogram[..., -1:], spectrogram[..., -1:]), dim=2)
    sound = codec.decode(latents, 10_240 + 300)
    assert torch.equal(sound, codec.vocoder(held)[:, : 10_240 + 300])
    torch.testing.assert_close(sound[:, :5_000], codec.decode(latents)[:, :5_000], rtol=0, atol=1e-5)
    assert sound[:, 10_240:].std() > 0.1 * sound.std()


def test_samples_of_a_batch_do_not_meet(codec):
    draw = torch.Generator().manual_seed(0)
    audio = 2 * torch.rand(3, 3_000, generator=draw) - 1
    latents = codec.encode(audio)
    sound = codec.decode(latents, 3_000)
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(latents[one], codec.encode(audio[one]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sound[one], codec.decode(latents[one], 3_000), rtol=1e-4, atol=1e-4)


def test_a_codec_comes_back_from_its_configuration_and_its_file(codec, latents):
    config = json.loads(json.dumps({**TINY, "ch_mult": [1, 2, 4], "res_blocks": 2, "down_layers": [0]}))
    with torch.device("meta"):
        again = MMAudioCodec(**config)
    again.load_state_dict(load(save(codec.state_dict())), assign=True)
    assert torch.equal(again.decode(latents), codec.decode(latents))
    audio = golden.tensors("mel_16k")["in/wav"]
    assert torch.equal(again.encode(audio), codec.encode(audio))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_its_parts_are_the_released_networks(released):
    want = {
        f"{part}.{name}": shape
        for part, case in (("vae", "mmaudio_vae"), ("vocoder", "bigvgan"))
        for name, shape in golden.table(f"table_{case}_16k_state_dict_shapes")["tensors"].items()
    }
    assert {name: list(tensor.shape) for name, tensor in released.state_dict().items()} == want


def test_half_precision_takes_and_gives_float32(latents):
    half, audio = golden_codec().bfloat16(), golden.tensors("mel_16k")["in/wav"]
    assert half.encode(audio).dtype == half.decode(latents).dtype == torch.float32
