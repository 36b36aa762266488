"""The MMAudio VAE against golden vectors, the release's keys, and what keeps its magnitudes."""

import math

import pytest
import torch

from ovi.models.audio_vae import AudioVAE, Conv, Halve, blend, normalise, silu
from tests import golden

CASE = "mmaudio_vae_tiny"


def golden_weights():
    return {key[2:]: value for key, value in golden.tensors(CASE).items() if key.startswith("w/")}


@pytest.fixture(scope="module")
def vae():
    model = AudioVAE(channels=5, hidden=8).requires_grad_(False)
    model.load_state_dict(golden_weights())
    return model


def mels(*shape):
    """Plausible log-mels: within [-5, 1]."""
    return 6 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 5


def test_latents_and_mels_are_the_golden_ones(vae):
    case = golden.tensors(CASE)
    mean, logvar = vae.encode(case["in/mel"])
    golden.check(CASE, mean, case["out/mean"])
    golden.check(CASE, logvar, case["out/logvar"])
    golden.check(CASE, vae.decode(case["in/z"]), case["out/mel"])


def test_the_released_vae_has_these_keys_and_shapes():
    table = golden.table("table_mmaudio_vae_16k_state_dict_shapes")
    with torch.device("meta"):
        state = AudioVAE().state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == table["tensors"]
    assert len(state) == 57
    assert sum(tensor.numel() for tensor in state.values()) == table["total"] == 171_657_378


def test_a_vae_made_without_memory_and_then_filled_is_the_same(vae):
    with torch.device("meta"):
        filled = AudioVAE(channels=5, hidden=8).requires_grad_(False)
    filled.load_state_dict(golden_weights(), assign=True)
    assert torch.equal(filled.encode(mels(1, 80, 20))[0], vae.encode(mels(1, 80, 20))[0])


def test_other_sizes_halve_and_double_where_asked():
    vae = AudioVAE(3, 4, ch_mult=[1, 1, 2, 3], res_blocks=1, down_layers=[0, 2])
    latents, _ = vae.encode(mels(1, 80, 43))
    assert latents.shape == (1, 3, 10)
    assert vae.decode(latents).shape == (1, 80, 40)


@pytest.mark.parametrize(("frames", "latents"), [(2, 1), (3, 1), (30, 15), (31, 15), (315, 157)])
def test_an_odd_frame_at_the_end_is_dropped(vae, frames, latents):
    mean, logvar = vae.encode(mels(1, 80, frames))
    assert mean.shape == logvar.shape == (1, 5, latents)
    assert vae.decode(mean).shape == (1, 80, 2 * latents)


def test_halving_does_not_look_at_an_odd_frame():
    halve, x = Halve(4), torch.randn(1, 4, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(halve(x), halve(x[..., :6]))


def test_samples_of_a_batch_do_not_meet(vae):
    mel = mels(3, 80, 21)
    mean, logvar = vae.encode(mel)
    again = vae.decode(mean)
    for i in range(3):
        one = slice(i, i + 1)
        alone = vae.encode(mel[one])
        torch.testing.assert_close(mean[one], alone[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logvar[one], alone[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again[one], vae.decode(mean[one]), rtol=1e-4, atol=1e-5)


def test_half_precision_weights_take_and_give_float32(vae):
    half = AudioVAE(channels=5, hidden=8).requires_grad_(False)
    half.load_state_dict(golden_weights())
    half.bfloat16()
    want, got = vae.encode(mels(1, 80, 20))[0], half.encode(mels(1, 80, 20))[0]
    assert got.dtype == torch.float32
    assert 0 < (got - want).norm() < 0.05 * want.norm()
    want, got = vae.decode(want), half.decode(want)
    assert got.dtype == torch.float32
    assert 0 < (got - want).norm() < 0.05 * want.norm()


def test_a_convolution_uses_rows_of_length_one():
    """By hand: (3, 4) has length 5 and root mean square 5/sqrt(2); 1e-4 is added to the latter."""
    conv = Conv(2, 2, 1).requires_grad_(False)
    conv.weight[:] = torch.tensor([[3.0, 4.0], [0.0, 0.0]])[..., None]
    x = torch.tensor([[[1.0], [2.0]]])
    want = (3 + 2 * 4) / (5 / math.sqrt(2) + 1e-4) / math.sqrt(2)
    torch.testing.assert_close(conv(x), torch.tensor([[[want], [0.0]]]))
    torch.testing.assert_close(conv(x, 0.5), torch.tensor([[[want / 2], [0.0]]]))
    assert want == pytest.approx(11 / 5, rel=1e-4)
    assert conv.weight[0, 0] == 3  # what is kept stays as it was


def test_magnitudes_are_kept():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 64, 4000, generator=draw)
    conv = Conv(64, 64, 3).requires_grad_(False)
    for y in (silu(a), blend(a, b), conv(a)[..., 1:-1], normalise(7 * a)):
        assert y.square().mean().sqrt() == pytest.approx(1, abs=0.01)
    assert not normalise(torch.zeros(1, 4, 4)).any()
