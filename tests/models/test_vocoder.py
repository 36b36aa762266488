"""BigVGAN against golden vectors, the release's keys under both of their names, and its filters."""

import math
from collections import Counter

import pytest
import torch

from ovi.models.vocoder import BigVGAN, Downsample, SnakeBeta, Upsample, low_pass
from tests import golden

CASE = "bigvgan_tiny"
OLD_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def golden_weights():
    return {key[2:]: value for key, value in golden.tensors(CASE).items() if key.startswith("w/")}


def old_name(key):
    for new, old in OLD_NAMES.items():
        key = key.replace(new, old)
    return key


@pytest.fixture(scope="module")
def vocoder():
    model = BigVGAN(64).requires_grad_(False)
    model.load_state_dict(golden_weights())
    return model


@pytest.fixture
def mel():
    return golden.tensors(CASE)["in/mel"]


def test_sound_is_the_golden_one(vocoder, mel):
    golden.check(CASE, vocoder(mel), golden.tensors(CASE)["out/wav"][:, 0])


def test_the_designed_filter_is_the_released_one():
    filters = [value for key, value in golden_weights().items() if key.endswith("filter")]
    assert len(filters) == 2 * (6 * 18 + 1)
    torch.testing.assert_close(torch.cat(filters), low_pass().expand(len(filters), 1, -1), rtol=1e-6, atol=1e-8)
    assert low_pass().sum() == pytest.approx(1)
    assert torch.allclose(low_pass(), low_pass().flip(-1))


@pytest.mark.parametrize("names", ["tensors", "tensors_legacy_names"])
def test_the_released_vocoder_has_these_keys_and_shapes(names):
    table = golden.table("table_bigvgan_16k_state_dict_shapes")
    with torch.device("meta"):
        model = BigVGAN()
        model.load_state_dict({name: torch.empty(shape) for name, shape in table[names].items()}, assign=True)
    state = model.state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == table["tensors"]
    assert len(state) == len(table[names]) == 784
    assert sum(tensor.numel() for tensor in state.values()) == table["total"] == 112_233_866
    assert sum(parameter.numel() for parameter in model.parameters()) == table["parameters"]


@pytest.mark.parametrize("assign", [False, True])
def test_old_names_give_the_same_sound(vocoder, mel, assign):
    old = {old_name(key): value for key, value in golden_weights().items()}
    assert old.keys() != golden_weights().keys()
    with torch.device("meta" if assign else "cpu"):
        model = BigVGAN(64).requires_grad_(False)
    model.load_state_dict(old, assign=assign)
    assert torch.equal(model(mel), vocoder(mel))
    want, got = vocoder.state_dict(), model.state_dict()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


def test_a_vocoder_made_without_memory_and_then_filled_is_the_same(vocoder, mel):
    with torch.device("meta"):
        model = BigVGAN(64).requires_grad_(False)
    model.load_state_dict(golden_weights(), assign=True)
    assert torch.equal(model(mel), vocoder(mel))


def test_each_weight_is_put_together_once(vocoder, mel):
    calls = Counter()
    norms = [module for name, module in vocoder.named_modules() if name.endswith("parametrizations.weight.0")]
    hooks = [norm.register_forward_hook(lambda module, *_: calls.update([module])) for norm in norms]
    vocoder(mel)
    for hook in hooks:
        hook.remove()
    assert len(norms) == 6 * 18 + 6 + 2
    assert calls == Counter(norms)


@pytest.mark.parametrize("frames", [1, 2, 13])
def test_256_samples_a_frame(vocoder, frames):
    sound = vocoder(torch.full((1, 80, frames), 9.0))  # far louder than any mel
    assert sound.shape == (1, 256 * frames)
    assert sound.abs().max() <= 1


def test_samples_of_a_batch_do_not_meet(vocoder, mel):
    together = vocoder(mel)
    for i in range(len(mel)):
        torch.testing.assert_close(together[i : i + 1], vocoder(mel[i : i + 1]), rtol=1e-4, atol=1e-5)


def test_half_precision_weights_take_and_give_float32(vocoder, mel):
    half = BigVGAN(64).requires_grad_(False)
    half.load_state_dict(golden_weights())
    want, got = vocoder(mel), half.bfloat16()(mel)
    assert got.dtype == torch.float32
    assert 0 < (got - want).norm() < 0.1 * want.norm()


def test_an_activation_rises_by_sin_squared():
    """By hand: x + sin^2(a x) / b with a = 2, b = 1/2."""
    snake = SnakeBeta(1).requires_grad_(False)
    snake.alpha[:], snake.beta[:] = math.log(2), math.log(0.5)
    want = [0, math.pi / 4 + 2, math.pi / 2, -math.pi / 4 + 2]
    x = torch.tensor([[[0, math.pi / 4, math.pi / 2, -math.pi / 4]]])
    torch.testing.assert_close(snake(x), torch.tensor([[want]]))


def test_resampling_keeps_low_tones_in_place_and_drops_high_ones():
    time = torch.arange(400.0)
    for wave in (torch.ones(400), torch.cos(0.3 * time)):
        again = Downsample()(Upsample()(wave[None, None]))[0, 0]
        torch.testing.assert_close(again[10:-10], wave[10:-10], rtol=0, atol=0.01)
    assert Downsample()(torch.cos(0.9 * math.pi * time)[None, None])[..., 10:-10].abs().max() < 0.01
